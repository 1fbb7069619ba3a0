from pathlib import Path

import h5py
import numpy as np
import pytest

from reaction.evaluation.classification import softmax
from reaction.evaluation.fuse import ScoresError, evaluate_scores, fuse_scores, read_predictions
from reaction.files import read_json, write_json, write_text

CLASSES = ["brush", "climb", "run"]
VIDEOS = ["a", "b", "c", "d"]
LABELS = np.array([0, 1, 2, 1])


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text("index/classes.txt", "".join(f"{name}\n" for name in CLASSES))
    write_json("index/official.json", {"split1": {"train": 9, "test": 5}})
    return tmp_path


def stored(stream, logits, videos=VIDEOS, labels=LABELS, **changed):
    folder = Path("scores") / stream
    settings = {
        "method": "tsn",
        "stream": stream,
        "split": "split1",
        "seed": 0,
        "protocol": {"segments": 2, "crops": 1, "sampler": "tsn"},
        "protocol_name": "centre",
        "before_softmax": True,
        "maps": None,
    }
    write_json(folder / "config.json", {"config": settings | changed, "inputs": {"index": "index"}})
    with h5py.File(folder / "scores.h5", "w") as file:
        file["video"], file["label"] = list(videos), np.asarray(labels)
        file["logits"] = np.asarray(logits, dtype=np.float32)  # (n, V, classes)
    return folder


def fusion(before_softmax=True, **changed):
    folder = Path("scores/fusion")
    settings = {
        "method": "tsn",
        "stream": "fusion",
        "split": "split1",
        "seed": 0,
        "protocol_name": "centre",
        "weights": {"rgb": 1.0, "flow": 1.5},
        "before_softmax": before_softmax,
    }
    inputs = {"index": "index", "rgb": "scores/rgb", "flow": "scores/flow"}
    write_json(folder / "config.json", {"config": settings | changed, "inputs": inputs})
    return folder


def random_logits(seed, views=2):
    return np.random.default_rng(seed).normal(size=(4, views, 3))


def test_metrics_of_a_stream_by_hand(project):
    logits = np.array([[[2, 0, 1]], [[3, 1, 0]], [[0, 1, 5]], [[0, 9, 1]]])  # the second is wrong, its class second
    metrics = evaluate_scores(stored("rgb", logits))
    assert metrics == read_json("scores/rgb/metrics.json")
    assert (metrics["top1"], metrics["top5"], metrics["n"], metrics["of"]) == (0.75, 1.0, 4, 5)
    assert metrics["mean_class"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert metrics["chance"] == pytest.approx(1 / 3)
    assert metrics["protocol"]["segments"] == 2
    assert Path("scores/rgb/per_class.csv").read_text().splitlines()[2] == "climb,2,1,0.5000"
    assert Path("scores/rgb/confusion.csv").read_text().splitlines()[2] == "climb,1,1,0"


def test_evaluating_twice_gives_the_same_bytes(project):
    folder = stored("rgb", random_logits(0))
    names = ["metrics.json", "per_class.csv", "confusion.csv", "confusion.png"]
    evaluate_scores(folder)
    first = [(folder / name).read_bytes() for name in names]
    evaluate_scores(folder)
    assert [(folder / name).read_bytes() for name in names] == first


def test_views_are_averaged_after_the_softmax_when_the_protocol_says_so(project):
    logits = np.array([[[10, 0, 0], [0, 2, 0], [0, 2, 0]]] * 4)
    before = read_predictions(stored("rgb", logits))
    assert before.scores.argmax(axis=1).tolist() == [0] * 4
    after = read_predictions(stored("rgb", logits, before_softmax=False))
    assert after.scores.argmax(axis=1).tolist() == [1] * 4


@pytest.mark.parametrize("before_softmax", [True, False])
def test_fusion_is_the_weighted_mean_written_out(project, before_softmax):
    rgb, flow = random_logits(1), random_logits(2, views=3)
    stored("rgb", rgb)
    stored("flow", flow)
    folder = fusion(before_softmax)
    metrics = fuse_scores(folder)
    ours = read_predictions(folder)
    prepare = (lambda values: values) if before_softmax else softmax
    for video in range(4):
        expected = (prepare(rgb[video]).mean(0) + 1.5 * prepare(flow[video]).mean(0)) / 2.5
        assert ours.scores[video] == pytest.approx(expected, abs=1e-6)
    assert metrics["top1"] == (ours.scores.argmax(axis=1) == LABELS).mean()
    assert metrics["stream"] == "fusion"
    assert metrics["protocol"]["weights"] == {"rgb": 1.0, "flow": 1.5}
    first = (folder / "fusion.h5").read_bytes()
    fuse_scores(folder)
    assert (folder / "fusion.h5").read_bytes() == first


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        ({"videos": ["a", "b", "c", "e"]}, "scores/flow and scores/rgb scored different videos: 2 videos"),
        ({"videos": ["b", "a", "c", "d"]}, "the order differs"),
        ({"labels": [0, 1, 1, 1]}, "different labels, first at 'c'"),
        ({"seed": 1}, "fuses seed 0, but scores/flow has 1"),
    ],
)
def test_streams_that_do_not_belong_together_are_refused(project, flow, message):
    stored("rgb", random_logits(1))
    stored("flow", random_logits(2), **flow)
    with pytest.raises(ScoresError, match=message):
        fuse_scores(fusion())


def test_broken_or_missing_scores_are_named(project):
    folder = stored("rgb", random_logits(1))
    (folder / "scores.h5").write_bytes(b"half")
    with pytest.raises(ScoresError, match=r"scores/rgb/scores\.h5 is broken"):
        evaluate_scores(folder)
    (folder / "scores.h5").unlink()
    with pytest.raises(ScoresError, match="is missing"):
        evaluate_scores(folder)


def test_scores_for_other_classes_are_refused(project):
    folder = stored("rgb", np.zeros((4, 1, 5)))
    with pytest.raises(ScoresError, match="scores for 5 classes, index lists 3"):
        evaluate_scores(folder)
