from pathlib import Path

import h5py
import numpy as np
import pytest

from reaction.evaluation.classification import softmax
from reaction.evaluation.fuse import (
    Predictions,
    ScoresError,
    evaluate_scores,
    fuse_scores,
    read_predictions,
    sweep,
)
from reaction.evaluation.svm_fusion import stack_streams, train_svm
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


def test_a_stream_may_be_another_method_s_where_the_fusion_says_so(project):
    stored("rgb", random_logits(1))
    stored("flow", random_logits(2), method="longer")
    assert fuse_scores(fusion(runs={"flow": "longer"}))["method"] == "tsn"
    with pytest.raises(ScoresError, match="fuses method 'tsn', but scores/flow has 'longer'"):
        fuse_scores(fusion())
    with pytest.raises(ScoresError, match="fuses method 'longer', but scores/rgb has 'tsn'"):
        fuse_scores(fusion(runs={"rgb": "longer", "flow": "longer"}))


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


def part(name, stream, logits, labels=LABELS, **changed):
    """The scores of a stream on another part of the split, in a folder of their own."""
    folder = stored(f"{name}_{stream}", logits, labels=labels, part=name, **changed)
    return {f"{name}_{stream}": str(folder)}


def fusion_of(inputs, **settings):
    """A fusion by something else than given weights; the test scores of both streams lie in scores/<stream>."""
    folder = fusion()
    config = read_json(folder / "config.json")
    del config["config"]["weights"]
    config["config"] |= settings
    config["inputs"] |= inputs
    write_json(folder / "config.json", config)
    return folder


def sure(classes, strength=4.0):
    """Logits (n, 1, 3) that are sure of these classes."""
    return strength * np.eye(3)[np.asarray(classes)][:, None]


def test_a_third_stream_is_one_more_term_of_the_mean(project):
    logits = {name: random_logits(seed) for seed, name in enumerate(("rgb", "flow", "rgbdiff"))}
    for name, values in logits.items():
        stored(name, values)
    weights = {"rgb": 1.0, "flow": 1.5, "rgbdiff": 0.5}
    folder = fusion_of({"rgbdiff": "scores/rgbdiff"}, weights=weights)
    fuse_scores(folder)
    expected = sum(weights[name] / 3 * logits[name].mean(1) for name in weights)
    assert read_predictions(folder).scores == pytest.approx(expected, abs=1e-6)


def test_a_sweep_takes_the_weights_that_do_best_on_held_out_videos_not_on_the_test(project):
    """Held out, flow is right and rgb wrong; in the test it is the other way round."""
    wrong = (LABELS + 1) % 3
    stored("rgb", sure(LABELS))
    stored("flow", sure(wrong))
    inputs = part("heldout", "rgb", sure(wrong)) | part("heldout", "flow", sure(LABELS))
    folder = fusion_of(inputs, sweep={"rgb": [1.0], "flow": [0.5, 2.0, 4.0]})
    metrics = fuse_scores(folder)
    assert metrics["protocol"]["weights"] == {"rgb": 1.0, "flow": 4.0}, "both 2 and 4 are right, 4 has the lower loss"
    assert (metrics["protocol"]["swept_on"], metrics["protocol"]["swept_top1"]) == (4, 1.0)
    assert (metrics["top1"], metrics["n"], metrics["of"]) == (0.0, 4, 5), "the test pays for it"
    fixed = fusion_of({}, weights={"rgb": 1.0, "flow": 4.0})
    swept = read_predictions(folder).scores
    fuse_scores(fixed)
    assert np.array_equal(read_predictions(fixed).scores, swept)


@pytest.mark.parametrize("before_softmax", [True, False])
def test_of_equal_weights_the_first_and_never_zeros_alone(project, before_softmax):
    found = Predictions(tuple(VIDEOS), LABELS, sure(LABELS))
    views, folders = {"rgb": found, "flow": found}, {"rgb": Path("a"), "flow": Path("b")}
    tried = sweep(views, folders, {"rgb": [0.0, 1.0], "flow": [0.0, 2.0]}, before_softmax=before_softmax)
    assert [list(one.weights.values()) for one in tried] == [[0.0, 2.0], [1.0, 0.0], [1.0, 2.0]]
    expected = -np.log(np.exp(4) / (np.exp(4) + 2))
    assert [one.loss for one in tried] == pytest.approx([expected] * 3)


