rule score:
    input:
        config=ancient("results/scores/{dataset}/{name}/config.json"),
        sources=needs("scores"),
    output:
        scores="results/scores/{dataset}/{name}/scores.h5",
        metrics="results/scores/{dataset}/{name}/metrics.json",
        per_class="results/scores/{dataset}/{name}/per_class.csv",
        confusion="results/scores/{dataset}/{name}/confusion.csv",
    log:
        "logs/score/{dataset}/{name}.log",
    benchmark:
        "timings/score/{dataset}/{name}.tsv"
    wildcard_constraints:
        name="[^/]+-(rgb|flow)-split[^/]+",
    threads: threads_of("scores")
    resources:
        gpu=gpus_of("scores"),
        mem="16GB",
        runtime="12h",
    params:
        folder=subpath(output.scores, parent=True),
    shell:
        "reaction score {params.folder:q} --threads {threads} > {log:q} 2>&1"


rule fuse:
    input:
        config=ancient("results/scores/{dataset}/{name}/config.json"),
        sources=needs("scores"),
    output:
        fusion="results/scores/{dataset}/{name}/fusion.h5",
        metrics="results/scores/{dataset}/{name}/metrics.json",
        per_class="results/scores/{dataset}/{name}/per_class.csv",
        confusion="results/scores/{dataset}/{name}/confusion.csv",
    log:
        "logs/fuse/{dataset}/{name}.log",
    wildcard_constraints:
        name="[^/]+-fusion-split[^/]+",
    params:
        folder=subpath(output.fusion, parent=True),
    shell:
        "reaction fuse {params.folder:q} > {log:q} 2>&1"
