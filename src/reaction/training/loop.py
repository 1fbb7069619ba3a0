"""The training loop: SGD with momentum on clips, cross-entropy on the segment consensus (TSN, Wang et al. 2016, 3.2).

One loop for a CPU, one GPU, and several processes started by torchrun; Lightning Fabric places the model and the
precision. Everything random in an epoch is derived from (seed, epoch): the order of the videos, the clips, the dropout.
A checkpoint at an epoch's end is therefore all a killed run needs, and on the CPU it goes on bitwise.

A run may be a later round of a longer training: `first_epoch` says how many epochs went before, and schedule, order,
clips, dropout and the history's epochs go on from there. What a round does not take over is the optimiser's momentum
(and at `16-mixed` the scale of the loss): two rounds without momentum are bitwise one run of their epochs together, on
the CPU, and with it they differ by that alone.

A run may learn several tasks at once, datasets with a classifier each (`reaction.models.multitask`): loss and top-1 of
an epoch are then means over the videos of all of them, each among the classes of its own dataset.

Where videos have several classes the loss of one is the mean over the classes of the binary cross-entropy of each, as
PyTorch and the released code of SlowFast have it, and its top-1 is right when the best class is one of its own.

Held-out videos, where there are any, are measured after every epoch and change nothing about the training; the best
epoch is the one that classifies most of them (tsn-pytorch `main.py`), of equals the one with the least loss.

Choices the papers leave open or that differ from TSN's Caffe solver:
- weight decay on weights only; BatchNorm and biases have none (Caffe: `decay_mult: 0` for biases, 1 for BatchNorm),
  nor have the numbers of a weighted consensus: decay draws towards 0, and their neutral value is 1 / K;
- one learning rate for all parameters (Caffe: twice the rate for biases, five times for the flow net's first layer);
- the last, smaller batch of an epoch is used, unless it holds a single video, which BatchNorm cannot normalise;
- BatchNorm normalises the whole batch, or groups of `bn_group` videos, over all processes, as the loss is its mean: the
  number of processes changes rounding and, as each draws its own, dropout (Caffe: each GPU normalises its share);
- `16-mixed` becomes `bf16-mixed` on a CPU, with a warning of Fabric's.

At SIGTERM a step is finished, and its state saved: nothing is lost, and on the CPU it goes on bitwise from there too.
SIGKILL ends the process at once: what is lost is the work since the last checkpoint, at most one epoch and ten seconds.
`stop_after` ends a job cleanly, between epochs, before a scheduler does.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from reaction.models.multitask import Tasks
from reaction.models.weights import cpu_copy
from reaction.training import checkpoint
from reaction.training.batch_norm import Layout, regroup, shares, ungroup
from reaction.training.precise_bn import precise_statistics
from reaction.training.schedules import learning_rate

SECONDS_BETWEEN_CHECKPOINTS = 10
SECONDS_BETWEEN_LINES = 30


class StopEarly(RuntimeError):
    """The time allowed is used up, or SIGTERM came, and the state is saved: the same command goes on from there."""


class TrainingError(ValueError):
    """A training that cannot start, or went astray."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a run is optimised; the defaults are tsn-pytorch's for RGB on UCF-101.

    batch: videos per step over all processes.  bn_group: how many of them BatchNorm normalises together, None for all
    (a last one alone joins those before).  learning_rate, steps, factor, decay, warmup_*: see `learning_rate`.
    precise_bn: how many training clips the last statistics of BatchNorm are of, None for its moving average.
    clip_gradient: largest norm of the gradient, None for no limit.  precision: Lightning Fabric's name for it.
    holdout: share of the training groups that only measures; `train` gets them as a dataset of their own.
    epochs: this run's own.  first_epoch: how many the runs before it have trained, whose weights it starts from.
    """

    epochs: int = 80
    first_epoch: int = 0
    batch: int = 128
    learning_rate: float = 1e-3
    steps: Sequence[float] = (30, 60)
    factor: float = 0.1
    decay: str = "steps"
    warmup_epochs: float = 0.0
    warmup_from: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_gradient: float | None = 20.0
    precision: str = "32-true"
    holdout: float = 0.0
    bn_group: int | None = None
    precise_bn: int | None = None

    @property
    def last(self) -> int:
        """How many epochs the weights have been trained for when this run ends."""
        return self.first_epoch + self.epochs

    def rate(self, progress: float) -> float:
        """The learning rate after `progress` epochs."""
        warmup = {"warmup_epochs": self.warmup_epochs, "warmup_from": self.warmup_from}
        steps = {"steps": self.steps, "factor": self.factor, "decay": self.decay, "epochs": self.last}
        return learning_rate(progress, base=self.learning_rate, **steps, **warmup)


def train(
    model: nn.Module,
    clips: Dataset,
    recipe: Recipe,
    *,
    seed: int,
    checkpoints: Path,
    identity: str,
    heldout: Dataset | None = None,
    tasks: Tasks | None = None,
    workers: int = 0,
    at_once: int | None = None,
    stop_after: float | None = None,
    report: Callable[[str], None] = print,
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Train `model` in place; the history, and with `heldout` the weights of its best epoch (else none).

    A row per epoch: epoch, loss, top1 (0 to 1), with `heldout` val_loss and val_top1, learning_rate, seconds. `clips`
    has `set_epoch` and gives items with `clip` (K, C, H, W), `label`, a number or zeros and ones (classes,), and
    perhaps `map` (K, 1, H, W), as does `heldout`.
    With `tasks` the items of `clips` have a `task` as well, and those of `heldout` belong to the first one.
    Where BatchNorm has groups, they go through the network `at_once` videos at a time, if the memory is not for all.
    A state in `checkpoints` with the same `identity` is continued; `stop_after` is in minutes. Raises StopEarly when
    the next epoch would pass it or at SIGTERM, TrainingError when the loss is not finite, CheckpointError for another
    run's state.
    """
    fabric, layout = launch(recipe.precision), Layout()
    if fabric.world_size > 1 or recipe.bn_group is not None:
        regroup(model, layout)
    groups = parameter_groups(model, recipe.weight_decay)
    sgd = torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)
    network, optimizer = fabric.setup(model, sgd)
    session = Session(State(model, sgd, fabric), checkpoints / checkpoint.LAST, identity, stop_after, report)
    with session.epochs(recipe.first_epoch, recipe.last) as epochs:
        for epoch in epochs:
            clips.set_epoch(epoch)
            batches = epoch_batches(len(clips), recipe.batch, seed=seed, epoch=epoch)
            mine = [shares(batch, fabric.world_size, recipe.bn_group)[fabric.global_rank] for batch in batches]
            network.train()
            torch.manual_seed(derived_seed(seed, epoch, fabric.global_rank))  # dropout
            progress = session.begin(epoch, len(batches), ("loss", "top1"))
            parts = [share.parts(at_once) for share in mine[progress.step :]]
            loaded = load(clips, [part.videos for some in parts for part in some], workers, fabric)
            for step, some in enumerate(parts, progress.step):
                rate = recipe.rate(epoch + (step + 0.5) / len(batches))  # mid-step: a warm-up's first step moves
                for group in sgd.param_groups:
                    group["lr"] = rate
                sums, images = torch.zeros(3, device=fabric.device), 0
                for layout.share in some:
                    item = next(loaded)
                    with fabric.no_backward_sync(network, enabled=layout.share is not some[-1]):
                        logits, labels = _own(network(item["clip"], item.get("map")), item, tasks)  # (B, classes), (B,)
                        losses = video_losses(logits, labels)  # (B,)
                        mean = losses.sum() * layout.counts / len(batches[step])
                        fabric.backward(mean * fabric.world_size)  # DDP takes the mean over processes
                    sums += _sums(losses.detach(), logits.detach(), labels)
                    images += item["clip"].shape[0] * item["clip"].shape[1]
                layout.end_step()
                if recipe.clip_gradient is not None:
                    fabric.clip_gradients(network, optimizer, max_norm=recipe.clip_gradient, error_if_nonfinite=False)
                optimizer.step()
                optimizer.zero_grad()
                session.count(progress, sums, images, layout.counts)
            measured = {} if heldout is None else measure(model, heldout, recipe.batch, workers, fabric, tasks)
            session.end(progress, rate, measured)
    return session.state.history, session.state.best


