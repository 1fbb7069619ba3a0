"""Videos with several classes, from their index through training and scoring to the mean average precision."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score

from reaction.evaluation.fuse import evaluate_scores, fuse_scores
from reaction.files import read_json, write_json
from reaction.training.inputs import training_clips
from reaction.training.loop import _sums, video_losses
from reaction.training.run import train_run
from reaction.training.scoring import score_run

PROTOCOL = {"segments": 2, "crops": 3, "sampler": "tsn"}
TESTED = [[1, 0, 1], [0, 1, 0], [1, 0, 0], [0, 1, 1]]  # videos 12 to 15


@pytest.fixture
def project(small_project):
    small_project.with_several_labels()
    write_json(Path(small_project.index, "official.json"), {"split1": {"train": 12, "test": 4}})
    return small_project


def scored(project, run, stream="rgb", **settings):
    config = {"method": "small", "stream": stream, "split": "split1", "seed": 0, "protocol": PROTOCOL, "maps": None}
    config |= {"protocol_name": "two", "before_softmax": False} | settings
    return Path(project.freeze("score", f"scores-{stream}", config, project.features(stream) | {"run": str(run)}))


def test_a_run_trains_scores_and_is_measured_by_its_best_views(project):
    run = project.run("run", labels="video", training={"holdout": 0.3, "epochs": 1})
    train_run(run, checkpoints="checkpoints/run")
    history = pd.read_csv(Path(run, "history.csv"))
    assert 0.5 < history["loss"][0] < 1.2  # ln 2 where nothing is known, and not 3 ln 2: a mean over classes
    assert np.isfinite(history[["top1", "val_loss", "val_top1"]]).all(axis=None)

    folder = scored(project, run, views="max")
    score_run(folder)
    with h5py.File(folder / "scores.h5") as file:
        labels, logits = file["label"][:], file["logits"][:]
    assert labels.tolist() == TESTED
    assert logits.shape == (4, 6, 3)

    metrics = evaluate_scores(folder)
    best = (1 / (1 + np.exp(-logits.astype(float)))).max(axis=1)
    assert metrics["map"] == pytest.approx(average_precision_score(labels, best, average="macro"))
    assert metrics["hit1"] == np.mean([labels[k, best[k].argmax()] for k in range(4)])
    assert metrics["chance"] == pytest.approx(0.5)
    assert metrics["protocol"]["views"] == "max"
    per_class = pd.read_csv(folder / "per_class.csv")
    np.testing.assert_allclose(per_class["ap"], average_precision_score(labels, best, average=None), atol=1e-4)
    assert per_class["n"].tolist() == [2, 2, 2]
    assert pd.read_csv(folder / "confusion.csv", index_col=0).to_numpy().sum() == labels.sum()

    fused = Path(project.freeze("score", "fusion", read_json(folder / "config.json")["config"], {}))
    settings = read_json(folder / "config.json")["config"] | {"stream": "fusion", "weights": {"rgb": 1.0}}
    write_json(fused / "config.json", {"config": settings, "inputs": {"index": project.index, "rgb": str(folder)}})
    assert fuse_scores(fused)["map"] == metrics["map"]


def test_a_clip_is_labelled_with_what_it_shows(project):
    """Videos 0 and 3 have four pictures, of which only the last shows the third class; video 2 never does."""
    run = project.run("run", labels="clip", network={"stack": 2, "segments": 1})
    frozen = read_json(Path(run, "config.json"))
    clips, _ = training_clips(frozen["config"], frozen["inputs"])
    seen = {0: set(), 2: set(), 3: set()}
    for epoch in range(12):
        clips.set_epoch(epoch)
        for video, labels in seen.items():
            labels.add(tuple(clips[video]["label"].tolist()))
    assert seen == {0: {(1, 0, 0), (1, 0, 1)}, 2: {(1, 0, 0)}, 3: {(0, 1, 0), (0, 1, 1)}}


def test_several_labels_where_one_is_expected_are_refused(project):
    run = project.run("run")
    with pytest.raises(ValueError, match="clips carry exactly one"):
        train_run(run, checkpoints="checkpoints/run")


def test_the_loss_is_the_mean_over_classes_written_out():
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 4), (torch.rand(5, 4) < 0.4).float()
    chances = torch.sigmoid(logits.double())
    written = -(labels * chances.log() + (1 - labels) * (1 - chances).log()).mean(dim=1)
    torch.testing.assert_close(video_losses(logits, labels).double(), written, atol=1e-6, rtol=0)
    steps = torch.stack((logits, 2 * logits), dim=1)  # (B, steps, classes)
    twice = (video_losses(logits, labels) + video_losses(2 * logits, labels)) / 2
    torch.testing.assert_close(video_losses(steps, labels), twice)


def test_a_video_is_right_when_its_best_class_is_one_of_its_own():
    logits = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, 1.0, 0.0]])
    labels = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    assert _sums(torch.ones(3), logits, labels).tolist() == [3.0, 1.0, 3.0]
