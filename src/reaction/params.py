"""`params.yaml` as typed, frozen models: every scientific number of the project, its type, range and meaning.

Unknown keys are errors. Light on purpose: the Snakefile imports this, so nothing here imports torch, OpenCV or HDF5.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from reaction.params_detection import (
    DetectionProtocol,
    DetectionTable,
    Detector,
    DetectorSchedule,
    check_detection,
    written_out,
)
from reaction.schema import AT_LEAST_ONE, Fraction, Model, Positive, known, looked_up, of_row

Stream = Literal["rgb", "flow", "rgbdiff", "joint"]
MODALITY = {"rgb": "rgb", "flow": "flow", "rgbdiff": "rgb"}  # the features a stream reads
READS = {"rgb": ("rgb",), "flow": ("flow",), "rgbdiff": ("rgbdiff",), "joint": ("rgb", "flow")}  # under these names
MapSource = Literal["learned", "constant", "gradcam-predicted", "gradcam-true"]
LAYERS = ("Mixed_5b", "Mixed_5c", "Mixed_5d", *(f"Mixed_6{k}" for k in "abcde"), *(f"Mixed_7{k}" for k in "abc"))
STREAMS_OF = {  # what networks of clips can be given; networks of pictures take any stream but `joint`
    "convnet_lstm": ("rgb",),
    "c3d": ("rgb",),
    "i3d": ("rgb", "flow"),
    "two_stream_joint": ("joint",),
    "fused3d": ("joint",),
    "slowfast": ("rgb", "joint"),
    "slow": ("rgb",),
    "fast": ("rgb",),
    "i3d_resnet": ("rgb",),
}
PATHWAYS_OF = {  # which of `pathways:` each network has; of SlowFast all
    "slow": ("depth", "temporal_res4", "nonlocals", "nonlocal_pool"),
    "fast": ("depth", "beta", "temporal_res4"),
    "i3d_resnet": ("depth",),
}
ANY_LENGTH = ("i3d", "slowfast", "slow", "fast", "i3d_resnet")  # networks whose weights fit clips of any length
MULTI_LABEL = ("charades", "ava")  # layouts of datasets whose videos may have several classes


class ParamsError(ValueError):
    """params.yaml does not say what it should; the message names the key, what it got and what to write."""


class Archive(Model):
    """One file to fetch: what it is called, where it may be, and how to tell that it is whole."""

    name: str
    alternates: tuple[str, ...] = Field((), description="other names it goes by in a mirror, folders included")
    urls: tuple[str, ...] = ()
    page: str = Field(description="where a person gets it when no URL answers")
    bytes: Positive | None = None
    sha256: str | None = None
    into: Literal["videos", "lists"] = "videos"


class Generator(Model):
    """The synthetic dataset; see `reaction.data.synthetic` for what each number does and for the ceilings."""

    seed: int
    videos: Positive
    width: Positive
    height: Positive
    fps: Positive
    frames: tuple[Positive, Positive]
    appearances: tuple[str, ...]
    motions: tuple[str, ...]
    groups: Positive
    camera: Annotated[float, Field(ge=0)]
    clutter: Annotated[int, Field(ge=0)]
    actor: tuple[Positive, Positive]


class Dataset(Model):
    """Videos, labels and official splits."""

    layout: Literal["hmdb51", "ucf101", "jhmdb21", "ucf101_24", "ava", "kinetics400", "charades", "synthetic"] = Field(
        description="how its official lists are read"
    )
    splits: tuple[Positive, ...]
    shards: Positive = Field(description="files per feature; one job each, at most ten minutes of work")
    missing: Literal["error", "allow"] = Field("error", description="what an absent official video means")
    poses: Annotated[int, Field(ge=0)] = Field(
        0, description="where an actor may do several things: so many first classes exclude each other (AVA's poses)"
    )
    resample: Literal["video", "group"] = Field(
        "video", description="what a bootstrap draws: `group` where the videos of a group depend on each other"
    )
    classes: tuple[str, ...] | None = Field(None, description="keep only these classes")
    mirror: str | None = Field(None, description="its folder in the mirror")
    archives: tuple[Archive, ...] = ()
    generator: Generator | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "Dataset":
        if (self.generator is None) == (not self.archives):
            raise ValueError("a dataset has either `archives:` or a `generator:`")
        return self

    @property
    def multi_label(self) -> bool:
        """Whether a video may have several classes at once."""
        return self.layout in MULTI_LABEL


class TVL1(Model):
    """Parameters of TV-L1 by OpenCV's names; `lambda_` because `lambda` is a keyword of Python."""

    tau: float
    lambda_: float
    theta: float
    nscales: Positive
    warps: Positive
    epsilon: float
    inner_iterations: Positive
    outer_iterations: Positive
    scale_step: float
    gamma: float
    median: Positive


class Pictures(Model):
    """What all features say. Keys that nobody set are not written, so that new ones move no hash."""

    resize: str = Field(pattern=r"^(\d+x\d+|short_side:\d+)$")
    fps: Annotated[float, Field(gt=0)] | None = Field(
        None, description="frames a second, as ffmpeg's fps filter picks them (reaction.data.rate); unsaid: the video's"
    )

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        unset = {key for key, one in fields.items() if not one.is_required() and getattr(self, key) == one.default}
        return {key: value for key, value in handler(self).items() if key not in unset}


