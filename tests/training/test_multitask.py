"""Two datasets, one trunk: the loop beside one task alone and two layers by hand, and the job that reads both."""

import copy
import csv
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from reaction.data.index import part_videos
from reaction.files import read_json, sha256, write_json
from reaction.models.multitask import Tasks
from reaction.training.inputs import training_clips
from reaction.training.job import write_rows
from reaction.training.loop import Recipe, StopEarly, train
from reaction.training.networks import MODEL, RunError, build_network, load_run
from reaction.training.run import train_run
from reaction.training.scoring import score_run

TASKS = Tasks({"own": 3, "other": 4})
OTHER = {"dataset": "other", "split": "split1"}
PLAIN = {"epochs": 4, "batch": 4, "learning_rate": 0.05, "steps": (3,), "weight_decay": 0.0, "clip_gradient": None}


class Clips(torch.utils.data.Dataset):
    """Noise with a label and a task; the first `own` belong to the task of three classes, the rest to that of four."""

    def __init__(self, own, other=0, *, tell=True):
        self.own, self.other, self.tell, self.epoch = own, other, tell, 0

    def __len__(self):
        return self.own + self.other

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __getitem__(self, index):
        task = int(index >= self.own)
        clip = np.random.default_rng([self.epoch, index]).normal(size=(1, 2, 4, 4)).astype(np.float32)
        item = {"clip": torch.from_numpy(clip), "label": torch.tensor(index % (4 if task else 3))}
        return item | ({"task": torch.tensor(task)} if self.tell else {})


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Linear(6, classes)

    def features(self, clip):
        return self.bn(self.conv(clip.flatten(0, 1))).relu().mean((2, 3))

    def forward(self, clip, maps=None):
        return self.fc(self.features(clip)).unflatten(0, clip.shape[:2]).mean(1)


def wide():
    torch.manual_seed(0)
    return Net(TASKS.outputs)


def single(net, columns):
    """The network of one task alone, with the same trunk and the same rows of the last layer."""
    alone = Net(columns.stop - columns.start)
    alone.load_state_dict(TASKS.single(net.state_dict(), "fc", "own" if columns.start == 0 else "other"))
    return alone


def learn(net, clips, folder, *, tasks=TASKS, heldout=None, stop_after=None, **changes):
    torch.set_num_threads(1)
    options = {"seed": 3, "identity": "r", "checkpoints": Path(folder), "report": lambda line: None}
    options |= {"tasks": tasks, "heldout": heldout, "stop_after": stop_after}
    return train(net, clips, Recipe(**(PLAIN | changes)), **options)[0]


def test_without_videos_of_the_other_task_it_is_training_on_one(tmp_path):
    both, before = wide(), wide()
    alone = single(both, slice(0, 3))
    history = learn(both, Clips(10), tmp_path / "both", heldout=Clips(5, tell=False))
    expected = learn(alone, Clips(10, tell=False), tmp_path / "one", tasks=None, heldout=Clips(5, tell=False))
    for got, row in zip(history, expected, strict=True):
        for key in ("loss", "top1", "val_loss", "val_top1", "learning_rate"):
            assert got[key] == pytest.approx(row[key], abs=1e-6)
    for name, value in single(both, slice(0, 3)).state_dict().items():
        torch.testing.assert_close(value, alone.state_dict()[name], atol=1e-6, rtol=1e-5)
    assert torch.equal(both.fc.weight[3:], before.fc.weight[3:])  # nothing of the other classifier has moved
    assert torch.equal(both.fc.bias[3:], before.fc.bias[3:])
    assert not torch.equal(both.fc.weight[:3], before.fc.weight[:3])


def test_one_step_is_that_of_two_layers_whose_losses_are_added(tmp_path):
    both = wide()
    trunk, own, other = copy.deepcopy(both), single(both, slice(0, 3)).fc, single(both, slice(3, 7)).fc
    history = learn(both, Clips(3, 5), tmp_path, epochs=1, batch=8, momentum=0.0, steps=())

    items = [Clips(3, 5)[k] for k in range(8)]
    features = trunk.features(torch.stack([item["clip"] for item in items]))
    labels = torch.stack([item["label"] for item in items])
    first = F.cross_entropy(own(features[:3]), labels[:3], reduction="sum")
    second = F.cross_entropy(other(features[3:]), labels[3:], reduction="sum")
    ((first + second) / 8).backward()
    assert history[0]["loss"] == pytest.approx((first + second).item() / 8, abs=1e-6)
    right = (own(features[:3]).argmax(1) == labels[:3]).sum() + (other(features[3:]).argmax(1) == labels[3:]).sum()
    assert history[0]["top1"] == pytest.approx(int(right) / 8)
    stepped = torch.cat((own.weight - 0.05 * own.weight.grad, other.weight - 0.05 * other.weight.grad))
    torch.testing.assert_close(both.fc.weight, stepped, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(
        both.conv.weight, trunk.conv.weight - 0.05 * trunk.conv.weight.grad, atol=1e-6, rtol=1e-5
    )


def test_stopped_and_continued_is_bitwise_uninterrupted(tmp_path):
    whole, parts = wide(), wide()
    learn(whole, Clips(6, 7), tmp_path / "whole")
    for _ in range(3):
        with pytest.raises(StopEarly):
            learn(parts, Clips(6, 7), tmp_path / "parts", stop_after=0)
        parts = wide()
    learn(parts, Clips(6, 7), tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True))


