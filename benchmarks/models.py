"""Our networks beside public ones of the same shape: the same outputs, and how long a test and a training step take.

    python benchmarks/models.py --peer-venv /tmp/peer [--only slowfast_4x16 ...] [--rounds 5] [--threads 1]

The peers are pytorchvideo, for SlowFast and the ResNets over time, and torchvision. A peer makes a network of random
weights and an input; ours gets the same input and, by `reaction convert`'s renaming, the same weights. `forward` is a
test's: evaluation mode, no gradients. `step` is a training's, forward and backward, without dropout. The two take turns
in two processes of one machine; the figures are medians over the rounds, after one that is not counted, of wall time
and of CPU time (all threads), which other load moves less.

pytorchvideo imports torchvision, so both live in an environment of their own, which is made in `--peer-venv` if it is
not there: their packages from the index, torch and numpy from the environment that runs this script.

Leaves with status 1 where outputs differ by more than 1e-4 of the largest, those of a step by 1e-3: normalised by their
own batch, layer upon layer, they spread rounding (Inception-V3's, where it shows most, agree to 1e-13 in float64).
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gradcam import let_torchvision_import
from torch import Tensor, nn

from reaction.models.convert import recognise
from reaction.models.inception_v1 import InceptionV1
from reaction.models.inception_v3 import InceptionV3
from reaction.models.resnet3d import C2D, I3DResNet
from reaction.models.slowfast import Slow, SlowFast, slow_positions
from reaction.models.vgg import VGG16

CLASSES = 51
TOLERANCE = {"forward": 1e-4, "step": 1e-3}
PEER = ("pytorchvideo==0.1.5", "fvcore==0.1.5.post20221221", "iopath==0.1.10", "portalocker==3.2.0", "yacs==0.1.8")
PEER += ("tabulate==0.9.0", "termcolor==3.1.0", "tqdm==4.70.1", "torchvision==0.28.0")
STATE, INPUT, OUTPUT = "state.pt", "input.pt", "output.npy"
Clocks = tuple[float, float]  # seconds: wall, CPU
Ask = Callable[[str], Any]

# Ours, and the shape of its input: (B, C, T, H, W) or (B, C, H, W).
CASES: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "slowfast_4x16": (lambda: SlowFast(classes=CLASSES, dropout=0.0, size=112), (1, 3, 32, 112, 112)),
    "slowfast_8x8": (
        lambda: SlowFast(classes=CLASSES, alpha=4, lateral_kernel=7, dropout=0.0, size=112),
        (1, 3, 32, 112, 112),
    ),
    "slow_8x8": (lambda: Slow(classes=CLASSES, dropout=0.0, size=112), (2, 3, 8, 112, 112)),
    "c2d_8x8": (lambda: C2D(classes=CLASSES, dropout=0.0, size=112), (2, 3, 8, 112, 112)),
    "i3d_resnet_8x8": (lambda: I3DResNet(classes=CLASSES, dropout=0.0, size=112), (2, 3, 8, 112, 112)),
    "inception_v3": (lambda: InceptionV3(classes=CLASSES, dropout=0.0), (4, 3, 299, 299)),
    "inception_v1": (lambda: InceptionV1(classes=CLASSES, dropout=0.0), (8, 3, 224, 224)),
    "vgg16": (lambda: VGG16(classes=CLASSES, dropout=0.0), (2, 3, 224, 224)),
}


ONE, THREE = (1, 1, 1), (3, 1, 1)
KERNELS = {  # of pytorchvideo's hub: conv1's over time, then those of res2 to res5
    "slow_8x8": (1, ONE, ONE, THREE, THREE),
    "c2d_8x8": (1, ONE, ONE, ONE, ONE),
    "i3d_resnet_8x8": (5, THREE, [THREE, ONE], [THREE, ONE], [ONE, THREE]),
}


def main() -> int:
    options = _options()
    torch.set_num_threads(options.threads)
    if options.peer is not None:
        serve(options.peer)
        return 0
    equal = []
    print(f"{options.threads} threads, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as name, peer(options, Path(name)) as ask:
        for case in options.only or CASES:
            ask(f"make {case}")
            equal += [compare(case, mode, Path(name), ask, options.rounds) <= most for mode, most in TOLERANCE.items()]
    return int(not all(equal))


def compare(case: str, mode: str, folder: Path, ask: Ask, rounds: int) -> float:
    """Print what both take for one mode; the largest difference of outputs, of the largest output."""
    model, clip = load(case, folder)
    ours, theirs, difference = [], [], 0.0
    for _ in range(rounds + 1):
        seconds, output = timed(model, clip, mode)
        ours.append(seconds)
        theirs.append(ask(mode))
        expected = np.load(folder / OUTPUT)
        difference = max(difference, float(np.abs(output - expected).max() / np.abs(expected).max()))
    (wall, cpu), (their_wall, their_cpu) = (np.median(seconds[1:], axis=0) for seconds in (ours, theirs))
    print(
        f"{case}, {mode}: wall {wall:.3f} s, peer {their_wall:.3f} s, ratio {their_wall / wall:.2f}; "
        f"CPU {cpu:.3f} s, peer {their_cpu:.3f} s, ratio {their_cpu / cpu:.2f}; outputs differ by {difference:.0e}",
        flush=True,
    )
    return difference


def load(case: str, folder: Path) -> tuple[nn.Module, Tensor]:
    """Our network with the peer's weights, and the input."""
    build, _ = CASES[case]
    model, state = build(), torch.load(folder / STATE)
    renamed = recognise(state).convert(state)
    model.load_state_dict({name: value for name, value in renamed.items() if not name.lower().startswith("aux")})
    return model, torch.load(folder / INPUT)


