"""What the commands `table`, `figure` and `thesis_figures` are given: names, folders and choices, as JSON.

Light on purpose, like `reaction.plan`: the Snakefile imports this.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from reaction.artifacts import KINDS, Artifact, Result, Run
from reaction.params import READS, CostFigure, Dataset, Figures, Method, Params, Table, of_row
from reaction.params_detection import DetectionTable
from reaction.plan import Plan, shown, views
from reaction.plan_detection import detected, detection_runs, linked, measured, trained


def table_spec(plan: Plan, name: str) -> dict[str, Any]:
    """What the `table` command needs to know, as JSON; of several datasets, in parts."""
    specs = [_part_spec(plan, name, part) for part in plan.params.tables[name].parts]
    return specs[0] if len(specs) == 1 else {"table": name, "parts": specs}


def results(plan: Plan, name: str) -> list[str]:
    """The files of the scores, and of the measured maps, that a table shows."""
    return [file for one in plan.asked(name) for file in one.files]


def papers(plan: Plan, name: str) -> list[str]:
    """The files of the papers whose claims a table shows."""
    table = (plan.params.tables | plan.params.detection_tables)[name]
    return [f"workflow/papers/{paper}.yaml" for paper in table.papers]


def detection_spec(plan: Plan, name: str) -> dict[str, Any]:
    """What the `detection_table` command needs to know, as JSON."""
    table = plan.params.detection_tables[name]
    protocols = [plan.params.detection_protocols[of_row(row, table.protocol)[1]] for row in table.methods]
    metrics: dict[str, dict[str, None]] = {}
    for metric, evaluators in (pair for one in protocols for pair in one.metrics.items()):
        metrics.setdefault(metric, {}).update(dict.fromkeys(evaluators))
    return {
        "table": name,
        "dataset": table.dataset,
        "scale": table.scale,
        "splits": list(table.splits),
        "protocol": table.protocol,
        "methods": list(table.methods),
        "papers": papers(plan, name),
        "resample": plan.params.datasets[table.dataset].resample,
        "metrics": [[metric, list(evaluators)] for metric, evaluators in metrics.items()],
        "comparisons": [list(pair) for pair in table.comparisons],
        "results": [_detection_cell(plan, table, one) for one in plan.detections[name]],
    }


def _detection_cell(plan: Plan, table: DetectionTable, result: Result) -> dict[str, Any]:
    why = undetectable(plan.params, table, result.method)
    cell = {"method": result.method, "split": result.split, "seed": result.seed, "folder": result.artifact.folder}
    return cell | {"comparable": not why, "why": "; ".join(why)}


def undetectable(params: Params, table: DetectionTable, row: str) -> list[str]:
    """Why the result of a row may not be set against the published number; empty if it may."""
    detector, scale = params.detectors[of_row(row, table.protocol)[0]], params.scales[table.scale]
    own, reasons = detector.weights or detector.schedules[table.dataset].weights, []
    if table.scale != "paper":
        reasons.append(f"scale {table.scale}")
    if params.weights[scale.weights or own].source == "none" and params.weights[own].source != "none":
        reasons.append("no pretrained branches")
    if classes := params.datasets[table.dataset].classes:
        reasons.append(f"{len(classes)} classes only")
    return reasons + ([detector.stands_in] if detector.stands_in else [])


def detection_figure_spec(plan: Plan, name: str) -> dict[str, Any]:
    """What the `detection_figures` command draws, as JSON; tubes and clips are of the first row's first run."""
    table = plan.params.detection_tables[name]
    runs = {row: detection_runs(table, row) for row in table.methods}
    first = runs[table.methods[0]][0]
    boxes = detected(plan, first)
    linkers = list(plan.params.detection_protocols[first.protocol].video_map)
    shown = {"index": boxes.inputs["index"].folder, "features": boxes.inputs["features"].folder}
    shown |= {"boxes": boxes.folder, "videos": table.shown, "split": first.split}
    shown |= {"tubes": linked(plan, first, linkers[0]).folder} if linkers else {}
    methods = [{"name": row, "folders": [measured(plan, run).folder for run in some]} for row, some in runs.items()]
    curves = [{"name": row, "folders": [trained(plan, run).folder for run in some]} for row, some in runs.items()]
    return {"curves": curves, "methods": methods, "shown": shown}