@pytest.fixture
def both_datasets(small_project):
    """The small project, and another dataset: the same pictures in three classes of another order."""
    index, features = Path("results/data/other/index-0"), Path("results/features/other/rgb-0")
    shutil.copytree(small_project.index, index)
    shutil.copytree(small_project.rgb, features)
    rows = list(csv.DictReader((index / "index.csv").read_text().splitlines()))
    write_rows(index / "index.csv", [row | {"labels": k % 3} for k, row in enumerate(rows)])
    (index / "classes.txt").write_text("up\ndown\nstill\n")
    return small_project


def two_tasks(project, name="both", *, other=OTHER, **changes):
    folder = project.run(name, inputs=inputs_of_other(), **changes)
    frozen = read_json(f"{folder}/config.json")
    write_json(f"{folder}/config.json", frozen | {"config": frozen["config"] | {"multi_task": other}})
    return folder


def inputs_of_other():
    return {"other_index": "results/data/other/index-0", "other_features": "results/features/other/rgb-0"}


def test_a_run_on_two_tasks_keeps_both_classifiers_and_scores_with_its_own(both_datasets):
    run = two_tasks(both_datasets)
    train_run(run, checkpoints="checkpoints/both")
    state = load_file(Path(run, MODEL))
    assert state["backbone.fc.weight"].shape[0] == 5
    metrics = read_json(f"{run}/metrics.json")
    assert (metrics["n"], metrics["other_task"], metrics["epochs"]) == (12, 12, 2)

    model, config = load_run(run)
    assert model.backbone.fc.out_features == 2
    whole = build_network(config["network"], stream="rgb", classes=5).eval()
    whole.load_state_dict(state)
    clip = torch.randn(2, 1, 3, 80, 80)
    with torch.no_grad():
        torch.testing.assert_close(model(clip), whole(clip)[:, :2])

    protocol = {"segments": 1, "crops": 1, "sampler": "tsn"}
    scores = {"split": "split1", "protocol": protocol, "maps": None}
    folder = both_datasets.freeze("score", "s", scores, both_datasets.features("rgb") | {"run": run})
    score_run(folder)
    with h5py.File(f"{folder}/scores.h5") as file:
        assert file["logits"].shape == (4, 1, 2)


def test_a_job_on_two_tasks_stopped_goes_on_to_the_same_bytes(both_datasets):
    whole, parts = two_tasks(both_datasets, "whole"), two_tasks(both_datasets, "parts")
    train_run(whole, checkpoints="checkpoints/whole")
    with pytest.raises(StopEarly):
        train_run(parts, checkpoints="checkpoints/parts", stop_after=0)
    train_run(parts, checkpoints="checkpoints/parts")
    assert sha256(Path(parts, MODEL)) == sha256(Path(whole, MODEL))


def test_one_task_may_go_on_from_two(both_datasets):
    start = two_tasks(both_datasets)
    train_run(start, checkpoints="checkpoints/both")
    after = both_datasets.run("after", inputs={"init": start}, training={"learning_rate": 1e-9, "weight_decay": 0.0})
    train_run(after, checkpoints="checkpoints/after")
    (got, _), (expected, _) = load_run(after), load_run(start)
    torch.testing.assert_close(got.backbone.fc.weight, expected.backbone.fc.weight)


def test_an_epoch_is_every_video_of_both_as_each_dataset_gives_it(both_datasets):
    frozen = read_json(f"{two_tasks(both_datasets, training={'holdout': 0.3})}/config.json")
    clips, heldout = training_clips(frozen["config"], frozen["inputs"], 0.3)
    own, other = clips.tasks
    assert len(other) == len(part_videos("results/data/other/index-0", "split1", "train")) == 12
    assert len(own) + len(heldout) == 12
    assert len(clips) == len(own) + len(other)
    clips.set_epoch(2)
    for task, part in enumerate((own, other)):
        for place in (0, len(part) - 1):
            index = place + task * len(own)
            item, expected = clips[index], part[place]
            assert (int(item["task"]), int(item["index"])) == (task, index)
            assert torch.equal(item["clip"], expected["clip"])
            assert int(item["label"]) == int(expected["label"]) == part.videos[place].labels[0]
    before = clips[0]["clip"]
    clips.set_epoch(3)
    assert not torch.equal(clips[0]["clip"], before)
    with pytest.raises(IndexError):
        clips[len(clips)]


def test_what_two_tasks_cannot_share_is_refused(both_datasets):
    stored = two_tasks(both_datasets, "stored", maps={"source": "learned", "dead": 0.1})
    frozen = read_json(f"{stored}/config.json")
    frozen["inputs"]["maps"] = "results/attention/small/none"
    with pytest.raises(RunError, match="no learned maps of other"):
        training_clips(frozen["config"], frozen["inputs"])
    with pytest.raises(RunError, match="small is the run's own dataset"):
        train_run(two_tasks(both_datasets, "same", other=OTHER | {"dataset": "small"}), checkpoints="checkpoints/same")
    config = read_json("results/features/other/rgb-0/config.json")
    write_json("results/features/other/rgb-0/config.json", {"config": config["config"] | {"resize": "64x48"}})
    with pytest.raises(RunError, match=r"resize is '104x96' in .*small/rgb-0 and '64x48' in .*other/rgb-0"):
        train_run(two_tasks(both_datasets, "unlike"), checkpoints="checkpoints/unlike")
