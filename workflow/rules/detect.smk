rule train_detector:
    input:
        config=ancient("results/models/{dataset}/{name}/config.json"),
        sources=needs("models"),
    output:
        model="results/models/{dataset}/{name}/model.safetensors",
        anchors="results/models/{dataset}/{name}/anchors.json",
        history="results/models/{dataset}/{name}/history.csv",
        metrics="results/models/{dataset}/{name}/metrics.json",
        provenance="results/models/{dataset}/{name}/provenance.json",
    log:
        "logs/train_detector/{dataset}/{name}.log",
    benchmark:
        "timings/train_detector/{dataset}/{name}.tsv"
    wildcard_constraints:
        name="[^/]+-boxes-split[^/]+",
    threads: by_scale("models", paper=8, reduced=1)
    resources:
        gpu=by_scale("models", paper=1, reduced=0),
        mem="32GB",
        runtime="24h",
    params:
        folder=subpath(output.model, parent=True),
        checkpoints="checkpoints/{dataset}/{name}",
    # As `train`, in one process.
    shell:
        "reaction train_detector {params.folder:q} --gpus {resources.gpu} --checkpoints {params.checkpoints:q} "
        "--threads {threads} --stop-after $(({resources.runtime} * 9 / 10)) > {log:q} 2>&1"


rule detect:
    input:
        config=ancient("results/detections/{dataset}/{name}/config.json"),
        sources=needs("detections"),
    output:
        boxes="results/detections/{dataset}/{name}/boxes.h5",
        provenance="results/detections/{dataset}/{name}/provenance.json",
    log:
        "logs/detect/{dataset}/{name}.log",
    benchmark:
        "timings/detect/{dataset}/{name}.tsv"
    wildcard_constraints:
        name="boxes-.+",
    threads: by_scale("detections", paper=8, reduced=1)
    resources:
        gpu=by_scale("detections", paper=1, reduced=0),
        mem="16GB",
        runtime="24h",
    params:
        folder=subpath(output.boxes, parent=True),
    shell:
        "reaction detect {params.folder:q} --threads {threads} --gpus {resources.gpu} > {log:q} 2>&1"


rule link:
    input:
        config=ancient("results/detections/{dataset}/{name}/config.json"),
        sources=needs("detections"),
    output:
        tubes="results/detections/{dataset}/{name}/tubes.h5",
    log:
        "logs/link/{dataset}/{name}.log",
    benchmark:
        "timings/link/{dataset}/{name}.tsv"
    wildcard_constraints:
        name="tubes_.+",
    resources:
        mem="8GB",
        runtime="12h",
    params:
        folder=subpath(output.tubes, parent=True),
    shell:
        "reaction link {params.folder:q} > {log:q} 2>&1"


rule evaluate:
    input:
        config=ancient("results/detections/{dataset}/{name}/config.json"),
        sources=needs("detections"),
    output:
        metrics="results/detections/{dataset}/{name}/metrics.json",
        per_class="results/detections/{dataset}/{name}/per_class.csv",
        errors="results/detections/{dataset}/{name}/errors.csv",
        draws="results/detections/{dataset}/{name}/draws.h5",
    log:
        "logs/evaluate/{dataset}/{name}.log",
    benchmark:
        "timings/evaluate/{dataset}/{name}.tsv"
    wildcard_constraints:
        name="map-.+",
    resources:
        mem="16GB",
        runtime="4h",
    params:
        folder=subpath(output.metrics, parent=True),
    shell:
        "reaction evaluate {params.folder:q} > {log:q} 2>&1"


rule detection_table:
    input:
        results=reads(specs.results),
        papers=claims,
    output:
        csv=report(
            "results/tables/{table}.csv",
            caption="../report/detection_table.rst",
            category="Tables",
            labels={"table": "{table}", "what": "published and ours"},
        ),
        metrics="results/metrics/{table}.json",
        md="results/tables/{table}.md",
        tex="results/tables/{table}.tex",
        comparisons=report(
            "results/tables/{table}_comparisons.csv",
            caption="../report/detection_comparisons.rst",
            category="Tables",
            labels={"table": "{table}", "what": "ours against ours"},
        ),
        record="results/tables/{table}.json",
    log:
        "logs/detection_table/{table}.log",
    wildcard_constraints:
        table=of_detections(),
    localrule: True
    params:
        spec=told(specs.detection_spec),
        record=record,
    shell:
        "(reaction detection_table {output.csv:q} --metrics {output.metrics:q} --spec {params.spec:q} && "
        "reaction freeze {output.record:q} {params.record:q}) > {log:q} 2>&1"


ruleorder: detection_table > table_with_maps > table


rule detection_figures:
    input:
        table=stale_table,
        drawn=reads(specs.detection_drawn),
    output:
        curves=report(
            "results/figures/{table}_curves.svg",
            caption="../report/detection_curves.rst",
            category="Figures",
            labels={"table": "{table}", "what": "training curves"},
        ),
        per_class=report(
            "results/figures/{table}_per_class.svg",
            caption="../report/per_class_ap.rst",
            category="Figures",
            labels={"table": "{table}", "what": "average precision per class"},
        ),
        errors=report(
            "results/figures/{table}_errors.svg",
            caption="../report/detection_errors.rst",
            category="Figures",
            labels={"table": "{table}", "what": "what goes wrong"},
        ),
        tubes=report(
            "results/figures/{table}_tubes.svg",
            caption="../report/tubes.rst",
            category="Figures",
            labels={"table": "{table}", "what": "tubes"},
        ),
        outlines="results/figures/{table}_outlines.svg",
        clips=directory("results/figures/{table}_clips"),
        pictures=multiext(
            "results/figures/{table}",
            "_curves.png",
            "_per_class.png",
            "_errors.png",
            "_tubes.png",
            "_outlines.png",
        ),
    log:
        "logs/detection_figures/{table}.log",
    wildcard_constraints:
        table=of_detections(),
    localrule: True
    params:
        stem="results/figures/{table}",
        spec=told(specs.detection_figure_spec),
    shell:
        "reaction detection_figures {params.stem:q} --spec {params.spec:q} > {log:q} 2>&1"


ruleorder: detection_figures > figure
