"""What artifacts cost: seconds, GPU hours and bytes, as `reaction doctor` adds them up.

A cost is what params.yaml asks for, times what an item takes. Where a cost comes from stands beside it: "measured" is
on this project's two cores of an AMD EPYC (Zen 5, AVX-512), in CPU-seconds of one core, while other jobs ran;
docs/scale.md has all of them, and what they predict.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reaction.artifacts import KINDS, Artifact
from reaction.data.fetch import Archive, _places
from reaction.params import Params

DECODE = 0.001  # a frame, by two decoders, for the index; measured
JOB = 2.5  # a job's start, most of it the import of torch; measured
EXTRACT = 0.5  # the same for `frames`, `flow`, `link` and `evaluate`, which need no torch
PREDICT = 0.3  # an attention network's forward pass, of its training step; measured
GPU_IMAGE = 1 / 142  # s; Inception-V3, training, float32, one Tesla P100: tensorflow.org/performance/benchmarks, 2017
GPU_MACS = 5.71e9  # of that image; other networks by their multiply-adds, which is rough
GPU_FORWARD = 1 / 3  # of a training step; 0.31 on a CPU, measured
GENERATED = 4200  # bytes of a frame of the synthetic videos; measured
MAP = 300  # bytes of a map of 8x8 or 5x5 float32 with its place in the shard; measured
LATE = 0.41  # of a detector's training step where its branches are not trained, or only their last layers; measured
FOLLOWING = 1 / 3  # of reading a training clip, in a test, whose clips share pictures; 0.14 to 0.5 measured
AROUND_3D = 5.47e9, 1.2e9  # multiply-adds of YOWO beside its 3D branch at 224 px, and of them CFAM's; counted
BANK, BANK_FOLLOWING = 64, 5  # frames that stand for a clip's own, and in a test, where frame after frame shares them
BOXES = 20  # of a frame, a guess
LINK = 0.0003  # a frame of 20 boxes, for one evaluator; measured
MEASURE = 0.0005  # a key frame of 100 boxes, by one of AVA's evaluators; others' are quicker; measured
TUBES = 1000  # bytes of a frame's boxes in all tubes; 6 to 1600 measured


@dataclass(frozen=True)
class Size:
    """What a dataset has: `train` and `test` videos of each split, and the bytes of its archive of videos.

    `annotated` frames have boxes.
    """

    videos: int
    frames: float
    classes: int
    bytes: float
    train: tuple[int, ...]
    test: tuple[int, ...]
    annotated: float = 0


SIZES = {
    # Frames and bytes of HMDB-51 and UCF-101: estimates, as in docs/scale.md. Splits: the official lists.
    "hmdb51": Size(6766, 0.63e6, 51, 1.8e9, (3570,) * 3, (1530,) * 3),
    "ucf101": Size(13320, 2.48e6, 101, 7e9, (9537, 9586, 9624), (3783, 3734, 3696)),
    # Counted: two clips per class and group, as params.yaml says; the archive is that of all classes.
    "ucf101_5": Size(250, 40944, 5, 7e9, (180,) * 3, (70,) * 3),
    # The lists of Kay et al. 2017, ten seconds at 25 frames; bytes of the clips as cut: about 1.7 MB each (estimate).
    "kinetics400": Size(266_440, 66.6e6, 400, 450e9, (246_534,), (19_906,)),
    # Half a minute at 30 frames, and the videos with actions: as others report them, not counted here.
    "charades": Size(9_625, 8.7e6, 157, 13e9, (7_811,), (1_814,)),
    "jhmdb21": Size(928, 31838, 21, 0.1e9, (660, 658, 663), (268, 270, 265), 31838),
    # Frames and those with boxes by its annotations; the archive is that of all of UCF-101.
    "ucf101_24": Size(3194, 555_157, 24, 7e9, (2284,), (910,), 478_863),
    # 901 seconds at 30 frames of each film, 897 of them with boxes; bytes of the whole films, as others report them.
    "ava": Size(299, 8.08e6, 80, 157e9, (235,), (64,), 299 * 897),
    "ava_v21": Size(299, 8.08e6, 80, 157e9, (235,), (64,), 299 * 897),
}


@dataclass(frozen=True)
class Network:
    """Costs of one network: multiply-adds, parameters, and seconds per image or, for `load`, per stored picture.

    `attention_net` is a training step of the network that predicts its maps, `gradcam` a map of Grad-CAM.
    """

    macs: float
    parameters: float
    train: float
    forward: float
    load: float
    gradcam: float = 0.0
    attention_net: float = 0.0


# By backbone, width and input. Measured: tests/test_doctor.py compares multiply-adds and parameters with the networks.
NETWORKS = {
    ("inception_v3", 1.0, 299): Network(5.71e9, 21.9e6, 0.42, 0.13, 0.0010, 0.13, 0.036),
    ("bn_inception", 1.0, 224): Network(2.03e9, 10.3e6, 0.15, 0.049, 0.0010),
    ("cnn_m_2048", 1.0, 224): Network(1.66e9, 90.5e6, 0.35, 0.095, 0.0010),
    ("vgg16", 1.0, 224): Network(15.5e9, 134.5e6, 1.1, 0.29, 0.0010),
    ("inception_v3", 0.25, 112): Network(0.036e9, 1.40e6, 0.0055, 0.0018, 0.0002, 0.0023, 0.0012),
    ("inception_v3", 0.25, 96): Network(0.0227e9, 1.39e6, 0.0052, 0.0014, 0.0002, 0.0019, 0.0017),
    # Per clip, of 16 pictures at the reduced sizes; of Inception-V1 per stack of ten fields.
    ("inception_v1", 1.0, 224): Network(2.17e9, 6.06e6, 0.2, 0.067, 0.0010),
    ("convnet_lstm", 1.0, 224): Network(37.5e9, 8.95e6, 6.1, 1.4, 0.0010),
    ("convnet_lstm", 0.25, 112): Network(0.485e9, 0.568e6, 0.057, 0.019, 0.0002),
    ("convnet_lstm", 0.25, 96): Network(0.351e9, 0.568e6, 0.041, 0.014, 0.0002),
    ("c3d", 1.0, 112): Network(19.8e9, 79.7e6, 1.6, 0.42, 0.0010),
    ("c3d", 0.25, 112): Network(1.43e9, 4.90e6, 0.11, 0.042, 0.0002),
    ("c3d", 0.25, 96): Network(1.05e9, 4.90e6, 0.075, 0.021, 0.0002),
    ("two_stream_joint", 1.0, 224): Network(3.66e9, 12.1e6, 0.29, 0.10, 0.0010),
    ("two_stream_joint", 0.25, 112): Network(0.102e9, 0.759e6, 0.015, 0.0058, 0.0002),
    ("two_stream_joint", 0.25, 96): Network(0.0742e9, 0.759e6, 0.013, 0.0069, 0.0002),
    ("fused3d", 1.0, 224): Network(25.3e9, 39.8e6, 2.1, 0.63, 0.0010),
    ("fused3d", 0.25, 112): Network(0.652e9, 2.52e6, 0.057, 0.023, 0.0002),
    ("fused3d", 0.25, 96): Network(0.450e9, 2.52e6, 0.046, 0.017, 0.0002),
    ("i3d", 1.0, 224): Network(111.2e9, 12.7e6, 8.4, 2.3, 0.0010),
    ("i3d", 0.25, 112): Network(0.753e9, 0.818e6, 0.048, 0.020, 0.0002),
    ("i3d", 0.25, 96): Network(0.551e9, 0.818e6, 0.036, 0.015, 0.0002),
    # 4 x 16 with 50 layers; of I3D with a ResNet 8 x 8.
    ("slow", 1.0, 224): Network(20.9e9, 32.5e6, 1.9, 0.44, 0.0010),
    ("slow", 0.25, 112): Network(0.366e9, 2.00e6, 0.040, 0.012, 0.0002),
    ("slow", 0.25, 96): Network(0.256e9, 2.00e6, 0.028, 0.0088, 0.0002),
    ("fast", 1.0, 224): Network(5.28e9, 0.617e6, 0.64, 0.20, 0.0010),
    ("slowfast", 1.0, 224): Network(27.6e9, 34.5e6, 3.2, 0.71, 0.0010),
    ("slowfast", 0.25, 112): Network(0.585e9, 2.12e6, 0.13, 0.045, 0.0002),
    ("slowfast", 0.25, 96): Network(0.415e9, 2.12e6, 0.096, 0.035, 0.0002),
    ("i3d_resnet", 1.0, 224): Network(28.4e9, 28.0e6, 2.0, 0.58, 0.0010),
}
# Detectors by 3D network, width, input and frames; seconds per clip, all of whose pictures `load` reads. Measured.
ANY_3D = "resnext101"  # of a detector without a 3D branch
DETECTORS = {
    ("resnext101", 1.0, 224, 16): Network(43.5e9, 121.1e6, 5.4, 1.4, 0.015),
    ("resnet18", 1.0, 224, 16): Network(38.2e9, 105.0e6, 3.3, 0.86, 0.015),
    ("resnet50", 1.0, 224, 16): Network(45.3e9, 119.8e6, 4.3, 1.2, 0.015),
    ("resnet101", 1.0, 224, 16): Network(60.6e9, 158.8e6, 5.2, 1.3, 0.015),
    ("mobilenet_2x", 1.0, 224, 16): Network(7.88e9, 86.4e6, 2.0, 0.42, 0.015),
    ("mobilenetv2_1x", 1.0, 224, 16): Network(7.49e9, 75.1e6, 2.3, 0.46, 0.015),
    ("shufflenet_2x", 1.0, 224, 16): Network(7.50e9, 77.0e6, 1.3, 0.31, 0.015),
    ("shufflenetv2_2x", 1.0, 224, 16): Network(7.12e9, 79.0e6, 1.1, 0.25, 0.015),
    ("mobilenet_2x", 0.25, 128, 16): Network(0.233e9, 5.50e6, 0.067, 0.015, 0.0053),
    ("mobilenet_2x", 0.25, 64, 8): Network(0.0452e9, 5.50e6, 0.021, 0.0041, 0.0021),
}
R101 = 1.6  # times the multiply-adds of R50; 106 and 65.7 G at 8 x 8 (SlowFast, table 2)


@dataclass(frozen=True)
class Pictures:
    """Costs of one stored frame and one field of flow: bytes and seconds."""

    frame_bytes: float
    frame: float
    field_bytes: float
    field: float


# By pixels of the picture: 340x256, 160x120, 128x96. Measured on J-HMDB-21, the native kernel with AVX-512.
PICTURES = {
    87040: Pictures(25.7e3, 0.0018, 8.9e3, 0.036),
    19200: Pictures(9.3e3, 0.0012, 2.5e3, 0.0083),
    12288: Pictures(6.5e3, 0.0011, 1.8e3, 0.0062),
}


@dataclass(frozen=True)
class Need:
    """Seconds of one core without a GPU; seconds of one core and of a GPU with one; bytes."""

    cpu: float = 0.0
    beside: float = 0.0
    gpu: float = 0.0
    disk: float = 0.0

    def __add__(self, other: "Need") -> "Need":
        return Need(*(a + b for a, b in zip(self._all, other._all, strict=True)))

    def __mul__(self, factor: float) -> "Need":
        return Need(*(factor * value for value in self._all))

    @property
    def _all(self) -> tuple[float, ...]:
        return self.cpu, self.beside, self.gpu, self.disk


def cost(made: Artifact, params: Params) -> Need:
    """What making one artifact from nothing costs."""
    size = _size(made.dataset, params)
    light = KINDS[made.rule] in ("data", "features") or made.rule in ("link", "evaluate")
    starts = max(made.shards, 1) * (EXTRACT if light else JOB)
    work = {
        "fetch": _fetched,
        "index": _indexed,
        "frames": _extracted,
        "flow": _extracted,
        "train": _trained,
        "gradcam": _mapped,
        "attend": _mapped,
        "attention_net": _learned,
        "score": _scored,
        "train_detector": _trained_detector,
        "detect": _detected,
        "link": _linked,
        "evaluate": _evaluated,
    }.get(made.rule)
    return Need(starts, starts) + (work(made, size) if work else Need())


def _fetched(made: Artifact, size: Size) -> Need:
    """An archive that is downloaded stays in downloads/, beside what is unpacked."""
    of_videos = [one for one in archives(made) if one.into == "videos"]
    if not of_videos:
        return Need(disk=size.bytes)
    found = [local(made, one) for one in of_videos]
    return Need(disk=sum(map(_bytes_of, found)) if all(found) else 2 * size.bytes)


def _bytes_of(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def _indexed(made: Artifact, size: Size) -> Need:
    return Need(size.frames * DECODE, size.frames * DECODE)


def _extracted(made: Artifact, size: Size) -> Need:
    measured, ratio = _pictures(made.config["resize"])
    one = (measured.field, measured.field_bytes) if made.rule == "flow" else (measured.frame, measured.frame_bytes)
    seconds, bytes = (size.frames * ratio * value for value in one)
    return Need(seconds, seconds, disk=bytes)


def _pictures(resize: str) -> tuple[Pictures, float]:
    """The measured size that is nearest, and what its numbers are multiplied with."""
    sides = [int(side) for side in resize.removeprefix("short_side:").split("x")]
    pixels = sides[0] * sides[1] if len(sides) == 2 else sides[0] ** 2 * 4 / 3
    nearest = min(PICTURES, key=lambda known: abs(known - pixels))
    return PICTURES[nearest], pixels / nearest


def _trained(made: Artifact, size: Size) -> Need:
    network, training = made.config["network"], made.config["training"]
    updates = training.get("updates")
    clips = updates * training["batch"] if updates else _train(made, size) * training["epochs"]
    images, costs = clips * network["segments"], _network(network)
    done = _networked(made, images, costs.train, costs.macs)
    if made.config.get("trains") == "last":  # the way back ends where it begins
        done = _networked(made, images, costs.forward, costs.macs * GPU_FORWARD)
    return done + _loaded(made, images, costs.load) + Need(disk=4 * costs.parameters)


def _mapped(made: Artifact, size: Size) -> Need:
    """Maps of every `every`-th frame: of the videos of a part by Grad-CAM, or of all that an attention net predicts."""
    run = made.inputs["run"]
    costs = _network(run.config["network"])
    share = 1.0 if made.rule == "attend" else _part(made, size) / size.videos
    maps = size.frames * share / made.config["every"]
    seconds = costs.gradcam if made.rule == "gradcam" else costs.forward + PREDICT * costs.attention_net
    done = _networked(run, maps, seconds, costs.macs * GPU_FORWARD)
    return done + _loaded(run, maps, costs.load) + Need(disk=maps * MAP)


def _learned(made: Artifact, size: Size) -> Need:
    """A network on features that are computed once where they are few; those of the papers' size are not."""
    run = made.inputs["run"]
    costs = _network(run.config["network"])
    available = size.frames / size.videos / made.inputs["gradcam"].config["every"]
    learned = _train(made, size) * min(made.config["frames_per_video"], available) * made.config["epochs"]
    seen = learned if run.config["scale"] == "paper" else _train(made, size) * available
    done = _networked(run, seen, costs.forward, costs.macs * GPU_FORWARD) + _loaded(run, seen, costs.load)
    return done + _networked(run, learned, costs.attention_net, 0)


