# What both of the next rules write.
TABLE = dict(
    csv=report(
        "results/tables/{table}.csv",
        caption="../report/table.rst",
        category="Tables",
        labels={"table": "{table}", "what": "published and ours"},
    ),
    metrics="results/metrics/{table}.json",
    md="results/tables/{table}.md",
    tex="results/tables/{table}.tex",
    comparisons=report(
        "results/tables/{table}_comparisons.csv",
        caption="../report/comparisons.rst",
        category="Tables",
        labels={"table": "{table}", "what": "ours against ours"},
    ),
    record="results/tables/{table}.json",
)


rule table:
    input:
        results=reads(specs.results),
        papers=claims,
    output:
        **TABLE,
    log:
        "logs/table/{table}.log",
    localrule: True
    params:
        spec=told(specs.table_spec),
        record=record,
    shell:
        "(reaction table {output.csv:q} --metrics {output.metrics:q} --spec {params.spec:q} && "
        "reaction freeze {output.record:q} {params.record:q}) > {log:q} 2>&1"


# Where `maps:` asks for it, a table beside the table.
use rule table as table_with_maps with:
    output:
        **TABLE,
        maps=report(
            "results/tables/{table}_maps.csv",
            caption="../report/maps.rst",
            category="Tables",
            labels={"table": "{table}", "what": "learned maps against Grad-CAM's"},
        ),
    wildcard_constraints:
        table=with_maps(),


# Without results: what networks are, and what they see.
rule network_table:
    input:
        papers=reads(specs.network_papers),
    output:
        csv=report(
            "results/tables/{networks}.csv",
            caption="../report/networks_table.rst",
            category="Tables",
            labels={"table": "{networks}", "what": "networks"},
        ),
        md="results/tables/{networks}.md",
    log:
        "logs/network_table/{networks}.log",
    wildcard_constraints:
        networks=of_networks(),
    localrule: True
    params:
        spec=told(specs.network_spec),
    shell:
        "reaction network_table {output.csv:q} --spec {params.spec:q} > {log:q} 2>&1"


ruleorder: network_table > table_with_maps > table


rule figure:
    input:
        table=stale_table,
        histories=reads(specs.histories),
        per_class=reads(specs.per_class),
    output:
        curves=report(
            "results/figures/{table}_curves.svg",
            caption="../report/curves.rst",
            category="Figures",
            labels={"table": "{table}", "what": "training curves"},
        ),
        per_class=report(
            "results/figures/{table}_per_class.svg",
            caption="../report/per_class.rst",
            category="Figures",
            labels={"table": "{table}", "what": "accuracy per class"},
        ),
        pictures=multiext("results/figures/{table}", "_curves.png", "_per_class.png"),
    log:
        "logs/figure/{table}.log",
    localrule: True
    params:
        stem="results/figures/{table}",
        spec=told(specs.figure_spec),
    shell:
        "reaction figure {params.stem:q} --spec {params.spec:q} > {log:q} 2>&1"


# Drawn with whatever results there are, or none.
rule cost_figure:
    input:
        papers=reads(specs.cost_papers),
        metrics=reads(specs.cost_results),
    output:
        svg=report(
            "results/figures/{costs}.svg",
            caption="../report/costs.rst",
            category="Figures",
            labels={"table": "{costs}", "what": "accuracy against computation"},
        ),
        png="results/figures/{costs}.png",
    log:
        "logs/cost_figure/{costs}.log",
    wildcard_constraints:
        costs=of_costs(),
    localrule: True
    params:
        stem="results/figures/{costs}",
        spec=told(specs.cost_spec),
    shell:
        "reaction cost_figure {params.stem:q} --spec {params.spec:q} > {log:q} 2>&1"


# The figures of Park 2019, all parts at once.
rule thesis_figures:
    input:
        reads(specs.thesis_files),
    output:
        overlay=report(
            "results/figures/{figures}_overlay.svg",
            caption="../report/overlay.rst",
            category="Figures",
            labels={"table": "{figures}", "what": "where the network looks"},
        ),
        layers=report(
            "results/figures/{figures}_layers.svg",
            caption="../report/layers.rst",
            category="Figures",
            labels={"table": "{figures}", "what": "maps of several layers"},
        ),
        alternation=report(
            "results/figures/{figures}_alternation.svg",
            caption="../report/alternation.rst",
            category="Figures",
            labels={"table": "{figures}", "what": "end to end and in two phases"},
        ),
        gain=report(
            "results/figures/{figures}_gain.svg",
            caption="../report/gain.rst",
            category="Figures",
            labels={"table": "{figures}", "what": "gain per class"},
        ),
        confusions=report(
            "results/figures/{figures}_confusions.svg",
            caption="../report/confusions.rst",
            category="Figures",
            labels={"table": "{figures}", "what": "pairs fixed and broken"},
        ),
        networks=report(
            "results/figures/{figures}_networks.svg",
            caption="../report/networks.rst",
            category="Figures",
            labels={"table": "{figures}", "what": "the networks"},
        ),
        networks_attention_net=report(
            "results/figures/{figures}_networks_attention_net.svg",
            caption="../report/attention_net.rst",
            category="Figures",
            labels={"table": "{figures}", "what": "the attention network"},
        ),
        pictures=multiext(
            "results/figures/{figures}",
            "_overlay.png",
            "_layers.png",
            "_alternation.png",
            "_gain.png",
            "_confusions.png",
            "_networks.png",
            "_networks_attention_net.png",
        ),
        confusions_csv="results/figures/{figures}_confusions.csv",
    log:
        "logs/thesis_figures/{figures}.log",
    wildcard_constraints:
        figures="[a-z0-9_]+",
    localrule: True
    params:
        stem="results/figures/{figures}",
        spec=told(specs.thesis_spec),
    shell:
        "reaction thesis_figures {params.stem:q} --spec {params.spec:q} > {log:q} 2>&1"
