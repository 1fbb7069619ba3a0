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
    wildcard_constraints:
        name="[^/]+-(rgb|flow|rgbdiff|joint)-split[^/]+",
    threads: by_scale("models", paper=8, reduced=1)
    resources:
        gpu=by_scale("models", paper=1, reduced=0),
        at_once=0,
        mem="32GB",
        runtime="24h",
    params:
        folder=subpath(output.model, parent=True),
        checkpoints="checkpoints/{dataset}/{name}",
    # A wall limit and a number of GPUs are no parameters: another of either is no reason to train again. Nor is `at_once`,
    # for GPUs whose memory does not hold a paper's batch: 0 takes all videos of a step at once. Training stops
    # at nine tenths of `runtime`; status 75, like any failure, leads to a retry, which goes on from the checkpoint. How
    # often is the profile's to say: `retries` of a rule would be counted once more inside each job of a cluster.
    shell:
        "processes=$(({resources.gpu} > 1 ? {resources.gpu} : 1)); launcher=; "
        'if [ $processes -gt 1 ]; then launcher="torchrun --standalone --nproc-per-node $processes --no-python"; fi; '
        "$launcher reaction train {params.folder:q} --gpus {resources.gpu} --checkpoints {params.checkpoints:q} "
        "--threads $((({threads} + processes - 1) / processes)) --at-once {resources.at_once} --stop-after $(({resources.runtime} * 9 / 10)) "
        "> {log:q} 2>&1"
