rule score:
    input:
        config=ancient("results/scores/{dataset}/{name}/config.json"),
        sources=needs("scores"),
    output:
        scores="results/scores/{dataset}/{name}/scores.h5",
        provenance="results/scores/{dataset}/{name}/provenance.json",
        metrics="results/scores/{dataset}/{name}/metrics.json",
        per_class="results/scores/{dataset}/{name}/per_class.csv",
        confusion="results/scores/{dataset}/{name}/confusion.csv",
        picture="results/scores/{dataset}/{name}/confusion.png",
    log:
        "logs/score/{dataset}/{name}.log",
    benchmark:
        "timings/score/{dataset}/{name}.tsv"
    wildcard_constraints:
        name="[^/]+-(rgb|flow|rgbdiff|joint)-split[^/]+",
    threads: by_scale("scores", paper=8, reduced=1)
    resources:
        gpu=by_scale("scores", paper=1, reduced=0),
        mem="16GB",
        runtime="12h",
    params:
        folder=subpath(output.scores, parent=True),
    shell:
        "reaction score {params.folder:q} --threads {threads} --gpus {resources.gpu} > {log:q} 2>&1"


rule fuse:
    input:
        config=ancient("results/scores/{dataset}/{name}/config.json"),
        sources=needs("scores"),
    output:
        fusion="results/scores/{dataset}/{name}/fusion.h5",
        metrics="results/scores/{dataset}/{name}/metrics.json",
        per_class="results/scores/{dataset}/{name}/per_class.csv",
        confusion="results/scores/{dataset}/{name}/confusion.csv",
        picture="results/scores/{dataset}/{name}/confusion.png",
    log:
        "logs/fuse/{dataset}/{name}.log",
    wildcard_constraints:
        name="[^/]+-fusion-split[^/]+",
    params:
        folder=subpath(output.fusion, parent=True),
    shell:
        "reaction fuse {params.folder:q} > {log:q} 2>&1"