class RGB(Pictures):
    modality: Literal["rgb"]
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] | None = None
    stored: bool = Field(True, description="false: clips are decoded from the videos, which must be H.264 in MP4")

    @model_validator(mode="after")
    def _quality_of_what(self) -> "RGB":
        if self.stored and self.jpeg_quality is None:
            raise ValueError("stored pictures have a `jpeg_quality:`, 95 usually; or write `stored: false`")
        if not self.stored and self.jpeg_quality is not None:
            raise ValueError("`stored: false` makes no JPEG pictures: leave `jpeg_quality:` out")
        return self


class Flow(Pictures):
    modality: Literal["flow"]
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]
    bound: Annotated[float, Field(gt=0)] = Field(description="pixels per frame that map to 0 and 255")
    algorithm: Literal["tvl1"]
    semantics: Literal["opencv-cuda", "opencv-cpu", "opencv5-cpu"] = Field(
        description="whose TV-L1, OpenCV's CUDA code or its CPU code of 4.x or 5.0: they differ by 0.02 px and more"
    )
    parameters: TVL1

    @model_validator(mode="after")
    def _offered(self) -> "Flow":
        # The front's own rules; inside, since it is numpy and a tenth of a second.
        from reaction.flow.front import TVL1 as Solver
        from reaction.flow.front import check, defaults

        try:
            check(self.semantics, Solver(**self.parameters.model_dump()))
        except ValueError as error:
            theirs = ", ".join(f"{key}: {value}" for key, value in asdict(defaults(self.semantics)).items())
            raise ValueError(
                f"{error}. OpenCV's own are\n        semantics: {self.semantics}\n        parameters: {{{theirs}}}"
            ) from None
        return self


Feature = Annotated[RGB | Flow, Field(discriminator="modality")]


class Weights(Model):
    """What a run starts from when no other run is named by `init`."""

    source: Literal["none", "file", "download"]
    path: str | None = None
    url: str | None = None
    sha256: str | None = None

    @model_validator(mode="after")
    def _where_from(self) -> "Weights":
        if self.source == "file" and self.path is None:
            raise ValueError("`source: file` needs `path:`")
        if self.source == "download" and (self.url is None or self.sha256 is None):
            raise ValueError("`source: download` needs `url:` and `sha256:`")
        return self


class StreamRecipe(Model):
    """How one stream of a method is trained."""

    stack: Positive = Field(
        description="frames, or flow fields (two channels each), that make one input; of `joint` the fields per frame"
    )
    stride: Positive = Field(1, description="every n-th frame or field of the video is taken")
    frames: Positive = Field(1, description="of `joint`: frames of one input, each with the `stack` fields after it")
    short: Literal["hold", "loop"] = Field(
        "hold", description="a video too short for an input repeats its last frame, or is played again"
    )
    dropout: Fraction
    epochs: Positive | None = None
    updates: Positive | None = Field(None, description="instead of `epochs:`, however many videos there are")
    steps: tuple[Positive, ...] = Field(
        description="epochs, or updates, after which the learning rate is multiplied by `factor`"
    )
    factor: float
    decay: Literal["steps", "cosine"] = Field(
        "steps",
        description="`cosine`: half a period from the whole rate to none, without `steps` (SlowFast, section 4)",
    )
    warmup_epochs: Annotated[float, Field(ge=0)]
    warmup_from: Fraction = Field(0.0, description="the share of the rate that the warm-up begins with")
    batch: Positive = Field(description="clips per update over all processes")
    learning_rate: Annotated[float, Field(gt=0)]
    rate_batch: Positive | None = Field(
        None, description="the batch that `learning_rate` is for: that of another grows in proportion (linear scaling)"
    )
    momentum: Fraction
    weight_decay: Annotated[float, Field(ge=0)]
    clip_gradient: float | None = Field(description="largest norm of the gradient")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    scales: tuple[Fraction, ...] = Field(description="crop sides relative to the shorter side of the frame")
    fixed_offsets: bool = Field(description="crops at 13 fixed places (TSN) instead of anywhere")
    short_sides: tuple[Positive, Positive] | None = Field(
        None, description="instead of `scales`: frames as if resized to a short side between these before the crop"
    )
    precise_bn: Positive | None = Field(
        None, description="training clips that the last statistics of BatchNorm are of, instead of a moving average"
    )
    flip: bool
    jitter: Annotated[float, Field(ge=0)] = Field(
        0.0, description="deviation of random shifts along the principal axes of colour (Krizhevsky 2012 has 0.1)"
    )
    holdout: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="share of the training groups that chooses the best epoch instead of training"
    )
    weights: str | None = Field(
        None, description="a key of `weights:`, where the stream starts otherwise than the method"
    )
    labels: Literal["video", "clip"] = Field(
        "video", description="where videos have several classes, a training clip has all of them, or those it shows"
    )
    trains: Literal["all", "last"] = Field(
        "all", description="`last`: the classifier alone, on what the other layers and their statistics make of a clip"
    )
    mean_flow: bool = Field(
        False, description="each displacement field loses its mean vector (Two-Stream, section 3.1)"
    )
    bn_group: Annotated[int, Field(ge=2)] | None = Field(
        None, description="videos that BatchNorm normalises together, however many processes share the batch: all of it"
    )

    @model_validator(mode="after")
    def _one_length(self) -> "StreamRecipe":
        if (self.epochs is None) == (self.updates is None):
            raise ValueError("a stream trains for `epochs:` or for `updates:`")
        return self


class MapInput(Model):
    """How an attention map enters a network: the thesis does not say, see `reaction.models.st_attention`."""

    entry: Literal["concat", "multiply"]
    channel: Literal["mean", "zero"] = Field(
        "mean",
        description="weights of the map's channel (concat) beside pretrained ones; without those it starts as all do",
    )
    constant: Fraction = Field(description="the map before there are maps, and in place of a dead one")


