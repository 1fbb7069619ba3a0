rule train:
    input:
        config=ancient("results/models/{dataset}/{name}/config.json"),
        sources=needs("models"),
    output:
        model="results/models/{dataset}/{name}/model.safetensors",
        history="results/models/{dataset}/{name}/history.csv",
        metrics="results/models/{dataset}/{name}/metrics.json",
        provenance="results/models/{dataset}/{name}/provenance.json",
    log:
        "logs/train/{dataset}/{name}.log",
    benchmark:
        "timings/train/{dataset}/{name}.tsv"
    retries: 3
    threads: by_scale("models", paper=8, reduced=1)
    resources:
        gpu=by_scale("models", paper=1, reduced=0),
        mem="32GB",
        runtime="24h",
    params:
        folder=subpath(output.model, parent=True),
        checkpoints="checkpoints/{dataset}/{name}",
    shell:
        "reaction train {params.folder:q} --checkpoints {params.checkpoints:q} --threads {threads} > {log:q} 2>&1"
