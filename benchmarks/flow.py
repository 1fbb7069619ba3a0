"""TV-L1 of this package beside `cv2.optflow.DualTVL1OpticalFlow` and PyTorch: same pairs, one run, Markdown tables.

    python benchmarks/flow.py                                      # a synthetic texture
    REACTION_MIRROR=/data/videos python benchmarks/flow.py         # and clips of ucf101/UCF-101_5classes.tar
    python benchmarks/flow.py --size 320x240 --pairs 2 --clips 2   # sooner

Wants cores that nothing else uses. Speeds are in pairs per CPU-second of the whole process (all its threads), or per
second of wall time where it says so; every implementation gets the same pairs in turn, ours before and after the slow
ones. Ratios are taken clip by clip, and what is printed for several clips is the median.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import harmonic_mean, mean, median

import av
import cv2
import numpy as np
import torch

from reaction.flow import SEMANTICS, TVL1, defaults, native, opencv, quantise, tvl1

ARCHIVE = "ucf101/UCF-101_5classes.tar"
BOUND = 20  # pixels, of the 8-bit levels
LONG = 24  # pairs for two threads to share: of three, one thread would do two
NOISE = 1e-5  # grey levels; float32 has steps of 1.5e-5 near 255
FIXED = {"epsilon": 0.0, "inner_iterations": 30, "outer_iterations": 1}
SETTINGS = {
    "one scale, one warp, 30 iterations": FIXED | {"nscales": 1, "warps": 1},
    "30 iterations a warp": FIXED,
    "stopping rule": {},
}
PEER = opencv.semantics()  # what the installed cv2 computes
STARTED = time.perf_counter()

Solve = Callable[[np.ndarray, int], np.ndarray]  # frames (n, H, W), uint8 or float32 in [0, 1], and threads: the flow


@dataclass(frozen=True)
class Clip:
    name: str
    frames: np.ndarray  # uint8 (n, H, W)


@dataclass(frozen=True)
class Run:
    flow: np.ndarray  # float32 (n-1, 2, H, W)
    cpu: float  # seconds, of all threads together
    wall: float

    @property
    def pairs_a_second(self) -> float:
        return len(self.flow) / self.wall


def timed(solve: Solve, frames: np.ndarray, threads: int = 1) -> Run:
    cpu, wall = time.process_time(), time.perf_counter()
    flow = solve(frames, threads)
    return Run(flow, time.process_time() - cpu, time.perf_counter() - wall)


# ------------------------------------------------------------------------------------------------------ implementations


def ours(backend: str, semantics: str, changes: dict | None = None) -> Solve:
    parameters = replace(defaults(semantics), **(changes or {}))
    return lambda frames, threads: tvl1(frames, parameters, semantics=semantics, backend=backend, threads=threads)


def instruction_set(name: str) -> Solve:
    """The native kernel as compiled for one of this machine's instruction sets."""
    return lambda frames, threads: native.native_tvl1(
        np.float32(frames), defaults(PEER), PEER, threads, instruction_set=name
    )


def peer(changes: dict | None = None) -> Solve:
    """cv2's own, with its own threads; one object for all the pairs, as its users have it."""
    parameters = replace(TVL1(), **(changes or {}))
    solver = cv2.optflow.DualTVL1OpticalFlow_create(
        nscales=parameters.nscales,
        warps=parameters.warps,
        epsilon=parameters.epsilon,
        innnerIterations=parameters.inner_iterations,  # OpenCV's spelling
        outerIterations=parameters.outer_iterations,
    )

    def solve(frames: np.ndarray, threads: int) -> np.ndarray:
        cv2.setNumThreads(threads)
        fields = [solver.calc(first, second, None) for first, second in pairwise(frames)]
        return np.stack(fields).transpose(0, 3, 1, 2)  # (n-1, H, W, 2) -> (n-1, 2, H, W)

    return solve


# ------------------------------------------------------------------------------------------------------------- pictures


def texture(size: tuple[int, int], count: int) -> Clip:
    """Blurred noise that turns by 0.4 degrees a frame about the middle and moves by (1.3, -0.8) pixels."""
    width, height = size
    noise = np.random.default_rng(0).normal(size=(2 * height, 2 * width))
    image = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX).astype(np.float32)
    frames = []
    for i in range(count):
        matrix = cv2.getRotationMatrix2D((width, height), 0.4 * i, 1)
        matrix[:, 2] += (1.3 * i - width / 2, -0.8 * i - height / 2)
        frames.append(cv2.warpAffine(image, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT))
    return Clip("synthetic texture", np.stack(frames).round().clip(0, 255).astype(np.uint8))