def detection_drawn(plan: Plan, name: str) -> list[str]:
    """The files that those figures are drawn from."""
    table = plan.params.detection_tables[name]
    runs = [run for row in table.methods for run in detection_runs(table, row)]
    made = [detected(plan, runs[0]).inputs["features"]]
    for run in runs:
        made += [trained(plan, run), measured(plan, run), *measured(plan, run).inputs.values()]
    return list(dict.fromkeys(file for one in made for file in one.files))


def network_spec(plan: Plan, name: str) -> dict[str, Any]:
    """What the `network_table` command needs to know, as JSON."""
    table = plan.params.network_tables[name]
    return {
        "paper": network_papers(plan, name)[0],
        "claims": table.claims,
        "classes": table.classes,
        "fps": table.fps,
        "rows": [_network_row(plan, *row) for row in table.rows.items()],
    }


def network_papers(plan: Plan, name: str) -> list[str]:
    """The file of the paper that a table of networks is set beside."""
    return [f"workflow/papers/{plan.params.network_tables[name].paper}.yaml"]


def _network_row(plan: Plan, method: str, protocol: str) -> dict[str, Any]:
    run = Run("", method, 1, 0, "paper", protocol)
    streams = [
        {"stream": stream, "network": plan.network(run, stream)} for stream in plan.params.methods[method].streams
    ]
    return {"method": method, "streams": streams, "protocol": views(plan.params.protocols[protocol])}


def cost_spec(plan: Plan, name: str) -> dict[str, Any]:
    """What the `cost_figure` command draws, as JSON: of every row of ours what its network does and its scores."""
    figure = plan.params.cost_figures[name]
    rows = {tuple(row["folders"]): row for table in figure.tables for row in _cost_rows(plan, figure, table)}
    paper, series = cost_papers(plan, name)[0], list(figure.series)
    return {"paper": paper, "claims": figure.claims, "series": series, "ours": list(rows.values())}


def cost_papers(plan: Plan, name: str) -> list[str]:
    """The file of the paper whose figure it is."""
    return [f"workflow/papers/{plan.params.cost_figures[name].paper}.yaml"]


def cost_results(plan: Plan, name: str) -> list[str]:
    """What is there now of our results: such a figure waits for none."""
    files = [f"{folder}/metrics.json" for row in cost_spec(plan, name)["ours"] for folder in row["folders"]]
    return [file for file in files if Path(file).exists()]


def _cost_rows(plan: Plan, figure: CostFigure, name: str) -> Iterator[dict[str, Any]]:
    for table in plan.params.tables[name].parts:
        for row in table.methods:
            runs = plan.runs(table, row)
            series = [one for one, methods in figure.series.items() if runs[0].method in methods]
            if not series:
                continue
            stream = shown(plan.params.methods[runs[0].method], table)[-1]
            yield {
                "series": series[0],
                "method": row,
                "dataset": table.dataset,
                "scale": table.scale,
                "stream": stream,
                "network": plan.network(runs[0], stream),
                "protocol": views(plan.params.protocols[runs[0].protocol]),
                "folders": [plan.scores(run, stream).folder for run in runs],
            }


def _part_spec(plan: Plan, name: str, table: Table) -> dict[str, Any]:
    tested = [result for result in plan.tables[name] if result.artifact.dataset == table.dataset]
    return {
        "table": name,
        "dataset": table.dataset,
        "scale": table.scale,
        "splits": list(table.splits),
        "protocol": table.protocol,
        "methods": list(table.methods),
        "streams": _streams(plan.params, table),
        "papers": papers(plan, name),
        "resample": plan.params.datasets[table.dataset].resample,
        "ceilings": _ceilings(plan.params.datasets[table.dataset]),
        "comparisons": [list(pair) for pair in table.comparisons],
        "results": [_cell(plan, table, result) for result in tested],
    } | _extras(plan, name, table)


def _extras(plan: Plan, name: str, table: Table) -> dict[str, Any]:
    """What only some tables have."""
    sets = {"split_sets": [list(chosen) for chosen in table.split_sets]} if table.split_sets else {}
    maps = [_agreement(one) for one in plan.agreements(name) if one.artifact.dataset == table.dataset]
    several = {"metric": "map"} if plan.params.datasets[table.dataset].multi_label else {}
    return sets | several | ({"maps": maps} if maps else {})


