"""The loop on a small network. Run as a script, this file trains in the folder named on the command line."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from reaction.models.tsn import TSN
from reaction.training import checkpoint, loop
from reaction.training.loop import Recipe, StopEarly, TrainingError, best_row, epoch_batches, parameter_groups, train

EPOCHS = 6


class Clips(torch.utils.data.Dataset):
    """Noise around one pattern per class; the noise depends on (seed, epoch, index) as that of TrainClips does."""

    def __init__(self, count=12, classes=3, noise=0.5, pause=0.0, seed=0):
        self.count, self.classes, self.noise, self.pause, self.seed = count, classes, noise, pause, seed
        self.epoch = 0
        self.patterns = np.random.default_rng(0).normal(size=(classes, 2, 3, 8, 8))

    def __len__(self):
        return self.count

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __getitem__(self, index):
        time.sleep(self.pause)
        noise = np.random.default_rng([self.seed, self.epoch, index]).normal(scale=self.noise, size=(2, 3, 8, 8))
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
    model, history, _ = run_measured(folder, model, clips, **({"heldout": None} | options))
    return model, history


def run_measured(folder, model=None, clips=None, **options):
    """The same with held-out clips; the best weights come third."""
    torch.set_num_threads(1)
    model = model or net()
    usual = {"seed": 3, "identity": "run-1", "recipe": recipe(), "heldout": heldout(), "report": lambda line: None}
    settings = usual | options
    history, best = train(model, clips or Clips(), settings.pop("recipe"), checkpoints=Path(folder), **settings)
    return model, history, best


def heldout():
    return Clips(count=7, noise=2.0, seed=1)


def same_weights(a, b):
    return same_tensors(a.state_dict(), b.state_dict())


def same_tensors(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


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


def test_decay_spares_the_numbers_of_a_weighted_consensus(tmp_path):
    model = TSN(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3)), consensus="weighted", segments=2)
    decayed, plain = parameter_groups(model, 5e-4)
    assert [p is model.backbone[2].weight for p in decayed["params"]] == [True]
    assert any(p is model.segment_weights for p in plain["params"])
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.zero_()  # logits of zero give the consensus no gradient: decay alone could move it
    run(tmp_path, model, Clips(count=4), recipe=recipe(epochs=1, weight_decay=1.0, warmup_epochs=0.0))
    assert model.segment_weights.tolist() == [0.5, 0.5]
    assert model.backbone[2].bias.abs().max() > 0


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
    whole, history, best = run_measured(tmp_path / "whole")
    command = [sys.executable, __file__, str(tmp_path / "killed")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("epoch 3/"):
                process.kill()
    assert process.returncode == -9
    saved = checkpoint.load(tmp_path / "killed/last.pt", identity="run-1")
    assert 2 <= len(saved["history"]) < EPOCHS
    model, resumed, resumed_best = run_measured(tmp_path / "killed", net(seed=9))
    assert same_weights(whole, model)
    assert same_tensors(best, resumed_best)
    assert without_seconds(resumed) == without_seconds(history)


def test_measuring_held_out_clips_changes_nothing_about_the_training(tmp_path):
    plain, history = run(tmp_path / "plain")
    measured, columns, _ = run_measured(tmp_path / "measured")
    assert same_weights(plain, measured)
    assert list(columns[0]) == ["epoch", "loss", "top1", "val_loss", "val_top1", "learning_rate", "seconds"]
    rest = [{key: value for key, value in row.items() if not key.startswith("val_")} for row in columns]
    assert without_seconds(rest) == without_seconds(history)


def test_the_held_out_columns_are_those_of_the_epochs_weights_in_evaluation_mode(tmp_path):
    model, history, _ = run_measured(tmp_path)
    model.eval()
    clips = [heldout()[k] for k in range(7)]
    logits = torch.cat([model(item["clip"][None]) for item in clips])
    labels = torch.stack([item["label"] for item in clips])
    assert history[-1]["val_loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert history[-1]["val_top1"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())


def test_the_best_weights_are_those_the_training_had_at_its_best_epoch(tmp_path):
    shaky = recipe(learning_rate=0.4, steps=(), clip_gradient=None)
    model, history, best = run_measured(tmp_path / "whole", recipe=shaky)
    epoch = best_row(history)["epoch"]
    assert epoch < EPOCHS - 1
    assert not same_tensors(best, model.state_dict())
    stopped, _, _ = run_measured(tmp_path / "stopped", recipe=replace(shaky, epochs=epoch + 1))
    assert same_tensors(best, stopped.state_dict())


def test_the_best_epoch_is_right_most_often_then_surest_then_first():
    rows = [(0.5, 1.0), (0.7, 2.0), (0.7, 1.5), (0.6, 0.1), (0.7, 1.5)]
    history = [{"epoch": k, "val_top1": top1, "val_loss": loss} for k, (top1, loss) in enumerate(rows)]
    assert best_row(history)["epoch"] == 2


def rounds(folder, *, carried=(), **changes):
    """Two rounds of three epochs; the second starts from the first's weights and from what of its state is carried."""
    first, before, _ = run_measured(folder / "first", recipe=recipe(**(changes | {"epochs": 3})))
    second = net(seed=9)
    second.load_state_dict(first.state_dict())
    if carried:
        state = checkpoint.load(folder / "first/last.pt", identity="run-1")
        state = {key: value for key, value in state.items() if key != "identity"} | {"history": [], "best": {}}
        checkpoint.save(folder / "second/last.pt", state, identity="run-1")
    going_on = recipe(**(changes | {"epochs": 3, "first_epoch": 3}))
    _, after, best = run_measured(folder / "second", second, recipe=going_on)
    return second, before + after, best


