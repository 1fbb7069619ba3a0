"""From a table of detections to its artifacts: trained detectors, boxes, tubes and figures. See `reaction.plan`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reaction.artifacts import Artifact, Result, Run, split_name
from reaction.params import Scale, of_row
from reaction.params_detection import DetectionProtocol, DetectionTable, Detector, DetectorSchedule

if TYPE_CHECKING:
    from reaction.plan import Plan

POSES = 14  # of AVA's actions, of which an actor does one
UNTRIMMED = ("ucf101_24",)  # layouts whose videos show their action only now and then
STREAM = "rgb"  # what the papers' detectors see


def detection_results(plan: "Plan", table: DetectionTable) -> list[Result]:
    """The cells of a table: the measured boxes and tubes of each row, split and seed."""
    results = []
    for row in table.methods:
        for run in detection_runs(table, row):
            results.append(Result(row, STREAM, run.split, run.seed, measured(plan, run)))
    return results


def detection_runs(table: DetectionTable, row: str) -> list[Run]:
    """A row's runs, one for each split and seed."""
    name, protocol = of_row(row, table.protocol)
    return [
        Run(table.dataset, name, split, seed, table.scale, protocol) for split in table.splits for seed in table.seeds
    ]


def trained(plan: "Plan", run: Run) -> Artifact:
    """A trained detector."""
    detector, scale = plan.params.detectors[run.method], plan.params.scales[run.scale]
    schedule = detector.schedules[run.dataset]
    weights = plan.params.weights[scale.weights or detector.weights or schedule.weights]
    late = schedule.trains == "late" and weights.source != "none"  # nothing else would ever be trained
    config = _facts(run) | {
        "network": _network(detector, scale, plan.params.datasets[run.dataset].layout),
        "anchors": detector.anchors,
        "loss": detector.loss,
        "weights": weights.model_dump(mode="json"),
        "trains": "late" if late else "all",
        "training": _training(schedule, scale),
        "augmentation": schedule.model_dump(mode="json", include={"jitter", "hue", "saturation", "exposure", "flip"}),
        "strides": list(schedule.strides),
        "every": scale.every or schedule.every,
    }
    return plan.once(Artifact("train_detector", run.dataset, _name(run), config, plan.inputs_of(run, STREAM)))


def detected(plan: "Plan", run: Run) -> Artifact:
    """The boxes that a detector finds in the test videos."""
    protocol = _protocol(plan, run)
    facts = protocol.model_dump(mode="json", include={"stride", "least_score", "suppression"})
    of_films = plan.params.datasets[run.dataset].layout == "ava"
    facts |= {"at": "annotated" if of_films else "every"}
    inputs = plan.inputs_of(run, STREAM) | {"run": trained(plan, run)}
    return plan.once(Artifact("detect", run.dataset, f"boxes-{_name(run)}", _facts(run) | facts, inputs))


def linked(plan: "Plan", run: Run, linker: str) -> Artifact:
    """The tubes that an evaluator's own way of linking makes of the boxes."""
    inputs = {"index": plan.index(run.dataset), "boxes": detected(plan, run)}
    untrimmed = linker == "road" and plan.params.datasets[run.dataset].layout in UNTRIMMED
    config = _facts(run) | {"linker": linker} | ({"untrimmed": True} if untrimmed else {})
    return plan.once(Artifact("link", run.dataset, f"tubes_{linker}-{_name(run)}", config, inputs))


def measured(plan: "Plan", run: Run) -> Artifact:
    """Mean average precisions of boxes and tubes, by the protocol's evaluators."""
    protocol = _protocol(plan, run)
    by = protocol.model_dump(mode="json", include={"frame_map", "video_map", "ava"}, exclude_defaults=True)
    facts = {"protocol_name": run.protocol, "resample": plan.params.datasets[run.dataset].resample}
    inputs = {"index": plan.index(run.dataset), "boxes": detected(plan, run)}
    inputs |= {f"tubes_{linker}": linked(plan, run, linker) for linker in protocol.video_map}
    config = _facts(run) | facts | {_SHORT.get(key, key): value for key, value in by.items()}
    return plan.once(Artifact("evaluate", run.dataset, f"map-{_name(run)}-{run.protocol}", config, inputs))


_SHORT = {"frame_map": "frame", "video_map": "video"}


def _protocol(plan: "Plan", run: Run) -> DetectionProtocol:
    return plan.params.detection_protocols[run.protocol]


def _facts(run: Run) -> dict[str, Any]:
    split = split_name(run.split)
    return {"method": run.method, "stream": STREAM, "split": split, "seed": run.seed, "scale": run.scale}


def _name(run: Run) -> str:
    return f"{run.method}-boxes-{split_name(run.split)}-seed{run.seed}-{run.scale}"


def _network(detector: Detector, scale: Scale, layout: str) -> dict[str, Any]:
    """What `reaction.training.detector.build_detector` builds, and what it sees."""
    kept = {"network", "backbone_3d", "parts", "attention"}
    return (
        detector.model_dump(mode="json", include=kept)
        | {
            "width": scale.width,
            "input": scale.input or detector.input,
            "frames": min(detector.frames, scale.clip or detector.frames),
            "poses": POSES if layout == "ava" else 0,
        }
        | ({"bank": detector.bank} if detector.bank else {})
    )


def _training(schedule: DetectorSchedule, scale: Scale) -> Mapping[str, Any]:
    """The schedule under a scale."""
    kept = {"factor", "bn_group", "weight_decay", "clip_gradient", "precision"}
    return schedule.model_dump(mode="json", include=kept) | {
        "epochs": scale.epochs or schedule.epochs,
        "steps": list(schedule.steps if scale.steps is None else scale.steps),
        "batch": scale.batch or schedule.batch,
        "learning_rate": scale.learning_rate or schedule.learning_rate,
        "warmup_epochs": schedule.warmup_epochs if scale.warmup_epochs is None else scale.warmup_epochs,
    }