def videos(count: int) -> Iterator[tuple[str, bytes]]:
    """Names and files of `count` videos from all over the archive in the mirror, if there is one."""
    path = Path(os.environ.get("REACTION_MIRROR", "")) / ARCHIVE
    if count < 1 or not path.is_file():
        print(f"no real clips: {path} is not there" if count else "no real clips", file=sys.stderr)
        return
    with tarfile.open(path) as archive:
        members = sorted((m for m in archive if m.isfile() and m.name.endswith((".mp4", ".avi"))), key=lambda m: m.name)
        step = max(1, len(members) // count)
        for member in members[step // 2 :: step][:count]:
            yield Path(member.name).stem, archive.extractfile(member).read()


def real(name: str, video: bytes, size: tuple[int, int], count: int) -> Clip:
    """Frames from the middle of a video, resized in colour and then grey, as the flow's extraction has them."""
    with av.open(io.BytesIO(video)) as container:
        frames = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    start = max(0, len(frames) - count) // 2
    small = [cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR) for frame in frames[start : start + count]]
    return Clip(name, np.stack([cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) for picture in small]))


def perturbed(frames: np.ndarray) -> np.ndarray:
    """The same pictures as float32 in [0, 1], up to `NOISE` grey levels off: cv2 takes either."""
    noise = np.random.default_rng(0).uniform(-NOISE, NOISE, frames.shape)
    return ((frames + noise).clip(0, 255) / 255).astype(np.float32)


# --------------------------------------------------------------------------------------------------------------- tables