class AttentionNet(Model):
    """Training of the network that predicts Grad-CAM maps without a label."""

    hidden: Positive
    kernel: Positive
    epochs: Positive
    batch: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    holdout: Annotated[float, Field(gt=0, lt=1)] = Field(description="share of the groups that only measures")
    frames_per_video: Positive


class Attention(Model):
    """Where the maps come from: another method's runs or the round before, the other stream, one layer or several."""

    source: str | None = Field(
        None, alias="from", description="the method whose runs are looked at; alternation has none"
    )
    layers: Annotated[tuple[str, ...], AT_LEAST_ONE] = Field(
        description="several: the mean of their maps, min-max again"
    )
    streams: Annotated[tuple[Literal["rgb", "flow"], ...], AT_LEAST_ONE] = Field(
        ("rgb", "flow"), description="those that read the other stream's maps; the others keep the constant map"
    )
    train_maps: Literal["gradcam-true", "gradcam-predicted", "learned"]
    every: Positive = Field(description="a map for every n-th frame; the frames between read the one before")
    net: AttentionNet = Field(description="written out, or a key of `attention_nets:`")


class Pathways(Model):
    """What makes a SlowFast network (Feichtenhofer et al. 2019); defaults are the paper's 4 x 16 with R50.

    Meanings: `reaction.models.slowfast`. `stack` and `stride` of the stream are the Fast pathway's frames.
    """

    depth: Literal[50, 101] = 50
    alpha: Positive | None = Field(None, description="of SlowFast only, as is all below but `beta`")
    beta: Annotated[float, Field(gt=0, le=1)] | None = Field(None, description="of SlowFast and Fast-only")
    lateral: Literal["conv", "sum", "concat", "sample", "none"] | None = None
    lateral_kernel: Positive | None = None
    lateral_ratio: Positive | None = None
    slow_frames: Literal["linspace", "nearest"] | None = None
    fast_input: Literal["rgb", "grey", "half", "difference", "flow"] | None = None
    temporal_res4: int | tuple[int, int] | None = Field(
        None, description="blocks of res4 with temporal kernels: of the one pathway, or of both"
    )
    nonlocals: tuple[tuple[int, ...], tuple[int, ...]] | None = Field(
        None, description="blocks of res3 and res4 of the Slow pathway with a non-local block behind them"
    )
    nonlocal_pool: tuple[Positive, Positive, Positive] | None = None


class Alternation(Model):
    """End-to-end training (Park 2019, Algorithm 1): a round trains rgb, maps with it, trains flow, maps with it."""

    epochs_per_round: Positive


class MultiTask(Model):
    """Training on two datasets at once, each with a last layer of its own (Simonyan & Zisserman 2014, section 4)."""

    datasets: tuple[str, str] = Field(description="a run on one of them learns from the other's training videos too")
    split: Positive = Field(description="the other's")
    streams: Annotated[tuple[Stream, ...], AT_LEAST_ONE] = Field(description="those that do; the others learn alone")

    def other(self, dataset: str) -> str:
        """The one of the two that `dataset` is not."""
        return self.datasets[1 - self.datasets.index(dataset)]


class Place(Model):
    """Where a run of another dataset is found."""

    dataset: str
    split: Positive


class TransferSchedule(Model):
    """How long and how fast a transfer trains: by steps, from the first update on."""

    updates: Positive
    steps: tuple[Positive, ...] = Field(description="updates after which the learning rate is multiplied by `factor`")
    factor: float
    learning_rate: Annotated[float, Field(gt=0)]
    batch: Positive


class Transfer(Model):
    """What a row `method@transfer` changes of a method: where it starts, what it trains, and for how long."""

    source: Place | None = Field(
        None, alias="from", description="the method's own run there is the start; unsaid: the method's `weights:`"
    )
    trains: Literal["all", "last"] = "all"
    schedule: TransferSchedule | None = Field(None, description="unsaid: the method's own, or its scale's")


class Method(Model):
    """A paper's network and recipe."""

    backbone: Literal[
        "inception_v3",
        "bn_inception",
        "cnn_m_2048",
        "vgg16",
        "inception_v1",
        "convnet_lstm",
        "c3d",
        "two_stream_joint",
        "fused3d",
        "i3d",
        "slowfast",
        "slow",
        "fast",
        "i3d_resnet",
    ]
    input: Positive = Field(description="pixels a side that the network sees")
    segments: Positive
    consensus: Literal["average", "max", "weighted"] = "average"
    partial_bn: bool = Field(
        description="takes effect with pretrained weights only: an untrained net's statistics say nothing"
    )
    streams: dict[Stream, StreamRecipe] = Field(description="each written out, or a key of `schedules:`")
    weights: str = Field(description="a key of `weights:`")
    init: str | None = Field(None, description="the method whose run of the same split, seed and stream is the start")
    init_on: Place | None = Field(None, description="where that run is, if not on the same dataset and split")
    features: dict[Stream, str] | None = Field(None, description="at the papers' own size, instead of the scale's")
    runs: dict[Stream, str] = Field({}, description="streams that another method trains just so: its runs are taken")
    map: MapInput | None = None
    attention: Attention | None = None
    pathways: Pathways | None = Field(None, description="of slowfast, slow and fast, where not the defaults")
    alternation: Alternation | None = None
    multi_task: MultiTask | None = None
    stands_in: str | dict[Stream, str] | None = Field(
        None, description="what differs from the paper's own network or training, if anything does, or in which stream"
    )

    @property
    def tested(self) -> tuple[str, ...]:
        """What gets scores: every stream, and their fusion where there are two."""
        return (*self.streams, "fusion") if len(self.streams) > 1 else tuple(self.streams)

    def transferred(self, name: str, transfer: Transfer) -> "Method":
        """This method, called `name`, as `transfer` would have it."""
        plain = {"epochs": None, "decay": "steps", "rate_batch": None, "warmup_epochs": 0.0, "warmup_from": 0.0}
        changed = {"trains": transfer.trains} | (plain | transfer.schedule.model_dump() if transfer.schedule else {})
        streams = {stream: recipe.model_copy(update=changed) for stream, recipe in self.streams.items()}
        start = {} if transfer.source is None else {"init": name, "init_on": transfer.source}
        return self.model_copy(update={"streams": streams} | start)


