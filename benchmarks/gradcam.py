"""Grad-CAM beside the package `grad-cam` (pytorch_grad_cam): the same maps, and how long each takes.

    python benchmarks/gradcam.py --peer-venv /tmp/peer [--images 4] [--rounds 3] [--threads 2]

Both explain the same images with the same Inception-V3 of random weights at 299 pixels, for the same classes, from
images in memory to maps of the images' size in [0, 1]. They take turns in two processes of one machine; the figures
are medians over the rounds, after one that is not counted, of wall time and of CPU time (all threads), which other load
moves less. The peer also runs on our Inception-V3, which is faster on a CPU than torchvision's.

grad-cam imports torchvision, so it lives in an environment of its own, which is made in `--peer-venv` if it is not
there: its packages from the index, torch, numpy and OpenCV from the environment that runs this script.

Leaves with status 1 where maps differ by more than 1e-4.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from reaction.attention.gradcam import gradcam, upsample
from reaction.models.inception_v3 import InceptionV3

INPUT, CLASSES = 299, 51
LAYERS = ("Mixed_7c", "Mixed_6e")  # the closed form, and a backward pass to an earlier block
TOLERANCE = 1e-4
PEER = ("grad-cam==1.5.7", "ttach==0.0.3", "scikit-learn==1.9.1", "scipy==1.17.1", "joblib==1.6.0")
PEER += ("threadpoolctl==3.8.0", "tqdm==4.70.1", "torchvision==0.28.0")
STATE, IMAGES = "state.pt", "images.pt"
Clocks = tuple[float, float]  # seconds: wall, CPU
Ask = Callable[[str], tuple[Clocks, np.ndarray]]


def main() -> int:
    options = _options()
    torch.set_num_threads(options.threads)
    if options.peer is not None:
        serve(options.peer)
        return 0
    python = peer_python(options.peer_venv)
    with tempfile.TemporaryDirectory() as name:
        model, images = prepare(Path(name), options.images)
        with peer(python, Path(name), options.threads) as ask:
            measured = [compare(model, images, layer, ask, options.rounds) for layer in LAYERS]
    print(f"{options.images} images of {INPUT} x {INPUT}, {options.threads} threads, load {os.getloadavg()[0]:.1f}")
    for layer, (ours, theirs, difference) in zip(LAYERS, measured, strict=True):
        for clock, mine, other in zip(("wall", "CPU"), ours, theirs, strict=True):
            print(f"{layer}, {clock}: {mine:.3f} s an image, grad-cam {other:.3f} s, ratio {other / mine:.2f}")
        print(f"{layer}: maps differ by at most {difference:.1e}")
    return int(any(difference > TOLERANCE for *_, difference in measured))


def prepare(folder: Path, count: int) -> tuple[InceptionV3, Tensor]:
    """A network and images (count, 3, 299, 299) in [-1, 1], here and in `folder` for the peer."""
    torch.manual_seed(0)
    model, images = InceptionV3(classes=CLASSES), torch.rand(count, 3, INPUT, INPUT) * 2 - 1
    _settle(model, images)
    torch.save(model.state_dict(), folder / STATE)
    torch.save(images, folder / IMAGES)
    return model.eval(), images


def compare(model: InceptionV3, images: Tensor, layer: str, ask: Ask, rounds: int) -> tuple[Clocks, Clocks, float]:
    """Median seconds per image, ours and the peer's, and the largest difference between the maps."""
    ours, theirs, difference = [], [], 0.0
    for _ in range(rounds + 1):
        seconds, maps = timed(lambda: explain(model, images, layer))
        ours.append(seconds)
        seconds, expected = ask(layer)
        theirs.append(seconds)
        difference = max(difference, float(np.abs(maps - expected).max()))
    per_image = [tuple(np.median(seconds[1:], axis=0) / len(images)) for seconds in (ours, theirs)]
    return *per_image, difference


def explain(model: InceptionV3, images: Tensor, layer: str) -> np.ndarray:
    """Our maps (B, H, W), up-sampled and with minimum and maximum at 0 and 1, as a reader of stored maps sees them."""
    maps = upsample(gradcam(model, images, classes_of(images), layer), *images.shape[-2:])
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return ((maps - low) / (high - low)).numpy()


def classes_of(images: Tensor) -> Tensor:
    """A class for each image."""
    return torch.arange(len(images)) * 7 % CLASSES


def timed(run: Callable[[], np.ndarray]) -> tuple[Clocks, np.ndarray]:
    wall, cpu = time.perf_counter(), time.process_time()
    maps = run()
    return (time.perf_counter() - wall, time.process_time() - cpu), maps


def peer_python(folder: Path) -> Path:
    """The interpreter of the peer's environment, made if it is not there."""
    python = folder / "bin/python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    site = next(folder.glob("lib/python*/site-packages"))
    if not (site / "pytorch_grad_cam").exists():
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", *PEER], check=True)
    # Behind its own packages, those of this environment: above all the same torch.
    (site / "behind.pth").write_text(str(Path(torch.__file__).parents[1]) + "\n")
    return python


@contextmanager
def peer(python: Path, folder: Path, threads: int) -> Iterator[Ask]:
    """A function that has the peer explain the images at a layer: its seconds and its maps (B, H, W)."""
    source = Path(importlib.util.find_spec("reaction").origin).parents[1]
    command = [python, __file__, "--peer", folder, "--threads", str(threads)]
    environment = os.environ | {"PYTHONPATH": str(source)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen(command, **pipes) as process:

        def ask(layer: str) -> tuple[Clocks, np.ndarray]:
            print(layer, file=process.stdin, flush=True)
            answer = process.stdout.readline()
            if not answer:
                raise SystemExit(f"the peer died; try it alone: {' '.join(map(str, command))}")
            return json.loads(answer)["seconds"], np.load(folder / "maps.npy")

        yield ask
        process.stdin.close()


def serve(folder: Path) -> None:
    """The peer's process: for each line on stdin, a layer, its maps in maps.npy and its seconds on stdout."""
    operators = let_torchvision_import()  # noqa: F841
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, images = InceptionV3(classes=CLASSES), torch.load(folder / IMAGES)
    model.load_state_dict(torch.load(folder / STATE))
    targets = [ClassifierOutputTarget(label) for label in classes_of(images).tolist()]
    for layer in (line.strip() for line in sys.stdin):
        with GradCAM(model=model, target_layers=[model.get_submodule(layer)]) as cam:
            seconds, maps = timed(lambda: cam(input_tensor=images, targets=targets))
        np.save(folder / "maps.npy", maps)
        print(json.dumps({"seconds": seconds}), flush=True)


def let_torchvision_import() -> torch.library.Library | None:
    """Declare the operators that torchvision's import looks up, where its library does not load.

    torchvision from an index is linked against CUDA. Beside a torch without it the library is skipped in silence, and
    the import then fails for want of operators that nothing here calls. They last as long as what is returned.
    """
    spec = importlib.util.find_spec("torchvision")
    try:
        torch.ops.load_library(next(Path(spec.origin).parent.glob("_C*.so")))
        return None
    except (OSError, StopIteration):
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library


def _settle(model: InceptionV3, images: Tensor) -> None:
    """Give batch normalisation the statistics of the images, so that activations of random weights keep their size."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(images)


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-venv", type=Path, help="the peer's environment; made if it is not there")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.peer is None and options.peer_venv is None:
        parser.error("--peer-venv: name the folder of the peer's environment")
    return options


if __name__ == "__main__":
    sys.exit(main())