def _scored(made: Artifact, size: Size) -> Need:
    """Every view of every video; a picture is decoded once for all of its crops, hence half a load for each."""
    run, protocol = made.inputs["run"], made.config["protocol"]
    costs = _network(run.config["network"])
    # A clip may be longer than the run's own; as many views of that length cost as much.
    longer = protocol.get("stack", run.config["network"]["stack"]) / run.config["network"]["stack"]
    views = _part(made, size) * protocol["segments"] * protocol["crops"] * longer
    done = _networked(run, views, costs.forward, costs.macs * GPU_FORWARD)
    return done + _loaded(run, views, costs.load / 2) + Need(disk=4 * views * size.classes)


def _trained_detector(made: Artifact, size: Size) -> Need:
    """A clip for one of every so many annotated frames of the training videos, in each epoch."""
    config, network = made.config, made.config["network"]
    clips = size.annotated * _train(made, size) / size.videos / config["every"] * config["training"]["epochs"]
    frames = BANK if "bank" in network else network["frames"]
    costs = _detector(network, frames)
    share = LATE if "bank" in network or config["trains"] == "late" else 1.0
    reading = Need(clips * costs.load, clips * costs.load)
    done = _networked(made, clips, share * costs.train, share * costs.macs)
    return done + reading + Need(disk=4 * costs.parameters)