class Scale(Model):
    """What a smaller run changes. The only override there is."""

    width: Annotated[float, Field(gt=0)]
    input: Positive | None = None
    features: dict[Stream, str]
    weights: str | None = None
    epochs: Positive | None = None
    steps: tuple[Positive, ...] | None = Field(None, description="goes with `epochs`")
    batch: Positive | None = None
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    warmup_epochs: Annotated[float, Field(ge=0)] | None = None
    dropout: Fraction | None = None
    crops: tuple[Fraction, ...] | None = Field(
        None, description="instead of the recipe's `scales`, whose small crops lose the actor"
    )
    stack: Positive | None = Field(None, description="for flow, where a network takes a stack of it")
    clip: Positive | None = Field(None, description="for networks that take clips: at most so many pictures of one")
    net_epochs: Positive | None = Field(None, description="for the attention networks")
    layers: dict[str, str] | None = Field(
        None, description="instead of the recipe's attention layers, which would be single cells"
    )
    every: Positive | None = None
    map_shards: Positive | None = Field(None, description="instead of the dataset's, where starting a job costs most")

    @model_validator(mode="after")
    def _a_whole_schedule(self) -> "Scale":
        if (self.epochs is None) != (self.steps is None):
            raise ValueError("`epochs:` and `steps:` of a scale go together")
        return self


class SVM(Model):
    """A linear SVM on the streams' softmax scores, trained on the training videos (Simonyan & Zisserman 2014)."""

    c: Annotated[float, Field(gt=0)]
    multi_class: Literal["one-vs-rest", "crammer-singer"] = Field(
        "one-vs-rest", description="a plane per class by itself, or all planes at once; the paper does not say"
    )


class Protocol(Model):
    """How a trained run is tested, and its streams are fused: with weights given, with weights swept, or by an SVM."""

    segments: Positive
    crops: Literal[1, 3, 5, 10]
    crop: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="side of a crop, of the frame's short one; unsaid: 7/8"
    )
    input: Positive | None = Field(None, description="pixels a side of a view, where not the run's own input")
    sampler: Literal["tsn", "ends", "consecutive", "uniform"]
    stack: Positive | None = Field(
        None, description="instead of the recipe's, where a network takes clips of any length: the whole video's"
    )
    before_softmax: bool = Field(description="views and streams are averaged as logits, not as probabilities")
    views: Literal["mean", "max"] = Field("mean", description="what a class has of a video's views")
    maps: MapSource = Field("learned", description="what stands for attention at test time; gradcam-true is an oracle")
    fusion: dict[Stream, Annotated[float, Field(gt=0)]] | None = None
    sweep: dict[Stream, tuple[Annotated[float, Field(ge=0)], ...]] | None = Field(
        None, description="weights, of which the best on the held-out training groups are taken"
    )
    svm: SVM | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "Protocol":
        if sum(way is not None for way in (self.fusion, self.sweep, self.svm)) != 1:
            raise ValueError("a protocol fuses by exactly one of `fusion:`, `sweep:` and `svm:`")
        if self.views != "mean" and self.fusion is None:
            raise ValueError("`views: max` goes with the given weights of `fusion:`")
        return self


class Table(Model):
    """A table of results on a dataset or several: rows are methods, or `method:protocol` where the test differs."""

    dataset: str | Annotated[tuple[str, ...], AT_LEAST_ONE]
    scale: str
    methods: Annotated[tuple[str, ...], AT_LEAST_ONE] | dict[str, Annotated[tuple[str, ...], AT_LEAST_ONE]] = Field(
        description="its rows, or of each dataset its own"
    )
    splits: Annotated[tuple[Positive, ...], AT_LEAST_ONE]
    seeds: Annotated[tuple[int, ...], AT_LEAST_ONE]
    protocol: str
    papers: tuple[str, ...]
    stands_in: dict[str, str] = Field({}, description="by dataset: what its papers measured on, if it is not this")
    streams: tuple[Stream | Literal["fusion"], ...] | None = Field(None, description="those that get rows; unsaid: all")
    split_sets: tuple[tuple[Positive, ...], ...] | None = Field(None, description="sets of splits that get a row each")
    maps: bool = Field(False, description="a table beside it says how far the learned maps are from Grad-CAM's")
    comparisons: tuple[tuple[str, str], ...] = Field((), description="pairs of `method/stream` to compare by bootstrap")

    @model_validator(mode="after")
    def _rows_of_its_datasets(self) -> "Table":
        own = {self.dataset} if isinstance(self.dataset, str) else set(self.dataset)
        if not set(self.stands_in) <= own:
            raise ValueError(f"`stands_in:` is about the table's datasets, {', '.join(sorted(own))}")
        if isinstance(self.methods, dict) and (isinstance(self.dataset, str) or set(self.methods) != set(self.dataset)):
            raise ValueError("`methods:` by dataset are of all the table's datasets and of no other")
        return self

    @property
    def parts(self) -> tuple["Table", ...]:
        """The same table of each dataset by itself."""
        names = (self.dataset,) if isinstance(self.dataset, str) else self.dataset
        return tuple(self._part(name) for name in names)

    def _part(self, dataset: str) -> "Table":
        if not isinstance(self.methods, dict):
            return self.model_copy(update={"dataset": dataset})
        rows = self.methods[dataset]
        own = tuple(pair for pair in self.comparisons if all(side.rpartition("/")[0] in rows for side in pair))
        return self.model_copy(update={"dataset": dataset, "methods": rows, "comparisons": own})