def test_two_rounds_without_momentum_are_bitwise_one_run(tmp_path):
    whole, history, _ = run_measured(tmp_path / "whole", recipe=recipe(momentum=0.0))
    parts, joined, best = rounds(tmp_path, momentum=0.0)
    assert same_weights(whole, parts)
    assert without_seconds(joined) == without_seconds(history)
    assert best_row(joined[3:])["epoch"] >= 3
    assert best.keys() == parts.state_dict().keys()


def test_what_a_round_does_not_take_over_is_the_momentum_and_nothing_else(tmp_path):
    whole, history, _ = run_measured(tmp_path / "whole")
    without, joined, _ = rounds(tmp_path / "without")
    carrying, _, _ = rounds(tmp_path / "carrying", carried=("optimizer",))
    assert same_weights(whole, carrying)
    assert not same_weights(whole, without)
    assert [row["learning_rate"] for row in joined] == [row["learning_rate"] for row in history]


def test_a_later_round_stopped_again_and_again_is_bitwise_uninterrupted(tmp_path):
    later = recipe(epochs=3, first_epoch=3)
    whole, history, best = run_measured(tmp_path / "whole", recipe=later)
    stops = []
    for attempt in range(3):
        try:
            model, resumed, resumed_best = run_measured(
                tmp_path / "parts", net(seed=attempt), recipe=later, stop_after=0
            )
        except StopEarly as stop:
            stops.append(str(stop).split(":")[0])
    assert stops == ["stopped after epoch 4 of 6", "stopped after epoch 5 of 6"]
    assert same_weights(whole, model)
    assert same_tensors(best, resumed_best)
    assert without_seconds(resumed) == without_seconds(history)
    assert [row["epoch"] for row in resumed] == [3, 4, 5]


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
    run(tmp_path / "later", recipe=recipe(epochs=2, first_epoch=4), report=lines.append)
    assert [line.split(" step")[0] for line in lines[2:]] == ["epoch 5/6", "epoch 6/6"]
    assert lines[3].endswith("0:00:00 left")


if __name__ == "__main__":
    loop.SECONDS_BETWEEN_CHECKPOINTS = 0
    run_measured(sys.argv[1], net(), Clips(pause=0.02), report=lambda line: print(line, flush=True))


def test_a_network_that_answers_at_every_step_has_the_mean_loss_of_its_steps():
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 7, 3), torch.tensor([0, 1, 2, 1, 0])
    steps = [torch.nn.functional.cross_entropy(logits[:, k], labels, reduction="none") for k in range(7)]
    torch.testing.assert_close(loop.video_losses(logits, labels), torch.stack(steps).mean(0))
    right = (logits[:, -1].argmax(1) == labels).sum().item()  # it is the last step that says what a video is
    assert loop._sums(loop.video_losses(logits, labels), logits, labels)[1].item() == right
