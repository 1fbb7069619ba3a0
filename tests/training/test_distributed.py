"""One process and several train the same network. Run by torchrun, this file is one of the processes.

Real processes with gloo on the CPU, started once for all variants: starting is what takes the time.
"""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from reaction.files import read_json
from reaction.training import checkpoint, loop
from reaction.training.loop import Recipe, StopEarly, train
from reaction.training.run import train_run

BIN = Path(sys.executable).parent
CLASSES, VIDEOS, BATCH, EPOCHS = 3, 14, 6, 4  # batches of 6, 6 and 2: with three processes one has nothing to do


class Clips(torch.utils.data.Dataset):
    """Noise around one pattern per class, of (seed, epoch, index); `read` says who asked for what."""

    def __init__(self, count=VIDEOS, seed=0):
        self.count, self.seed, self.epoch, self.read = count, seed, 0, []

    def __len__(self):
        return self.count

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __getitem__(self, index):
        self.read.append((self.epoch, index))
        noise, label = torch.Generator().manual_seed(1000 * self.epoch + index + 77 * self.seed), index % CLASSES
        pattern = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(label))
        clip = pattern + 0.5 * torch.randn(2, 3, 8, 8, generator=noise)
        return {"clip": clip, "label": torch.tensor(label), "index": torch.tensor(index)}


class Net(nn.Module):
    """Two normalised layers, whose statistics may be frozen, and dropout, which may be 0."""

    def __init__(self, frozen, dropout=0.0):
        super().__init__()
        self.first, self.first_bn = nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8)
        self.second, self.second_bn = nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.drop, self.fc, self.frozen = nn.Dropout(dropout), nn.Linear(8, CLASSES), frozen

    def forward(self, clip, maps=None):
        x = self.first_bn(self.first(clip.flatten(0, 1))).relu()
        x = self.second_bn(self.second(x)).relu().mean((2, 3))
        return self.fc(self.drop(x)).unflatten(0, clip.shape[:2]).mean(1)

    def train(self, mode=True):
        super().train(mode)
        if self.frozen:
            self.first_bn.eval()
            self.second_bn.eval()
        return self


VARIANTS = {
    "frozen": (True, None, None),
    "whole": (False, None, None),
    "grouped": (False, 2, None),
    "in parts": (False, 2, 2),
}


def run(folder, variant, **options):
    """Train one variant; the history, the network, and the training clips that this process read."""
    torch.set_num_threads(1)
    frozen, group, at_once = VARIANTS[variant]
    torch.manual_seed(0)
    model, clips = Net(frozen, options.pop("dropout", 0.0)), Clips()
    recipe = Recipe(epochs=EPOCHS, batch=BATCH, learning_rate=0.1, steps=(3,), warmup_epochs=1, bn_group=group)
    given = {"seed": 3, "checkpoints": Path(folder), "identity": variant, "heldout": Clips(count=7, seed=1)}
    given |= {"at_once": at_once}
    history, _ = train(model, clips, recipe, **given | {"report": lambda line: None} | options)
    return history, model, clips.read


