rule freeze:
    output:
        "results/{kind}/{dataset}/{name}/config.json",
    log:
        "logs/freeze/{kind}/{dataset}/{name}.log",
    localrule: True
    params:
        frozen=frozen,
    shell:
        "reaction freeze {output:q} {params.frozen:q} > {log:q} 2>&1"


rule fetch:
    input:
        config=ancient("results/data/{dataset}/videos-{hash}/config.json"),
    output:
        "results/data/{dataset}/videos-{hash}/videos.csv",
    log:
        "logs/fetch/{dataset}/{hash}.log",
    benchmark:
        "timings/fetch/{dataset}/{hash}.tsv"
    retries: 2
    resources:
        runtime="12h",
    params:
        folder=subpath(output[0], parent=True),
    shell:
        "reaction fetch {params.folder:q} > {log:q} 2>&1"


rule index:
    input:
        config=ancient("results/data/{dataset}/{name}/config.json"),
        sources=needs("data"),
    output:
        index="results/data/{dataset}/{name}/index.csv",
        classes="results/data/{dataset}/{name}/classes.txt",
        official="results/data/{dataset}/{name}/official.json",
        quarantine="results/data/{dataset}/{name}/quarantine.csv",
    log:
        "logs/index/{dataset}/{name}.log",
    benchmark:
        "timings/index/{dataset}/{name}.tsv"
    threads: 8
    resources:
        mem="8GB",
        runtime="4h",
    params:
        folder=subpath(output.index, parent=True),
    shell:
        "reaction index {params.folder:q} --threads {threads} > {log:q} 2>&1"