def test_an_svm_learns_which_stream_to_believe(project):
    """Neither stream tells all classes apart: rgb sees class 0, flow class 2; the mean of both is wrong."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 8)

    def logits(classes, blind):
        """Sure of the class, but where the stream is blind two classes look alike."""
        return sure([blind if one in (blind, 1) else one for one in classes]) + 0.3 * rng.normal(
            size=(len(classes), 1, 3)
        )

    names = [f"t{number}" for number in range(len(labels))]
    for stream, blind in (("rgb", 2), ("flow", 0)):
        stored(stream, logits(LABELS, blind))
    inputs = part("train", "rgb", logits(labels, 2), labels, videos=names)
    inputs |= part("train", "flow", logits(labels, 0), labels, videos=names)
    folder = fusion_of(inputs, svm={"c": 1.0})
    metrics = fuse_scores(folder)
    assert metrics["top1"] == 1.0
    assert fuse_scores(fusion(weights={"rgb": 1.0, "flow": 1.0}))["top1"] < 1.0, "the mean does not"
    fusion_of(inputs, svm={"c": 1.0})
    assert fuse_scores(folder) == metrics
    assert metrics["protocol"] == {
        "protocol_name": "centre",
        "before_softmax": True,
        "svm": {"c": 1.0},
        "trained_on": 24,
    }
    first = (folder / "fusion.h5").read_bytes()
    fuse_scores(folder)
    assert (folder / "fusion.h5").read_bytes() == first


def test_the_kind_of_svm_is_the_config_s(project):
    rng = np.random.default_rng(0)
    names, labels = [f"t{number}" for number in range(24)], np.arange(24) % 3
    tested, trained = ({stream: rng.normal(size=(n, 1, 3)) for stream in ("rgb", "flow")} for n in (4, 24))
    inputs = {}
    for stream in ("rgb", "flow"):
        stored(stream, tested[stream])
        inputs |= part("train", stream, trained[stream], labels, videos=names)
    asked, learned = (stack_streams([softmax(found[:, 0]) for found in one.values()]) for one in (tested, trained))
    fused = {}
    for kind in ("one-vs-rest", "crammer-singer"):
        folder = fusion_of(inputs, svm={"c": 1.0, "multi_class": kind})
        assert fuse_scores(folder)["protocol"]["svm"]["multi_class"] == kind
        fused[kind] = read_predictions(folder).scores
        expected = train_svm(learned, labels, classes=3, multi_class=kind).scores(asked)
        assert fused[kind] == pytest.approx(expected, abs=1e-4)
    assert np.abs(fused["one-vs-rest"] - fused["crammer-singer"]).max() > 0.01
    folder = fusion_of(inputs, svm={"c": 1.0})
    fuse_scores(folder)
    assert np.array_equal(read_predictions(folder).scores, fused["one-vs-rest"]), "the usual kind"


def test_other_parts_are_evaluated_against_their_own_lists(project):
    part("train", "rgb", random_logits(0))
    metrics = evaluate_scores(Path("scores/train_rgb"))
    assert (metrics["n"], metrics["of"], metrics["protocol"]["part"]) == (4, 9, "train")
    part("heldout", "rgb", random_logits(0))
    assert evaluate_scores(Path("scores/heldout_rgb"))["of"] == 4


def test_a_fusion_refuses_scores_of_the_wrong_part(project):
    stored("rgb", random_logits(1))
    stored("flow", random_logits(2))
    grid = {"rgb": [1.0], "flow": [1.0]}
    with pytest.raises(ScoresError, match="has no inputs heldout_rgb: a fusion needs them"):
        fuse_scores(fusion_of(part("heldout", "flow", random_logits(0)), sweep=grid))
    swapped = {"heldout_rgb": "scores/rgb", "heldout_flow": "scores/flow"}
    with pytest.raises(ScoresError, match="scores/flow for scores of part 'heldout', but it has 'test'"):
        fuse_scores(fusion_of(swapped, sweep=grid))
    with pytest.raises(ScoresError, match="has no inputs train"):
        fuse_scores(fusion_of({}, svm={"c": 1.0}))