def timed(model: nn.Module, inputs: Any, mode: str) -> tuple[Clocks, np.ndarray]:
    """Seconds, and logits (B, classes)."""
    model.train(mode == "step")
    model.zero_grad()
    wall, cpu = time.perf_counter(), time.process_time()
    with torch.set_grad_enabled(mode == "step"):
        logits = model(list(inputs) if isinstance(inputs, list) else inputs)  # the peer writes into its list
        if mode == "step":
            logits.square().mean().backward()
    return (time.perf_counter() - wall, time.process_time() - cpu), logits.detach().numpy()


@contextmanager
def peer(options: argparse.Namespace, folder: Path) -> Iterator[Ask]:
    """A function that sends the peer one line and gives back what it answers."""
    source = Path(importlib.util.find_spec("reaction").origin).parents[1]
    command = [peer_python(options.peer_venv), __file__, "--peer", folder, "--threads", str(options.threads)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, env=os.environ | {"PYTHONPATH": str(source)}) as process:

        def ask(line: str) -> Any:
            print(line, file=process.stdin, flush=True)
            answer = process.stdout.readline()
            if not answer:
                raise SystemExit(f"the peer died; try it alone: {' '.join(map(str, command))}")
            return json.loads(answer)

        yield ask
        process.stdin.close()


def peer_python(folder: Path) -> Path:
    """The interpreter of the peers' environment, made if it is not there."""
    python = folder / "bin/python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    site = next(folder.glob("lib/python*/site-packages"))
    if not (site / "pytorchvideo").exists():
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", *PEER], check=True)
    # Behind its own packages, those of this environment: above all the same torch.
    (site / "behind.pth").write_text(str(Path(torch.__file__).parents[1]) + "\n")
    return python


def serve(folder: Path) -> None:
    """The peer's process: `make CASE` makes weights and an input, a mode runs them; seconds go to stdout."""
    operators = let_torchvision_import()  # noqa: F841
    model = clip = None
    for words in map(str.split, sys.stdin):
        if words[0] == "make":
            model, clip = make(words[1], folder)
            print("true", flush=True)
            continue
        seconds, logits = timed(model, clip, words[0])
        np.save(folder / OUTPUT, logits)
        print(json.dumps(seconds), flush=True)


def make(case: str, folder: Path) -> tuple[nn.Module, Any]:
    """The peer's network with random weights and its input, both saved for ours."""
    torch.manual_seed(0)
    model, clip = theirs(case), torch.randn(CASES[case][1])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):  # the last of a residual block would start at zero
            nn.init.uniform_(module.weight, 0.5, 1.0)
            module.momentum = 1.0
    # Statistics of the input, so that activations of random weights keep their size.
    model.train()(arranged(case, clip))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.momentum = 0.0
    torch.save(model.state_dict(), folder / STATE)
    torch.save(clip, folder / INPUT)
    return model, arranged(case, clip)


def arranged(case: str, clip: Tensor) -> Any:
    """The input as the peer takes it: pytorchvideo's SlowFast has the Slow pathway's frames picked by its caller."""
    if not case.startswith("slowfast"):
        return clip
    alpha = 8 if case == "slowfast_4x16" else 4
    return [clip[:, :, slow_positions(clip.shape[2], alpha, "linspace")], clip]


def theirs(case: str) -> nn.Module:
    """The peer's network."""
    import torchvision
    from pytorchvideo.models.resnet import create_resnet
    from pytorchvideo.models.slowfast import create_slowfast

    options = {"model_num_class": CLASSES, "dropout_rate": 0.0}
    if case.startswith("slowfast"):
        alpha, kernel = (8, 5) if case == "slowfast_4x16" else (4, 7)
        strides = {"slowfast_fusion_conv_kernel_size": (kernel, 1, 1), "slowfast_fusion_conv_stride": (alpha, 1, 1)}
        pools = ((32 // alpha, 4, 4), (32, 4, 4))
        return create_slowfast(**options, **strides, head_pool_kernel_sizes=pools)
    if case in KERNELS:
        kernels, frames = KERNELS[case], 8 if case == "slow_8x8" else 4
        pool = None if case == "slow_8x8" else nn.MaxPool3d
        stages = {"stage_conv_a_kernel_size": kernels[1:], "stage1_pool": pool, "head_pool_kernel_size": (frames, 4, 4)}
        return create_resnet(**options, **stages, stem_conv_kernel_size=(kernels[0], 7, 7))
    plain = {"weights": None, "num_classes": CLASSES, "dropout": 0.0}
    if case == "vgg16":
        return torchvision.models.vgg16(**plain)
    build = {"inception_v3": torchvision.models.inception_v3, "inception_v1": torchvision.models.googlenet}[case]
    return build(**plain, aux_logits=False, init_weights=True)


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-venv", type=Path, help="the peers' environment; made if it is not there")
    parser.add_argument("--only", nargs="+", choices=CASES, help="the networks to compare, unsaid: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.peer is None and options.peer_venv is None:
        parser.error("--peer-venv: name the folder of the peers' environment")
    return options


if __name__ == "__main__":
    sys.exit(main())
