"""From a run's own parameters to its network: built, started from weights, or trained and read back.

Nothing here trains, so that a job that only looks through a network does not pay for importing what does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from reaction.clips.loader import Stream
from reaction.data.index import read_classes
from reaction.files import read_json, sha256
from reaction.models.bn_inception import BNInception
from reaction.models.c3d import C3D
from reaction.models.clip_net import ClipNet, JointNet
from reaction.models.cnn_m import CNNM
from reaction.models.convnet_lstm import ConvNetLSTM
from reaction.models.fused3d import Fused3D
from reaction.models.i3d import I3D, inflate
from reaction.models.inception_v1 import FIRST_CONV, InceptionV1, spread
from reaction.models.inception_v3 import InceptionV3
from reaction.models.multitask import Tasks
from reaction.models.resnet3d import I3DResNet
from reaction.models.slowfast import Fast, Slow, SlowFast
from reaction.models.st_attention import STAttention
from reaction.models.tsn import TSN
from reaction.models.two_stream_2d import TwoStream2D
from reaction.models.vgg import VGG16
from reaction.models.weights import check, download, last_layers, load_pretrained, read_weights, start_classifier
from reaction.training.job import tell

MODEL = "model.safetensors"
FRAMES = {
    "inception_v3": InceptionV3,
    "bn_inception": BNInception,
    "cnn_m_2048": CNNM,
    "vgg16": VGG16,
    "inception_v1": InceptionV1,
}
CLIPS = {"convnet_lstm": ConvNetLSTM, "c3d": C3D, "i3d": I3D}
JOINT = {"two_stream_joint": TwoStream2D, "fused3d": Fused3D}
PATHWAYS = {"slowfast": SlowFast, "slow": Slow, "fast": Fast, "i3d_resnet": I3DResNet}
BACKBONES = FRAMES | CLIPS | JOINT | PATHWAYS
DOWNLOADS = Path("downloads/weights")


class RunError(ValueError):
    """A run whose folder, inputs or weights do not fit together."""


def load_run(folder: Path | str) -> tuple[TSN, dict[str, Any]]:
    """The trained network of a run, in evaluation mode on the CPU, and the run's own parameters.

    Of a run on several tasks it is the network of its own dataset: the other's classifier is left out.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")["config"]
    state = _read_own(folder)
    classes = state[f"{_last_layer(config)}.weight"].shape[0]
    model = build_network(config["network"], stream=config["stream"], classes=classes)
    model.backbone.several = "labels" in config  # ResNets average the probabilities of positions
    _fit(model, state, folder)
    return model.eval(), config


def build_network(network: Mapping[str, Any], *, stream: str, classes: int) -> TSN:
    """The untrained network that a run's `network` block describes; draws from torch's global generator."""
    entry, name = network["entry"], network["backbone"]
    options = {"classes": classes, "width": network["width"], "dropout": network["dropout"]}
    if name in PATHWAYS:
        return _network_of_pathways(network, stream, options)
    if name not in FRAMES:
        return _network_of_clips(network, stream, options)
    options["channels"] = _seen(network, stream).channels + _map_channels(entry)
    if name == "cnn_m_2048":
        options["second_norm"] = stream != "flow"  # the temporal net has none (Two-Stream, section 5)
    backbone = FRAMES[name](**options)
    consensus = {"consensus": network.get("consensus", "average"), "segments": network["segments"]}
    if entry is None:
        return TSN(backbone, partial_bn=network["partial_bn"], **consensus)
    return STAttention(backbone, entry=entry, partial_bn=network["partial_bn"], **consensus)


def _network_of_clips(network: Mapping[str, Any], stream: str, options: Mapping[str, Any]) -> TSN:
    name = network["backbone"]
    if name in JOINT:
        entry = "in_time" if name == "fused3d" else "side_by_side"
        return JointNet(JOINT[name](**options), frames=network.get("frames", 1), entry=entry)
    channels = 2 if stream == "flow" else 3
    own = {}
    if name == "c3d":
        own["image"] = network["input"]  # its first fully connected layer sees the whole picture
    if name == "convnet_lstm":
        own["steps"] = network["stack"]  # it keeps statistics of each
    return ClipNet(CLIPS[name](channels=channels, **options, **own), channels=channels)


def _network_of_pathways(network: Mapping[str, Any], stream: str, options: Mapping[str, Any]) -> TSN:
    backbone = PATHWAYS[network["backbone"]](size=network["input"], **options, **network.get("pathways", {}))
    if stream == "joint":  # frames with flow behind their colours (SlowFast, table 5c)
        return JointNet(backbone, frames=network["frames"], entry="as_channels")
    return ClipNet(backbone, channels=3)