def _detected(made: Artifact, size: Size) -> Need:
    """Every frame of the test videos, or each annotated one."""
    run, clips = made.inputs["run"], _asked(made, size)
    network, apart = run.config["network"], made.config["at"] == "annotated"
    frames = network["frames"] if "bank" not in network else BANK if apart else BANK_FOLLOWING
    costs = _detector(network, frames)
    seconds = clips * costs.load * (1.0 if apart else FOLLOWING)
    done = _networked(run, clips, costs.forward, costs.macs * GPU_FORWARD)
    return done + Need(seconds, seconds, disk=clips * BOXES * (24 + 4 * size.classes))


def _linked(made: Artifact, size: Size) -> Need:
    frames = _asked(made.inputs["boxes"], size)
    return Need(frames * LINK, frames * LINK, disk=frames * TUBES)


def _evaluated(made: Artifact, size: Size) -> Need:
    evaluators = sum(len(made.config.get(key, ())) for key in ("frame", "video", "ava"))
    seconds = _asked(made.inputs["boxes"], size) * evaluators * MEASURE
    return Need(seconds, seconds)


def _asked(made: Artifact, size: Size) -> float:
    """How many key frames a detector is asked about."""
    frames = size.annotated if made.config["at"] == "annotated" else size.frames
    return frames * size.test[_split(made)] / size.videos