def print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(header)} |\n|{'---|' + '---:|' * (len(header) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    sys.stdout.flush()


def progress(*words: object) -> None:
    print(f"{time.perf_counter() - STARTED:5.0f} s", *words, file=sys.stderr, flush=True)


def machine() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = names[0].partition(":")[2].strip() if names else platform.machine()
    load = f"{os.getloadavg()[0]:.1f}"
    return f"{name}, {os.cpu_count()} cores, load {load} before; OpenCV {cv2.__version__}, PyTorch {torch.__version__}"


# --------------------------------------------------------------------------------------------------------- measurements


def speed(clip: Clip, pairs: int) -> dict[str, float]:
    """Pairs per CPU-second on one thread, by implementation; `native ...` twice, so that a drift shows in neither."""
    frames = clip.frames[: pairs + 1]
    solvers = {PEER: ours("native", PEER), "opencv-cuda": ours("native", "opencv-cuda")}
    solvers |= {name: instruction_set(name) for name in native.instruction_sets()}
    solvers |= {"cv2": peer(), "torch": ours("torch", "opencv-cuda")}
    order = [*solvers, *(name for name in solvers if name not in ("cv2", "torch"))]
    seconds: dict[str, list[float]] = {name: [] for name in solvers}
    for name in order:
        seconds[name].append(timed(solvers[name], frames).cpu / pairs)
    return {name: len(taken) / sum(taken) for name, taken in seconds.items()}


def speeds(clips: list[Clip], pairs: int, size: str) -> None:
    found = []
    for clip in clips:
        progress(size, clip.name)
        motion = np.linalg.norm(tvl1(clip.frames[: pairs + 1], backend="native"), axis=1).mean()
        found.append({"motion": motion} | speed(clip, pairs))
    ratios = {name: [one[name] / one["cv2"] for one in found] for name in native.instruction_sets()}
    for one in found:
        one["ratio"] = one[PEER] / one["cv2"]
    middle = {key: median(one[key] for one in found) for key in found[0]}
    columns = ["motion", "cv2", PEER, "ratio", "opencv-cuda", "torch"]
    header = ["clip", "motion, px", "cv2", f"native, {PEER}", "ratio", "native, opencv-cuda", "torch, opencv-cuda"]
    # As long as all the clips take one after the other: slow ones count for more, as they do in a dataset.
    total = {key: harmonic_mean([one[key] for one in found]) for key in found[0] if key not in ("motion", "ratio")}
    total |= {"motion": mean(one["motion"] for one in found), "ratio": total[PEER] / total["cv2"]}
    names = [*(clip.name for clip in clips), "**median**", "**all together**"]
    rows = [
        [name, *(f"{one[key]:.{2 if key in ('motion', 'cv2', 'torch') else 1}f}" for key in columns)]
        for name, one in zip(names, [*found, middle, total], strict=True)
    ]
    print_table(f"Pairs per CPU-second, {size}, {pairs} pairs of each clip, one thread:", header, rows)
    sets = [
        [name, f"{middle[name]:.1f}", f"{median(ratios[name]):.1f}", f"{total[name] / total['cv2']:.1f}"]
        for name in ratios
    ]
    print_table(f"The same by instruction set, {PEER}:", ["native", "median", "ratio to cv2", "all together"], sets)


def thread_speeds(clips: list[Clip], pairs: int, counts: list[int], size: str) -> None:
    """Wall time; ours on `LONG` pairs of each clip, the slow ones on `pairs`."""
    solvers = {
        f"native, {PEER}": (ours("native", PEER), LONG),
        "native, opencv-cuda": (ours("native", "opencv-cuda"), LONG),
        "cv2, its own threads": (peer(), pairs),
        "torch, opencv-cuda": (ours("torch", "opencv-cuda"), pairs),
    }
    rows = []
    for name, (solve, most) in solvers.items():
        progress(size, "threads", name)
        rates = {count: [] for count in counts}
        for clip in clips:
            for count in counts:
                rates[count].append(timed(solve, clip.frames[: most + 1], count).pairs_a_second)
        gains = [last / first for first, last in zip(rates[counts[0]], rates[counts[-1]], strict=True)]
        rows.append([name, *(f"{median(rates[count]):.2f}" for count in counts), f"{median(gains):.2f}"])
    header = ["threads", *(str(count) for count in counts), f"{counts[-1]} / {counts[0]}"]
    print_table(f"Pairs per second of wall time, {size}:", header, rows)


def agreement(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Mean end-point distance in pixels, share of 8-bit levels that are equal, and within one."""
    apart = np.abs(quantise(a, BOUND).astype(int) - quantise(b, BOUND))
    return np.linalg.norm(a - b, axis=1).mean(), (apart == 0).mean(), (apart <= 1).mean()


def flows(frames: np.ndarray, changes: dict) -> dict[str, np.ndarray]:
    """Of each implementation, and on perturbed frames."""
    cpu, theirs = ours("native", PEER, changes), peer(changes)
    return {
        "cv2": theirs(frames, 1),
        "cv2, perturbed": theirs(perturbed(frames), 1),
        "native": cpu(frames, 1),
        "native, perturbed": cpu(perturbed(frames), 1),
        "native, opencv-cuda": ours("native", "opencv-cuda", changes)(frames, 1),
        "torch, opencv-cuda": ours("torch", "opencv-cuda", changes)(frames, 1),
    }


COMPARED = {
    f"native to cv2 ({PEER})": ("native", "cv2"),
    "cv2 to itself": ("cv2, perturbed", "cv2"),
    "native to itself": ("native, perturbed", "native"),
    "native to torch (opencv-cuda)": ("native, opencv-cuda", "torch, opencv-cuda"),
}


def agreements(clips: list[Clip], pairs: int, title: str) -> None:
    rows = []
    for setting, changes in SETTINGS.items():
        found: dict[str, list] = {name: [] for name in COMPARED}
        for clip in clips:
            progress("agreement", setting, clip.name)
            made = flows(clip.frames[: pairs + 1], changes)
            for name, (a, b) in COMPARED.items():
                found[name].append(agreement(made[a], made[b]))
        for name, each in found.items():
            distance, equal, within = zip(*each, strict=True)
            shares = f"{100 * median(equal):.2f} %", f"{100 * median(within):.3f} %"
            rows.append([f"{name}, {setting}", f"{median(distance):.2g}", f"{max(distance):.2g}", *shares])
    print_table(title, ["", "mean end-point distance, px", "largest", "levels equal", "within one"], rows)


def rubber_whale() -> None:
    """Middlebury's RubberWhale, where its folder lies beside the mirror: agreement, and error to the ground truth."""
    folder = Path(os.environ.get("REACTION_MIRROR", "")).parent / "flow_gt" / "middlebury"
    if not folder.is_dir():
        return
    frames = np.stack([cv2.imread(str(folder / f"rubberwhale{i}.png"), cv2.IMREAD_GRAYSCALE) for i in (1, 2)])
    truth = cv2.readOpticalFlow(str(folder / "flow_gt.flo")).transpose(2, 0, 1)
    known = (np.abs(truth) < 1e9).all(axis=0)
    agreements([Clip("RubberWhale", frames)], 1, "Agreement on Middlebury's RubberWhale:")
    solvers = {f"native, {semantics}": ours("native", semantics) for semantics in SEMANTICS} | {"cv2": peer()}
    rows = []
    for name, solve in solvers.items():
        fields = [solve(given, 1)[0] for given in (frames, perturbed(frames))]
        rows.append([name, *(f"{np.linalg.norm(field - truth, axis=0)[known].mean():.4f}" for field in fields)])
    print_table("End-point error to RubberWhale's ground truth, px:", ["", "8-bit frames", "perturbed frames"], rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=2, help="of each clip, for the slow implementations")
    parser.add_argument("--clips", type=int, default=25, help="real ones, where REACTION_MIRROR has them")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--size", nargs="+", default=["320x240", "340x256"], help="WIDTHxHEIGHT")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if reason := native.available() or opencv.available() or (PEER is None and "its OpenCV is of no known semantics"):
        raise SystemExit(f"benchmarks/flow.py: {reason}")
    print(machine())
    files = list(videos(options.clips))
    for i, size in enumerate(options.size):
        width, height = map(int, size.split("x"))
        clips = [texture((width, height), LONG + 1), *(real(*file, (width, height), LONG + 1) for file in files)]
        for solve in (ours("native", PEER), peer(), ours("torch", "opencv-cuda")):
            solve(clips[0].frames[:2, :32, :32], 1)  # loads what is loaded late
        speeds(clips, options.pairs, size)
        thread_speeds(clips, options.pairs, options.threads, size)
        if i == 0:
            title = f"Agreement, {size}; to itself: with float32 frames up to {NOISE:g} grey levels off:"
            agreements(clips, min(options.pairs, 2), title)
    rubber_whale()


if __name__ == "__main__":
    main()