@torch.no_grad()
def measure(
    model: nn.Module, heldout: Dataset, batch: int, workers: int, fabric: Fabric, tasks: Tasks | None = None
) -> dict[str, float]:
    """Mean loss `val_loss` and `val_top1` (0 to 1) of `heldout`, each process measuring its share.

    Of several `tasks` it is the first one's videos that are held out.
    """
    model.eval()  # the caller's next epoch sets the training mode again
    mine = list(range(len(heldout)))[fabric.global_rank :: fabric.world_size]
    size = max(1, batch // fabric.world_size)
    precision, sums = fabric.strategy.precision, torch.zeros(3, device=fabric.device)  # loss, correct, videos
    for item in load(heldout, [mine[i : i + size] for i in range(0, len(mine), size)], workers, fabric):
        clip, maps = precision.convert_input((item["clip"], item.get("map")))
        with precision.forward_context():
            logits = model(clip, maps).float()  # (B, classes)
        logits, labels = _own(logits, item | {"task": torch.zeros_like(item["label"])}, tasks)
        losses = video_losses(logits, labels)  # (B,)
        sums += _sums(losses, logits, labels)
    loss, correct, videos = fabric.all_reduce(sums, reduce_op="sum").tolist()
    return {"val_loss": loss / videos, "val_top1": correct / videos}


def settle(model: nn.Module, clips: Dataset, recipe: Recipe, *, seed: int, workers: int = 0) -> None:
    """Replace the moving statistics of a trained model by those of `recipe.precise_bn` clips of one more epoch.

    One process does, batch by batch as BatchNorm saw them in training, so that the number of processes changes nothing.
    """
    ungroup(model)  # a batch is one group here
    clips.set_epoch(recipe.last)
    size = recipe.bn_group or recipe.batch
    batches = epoch_batches(len(clips), size, seed=seed, epoch=recipe.last)[: -(-recipe.precise_bn // size)]
    where = next(model.parameters()).device
    loader = DataLoader(clips, batch_sampler=batches, num_workers=workers, generator=torch.Generator())
    precise_statistics(model.train(), loader, lambda item: _look(model, item, where))


def _look(model: nn.Module, item: dict[str, Tensor], where: torch.device) -> None:
    maps = item.get("map")
    model(item["clip"].to(where), None if maps is None else maps.to(where))


def video_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy (B,) of logits (B, classes), or of (B, steps, classes) the mean over a network's steps.

    It is that of a softmax for labels (B,), and of a sigmoid per class, their mean, for zeros and ones (B, classes).
    """
    if labels.ndim == 2:
        steps = labels if logits.ndim == 2 else labels[:, None].expand_as(logits)
        return F.binary_cross_entropy_with_logits(logits, steps, reduction="none").flatten(1).mean(dim=1)
    if logits.ndim == 2:
        return F.cross_entropy(logits, labels, reduction="none")
    steps = labels[:, None].expand(logits.shape[:2])  # (B, steps)
    return F.cross_entropy(logits.transpose(1, 2), steps, reduction="none").mean(dim=1)


def best_row(history: Sequence[dict[str, float]]) -> dict[str, float]:
    """The best epoch's row of a history with held-out columns; of equal epochs the first."""
    return max(history, key=lambda row: (row["val_top1"], -row["val_loss"]))


@dataclass
class State:
    """A training between two epochs, or two steps of one: what a killed one goes on from."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    fabric: Fabric
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    within: list[dict] | None = None  # of an epoch that is not at its end: what each process was about to do

    def add(self, row: dict[str, float]) -> None:
        """Enter an epoch, and keep its weights if it is the best so far."""
        if not all(np.isfinite(row[key]) for key in ("loss", "val_loss") if key in row):
            epoch = row["epoch"]
            raise TrainingError(f"the loss of epoch {epoch} is not finite: lower learning_rate or set clip_gradient")
        self.history.append(row)
        if "val_loss" in row and best_row(self.history) is row:
            self.best = cpu_copy(self.model)

    def save(self, path: Path, identity: str, *, within: "Progress | None" = None) -> None:
        """Write the state to `path`; `within` is how far an epoch came that is not at its end."""
        random = {"random": _generator(self.fabric).get_state()}
        here = None if within is None else _everywhere(within.state() | random, self.fabric)
        scaler = self.fabric.strategy.precision.state_dict()  # empty but for fp16
        networks = {"model": self.model.state_dict(), "best": self.best}
        state = networks | {"optimizer": self.optimizer.state_dict(), "scaler": scaler, "history": self.history}
        if self.fabric.is_global_zero:
            checkpoint.save(path, state | {"within": here}, identity=identity)
        self.fabric.barrier()

    def resume(self, path: Path, identity: str) -> None:
        """Go back to what `save` wrote at `path`, if it did."""
        state = checkpoint.load(path, identity=identity)
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        self.history, self.best = state["history"], state["best"]
        self.within = state.get("within")  # older states have none

    def enter(self, progress: "Progress") -> None:
        """Go on within the epoch, if it was left on the way."""
        here, self.within = self.within, None
        if here is None:
            return
        if len(here) == self.fabric.world_size:
            _generator(self.fabric).set_state(here[self.fabric.global_rank]["random"])
        progress.resume(here, self.fabric)


@dataclass
class Session:
    """The epochs of a training: counted, reported and saved at `path`, and when to stop between two of them.

    `stop_after` is in minutes. See `train` for what is raised.
    """

    state: State
    path: Path
    identity: str
    stop_after: float | None
    report: Callable[[str], None]
    started: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)
    last: int = 0
    _terminated: Callable[[], bool] = bool

    @contextmanager
    def epochs(self, first: int, last: int) -> Iterator[range]:
        """Those of `first` to `last` that a saved training has not been through; SIGTERM then ends a step first."""
        self.state.resume(self.path, self.identity)
        self.last = last
        with _until_sigterm() as self._terminated:
            yield range(first + len(self.state.history), last)

    def begin(self, epoch: int, steps: int, names: Sequence[str]) -> "Progress":
        """Where an epoch of `steps` stands, to be gone on from there, with sums called `names`."""
        report = self.report if self.state.fabric.is_global_zero else _silent
        progress = Progress(epoch, self.last, steps, names, report)
        self.state.enter(progress)
        return progress

    def count(self, progress: "Progress", sums: Tensor, images: int, counts: float = 1.0) -> None:
        """Enter a step (`Progress.add`); at SIGTERM save the training and raise StopEarly."""
        progress.add(sums, images, counts)
        if progress.step < progress.steps and _anywhere(self._terminated(), self.state.fabric):
            self.state.save(self.path, self.identity, within=progress)
            raise StopEarly(f"SIGTERM in epoch {progress.epoch + 1} of {self.last}: run the same command to go on")

    def end(self, progress: "Progress", rate: float, measured: dict[str, float] | None = None) -> None:
        """Enter an epoch, save it if it is time, and raise StopEarly if there is none left."""
        fabric, epoch = self.state.fabric, progress.epoch
        self.state.add(progress.row(fabric, rate, measured or {}))
        row = self.state.history[-1]
        progress.line(row)
        late = _out_of_time(self.started, row["seconds"], self.stop_after) or self._terminated()
        stopping, finished = _anywhere(late, fabric), epoch + 1 == self.last
        if finished or stopping or _anywhere(time.monotonic() - self.saved >= SECONDS_BETWEEN_CHECKPOINTS, fabric):
            self.state.save(self.path, self.identity)
            self.saved = time.monotonic()
        if stopping and not finished:
            raise StopEarly(f"stopped after epoch {epoch + 1} of {self.last}: run the same command to go on")


def launch(precision: str) -> Fabric:
    """Fabric on the GPU if there is one, with as many processes as torchrun started (one without it)."""
    processes, here = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    strategy = "ddp" if processes > 1 else "auto"
    fabric = Fabric(
        accelerator="auto", devices=here, num_nodes=processes // here, strategy=strategy, precision=precision
    )
    fabric.launch()
    return fabric


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two SGD groups: weights with decay; BatchNorm, biases, consensus (all parameters of one dimension) without."""
    parameters = list(model.parameters())
    decayed = [p for p in parameters if p.ndim > 1]
    plain = [p for p in parameters if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def epoch_batches(count: int, batch: int, *, seed: int, epoch: int) -> list[list[int]]:
    """The epoch's batches over all processes: a permutation of range(count), cut; a last batch of one is dropped."""
    if count < 2 or batch < 2:
        raise TrainingError(f"training needs batches of at least 2 videos, got {count} videos and a batch of {batch}")
    generator = torch.Generator().manual_seed(derived_seed(seed, epoch))
    order = torch.randperm(count, generator=generator).tolist()
    batches = [order[i : i + batch] for i in range(0, count, batch)]
    return batches if len(batches[-1]) > 1 else batches[:-1]


class Progress:
    """Sums of one epoch, and lines about it: one at its end, and one each half minute inside a long one."""

    def __init__(self, epoch: int, last: int, steps: int, names: Sequence[str], report: Callable[[str], None]) -> None:
        self.epoch, self.last, self.steps, self.names, self.report = epoch, last, steps, names, report
        self.started = self.told = time.monotonic()
        self.step = self.images = 0
        self.sums: Tensor | float = 0.0  # a sum for each name, videos: on the device, which is not waited for

    def add(self, sums: Tensor, images: int, counts: float = 1.0) -> None:
        """Count one step: its sums, the number of videos last; `counts` is 0 where they are a stand-in's."""
        self.sums = self.sums + counts * sums
        self.step += 1
        self.images += images
        if counts and time.monotonic() - self.told >= SECONDS_BETWEEN_LINES:
            self.line(self._means(self.sums))

    def row(self, fabric: Fabric, rate: float, measured: dict[str, float]) -> dict[str, float]:
        """The epoch's history row, over all processes; `rate` is the last step's learning rate."""
        self.images *= fabric.world_size
        means = self._means(fabric.all_reduce(self.sums, reduce_op="sum"))
        return {"epoch": self.epoch, **means, **measured, "learning_rate": rate, "seconds": self._seconds()}

    def state(self) -> dict:
        """What `resume` goes on from."""
        return {"step": self.step, "sums": self.sums.cpu(), "images": self.images, "seconds": self._seconds()}

    def resume(self, processes: list[dict], fabric: Fabric) -> None:
        """Go on from every process's `state`: the first one counts what all of them have seen."""
        self.step, self.images = processes[0]["step"], processes[0]["images"]
        seen = sum(one["sums"] for one in processes).to(fabric.device)
        self.sums = seen if fabric.is_global_zero else torch.zeros_like(seen)
        self.started -= processes[0]["seconds"]

    def _means(self, sums: Tensor) -> dict[str, float]:
        *values, videos = sums.tolist()
        return {name: value / videos for name, value in zip(self.names, values, strict=True)}

    def _seconds(self) -> float:
        return round(time.monotonic() - self.started, 3)

    def line(self, row: dict[str, float]) -> None:
        """Report where the run stands, its speed and the time left at that speed."""
        self.told = time.monotonic()
        elapsed = max(self.told - self.started, 1e-9)
        left = elapsed / self.step * (self.steps * (self.last - self.epoch) - self.step)
        where = f"epoch {self.epoch + 1}/{self.last} step {self.step}/{self.steps}"
        numbers = "  ".join(_shown(name, row[name]) for name in self.names)
        if "val_top1" in row:
            numbers += f"  held out {row['val_loss']:.4f}, {100 * row['val_top1']:.1f} %"
        self.report(f"{where}  {numbers}  {self.images / elapsed:.0f} images/s  {_clock(left)} left")


def _shown(name: str, value: float) -> str:
    return f"top-1 {100 * value:.1f} %" if name == "top1" else f"{name} {value:.4f}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _silent(line: str) -> None:
    pass


def derived_seed(*numbers: int) -> int:
    """A seed for one use, from the run's and what tells the use from others."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)  # torch takes signed 64 bits


def _own(logits: Tensor, item: dict[str, Tensor], tasks: Tasks | None) -> tuple[Tensor, Tensor]:
    """The logits (B, classes) that an item's videos are classified by, and the right ones of their columns (B,)."""
    return (logits, item["label"]) if tasks is None else tasks.own(logits, item["label"], item["task"])


def _sums(losses: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    last = logits if logits.ndim == 2 else logits[:, -1]  # of a network that answers at every step
    best = last.argmax(dim=1)
    correct = (best == labels if labels.ndim == 1 else labels.gather(1, best[:, None]) > 0).sum()
    return torch.stack([losses.sum(), correct, correct.new_tensor(len(losses))])


@contextmanager
def _until_sigterm() -> Iterator[Callable[[], bool]]:
    """Tells whether SIGTERM came meanwhile, which then ends nothing by itself."""
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came.is_set  # Python lets no other thread handle signals
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.set())
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def _anywhere(fact: bool, fabric: Fabric) -> bool:
    """Whether it is so in any process: all must do the same."""
    if fabric.world_size == 1:
        return fact
    return bool(fabric.all_reduce(torch.tensor(float(fact), device=fabric.device), reduce_op="max"))


def _everywhere(state: dict, fabric: Fabric) -> list[dict]:
    """Every process's `state`, by rank."""
    found = [state] * fabric.world_size
    if fabric.world_size > 1:
        torch.distributed.all_gather_object(found, state)
    return found


def _generator(fabric: Fabric) -> torch.Generator:
    """The generator that dropout draws from."""
    on_gpu = fabric.device.type == "cuda"
    return torch.cuda.default_generators[fabric.device.index] if on_gpu else torch.default_generator


def _ignore_sigterm(worker: int) -> None:
    # A scheduler signals every process of a job; without its workers a training could not finish its step.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def load(
    clips: Dataset, batches: list[list[int]], workers: int, fabric: Fabric, collate: Callable | None = None
) -> Iterator[Any]:
    """Batches of items on the device, made by `collate`, if it is not PyTorch's."""
    # A loader per epoch: worker processes copy the dataset, and with it the epoch it is set to.
    generator = torch.Generator()  # without one the loader draws from the global stream that dropout uses
    on_gpu = fabric.device.type == "cuda"
    options = {"pin_memory": on_gpu, "generator": generator, "worker_init_fn": _ignore_sigterm}
    loader = DataLoader(clips, batch_sampler=batches, num_workers=workers, collate_fn=collate, **options)
    for item in loader:
        yield fabric.to_device(item)


def _out_of_time(started: float, epoch_seconds: float, stop_after: float | None) -> bool:
    return stop_after is not None and time.monotonic() - started + epoch_seconds > 60 * stop_after