def _detector(described: Mapping[str, Any], frames: float) -> Network:
    """What a detector costs whose 3D branch sees so many frames, by the multiply-adds of its parts."""
    backbone = described.get("backbone_3d", ANY_3D)
    own = (backbone, *(described[name] for name in ("width", "input", "frames")))
    key = own if own in DETECTORS else (own[0], 1.0, 224, 16)
    known, parts = DETECTORS[key], described["parts"].split("+")
    pixels, channels = (own[2] / key[2]) ** 2, (own[1] / key[1]) ** 2
    around, cfam = (one * (key[1] * key[2] / 224) ** 2 for one in AROUND_3D)
    macs = ("2d" in parts) * (around - cfam) + ("cfam" in parts) * cfam
    macs += ("3d" in parts) * (known.macs - around) * frames / key[3]
    times = pixels * channels * macs / known.macs
    scaled = {name: times * getattr(known, name) for name in ("macs", "train", "forward")}
    load = known.load * pixels * frames / key[3]
    return replace(known, parameters=channels * known.parameters, load=load, **scaled)


def _networked(run: Artifact, images: float, seconds: float, macs: float) -> Need:
    """The work of a run's network; only those of the papers' own size go to the GPU."""
    if run.config["scale"] != "paper":
        return Need(images * seconds, images * seconds)
    return Need(cpu=images * seconds, gpu=images * macs / GPU_MACS * GPU_IMAGE)


