rule table:
    input:
        results=results_of,
        papers=papers_of,
    output:
        csv=report(
            "results/tables/{table}.csv",
            caption="../report/table.rst",
            category="Tables",
            labels={"table": "{table}", "what": "published and ours"},
        ),
        md="results/tables/{table}.md",
        tex="results/tables/{table}.tex",
        comparisons=report(
            "results/tables/{table}_comparisons.csv",
            caption="../report/comparisons.rst",
            category="Tables",
            labels={"table": "{table}", "what": "ours against ours"},
        ),
    log:
        "logs/table/{table}.log",
    localrule: True
    params:
        spec=table_spec,
    shell:
        "reaction table {output.csv:q} --spec {params.spec:q} > {log:q} 2>&1"


rule figure:
    input:
        histories=drawn("curves", "history.csv"),
        per_class=drawn("per_class", "per_class.csv"),
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
        spec=figure_spec,
    shell:
        "reaction figure {params.stem:q} --spec {params.spec:q} > {log:q} 2>&1"