def tasks_of(frozen: Mapping[str, Any]) -> Tasks | None:
    """The datasets that a run's config.json trains on together, its own first; None where it trains on one."""
    if "multi_task" not in frozen["config"]:
        return None
    own, other = frozen["dataset"], frozen["config"]["multi_task"]["dataset"]
    if own == other:
        raise RunError(f"multi_task: {other} is the run's own dataset; name another")
    inputs = frozen["inputs"]
    return Tasks({own: len(read_classes(inputs["index"])), other: len(read_classes(inputs["other_index"]))})


def stream_of(run: Mapping[str, Any], stack: int | None = None) -> Stream:
    """What the network of a run sees, by the run's own parameters; `stack` is a test's, if it has its own."""
    network = run["network"] if stack is None else run["network"] | {"stack": stack}
    return _seen(network, run["stream"])


def _seen(network: Mapping[str, Any], stream: str) -> Stream:
    unusual = {key: network[key] for key in ("mean_flow", "stride", "frames") if key in network}
    return Stream(stream, network["stack"], loop=network.get("short") == "loop", **unusual)


def load_start(model: TSN, config: Mapping[str, Any], init: str | None) -> dict[str, Any]:
    """Put the weights that training starts from into `model`, in place; what they were, for provenance.json.

    They are those of the run folder `init`, if there is one, or else what the `weights` block names.
    """
    if init is not None:
        # A single task may go on from several; their classifiers only fit where there are as many again.
        state = _read_model(Path(init)) if "multi_task" in config else _read_own(Path(init))
        if config.get("new_classifier"):
            state = state | _new_classifiers(model)
        _fit(model, state, Path(init))
        return {"source": "run", "run": init}
    weights, network = config["weights"], config["network"]
    if weights["source"] == "none":
        if network["backbone"] in FRAMES:
            start_classifier(model.backbone)
        return {"source": "none"}
    path = weights_file(weights)
    read = read_weights(path)
    state = {name.removeprefix("backbone."): value for name, value in read.items()}
    if FIRST_CONV in state and network["backbone"] != "inception_v1":
        inside = inflate if network["backbone"] == "i3d" else spread
        state = inside(state, model.backbone)
    # A network without a map has map_channel None, and no channel to fill with it.
    entering = {"extra": _map_channels(network["entry"]), "map_channel": network["map_channel"] or "mean"}
    # A run's own weights say backbone, and were trained on what the clip loader hands over.
    public = not any(name.startswith("backbone.") for name in read)
    coverage = load_pretrained(model.backbone, state, stream=config["stream"], public=public, **entering)
    tell(f"{path}: {coverage}")
    return {"source": weights["source"], "file": path.name, "sha256": sha256(path), "coverage": vars(coverage)}


def _read_model(folder: Path) -> dict[str, Tensor]:
    path = folder / MODEL
    if not path.is_file():
        raise RunError(f"{path} is missing: `reaction train {folder}` makes it")
    return load_file(path)


def _read_own(folder: Path) -> dict[str, Tensor]:
    """The weights of a run, of several tasks those of its own dataset's network."""
    state, frozen = _read_model(folder), read_json(folder / "config.json")
    tasks = tasks_of(frozen)
    return state if tasks is None else tasks.single(state, _last_layer(frozen["config"]), frozen["dataset"])


def _new_classifiers(model: TSN) -> dict[str, Tensor]:
    """The classifiers of `model`, started anew, by name: what a run on other classes has says nothing here."""
    start_classifier(model.backbone)
    own = model.state_dict()
    return {
        name: own[name] for last in last_layers(model.backbone) for name in own if name.startswith(f"backbone.{last}.")
    }


def _last_layer(config: Mapping[str, Any]) -> str:
    return f"backbone.{last_layers(BACKBONES[config['network']['backbone']])[0]}"


def _fit(model: TSN, state: Mapping[str, Tensor], folder: Path) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise RunError(
            f"the weights in {folder} do not fit the network; are backbone, width, stream, map, consensus and tasks "
            f"alike? {error}"
        ) from error


def _map_channels(entry: str | None) -> int:
    return 1 if entry == "concat" else 0


def weights_file(weights: Mapping[str, Any]) -> Path:
    """The file that a `weights` block names, downloaded if it has to be, and checked."""
    if weights["source"] == "download":
        return download(weights["url"], weights["sha256"], DOWNLOADS / weights["url"].rsplit("/", 1)[-1])
    path = Path(weights["path"])
    if path.is_file() and weights["sha256"]:
        check(path, weights["sha256"], "put the right file there, or correct `sha256:` in params.yaml")
    return path