def _agreement(one: Result) -> dict[str, Any]:
    row = {"method": one.method, "stream": one.stream, "split": one.split, "seed": one.seed}
    part = {"agree": "test", "attention_net": "heldout"}[one.artifact.rule]
    return row | {"part": part, "folder": one.artifact.folder}


def _cell(plan: Plan, table: Table, result: Result) -> dict[str, Any]:
    why = incomparable(plan.params, table, result.method, result.stream)
    return {
        "method": result.method,
        "stream": result.stream,
        "split": result.split,
        "seed": result.seed,
        "folder": result.artifact.folder,
        "comparable": not why,
        "why": "; ".join(why),
    } | ({"oracle": True} if oracle(plan.params, table, result.method) else {})


def figure_spec(plan: Plan, name: str) -> dict[str, Any]:
    """What the `figure` command draws, as JSON: of every run its history, of every method its classes."""
    table = plan.params.tables[name]
    curves, classes = defaultdict(dict), defaultdict(dict)  # a run that is tested twice is drawn once
    for result in plan.tables[name]:
        method, _ = of_row(result.method, table.protocol)
        if result.stream != "fusion":
            runs = dict.fromkeys(one.folder for one in _stages_of(plan, method, result.artifact.inputs["run"]))
            curves[f"{method}/{result.stream}"] |= runs
        if result.stream == shown(plan.params.methods[method], table)[-1]:
            classes[f"{result.method}/{result.stream}"][result.artifact.folder] = None
    return {"curves": _drawn(curves), "per_class": _drawn(classes)}


def histories(plan: Plan, name: str) -> list[str]:
    """The files that a table's training curves are drawn from."""
    return [f"{folder}/history.csv" for line in figure_spec(plan, name)["curves"] for folder in line["folders"]]


def per_class(plan: Plan, name: str) -> list[str]:
    """The files that the bars of its classes are drawn from."""
    return [f"{folder}/per_class.csv" for bar in figure_spec(plan, name)["per_class"] for folder in bar["folders"]]


def _stages_of(plan: Plan, method: str, run: Artifact) -> list[Artifact]:
    """The rounds of an alternation, which are one training, from the first to this; of other methods the run."""
    stages = [run]
    while plan.params.methods[method].alternation is not None and "init" in stages[0].inputs:
        stages.insert(0, stages[0].inputs["init"])
    return stages


def thesis_spec(plan: Plan, name: str) -> dict[str, Any]:
    """What the `thesis` command draws, as JSON."""
    figures = plan.params.figures[name]
    table = plan.params.tables[figures.table]
    run = Run(table.dataset, "", table.splits[0], table.seeds[0], table.scale, table.protocol)
    frames_shown = [one.model_dump() for one in figures.shown]
    after, frames = run.of(figures.after), plan.inputs_of(run, "rgb")["features"].folder
    sides = {
        side: {"name": row, "folders": [plan.fusion(one).folder for one in plan.runs(table, row)]}
        for side, row in (("before", figures.before), ("after", figures.after))
    }
    lines = [
        {"name": kind, "layers": [_layer(plan, run.of(row), one) for row, one in zip(figures.layers, of, strict=True)]}
        for kind, of in zip(("Grad-CAM", "learned"), plan.maps_shown(run, figures), strict=True)
    ]
    return {
        "overlay": {"frames": frames, "maps": plan.learned(after, "rgb").folder, "shown": frames_shown},
        "layers": {"frames": frames, "lines": lines, "shown": frames_shown},
        "alternation": _stages(plan, run, figures),
        "gain": sides,
        "confusions": sides,
        "networks": _networks(plan, after),
    }


def _layer(plan: Plan, run: Run, maps: Artifact) -> dict[str, str]:
    return {"name": "+".join(plan.layers(run)), "maps": maps.folder}


def thesis_files(plan: Plan, name: str) -> list[str]:
    """The files that the `thesis_figures` command reads."""
    made = [file for one in plan.drawn(name) for file in one.files]
    stages = [stage for way in thesis_spec(plan, name)["alternation"] for stage in way["stages"]]
    histories = [f"{stage['history']}/history.csv" for stage in stages]
    return list(dict.fromkeys((*made, *histories, *(file for stage in stages for file in stage["maps"]))))


