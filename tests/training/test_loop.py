"""The loop on a small network. Run as a script, this file trains in the folder named on the command line."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from reaction.training import checkpoint, loop
from reaction.training.loop import Recipe, StopEarly, TrainingError, epoch_batches, parameter_groups, train

EPOCHS = 6


class Clips(torch.utils.data.Dataset):
    """Noise around one pattern per class; the noise depends on (seed, epoch, index) as that of TrainClips does."""

    def __init__(self, count=12, classes=3, noise=0.5, pause=0.0):
        self.count, self.classes, self.noise, self.pause, self.epoch = count, classes, noise, pause, 0
        self.patterns = np.random.default_rng(0).normal(size=(classes, 2, 3, 8, 8))

    def __len__(self):
        return self.count

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __getitem__(self, index):
        time.sleep(self.pause)
        noise = np.random.default_rng([0, self.epoch, index]).normal(scale=self.noise, size=(2, 3, 8, 8))
        label = index % self.classes
        clip = torch.tensor(self.patterns[label] + noise, dtype=torch.float32)
        return {"clip": clip, "label": torch.tensor(label), "index": torch.tensor(index)}


class Net(nn.Module):
    """Convolution, BatchNorm, dropout, linear: everything whose state a resumed run must get right."""

    def __init__(self, classes=3, dropout=0.3):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(8, classes)

    def forward(self, clip, maps=None):
        x = self.bn(self.conv(clip.flatten(0, 1))).relu().mean((2, 3))
        return self.fc(self.drop(x)).unflatten(0, clip.shape[:2]).mean(1)


def net(seed=0, **options):
    torch.manual_seed(seed)
    return Net(**options)


def recipe(**changes):
    usual = {"epochs": EPOCHS, "batch": 4, "learning_rate": 0.05, "steps": (4,), "warmup_epochs": 1.5}
    return Recipe(**(usual | changes))


def run(folder, model=None, clips=None, **options):
    torch.set_num_threads(1)
    model = model or net()
    settings = {"seed": 3, "identity": "run-1", "report": lambda line: None} | options
    history = train(model, clips or Clips(), settings.pop("recipe", recipe()), checkpoints=Path(folder), **settings)
    return model, history


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def without_seconds(history):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


def test_learns_eight_samples_by_heart(tmp_path):
    clips = Clips(count=8, classes=4, noise=0.0)
    steady = recipe(epochs=60, steps=(), learning_rate=0.1)
    _, history = run(tmp_path, net(classes=4, dropout=0.0), clips, recipe=steady)
    assert history[-1]["top1"] == 1.0
    assert history[-1]["loss"] < 0.1 < history[0]["loss"]


def test_one_step_is_that_of_a_hand_written_sgd(tmp_path):
    model, clips = net(dropout=0.0), Clips(count=4)
    plain = recipe(epochs=1, warmup_epochs=0.0, steps=(), clip_gradient=None, weight_decay=0.1)
    reference = net(dropout=0.0)
    order = epoch_batches(4, 4, seed=3, epoch=0)[0]
    items = [clips[index] for index in order]
    logits = reference(torch.stack([item["clip"] for item in items]))
    nn.functional.cross_entropy(logits, torch.stack([item["label"] for item in items])).backward()
    run(tmp_path, model, clips, recipe=plain)
    for (name, new), old in zip(model.named_parameters(), reference.parameters(), strict=True):
        decay = 0.1 if name in ("conv.weight", "fc.weight") else 0.0
        expected = old - 0.05 * (old.grad + decay * old)
        torch.testing.assert_close(new, expected, rtol=1e-5, atol=1e-7)


def test_clipped_gradient_bounds_the_first_step(tmp_path):
    start = net()
    settings = {"epochs": 1, "warmup_epochs": 0.0, "weight_decay": 0.0, "steps": ()}
    clipped, _ = run(tmp_path / "a", net(), Clips(count=4), recipe=recipe(**settings, clip_gradient=1e-3))
    free, _ = run(tmp_path / "b", net(), Clips(count=4), recipe=recipe(**settings, clip_gradient=None))

    def distance(model):
        pairs = zip(model.parameters(), start.parameters(), strict=True)
        return torch.sqrt(sum((a - b).square().sum() for a, b in pairs)).item()

    assert distance(clipped) == pytest.approx(0.05 * 1e-3, rel=1e-2)
    assert distance(free) > 10 * distance(clipped)


def test_decay_spares_batch_norm_and_biases():
    model = net()
    decayed, plain = parameter_groups(model, 5e-4)
    assert [p is q for p, q in zip(decayed["params"], [model.conv.weight, model.fc.weight], strict=True)] == [True] * 2
    assert len(plain["params"]) == 3
    assert (decayed["weight_decay"], plain["weight_decay"]) == (5e-4, 0.0)


def test_an_epoch_holds_every_video_once_in_an_order_of_its_own():
    first, again, other = (epoch_batches(10, 4, seed=1, epoch=e) for e in (0, 0, 1))
    assert sorted(index for batch in first for index in batch) == list(range(10))
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert first == again != other


def test_a_last_batch_of_one_is_dropped_and_others_are_kept():
    assert [len(batch) for batch in epoch_batches(9, 4, seed=0, epoch=0)] == [4, 4]
    assert [len(batch) for batch in epoch_batches(3, 4, seed=0, epoch=0)] == [3]
    with pytest.raises(TrainingError, match="1 videos"):
        epoch_batches(1, 4, seed=0, epoch=0)


def test_the_history_follows_the_schedule(tmp_path):
    _, history = run(tmp_path)
    steps = 12 // 4
    last = [epoch + (steps - 0.5) / steps for epoch in range(EPOCHS)]
    expected = [0.05 * min(1, at / 1.5) * (0.1 if at >= 4 else 1) for at in last]
    assert [row["learning_rate"] for row in history] == pytest.approx(expected)
    assert [row["epoch"] for row in history] == list(range(EPOCHS))


def test_the_same_seed_gives_the_same_weights_with_workers_too(tmp_path):
    model, _ = run(tmp_path / "a", recipe=recipe(epochs=2))
    again, _ = run(tmp_path / "b", recipe=recipe(epochs=2), workers=2)
    other, _ = run(tmp_path / "c", recipe=recipe(epochs=2), seed=4)
    assert same_weights(model, again)
    assert not same_weights(model, other)


def test_stopped_for_time_and_continued_is_bitwise_uninterrupted(tmp_path):
    whole, history = run(tmp_path / "whole")
    stops = 0
    for attempt in range(EPOCHS):
        try:
            model, resumed = run(tmp_path / "parts", net(seed=attempt), stop_after=0)
            break
        except StopEarly:
            stops += 1
    assert stops == EPOCHS - 1
    assert same_weights(whole, model)
    assert without_seconds(resumed) == without_seconds(history)


def test_killed_in_an_epoch_and_continued_is_bitwise_uninterrupted(tmp_path):
    whole, history = run(tmp_path / "whole")
    command = [sys.executable, __file__, str(tmp_path / "killed")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("epoch 3/"):
                process.kill()
    assert process.returncode == -9
    saved = checkpoint.load(tmp_path / "killed/last.pt", identity="run-1")
    assert 2 <= len(saved["history"]) < EPOCHS
    model, resumed = run(tmp_path / "killed", net(seed=9))
    assert same_weights(whole, model)
    assert without_seconds(resumed) == without_seconds(history)


def test_a_finished_state_returns_at_once(tmp_path):
    model, history = run(tmp_path, recipe=recipe(epochs=2))
    again, same = run(tmp_path, net(seed=9), recipe=recipe(epochs=2))
    assert same == history
    assert same_weights(model, again)


def test_another_runs_checkpoint_is_refused(tmp_path):
    run(tmp_path, recipe=recipe(epochs=1))
    with pytest.raises(checkpoint.CheckpointError, match=r"run-1.*run-2"):
        run(tmp_path, identity="run-2")


def test_a_loss_that_explodes_is_an_error(tmp_path):
    with pytest.raises(TrainingError, match="not finite"):
        run(tmp_path, recipe=recipe(learning_rate=1e30, clip_gradient=None, warmup_epochs=0.0))


def test_half_precision_learns_too(tmp_path):
    clips = Clips(count=8, classes=4, noise=0.0)
    _, history = run(tmp_path, net(classes=4, dropout=0.0), clips, recipe=recipe(epochs=30, precision="bf16-mixed"))
    assert history[-1]["loss"] < history[0]["loss"]


def test_the_progress_line_says_where_how_well_how_fast_and_how_long(tmp_path):
    lines = []
    run(tmp_path, recipe=recipe(epochs=2), report=lines.append)
    assert len(lines) == 2
    assert lines[0].startswith("epoch 1/2 step 3/3  loss ")
    assert "top-1" in lines[0]
    assert "images/s" in lines[0]
    assert lines[1].endswith("0:00:00 left")


if __name__ == "__main__":
    loop.SECONDS_BETWEEN_CHECKPOINTS = 0
    run(sys.argv[1], clips=Clips(pause=0.02), report=lambda line: print(line, flush=True))
