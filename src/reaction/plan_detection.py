"""From a table of detections to its artifacts: trained detectors, boxes, tubes and figures. See `reaction.plan`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reaction.artifacts import Artifact, Result, Run, split_name
from reaction.params import Dataset, Scale, of_row
from reaction.params_detection import DetectionProtocol, DetectionTable, Detector, DetectorSchedule

if TYPE_CHECKING:
    from reaction.plan import Plan

SEVERAL = ("ava",)  # layouts whose actors may do several things
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
        "network": _network(detector, scale) | _classes(plan.params.datasets[run.dataset]),
        "anchors": plan.params.datasets[run.dataset].layout if detector.anchors == "public" else "fitted",
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
    facts |= {"at": "annotated" if plan.params.datasets[run.dataset].layout in SEVERAL else "every"}
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


def _classes(dataset: Dataset) -> dict[str, Any]:
    """Whether an actor may do several things, and how many of the first classes exclude each other even so."""
    return {"poses": dataset.poses} | ({"several": True} if dataset.layout in SEVERAL else {})


def _network(detector: Detector, scale: Scale) -> dict[str, Any]:
    """What `reaction.training.detecting.build_detector` builds, and what it sees; options of parts that it has."""
    kept = {"network", "parts"} | ({"backbone_3d"} if "3d" in detector.parts else set())
    kept |= {"attention"} if "cfam" in detector.parts else set()
    return (
        detector.model_dump(mode="json", include=kept)
        | {
            "width": scale.width,
            "input": scale.input or detector.input,
            "frames": min(detector.frames, scale.clip or detector.frames),
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