class NetworkTable(Model):
    """A table of networks and of what they see of a video, without results: Carreira & Zisserman 2017, table 1."""

    rows: dict[str, str] = Field(description="method to the protocol it is tested by, at the papers' own size")
    classes: Positive
    fps: Positive = Field(description="of the videos, which turns frames into seconds")
    paper: str
    claims: str = Field(description="which of the paper's tables it is set beside")


class CostFigure(Model):
    """Accuracy against multiply-adds: a paper's points, and our runs where there are any (SlowFast, figure 2)."""

    paper: str
    claims: str = Field(description="which of the paper's tables or figures has the points")
    series: dict[str, Annotated[tuple[str, ...], AT_LEAST_ONE]] = Field(
        description="what the names of points begin with, and our methods of that kind"
    )
    tables: Annotated[tuple[str, ...], AT_LEAST_ONE] = Field(description="whose rows of these methods are ours")


class Shown(Model):
    """One frame of a video, counted from 0, that a figure shows."""

    video: str
    frame: Annotated[int, Field(ge=0)]
    title: str


class Figures(Model):
    """The figures of Park 2019, from rows of a table: its dataset, scale, first split and first seed."""

    table: str
    before: str = Field(description="the method without attention")
    after: str = Field(description="the method with it, whose maps are shown")
    layers: Annotated[tuple[str, ...], AT_LEAST_ONE] = Field(description="methods that look at one layer each")
    end_to_end: str = Field(description="the method by `alternation:`, drawn against `before` and `after`")
    shown: Annotated[tuple[Shown, ...], AT_LEAST_ONE]


