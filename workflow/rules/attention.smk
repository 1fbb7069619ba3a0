rule gradcam:
    input:
        config=ancient("results/attention/{dataset}/{name}/config.json"),
        sources=needs("attention"),
    output:
        maps="results/attention/{dataset}/{name}/shard-{shard}.h5",
        provenance="results/attention/{dataset}/{name}/provenance-{shard}.json",
    log:
        "logs/gradcam/{dataset}/{name}-{shard}.log",
    benchmark:
        "timings/gradcam/{dataset}/{name}-{shard}.tsv"
    wildcard_constraints:
        name="gradcam-.+",
    threads: by_scale("attention", paper=8, reduced=1)
    resources:
        gpu=by_scale("attention", paper=1, reduced=0),
        mem="8GB",
        runtime="4h",
    params:
        folder=subpath(output.maps, parent=True),
    shell:
        "reaction gradcam {params.folder:q} --shard {wildcards.shard} --threads {threads} --gpus {resources.gpu} > {log:q} 2>&1"


rule attention_net:
    input:
        config=ancient("results/attention/{dataset}/{name}/config.json"),
        sources=needs("attention"),
    output:
        net="results/attention/{dataset}/{name}/attention_net.safetensors",
        history="results/attention/{dataset}/{name}/history.csv",
        metrics="results/attention/{dataset}/{name}/metrics.json",
        provenance="results/attention/{dataset}/{name}/provenance.json",
    log:
        "logs/attention_net/{dataset}/{name}.log",
    benchmark:
        "timings/attention_net/{dataset}/{name}.tsv"
    wildcard_constraints:
        name="attention_net-.+",
    retries: 1
    threads: by_scale("attention", paper=8, reduced=1)
    resources:
        gpu=by_scale("attention", paper=1, reduced=0),
        mem="16GB",
        runtime="12h",
    params:
        folder=subpath(output.net, parent=True),
    shell:
        "reaction attention_net {params.folder:q} --threads {threads} --gpus {resources.gpu} > {log:q} 2>&1"


rule attend:
    input:
        config=ancient("results/attention/{dataset}/{name}/config.json"),
        sources=needs("attention"),
    output:
        maps="results/attention/{dataset}/{name}/shard-{shard}.h5",
        provenance="results/attention/{dataset}/{name}/provenance-{shard}.json",
    log:
        "logs/attend/{dataset}/{name}-{shard}.log",
    benchmark:
        "timings/attend/{dataset}/{name}-{shard}.tsv"
    wildcard_constraints:
        name="learned-.+",
    threads: by_scale("attention", paper=8, reduced=1)
    resources:
        gpu=by_scale("attention", paper=1, reduced=0),
        mem="8GB",
        runtime="4h",
    params:
        folder=subpath(output.maps, parent=True),
    shell:
        "reaction attend {params.folder:q} --shard {wildcards.shard} --threads {threads} --gpus {resources.gpu} > {log:q} 2>&1"


rule agree:
    input:
        config=ancient("results/attention/{dataset}/{name}/config.json"),
        sources=needs("attention"),
    output:
        metrics="results/attention/{dataset}/{name}/metrics.json",
    log:
        "logs/agree/{dataset}/{name}.log",
    benchmark:
        "timings/agree/{dataset}/{name}.tsv"
    wildcard_constraints:
        name="agree-.+",
    threads: by_scale("attention", paper=8, reduced=1)
    resources:
        mem="8GB",
        runtime="1h",
    params:
        folder=subpath(output.metrics, parent=True),
    shell:
        "reaction agree {params.folder:q} --threads {threads} > {log:q} 2>&1"