def _loaded(run: Artifact, images: float, seconds: float) -> Need:
    """Decoding, cropping and resizing the stored pictures that a run's network sees."""
    network, stream = run.config["network"], run.config["stream"]
    frames = network.get("frames", 1)
    span = frames * network["stack"] + {"rgbdiff": 1, "joint": frames}.get(stream, 0)
    return Need(images * span * seconds, images * span * seconds)


def _network(described: Mapping[str, Any]) -> Network:
    """Its measured costs; of a network that was not measured, those of its widest form by the number of operations."""
    backbone, width, input = (described[key] for key in ("backbone", "width", "input"))
    if (backbone, width, input) in NETWORKS:
        return _deeper(NETWORKS[backbone, width, input], described)
    widest = max((key for key in NETWORKS if key[0] == backbone), key=lambda key: key[1])
    operations, weights = (width * input / (widest[1] * widest[2])) ** 2, (width / widest[1]) ** 2
    known = NETWORKS[widest]
    per_image = {name: operations * getattr(known, name) for name in ("macs", "train", "forward", "gradcam")}
    return replace(known, parameters=weights * known.parameters, **per_image)


def _deeper(known: Network, described: Mapping[str, Any]) -> Network:
    """The costs of SlowFast and Slow-only with another depth, or more frames of the Slow pathway than 4."""
    if described["backbone"] not in ("slowfast", "slow"):
        return known
    paths = described.get("pathways", {})
    alpha = paths.get("alpha", 8) if described["backbone"] == "slowfast" else 1
    times = described["stack"] / alpha / 4 * (R101 if paths.get("depth") == 101 else 1)
    return replace(known, **{name: times * getattr(known, name) for name in ("macs", "train", "forward")})


def _train(made: Artifact, size: Size) -> int:
    return size.train[_split(made)]


def _part(made: Artifact, size: Size) -> float:
    """How many videos a job on one part of its split reads."""
    train, test = size.train[_split(made)], size.test[_split(made)]
    shares = {"train": train, "test": test, "all": size.videos}
    shares["heldout"] = train * made.inputs["run"].config["training"]["holdout"]
    return shares[made.config.get("part", "test")]


def _split(made: Artifact) -> int:
    return int(made.config["split"].removeprefix("split")) - 1


def _size(dataset: str, params: Params) -> Size:
    described = params.datasets[dataset]
    if described.generator is None:
        if dataset not in SIZES:
            raise ValueError(f"how large `{dataset}` is stands nowhere: add it to SIZES of reaction.costs")
        return SIZES[dataset]
    made, splits = described.generator, len(described.splits)
    test = made.videos // splits
    frames = made.videos * sum(made.frames) / 2
    classes = len(made.appearances) * len(made.motions)
    train = made.videos - test
    return Size(made.videos, frames, classes, frames * GENERATED, (train,) * splits, (test,) * splits, frames)


def archives(made: Artifact) -> list[Archive]:
    """The archives that a `fetch` unpacks; none where the videos are generated."""
    return [Archive(**one) for one in made.hints.get("archives", ())]


def local(made: Artifact, archive: Archive) -> Path | None:
    """Where `fetch` will find an archive, or its unpacked folder, without downloading it."""
    places = _places({"dataset": made.dataset, **made.hints}, Path("downloads"))
    return next((place / name for place in places for name in archive.names() if (place / name).exists()), None)