class Params(Model):
    """The whole of params.yaml."""

    reproduce: tuple[str, ...]
    datasets: dict[str, Dataset]
    features: dict[str, Feature]
    weights: dict[str, Weights]
    schedules: dict[str, StreamRecipe] = Field({})
    attention_nets: dict[str, AttentionNet] = Field({})
    methods: dict[str, Method]
    transfers: dict[str, Transfer] = Field({})
    scales: dict[str, Scale]
    protocols: dict[str, Protocol]
    tables: dict[str, Table]
    network_tables: dict[str, NetworkTable] = Field({})
    figures: dict[str, Figures] = Field({})
    cost_figures: dict[str, CostFigure] = Field({})
    detector_schedules: dict[str, DetectorSchedule] = Field({})
    detectors: dict[str, Detector] = Field({})
    detection_protocols: dict[str, DetectionProtocol] = Field({})
    detection_tables: dict[str, DetectionTable] = Field({})

    @field_validator("methods", mode="before")
    @classmethod
    def _without_names(cls, methods: Any, info: ValidationInfo) -> Any:
        """Names of schedules and of attention networks give way to what they stand for."""
        if not {"schedules", "attention_nets"} <= info.data.keys():
            return {}  # one of these is wrong and said to be; without it every method would seem wrong too
        if not isinstance(methods, Mapping):
            return methods
        return {name: _method_written_out(f"methods.{name}", method, info.data) for name, method in methods.items()}

    @field_validator("detectors", mode="before")
    @classmethod
    def _without_schedules(cls, detectors: Any, info: ValidationInfo) -> Any:
        """Names of schedules give way to what they stand for."""
        if "detector_schedules" not in info.data or not isinstance(detectors, Mapping):
            return detectors if "detector_schedules" in info.data else {}
        named = info.data["detector_schedules"]
        return {name: written_out(f"detectors.{name}", one, named) for name, one in detectors.items()}

    @model_validator(mode="after")
    def _names_exist(self) -> "Params":
        for table in self.reproduce:
            known("reproduce", table, self.tables | self.detection_tables)
        self._derive()
        for name, scale in self.scales.items():
            self._check_scale(f"scales.{name}", scale)
        for name, method in self.methods.items():
            self._check_method(f"methods.{name}", method)
        for name, table in self.tables.items():
            for part in table.parts:
                self._check_table(f"tables.{name}", part)
        for name, table in self.network_tables.items():
            for method, protocol in table.rows.items():
                known(f"network_tables.{name}.rows", method, self.methods)
                known(f"network_tables.{name}.rows.{method}", protocol, self.protocols)
        for name, figure in self.cost_figures.items():
            for method in (method for methods in figure.series.values() for method in methods):
                known(f"cost_figures.{name}.series", method, self.methods)
            for table in figure.tables:
                known(f"cost_figures.{name}.tables", table, self.tables)
        for name, figures in self.figures.items():
            self._check_figures(f"figures.{name}", figures)
        check_detection(self)
        return self

    def _derive(self) -> None:
        """Every `method@transfer` that a table has a row of becomes a method like the others."""
        rows = {row: key for key, table in self.tables.items() for part in table.parts for row in part.methods}
        for row, key in rows.items():
            derived = of_row(row, "")[0]
            name, _, transfer = derived.partition("@")
            if transfer:
                known(f"tables.{key}.methods", name, self.methods)
                known(f"tables.{key}.methods", transfer, self.transfers)
                self.methods[derived] = self.methods[name].transferred(name, self.transfers[transfer])

    def _check_scale(self, key: str, scale: Scale) -> None:
        self._check_features(f"{key}.features", scale.features)
        if scale.weights is not None:
            known(f"{key}.weights", scale.weights, self.weights)
        for layer in (one for pair in (scale.layers or {}).items() for one in pair):
            known(f"{key}.layers", layer, LAYERS)

    def _check_features(self, key: str, features: Mapping[str, str]) -> None:
        for stream, feature in features.items():
            known(f"{key}.{stream}", feature, self.features)
            known(f"{key}", stream, MODALITY)
            if self.features[feature].modality != MODALITY[stream]:
                raise ValueError(f"{key}.{stream}: `{feature}` is {self.features[feature].modality}")

    def _check_place(self, key: str, place: Place) -> None:
        known(f"{key}.dataset", place.dataset, self.datasets)
        known(f"{key}.split", place.split, self.datasets[place.dataset].splits)

    def _check_method(self, key: str, method: Method) -> None:
        known(f"{key}.weights", method.weights, self.weights)
        if method.init is not None:
            known(f"{key}.init", method.init, self.methods)
            self._check_init(key, method)
        if method.init_on is not None:
            if method.init is None:
                raise ValueError(f"{key}.init_on: `init:` says which method's run is the start; name one")
            self._check_place(f"{key}.init_on", method.init_on)
        self._check_features(f"{key}.features", method.features or {})
        self._check_network(key, method)
        if method.attention is not None:
            self._check_attention(key, method)
        if method.consensus == "weighted" and method.segments < 2:
            raise ValueError(f"{key}.consensus: weights need at least two segments")
        for stream, recipe in method.streams.items():
            if recipe.weights is not None:
                known(f"{key}.streams.{stream}.weights", recipe.weights, self.weights)
            if recipe.mean_flow and stream != "flow":
                raise ValueError(f"{key}.streams.{stream}.mean_flow: only flow has a mean displacement")
            if recipe.jitter and stream != "rgb":
                raise ValueError(f"{key}.streams.{stream}.jitter: only rgb has colours")
        self._check_runs(f"{key}.runs", method)
        if method.alternation is not None and method.attention is None:
            raise ValueError(f"{key}: `alternation:` needs `attention:` to say what the maps are")
        if method.multi_task is not None:
            self._check_multi_task(f"{key}.multi_task", method)
        self._check_order(key, method)

    def _check_runs(self, key: str, method: Method) -> None:
        for stream, name in method.runs.items():
            known(key, stream, method.streams)
            known(f"{key}.{stream}", name, self.methods)
            trained = self.methods[name]
            if stream not in trained.streams or _of_stream(trained, stream) != _of_stream(method, stream):
                raise ValueError(f"{key}.{stream}: {name} trains {stream} otherwise; make both alike, or leave it out")

    def _check_network(self, key: str, method: Method) -> None:
        """Whether the network can be given what the streams hand over."""
        allowed = STREAMS_OF.get(method.backbone, ("rgb", "flow", "rgbdiff"))
        alpha = (method.pathways.alpha if method.pathways else None) or 8
        for stream, recipe in method.streams.items():
            known(f"{key}.streams of {method.backbone}", stream, allowed)
            if method.backbone in ("two_stream_joint", "fused3d") and recipe.stack != 10:
                raise ValueError(f"{key}.streams.{stream}.stack: {method.backbone} takes 10 fields with each frame")
            clip = recipe.frames if stream == "joint" else recipe.stack
            if method.backbone == "slowfast" and clip % alpha:
                raise ValueError(
                    f"{key}.streams.{stream}: a clip of SlowFast is a multiple of alpha, {alpha}, not {clip}"
                )
            if recipe.short_sides and not method.input <= recipe.short_sides[0] <= recipe.short_sides[1]:
                raise ValueError(f"{key}.streams.{stream}.short_sides: the lesser first, and none below {method.input}")
        given = method.pathways.model_dump(exclude_none=True, exclude_unset=True) if method.pathways else {}
        if method.backbone != "slowfast":
            for option in given:
                known(f"{key}.pathways of {method.backbone}", option, PATHWAYS_OF.get(method.backbone, ()))

    def _check_multi_task(self, key: str, method: Method) -> None:
        first, second = method.multi_task.datasets
        if first == second:
            raise ValueError(f"{key}.datasets: {first} twice; name two")
        for dataset in (first, second):
            known(f"{key}.datasets", dataset, self.datasets)
            known(f"{key}.split", method.multi_task.split, self.datasets[dataset].splits)
        for stream in method.multi_task.streams:
            known(f"{key}.streams", stream, method.streams)
        if method.attention is not None:
            raise ValueError(f"{key}: maps are made of one dataset; `attention:` and `multi_task:` do not go together")

    def _check_attention(self, key: str, method: Method) -> None:
        source = method.attention.source
        if (source is None) != (method.alternation is not None):
            raise ValueError(f"{key}: the maps come from another method (`attention.from:`) or from `alternation:`")
        if method.map is None:
            raise ValueError(f"{key}: `attention:` needs `map:` to say how the maps enter the network")
        streams = [set(method.streams)]
        if source is not None:
            known(f"{key}.attention.from", source, self.methods)
            streams.append(set(self.methods[source].streams))
        if any(found != {"rgb", "flow"} for found in streams):
            raise ValueError(f"{key}.streams: cross attention needs rgb and flow, here and in `attention.from`")
        if method.backbone != "inception_v3":
            raise ValueError(f"{key}.backbone: attention looks at the blocks of inception_v3, not of {method.backbone}")
        for layer in method.attention.layers:
            known(f"{key}.attention.layers", layer, LAYERS)
        if method.alternation is not None and method.init is not None:
            raise ValueError(f"{key}.init: the first round of `alternation:` starts from `weights:`")
        if method.alternation is not None and method.attention.train_maps == "learned":
            raise ValueError(f"{key}.attention.train_maps: rounds of `alternation:` read Grad-CAM maps")
        if method.alternation is not None and any(recipe.epochs is None for recipe in method.streams.values()):
            raise ValueError(f"{key}.streams: rounds of `alternation:` are counted in `epochs:`, not in `updates:`")
        if method.alternation is not None and len({recipe.epochs for recipe in method.streams.values()}) > 1:
            raise ValueError(f"{key}.streams: in `alternation:` both streams train for equally many `epochs:`")

    def _check_init(self, key: str, method: Method) -> None:
        start = self.methods[method.init]
        if (start.backbone, start.consensus) != (method.backbone, method.consensus):
            raise ValueError(
                f"{key}: backbone and consensus must equal methods.{method.init}'s, whose weights it starts from"
            )
        if start.map != method.map:
            raise ValueError(f"{key}.map: must equal methods.{method.init}.map, whose weights it starts from")
        if start.pathways != method.pathways:
            raise ValueError(f"{key}.pathways: must equal methods.{method.init}'s, whose weights it starts from")
        for stream, recipe in method.streams.items():
            same = method.backbone in ANY_LENGTH or start.streams.get(stream, recipe).stack == recipe.stack
            if stream not in start.streams or not same:
                raise ValueError(
                    f"{key}.streams.{stream}.stack: must equal methods.{method.init}'s, whose weights it starts from"
                )

    def _check_order(self, key: str, method: Method) -> None:
        """No method may wait for itself, by whatever way round."""
        if key.removeprefix("methods.") in self._sources(method):
            raise ValueError(f"{key}: `init:`, `runs:` and `attention.from:` lead back to it")

    def _sources(self, method: Method) -> list[str]:
        """The methods that must have run before this one, by whatever way."""
        waiting, sources = [method], []
        while waiting:
            later = waiting.pop()
            found = {later.init, later.attention.source if later.attention else None, *later.runs.values()}
            found -= {None, *sources}
            sources += sorted(found)
            waiting += [self.methods[name] for name in found if name in self.methods]
        return sources

    def _check_table(self, key: str, table: Table) -> None:
        known(f"{key}.dataset", table.dataset, self.datasets)
        known(f"{key}.scale", table.scale, self.scales)
        known(f"{key}.protocol", table.protocol, self.protocols)
        cells = []
        for row in table.methods:
            name, protocol = of_row(row, table.protocol)
            known(f"{key}.methods", name, self.methods)
            known(f"{key}.methods", protocol, self.protocols)
            for stream in self.methods[name].streams:
                for part in READS[stream]:
                    known(f"scales.{table.scale}.features", part, self.scales[table.scale].features)
            if "joint" in self.methods[name].streams:
                self._check_pair(f"{key}.methods.{row}", self.methods[name], table.scale)
            self._check_fusion(f"{key}.methods.{row}", self.methods[name], protocol)
            if self.protocols[protocol].stack and self.methods[name].backbone not in (
                "convnet_lstm",
                "c3d",
                *ANY_LENGTH,
            ):
                raise ValueError(
                    f"{key}.methods.{row}: {self.methods[name].backbone} takes no clips of another length than it was "
                    f"trained on; take a protocol without `stack:`"
                )
            if self.datasets[table.dataset].multi_label:
                self._check_multi_label(f"{key}.methods.{row}", self.methods[name], protocol)
            if self.methods[name].multi_task is not None:
                trained_on = self.methods[name].multi_task.datasets
                known(f"methods.{name}.multi_task.datasets, for {key}", table.dataset, trained_on)
            shown = table.streams or self.methods[name].tested
            cells += [f"{row}/{stream}" for stream in self.methods[name].tested if stream in shown]
        for side in (side for pair in table.comparisons for side in pair):
            known(f"{key}.comparisons", side, cells)
        for chosen in table.split_sets or ():
            for split in chosen:
                known(f"{key}.split_sets", split, table.splits)
        absent = sorted(set(table.splits) - set(self.datasets[table.dataset].splits))
        if absent:
            raise ValueError(f"{key}.splits: {table.dataset} has no split {absent[0]}")

    def _check_pair(self, key: str, method: Method, scale: str) -> None:
        """Frames and the fields behind them have to be of one size and rate."""
        named = self.scales[scale].features | (method.features or {} if scale == "paper" else {})
        rgb, flow = (self.features[named[stream]] for stream in ("rgb", "flow"))
        if (rgb.resize, rgb.fps) != (flow.resize, flow.fps):
            raise ValueError(
                f"{key}: the stream `joint` sees {named['rgb']} and {named['flow']} together; give both one `resize:` "
                "and one `fps:`, or name another pair in the method's `features:`"
            )

    def _check_figures(self, key: str, figures: Figures) -> None:
        known(f"{key}.table", figures.table, self.tables)
        if len(self.tables[figures.table].parts) > 1:
            raise ValueError(f"{key}.table: {figures.table} has several datasets; figures are of one")
        rows = self.tables[figures.table].methods
        for part in ("before", "after", "end_to_end"):
            known(f"{key}.{part}", getattr(figures, part), rows)
        for layer in figures.layers:
            known(f"{key}.layers", layer, rows)
        for part, row in (("after", figures.after), *(("layers", layer) for layer in figures.layers)):
            known(f"{key}.{part}", row, self.methods)  # a method, however it is tested
            if self.methods[row].attention is None:
                raise ValueError(f"{key}.{part}: {row} has no attention to show")
        for part in ("before", "end_to_end"):
            known(f"{key}.{part}", getattr(figures, part), self.methods)
        if self.methods[figures.end_to_end].alternation is None:
            raise ValueError(f"{key}.end_to_end: {figures.end_to_end} has no `alternation:`")

    def _check_fusion(self, key: str, method: Method, name: str) -> None:
        protocol = self.protocols[name]
        if "fusion" not in method.tested:
            return
        for stream in protocol.fusion or protocol.sweep or ():
            if stream not in method.streams:
                raise ValueError(f"{key}: protocols.{name} fuses {stream}, which the method does not have")
        if protocol.sweep and not all(recipe.holdout for recipe in method.streams.values()):
            raise ValueError(
                f"{key}: protocols.{name} sweeps weights on held-out groups; give every stream a `holdout:`"
            )
        if protocol.sweep:
            self._check_unseen(key, method)

    def _check_multi_label(self, key: str, method: Method, name: str) -> None:
        """What looks for the one class of a video has nothing to find where there are several."""
        if method.attention is not None or method.multi_task is not None:
            raise ValueError(f"{key}: `attention:` and `multi_task:` are for videos of one class each")
        if self.protocols[name].fusion is None:
            raise ValueError(f"{key}: protocols.{name} fuses videos of one class each; give the weights by `fusion:`")

    def _check_unseen(self, key: str, method: Method) -> None:
        """Equal shares hold out equal groups: what a method's sources have learned, it can not be measured on."""
        share = next(iter(method.streams.values())).holdout
        for source in (method, *(self.methods[name] for name in self._sources(method))):
            held_out = {recipe.holdout for recipe in source.streams.values()}
            held_out |= {source.attention.net.holdout} if source.attention else set()
            if held_out != {share}:
                raise ValueError(
                    f"{key}: weights are swept on groups that nothing has learned from; give every stream and "
                    f"attention network, here and in `init` and `attention.from`, `holdout: {share}`"
                )