def _stages(plan: Plan, run: Run, figures: Figures) -> list[dict[str, Any]]:
    """Per stream the runs that follow each other, end to end and in two phases, and what their maps took."""
    drawn = []
    for stream in ("rgb", "flow"):
        rounds = _stages_of(plan, figures.end_to_end, plan.run(run.of(figures.end_to_end), stream))
        last = plan.run(run.of(figures.after), stream)
        two = [last.inputs["init"], last] if "init" in last.inputs else [last]
        drawn += [
            {"name": f"{name}/{stream}", "stages": [_stage(one) for one in stages]}
            for name, stages in (("end to end", rounds), ("two-phase", two))
        ]
    return drawn


def _networks(plan: Plan, run: Run) -> dict[str, Any]:
    """What the diagrams of the networks are drawn from."""
    streams = [{"stream": stream, "network": plan.run(run, stream).config["network"]} for stream in ("rgb", "flow")]
    net = {key: plan.attention_net(run, "rgb").config[key] for key in ("hidden", "kernel")}
    index = plan.index(run.dataset).folder
    return {"index": index, "streams": streams, "layers": plan.layers(run), "net": net}


def _streams(params: Params, table: Table) -> list[str]:
    """The streams that a table has rows of, in the order one reads them."""
    tested = {stream for row in table.methods for stream in shown(params.methods[of_row(row, "")[0]], table)}
    return [stream for stream in (*READS, "fusion") if stream in tested]


def _ceilings(dataset: Dataset) -> dict[str, float] | None:
    """What a stream can know at best, as `reaction.data.synthetic.ceilings` proves, without that module's imports."""
    if dataset.generator is None:
        return None
    appearances, motions = len(dataset.generator.appearances), len(dataset.generator.motions)
    return {"rgb": 1 / motions, "flow": 1 / appearances, "fusion": 1.0}


def incomparable(params: Params, table: Table, row: str, stream: str) -> list[str]:
    """Why the result of a row's stream may not be set against the published number; empty if it may."""
    method, _ = of_row(row, table.protocol)
    scale, described = params.scales[table.scale], params.methods[method]
    weights = params.weights[scale.weights or described.weights]
    reasons = []
    if table.scale != "paper":
        reasons.append(f"scale {table.scale}")
    if weights.source == "none" and params.weights[described.weights].source != "none":
        reasons.append("no ImageNet weights")
    if table.dataset in table.stands_in:
        reasons.append(table.stands_in[table.dataset])
    if params.datasets[table.dataset].classes:
        reasons.append(f"{len(params.datasets[table.dataset].classes)} classes only")
    reasons += _stands_in(described, stream)
    layers = described.attention.layers if described.attention else ()
    if moved := [f"{scale.layers[layer]} for {layer}" for layer in layers if layer in (scale.layers or {})]:
        reasons.append(f"maps of {', '.join(moved)}")
    return reasons


def _stands_in(method: Method, stream: str) -> list[str]:
    """What differs from the paper's own in a stream; in a fusion, in any of its streams."""
    if not isinstance(method.stands_in, Mapping):
        return [method.stands_in] if method.stands_in else []
    own = {one: text for one, text in method.stands_in.items() if stream in (one, "fusion")}
    return list(dict.fromkeys(own.values()))


def oracle(params: Params, table: Table, row: str) -> bool:
    """Whether a row's test is told the answer: its maps are made with the test videos' labels."""
    method, protocol = of_row(row, table.protocol)
    return params.methods[method].attention is not None and params.protocols[protocol].maps == "gradcam-true"


def _stage(run: Artifact) -> dict[str, Any]:
    """One run of a training in stages, and what says how long the maps took that were made for it."""
    maps = run.inputs.get("maps")
    made = [one for one in maps.with_ancestors() if KINDS[one.rule] == "attention"] if maps else []
    own = [one for one in made if one.inputs["run"] is maps.inputs["run"]]
    return {"history": run.folder, "maps": [file for one in own for file in one.provenance]}


def _drawn(folders: Mapping[str, Iterable[str]]) -> list[dict[str, Any]]:
    """One entry per line or bar; a list, since JSON's keys have no order to keep."""
    return [{"name": name, "folders": list(found)} for name, found in folders.items()]