def processes(count, *arguments, check=True):
    command = [BIN / "torchrun", "--standalone", f"--nproc-per-node={count}", __file__, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert not check or done.returncode == 0, done.stdout
    return done.stdout


def report(folder, rank):
    """As one of the processes: what came of every variant."""
    found = {}
    for variant in VARIANTS:
        history, model, read = run(folder / f"states-{variant}", variant)
        state = {name: value.tolist() for name, value in model.state_dict().items()}
        found[variant] = {"history": history, "state": state, "read": read}
    (folder / f"rank{rank}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module", params=[2, 3])
def several(request, tmp_path_factory):
    """What each of 2 or 3 processes has to say."""
    folder = tmp_path_factory.mktemp(f"{request.param}-processes")
    processes(request.param, "report", folder)
    return [read_json(folder / f"rank{rank}.json") for rank in range(request.param)]


def without_seconds(history):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_number_of_processes_changes_neither_losses_nor_weights(several, variant, tmp_path):
    history, model, _ = run(tmp_path, variant)
    assert history[-1]["loss"] < 0.9 * history[0]["loss"], "something is learned"
    for process in several:
        found = process[variant]
        for ours, theirs in zip(without_seconds(history), without_seconds(found["history"]), strict=True):
            assert theirs == pytest.approx(ours, rel=1e-5, abs=1e-5)
            assert (theirs["top1"], theirs["val_top1"]) == pytest.approx((ours["top1"], ours["val_top1"]), abs=1e-7)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(torch.tensor(found["state"][name]), value, rtol=1e-4, atol=1e-5)
        assert found["state"] == several[0][variant]["state"], "every process ends with the same weights"
    steps = EPOCHS * 3
    assert several[0][variant]["state"]["first_bn.num_batches_tracked"] == (0 if variant == "frozen" else steps)


def test_groups_one_after_another_are_the_same_training(tmp_path):
    (history, model, _), (in_parts, other, _) = (run(tmp_path / name, name) for name in ("grouped", "in parts"))
    for ours, theirs in zip(without_seconds(history), without_seconds(in_parts), strict=True):
        assert theirs == pytest.approx(ours, rel=1e-5, abs=1e-6)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_the_variants_are_different_trainings(tmp_path):
    losses = [run(tmp_path / variant, variant)[0][-1]["loss"] for variant in VARIANTS]
    assert len({round(loss, 4) for loss in losses}) == 3


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_process_sees_videos_of_its_own_and_together_all(several, variant):
    for epoch in range(EPOCHS):
        read = [[index for e, index in process[variant]["read"] if e == epoch] for process in several]
        together = sorted(index for one in read for index in one)
        idle = len(several) - (
            1 if variant in ("grouped", "in parts") else 2
        )  # at the last batch, two videos or one group
        assert set(together) == set(range(VIDEOS))
        assert len(together) == VIDEOS + idle, "they read a stand-in"


def test_sigterm_saves_within_an_epoch_and_the_rest_is_bitwise_the_same(tmp_path, monkeypatch):
    whole, model, _ = run(tmp_path / "whole", "whole", dropout=0.5)
    monkeypatch.setattr(Clips, "__getitem__", _terminating(Clips.__getitem__, at=(2, 7)))
    with pytest.raises(StopEarly, match="SIGTERM in epoch 3 of 4"):
        run(tmp_path / "parts", "whole", dropout=0.5)
    monkeypatch.undo()
    saved = checkpoint.load(tmp_path / "parts" / checkpoint.LAST, identity="whole")
    assert (len(saved["history"]), len(saved["within"])) == (2, 1)
    assert 1 <= saved["within"][0]["step"] < 3
    resumed, again, read = run(tmp_path / "parts", "whole", dropout=0.5)
    assert len({index for epoch, index in read if epoch == 2}) == VIDEOS - BATCH * saved["within"][0]["step"]
    assert without_seconds(resumed) == without_seconds(whole)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def _terminating(getitem, at):
    def instead(self, index):
        if (self.epoch, index) == at and self.seed == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return getitem(self, index)

    return instead


def test_sigterm_to_a_whole_job_leaves_no_worker_and_no_half_step(tmp_path):
    """A scheduler signals every process of a job at once."""
    command = [sys.executable, __file__, "loaders", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        for line in process.stdout:
            if line.startswith("epoch 2/"):
                os.killpg(process.pid, signal.SIGTERM)
    assert process.returncode == 75
    saved = checkpoint.load(tmp_path / checkpoint.LAST, identity="whole")
    assert 2 <= len(saved["history"]) < 400


def test_two_processes_stopped_by_sigterm_go_on_as_one_that_was_not(tmp_path):
    output = processes(2, "stopped", tmp_path, check=False)
    saved = checkpoint.load(tmp_path / checkpoint.LAST, identity="whole")
    assert len(saved["within"]) == 2, output
    assert saved["within"][0]["step"] == saved["within"][1]["step"]
    history, model, _ = run(tmp_path / "undisturbed", "whole")
    resumed, again, _ = run(tmp_path, "whole")  # in one process
    for ours, theirs in zip(without_seconds(history), without_seconds(resumed), strict=True):
        assert theirs == pytest.approx(ours, rel=1e-5, abs=1e-5)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_the_command_under_torchrun_trains_what_it_trains_alone(small_project):
    """Real clips and their augmentation, the real network and command; its first BatchNorm learns in groups of three.

    The others are frozen: fifty of them in a row, untrained, make 1e-4 of a last bit.
    """
    network, training = {"dropout": 0.0, "partial_bn": True}, {"bn_group": 3, "learning_rate": 0.001, "holdout": 0.3}
    one, two = (small_project.run(name, network=network, training=training) for name in ("one", "two"))
    train_run(one, checkpoints="checkpoints/one")
    command = ["torchrun", "--standalone", "--nproc-per-node", "2", "--no-python", "reaction", "train", two]
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    subprocess.run([*command, "--checkpoints", "checkpoints/two"], env=environment, check=True, capture_output=True)
    rows = [list(csv.DictReader(Path(folder, "history.csv").read_text().splitlines())) for folder in (one, two)]
    for ours, theirs in zip(*rows, strict=True):
        for name in set(ours) - {"seconds"}:
            assert float(theirs[name]) == pytest.approx(float(ours[name]), rel=1e-5, abs=1e-5), name
    facts = read_json(Path(two, "provenance.json"))
    assert (facts["processes"], facts["bn_group"]) == (2, 3)


def stopped(folder, rank):
    """As one of two processes, of which one alone gets the signal."""
    if rank == 1:
        Clips.__getitem__ = _terminating(Clips.__getitem__, at=(1, _second_step_of(epoch=1, rank=1)))
    run(folder, "whole")


def _second_step_of(epoch, rank):
    return loop.epoch_batches(VIDEOS, BATCH, seed=3, epoch=epoch)[1][rank]


def with_loaders(folder):
    """A long training that worker processes read for."""
    loop.SECONDS_BETWEEN_CHECKPOINTS = 0
    torch.set_num_threads(1)
    recipe = Recipe(epochs=400, batch=BATCH, learning_rate=0.1)
    options = {"seed": 3, "checkpoints": folder, "identity": "whole", "workers": 2}
    train(Net(frozen=False), Clips(), recipe, report=lambda line: print(line, flush=True), **options)


if __name__ == "__main__":
    task, where = sys.argv[1], Path(sys.argv[2])
    try:
        if task == "loaders":
            with_loaders(where)
        else:
            {"report": report, "stopped": stopped}[task](where, int(os.environ["RANK"]))
    except StopEarly as stop:
        print(stop)
        sys.exit(75)
