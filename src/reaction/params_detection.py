"""The parts of params.yaml about detectors: networks that say where in a frame somebody does what."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from reaction.schema import AT_LEAST_ONE, Fraction, Model, Positive, known, looked_up, of_row

if TYPE_CHECKING:
    from reaction.params import Params

ANNOTATED = ("jhmdb21", "ucf101_24", "ava", "synthetic")  # layouts whose actors have boxes
CELL = 32  # pixels of the input for each cell that YOWO predicts from
Threshold = Annotated[float, Field(gt=0, lt=1)] | Literal["0.5:0.95"]
FrameEvaluator = Literal["padilla", "act", "gurkirt", "multisports"]
VideoEvaluator = Literal["yowo", "act", "road", "multisports"]
AvaEvaluator = Literal[  # `-mini`: on every fourth second, as SlowFast validates while it trains
    "activitynet", "slowfast", "mmaction2", "activitynet-mini", "slowfast-mini", "mmaction2-mini"
]


class DetectorSchedule(Model):
    """How a detector is trained on a dataset."""

    weights: str = Field(description="a key of `weights:`")
    splits: tuple[Positive, ...] | None = Field(
        None, description="those whose test videos the weights have not learned from; unsaid: all"
    )
    trains: Literal["all", "late"] = Field(
        "all",
        description="`late`: of pretrained branches the last layers alone, and what follows (YOWO on J-HMDB-21)",
    )
    epochs: Positive
    steps: tuple[Positive, ...] = Field(description="epochs after which the learning rate is multiplied by `factor`")
    factor: float
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    batch: Positive = Field(description="clips per update, whose losses are added up")
    bn_group: Annotated[int, Field(ge=2)] = Field(
        description="clips that go through the network at once, and that BatchNorm normalises together"
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(description="of Adam")
    weight_decay: Annotated[float, Field(ge=0)]
    clip_gradient: float | None = Field(description="largest norm of the gradient")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    strides: Annotated[tuple[Positive, ...], AT_LEAST_ONE] = Field(
        description="every n-th frame of the video makes a clip, n drawn from these"
    )
    jitter: Annotated[float, Field(ge=0, lt=0.5)] = Field(description="of a side, by which each edge of the crop moves")
    hue: Fraction
    saturation: Annotated[float, Field(ge=1)] = Field(description="the largest factor; its inverse is as likely")
    exposure: Annotated[float, Field(ge=1)]
    flip: bool
    every: Positive = Field(1, description="of so many annotated frames one is trained on, another one each epoch")


class Detector(Model):
    """A paper's detector and its recipes: YOWO's so far."""

    network: Literal["yowo"]
    backbone_3d: Literal[
        "resnext101",
        "resnet18",
        "resnet50",
        "resnet101",
        "mobilenet_2x",
        "mobilenetv2_1x",
        "shufflenet_2x",
        "shufflenetv2_2x",
    ]
    parts: Literal["2d", "3d", "2d+3d", "2d+3d+cfam"] = "2d+3d+cfam"
    attention: Literal["code", "paper"] = Field("code", description="of CFAM: see reaction.models.yowo")
    bank: Literal["around", "causal"] | None = Field(
        None, description="clips of the whole video stand for the clip's own features: around the key frame, or before"
    )
    input: Annotated[int, Field(gt=0, multiple_of=CELL)] = Field(description="pixels a side that the network sees")
    frames: Positive = Field(description="of a clip, whose last one is the key frame")
    anchors: Literal["public", "fitted"] = Field(
        description="shapes that boxes are predicted from: the public code's, or those of the training boxes by k-means"
    )
    loss: Literal["code", "paper"] = Field("code", description="whose scaling: see reaction.training.region_loss")
    schedules: dict[str, DetectorSchedule] = Field(
        description="by dataset: written out, or a key of `detector_schedules:`"
    )
    weights: str | None = Field(None, description="a key of `weights:`, instead of the schedules'")
    stands_in: str | None = Field(None, description="what differs from the paper's own, if anything does")

    @model_validator(mode="after")
    def _bank_of_what(self) -> "Detector":
        if self.bank and "3d" not in self.parts:
            raise ValueError("`bank:` is of the features of the 3D branch, which `parts: 2d` does not have")
        if self.bank and self.frames != 1:
            raise ValueError("`bank:` stands for the clip but for its key frame: write `frames: 1`")
        return self


class DetectionProtocol(Model):
    """How a trained detector is asked, and by which evaluators its boxes and tubes are measured."""

    stride: Positive = Field(1, description="every n-th frame of the video makes a clip")
    least_score: Fraction = Field(description="a box stays whose best class scores more")
    suppression: Fraction = Field(description="a box goes that overlaps a better one by more")
    frame_map: dict[FrameEvaluator, Annotated[tuple[Threshold, ...], AT_LEAST_ONE]] = Field({})
    video_map: dict[VideoEvaluator, Annotated[tuple[Threshold, ...], AT_LEAST_ONE]] = Field({})
    ava: tuple[AvaEvaluator, ...] = Field((), description="on AVA's key frames; the others have none")

    @model_validator(mode="after")
    def _something(self) -> "DetectionProtocol":
        if not (self.frame_map or self.video_map or self.ava):
            raise ValueError("a protocol measures by `frame_map:`, `video_map:` or `ava:`")
        if self.ava and (self.frame_map or self.video_map):
            raise ValueError("`ava:` goes alone: a film has boxes on one frame in thirty, and no tubes")
        if any(threshold == "0.5:0.95" for thresholds in self.frame_map.values() for threshold in thresholds):
            raise ValueError("`frame_map:` takes single thresholds; 0.5:0.95 is for `video_map:`")
        return self

    @property
    def metrics(self) -> dict[str, list[str]]:
        """The evaluators of each metric, such as `video_map@0.5`."""
        found: dict[str, list[str]] = {}
        for name, evaluators in (("frame_map", self.frame_map), ("video_map", self.video_map)):
            for evaluator, thresholds in evaluators.items():
                for threshold in thresholds:
                    found.setdefault(f"{name}@{threshold}", []).append(evaluator)
        if self.ava:
            found["frame_map@0.5"] = list(self.ava)
        return found


class DetectionTable(Model):
    """A table of detections on a dataset: rows are detectors, or `detector:protocol` where the test differs."""

    dataset: str
    scale: str
    methods: Annotated[tuple[str, ...], AT_LEAST_ONE]
    splits: Annotated[tuple[Positive, ...], AT_LEAST_ONE]
    seeds: Annotated[tuple[int, ...], AT_LEAST_ONE]
    protocol: str
    papers: tuple[str, ...]
    shown: Annotated[int, Field(ge=1)] = Field(4, description="videos whose tubes are drawn")
    comparisons: tuple[tuple[str, str], ...] = Field((), description="pairs of rows to compare by bootstrap")


def written_out(key: str, detector: Any, schedules: Mapping[str, Any]) -> Any:
    """A detector as read, with schedules instead of their names; what is odd stays as it is."""
    if not isinstance(detector, Mapping) or not isinstance(detector.get("schedules"), Mapping):
        return detector
    own = {one: looked_up(f"{key}.schedules.{one}", given, schedules) for one, given in detector["schedules"].items()}
    return {**detector, "schedules": own}


def check_detection(params: "Params") -> None:
    """Raise ValueError where detectors and their tables name what is not there, or do not go together."""
    for name, detector in params.detectors.items():
        if detector.weights is not None:
            known(f"detectors.{name}.weights", detector.weights, params.weights)
        if name in params.methods:
            raise ValueError(f"detectors.{name}: there is a method of this name; choose another")
        for dataset, schedule in detector.schedules.items():
            key = f"detectors.{name}.schedules.{dataset}"
            known(key, dataset, params.datasets)
            known(f"{key}, a dataset of layout", params.datasets[dataset].layout, ANNOTATED)
            known(f"{key}.weights", schedule.weights, params.weights)
    for name, table in params.detection_tables.items():
        if name in params.tables or name in params.network_tables:
            raise ValueError(f"detection_tables.{name}: there is a table of this name; choose another")
        _check_table(f"detection_tables.{name}", table, params)


def _check_table(key: str, table: DetectionTable, params: "Params") -> None:
    known(f"{key}.dataset", table.dataset, params.datasets)
    known(f"{key}.scale", table.scale, params.scales)
    known(f"scales.{table.scale}.features", "rgb", params.scales[table.scale].features)
    for row in table.methods:
        name, protocol = of_row(row, table.protocol)
        known(f"{key}.methods", name, params.detectors)
        known(f"{key}.methods", protocol, params.detection_protocols)
        known(f"detectors.{name}.schedules, for {key}", table.dataset, params.detectors[name].schedules)
        of_films = params.datasets[table.dataset].layout == "ava"
        if bool(params.detection_protocols[protocol].ava) != of_films:
            raise ValueError(f"{key}.methods.{row}: AVA is measured by `ava:` of a protocol, other datasets are not")
        _check_weights(f"{key}.methods.{row}", table, params.detectors[name], params)
    if (input := params.scales[table.scale].input or CELL) % CELL:
        raise ValueError(f"scales.{table.scale}.input: a detector predicts from cells of {CELL} pixels, not {input}")
    if params.features[params.scales[table.scale].features["rgb"]].fps is not None:
        raise ValueError(
            f"scales.{table.scale}.features.rgb: boxes are drawn on the videos' own frames; leave `fps:` out"
        )
    for side in (side for pair in table.comparisons for side in pair):
        known(f"{key}.comparisons", side, table.methods)
    for split in table.splits:
        known(f"{key}.splits", split, params.datasets[table.dataset].splits)


def _check_weights(key: str, table: DetectionTable, detector: Detector, params: "Params") -> None:
    """Weights that have learned from test videos of a split are not for it."""
    schedule = detector.schedules[table.dataset]
    pretrained = params.scales[table.scale].weights is None and detector.weights is None
    for split in table.splits if pretrained and schedule.splits else ():
        if split not in schedule.splits:
            raise ValueError(
                f"{key}: {schedule.weights} has learned from test videos of split {split}; name other weights"
            )