def _of_stream(method: Method, stream: str) -> Method:
    """What of a method says how one of its streams is trained."""
    parts = {"attention": method.attention, "multi_task": method.multi_task}
    own = {
        name: part.model_copy(update={"streams": (stream,)}) if part and stream in part.streams else None
        for name, part in parts.items()
    }
    alone = {"streams": {stream: method.streams[stream]}, "runs": {}, "stands_in": None}
    return method.model_copy(update=alone | own)


def _method_written_out(key: str, method: Any, among: Mapping[str, Any]) -> Any:
    """A method as read, with schedules and attention networks instead of their names; what is odd stays as it is."""
    if not isinstance(method, Mapping):
        return method
    streams, attention, written = method.get("streams"), method.get("attention"), dict(method)
    if isinstance(streams, Mapping):
        named = among["schedules"]
        written["streams"] = {one: looked_up(f"{key}.streams.{one}", streams[one], named) for one in streams}
    if isinstance(attention, Mapping) and "net" in attention:
        net = looked_up(f"{key}.attention.net", attention["net"], among["attention_nets"])
        written["attention"] = {**attention, "net": net}
    return written


def parse(values: Mapping[str, Any]) -> Params:
    """Check and coerce what a YAML reader returned.

    Coercion matters: PyYAML reads `1e-3` as text, ruamel (DVC's reader) as a number; both come out as 0.001 here.

    Raises:
        ParamsError: names the key path, what was found and what is allowed.
    """
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise ParamsError("\n".join(["params.yaml:", *map(_explain, error.errors())])) from None


def _explain(error: Mapping[str, Any]) -> str:
    path = [str(part) for part in error["loc"]]
    if path[:1] == ["features"]:
        del path[2:3]  # pydantic puts the modality, which chose the model, into the path
    key = ".".join(path)
    if error["type"] == "extra_forbidden":
        return f"  {key}: unknown key; remove it, or correct its spelling"
    if error["type"] == "missing":
        return f"  {key}: missing; write\n{_as_yaml(path)}"
    if error["type"] == "value_error":
        text = str(error["ctx"]["error"])
        return f"  {text}" if not key or text.startswith(f"{key}.") else f"  {key}: {text}"
    return f"  {key}: {error['msg']}, got {error['input']!r}; write\n{_as_yaml(path)}"


def _as_yaml(path: list[str]) -> str:
    lines = ["  " * depth + f"{part}:" for depth, part in enumerate(path)]
    return "\n".join(f"    {line}" for line in lines) + " ..."


def load(path: Path | str = "params.yaml") -> Params:
    """Read params.yaml.

    Raises:
        ParamsError: the file is absent, is no YAML, or says something it should not.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path} is not here: run this in the project's root folder") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path} is no YAML: {error}") from None
    return parse(values)
