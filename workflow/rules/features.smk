rule frames:
    input:
        config=ancient("results/features/{dataset}/{name}/config.json"),
        sources=needs("features"),
    output:
        "results/features/{dataset}/{name}/shard-{shard}.h5",
    log:
        "logs/frames/{dataset}/{name}-{shard}.log",
    benchmark:
        "timings/frames/{dataset}/{name}-{shard}.tsv"
    wildcard_constraints:
        name="rgb-.+",
    resources:
        mem="4GB",
        runtime="2h",
    params:
        folder=subpath(output[0], parent=True),
    shell:
        "reaction frames {params.folder:q} --shard {wildcards.shard} > {log:q} 2>&1"


rule flow:
    input:
        config=ancient("results/features/{dataset}/{name}/config.json"),
        sources=needs("features"),
    output:
        "results/features/{dataset}/{name}/shard-{shard}.h5",
    log:
        "logs/flow/{dataset}/{name}-{shard}.log",
    benchmark:
        "timings/flow/{dataset}/{name}-{shard}.tsv"
    wildcard_constraints:
        name="flow-.+",
    threads: 1
    # The native kernel needs none. Where there is no such kernel, or GPUs to spare, a profile says `flow: {gpu: 1}`.
    resources:
        gpu=0,
        mem="4GB",
        runtime="12h",
    params:
        folder=subpath(output[0], parent=True),
    shell:
        "reaction flow {params.folder:q} --shard {wildcards.shard} --threads {threads} --gpus {resources.gpu} > {log:q} 2>&1"
