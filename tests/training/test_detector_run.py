"""A detector from config.json to its weights, and from these to boxes, on squares whose place is known."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from reaction.clips.keyframes import Batch
from reaction.data.boxes import Boxes, read_boxes, write_boxes
from reaction.data.index import Video, part_videos
from reaction.data.store import Shards
from reaction.evaluation.annotations import truth_of
from reaction.evaluation.boxes import iou
from reaction.evaluation.detected import read_detected
from reaction.files import read_json, write_json
from reaction.models.weights import write_weights
from reaction.models.yowo import ANCHORS, YOWO
from reaction.training import detector_loop
from reaction.training.detecting import build_detector, detect_run, load_detector
from reaction.training.detector_loop import DetectorRecipe, groups, train_detector
from reaction.training.detector_run import action_ratios, choose_anchors, start_from, train_detector_run
from reaction.training.loop import StopEarly, TrainingError
from reaction.training.networks import RunError
from reaction.training.region_loss import Losses

torch.set_num_threads(1)

NETWORK = {
    "network": "yowo",
    "backbone_3d": "mobilenet_2x",
    "parts": "2d",
    "attention": "code",
    "width": 0.125,
    "input": 96,
    "frames": 2,
    "poses": 0,
}
TRAINING = {
    "epochs": 2,
    "batch": 6,
    "bn_group": 3,
    "learning_rate": 0.003,
    "steps": [50],
    "factor": 0.5,
    "warmup_epochs": 0.0,
    "weight_decay": 0.0005,
    "clip_gradient": None,
    "precision": "32-true",
}
PLAIN = {"jitter": 0.0, "hue": 0.0, "saturation": 1.0, "exposure": 1.0, "flip": False}


@pytest.fixture
def project(small_project):
    """The small project with a box around each square: 28 pixels a side, three pixels lower on each frame."""
    boxes = {}
    for k, video in enumerate(sorted(video.video for video in [*videos("train"), *videos("test")])):
        rng = np.random.default_rng(k)
        count = 4 + k % 3
        rng.integers(100, 156, (count, 96, 104, 3), dtype=np.uint8)  # what the fixture drew before the place
        left, top = rng.integers(4, 20) + 52 * (k % 2), rng.integers(4, 40)
        y = top + 3 * np.arange(count)
        box = np.stack([np.full(count, left), y, np.full(count, left + 28), y + 28], axis=1)
        boxes[video] = Boxes(np.arange(count), box.astype(np.float32), np.full(count, k % 2), np.zeros(count, np.int64))
    write_boxes(Path(small_project.index) / "boxes.h5", boxes)
    return small_project


def videos(part):
    return part_videos("results/data/small/index-0", "split1", part)


def freeze(project, name, **changes):
    config = {"method": "narrow", "stream": "rgb", "split": "split1", "seed": 0, "scale": "tiny"}
    config |= {"network": NETWORK, "anchors": "fitted", "loss": "code", "trains": "all", "training": TRAINING}
    config |= {"weights": {"source": "none"}, "augmentation": PLAIN, "strides": [1], "every": 1}
    for key, value in changes.items():
        config[key] = config[key] | value if isinstance(config.get(key), dict) else value
    folder = f"results/models/small/{name}"
    frozen = {"rule": "train_detector", "dataset": "small", "name": name, "config": config}
    write_json(f"{folder}/config.json", frozen | {"inputs": {"index": project.index, "features": project.rgb}})
    return folder


def freeze_detect(project, run, **changes):
    config = {"split": "split1", "least_score": 0.05, "suppression": 0.4, "stride": 1, "at": "every"} | changes
    inputs = {"index": project.index, "features": project.rgb, "run": run}
    folder = "results/detections/small/boxes-0"
    write_json(f"{folder}/config.json", {"rule": "detect", "dataset": "small", "config": config, "inputs": inputs})
    return folder


def test_a_detector_finds_the_squares_and_on_which_side_they_are(project):
    folder = freeze(project, "run", training={"epochs": 16})
    train_detector_run(folder, checkpoints="checkpoints/run")
    history = Path(folder, "history.csv").read_text().splitlines()
    assert history[0] == "epoch,loss,box,confidence,classes,learning_rate,seconds"
    assert len(history) == 17
    out = freeze_detect(project, folder)
    detect_run(out)
    found = read_detected(f"{out}/boxes.h5")
    assert found.videos == tuple(video.video for video in videos("test"))
    truth = truth_of(read_boxes(f"{project.index}/boxes.h5"), found.videos)
    hits = 0
    for video, frame, box, label in zip(truth.video, truth.frame, truth.box, truth.label, strict=True):
        rows = np.flatnonzero((found.video == video) & (found.frame == frame))
        best = rows[found.score[rows].max(axis=1).argmax()] if len(rows) else None
        hits += best is not None and found.score[best].argmax() == label and iou(found.box[[best]], box[None])[0] > 0.5
    assert hits >= 0.6 * len(truth)  # of twelve videos to learn from; by chance it would be none
    assert read_json(f"{out}/provenance.json")["boxes"] == len(found)
    assert not Path("checkpoints/run/last.pt").exists()


def by_hand(project, detector, video, frame, *others, stride=1):
    """What a detector finds in the clip of a frame, read and resized here."""
    frames = detector.around.frames
    clip = seen(project, video, [frame + stride * (k - frames + 1) for k in range(frames)])
    return detector.detect(clip[None], *others, width=104, height=96, least_score=0.0)[0]


def seen(project, video, wanted):
    """Frames of a video, the first or the last for those beyond, as a network sees them: (3, T, 96, 96)."""
    pictures = Shards(project.rgb).pictures(video.video, np.clip(wanted, 0, video.frames - 1))
    resized = np.stack([cv2.resize(picture, (96, 96), interpolation=cv2.INTER_LINEAR) for picture in pictures])
    return torch.from_numpy(resized).permute(3, 0, 1, 2) / 127.5 - 1


def is_found(found, rows, frame, one):
    own = found.frame[rows] == frame
    np.testing.assert_allclose(found.box[rows][own], one.box.numpy(), atol=1e-2)
    np.testing.assert_allclose(found.score[rows][own], one.score.numpy(), atol=1e-4)
    np.testing.assert_allclose(found.confidence[rows][own], one.confidence.numpy(), atol=1e-4)


def test_boxes_are_those_of_each_clip_by_itself(project):
    folder = freeze(project, "run", network={"parts": "2d+3d", "frames": 3})
    train_detector_run(folder, checkpoints="checkpoints/run")
    out = freeze_detect(project, folder, stride=2, least_score=0.0)
    detect_run(out)
    found, detector = read_detected(f"{out}/boxes.h5"), load_detector(folder)
    assert len(found) > 0
    for place, video in enumerate(videos("test")):
        rows = found.rows(place)
        assert sorted(set(found.frame[rows])) == list(range(video.frames))
        for frame in (0, video.frames - 1):
            is_found(found, rows, frame, by_hand(project, detector, video, frame, stride=2))


def test_only_annotated_frames_are_asked_where_there_are_key_frames(project):
    folder = freeze(project, "run")
    train_detector_run(folder, checkpoints="checkpoints/run")
    test = [video.video for video in videos("test")]
    every = read_boxes(f"{project.index}/boxes.h5")
    one = every[test[0]]
    del every[test[1]]
    every[test[0]] = Boxes(one.frame[[2]], one.box[[2]], one.label[[2]], one.tube[[2]])
    write_boxes(f"{project.index}/boxes.h5", every)
    out = freeze_detect(project, folder, at="annotated", least_score=0.0)
    detect_run(out)
    found = read_detected(f"{out}/boxes.h5")
    assert set(found.frame[found.rows(0)]) == {2}
    assert found.first[1] == found.first[2]  # nothing of the one without annotation, which keeps its place
    assert len(found.videos) == len(test)


def test_a_stopped_detector_goes_on_to_the_same_bytes(project):
    whole, stopped = (
        freeze(project, "whole", training={"epochs": 3}),
        freeze(project, "stopped", training={"epochs": 3}),
    )
    train_detector_run(whole, checkpoints="checkpoints/whole")
    with pytest.raises(StopEarly):
        train_detector_run(stopped, checkpoints="checkpoints/stopped", stop_after=0)
    assert not Path(stopped, "model.safetensors").exists()
    train_detector_run(stopped, checkpoints="checkpoints/stopped")
    assert Path(whole, "model.safetensors").read_bytes() == Path(stopped, "model.safetensors").read_bytes()
    assert json.loads(Path(whole, "metrics.json").read_text()) == json.loads(Path(stopped, "metrics.json").read_text())


def test_gradients_of_a_batch_are_the_sums_of_its_groups(tmp_path):
    """One update of Adam from zeros: the rate times g / (|g| + eps), g the sum over all four clips of the batch."""

    class Clips(torch.utils.data.Dataset):
        around = type("around", (), {"frames": 1})

        def __len__(self):
            return 4

        def set_epoch(self, epoch):
            pass

        def __getitem__(self, index):
            empty = {"box": torch.zeros(0, 4), "label": torch.zeros(0, dtype=torch.int64)}
            return empty | {"clip": torch.full((1,), 1e-9 * (index + 1)), "index": torch.tensor(index)}

    class Weighs(nn.Linear):
        def forward(self, clip, bank, weight):
            assert bank is weight is None
            return super().forward(clip)

    def loss(output, batch: Batch) -> Losses:
        nothing = output.new_zeros(())
        return Losses(output.sum(), nothing, nothing, nothing, nothing, nothing)

    model = Weighs(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    recipe = DetectorRecipe(**TRAINING | {"epochs": 1, "batch": 4, "bn_group": 2, "weight_decay": 0.0})
    history = train_detector(model, Clips(), loss, recipe, seed=0, checkpoints=tmp_path, identity="run")
    gradient = 1e-9 * (1 + 2 + 3 + 4)  # of the size of Adam's epsilon, so that the step tells it
    assert model.weight.item() == pytest.approx(-0.003 * gradient / (gradient + 1e-8), rel=1e-4)
    assert history[0]["loss"] == pytest.approx(0.0)


def test_groups_of_a_batch():
    assert groups(range(8), 3) == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert groups(range(7), 3) == [[0, 1, 2], [3, 4, 5, 6]]
    assert groups(range(2), 6) == [[0, 1]]


def test_public_anchors_are_for_224_pixels():
    config = {"anchors": "jhmdb21", "network": {"input": 128}}
    video = Video("clip", "", (0,), "", 1, 25.0, 320, 240, "", "")
    anchors, _ = choose_anchors(config, [video], {"clip": one_box()})
    np.testing.assert_allclose(anchors.numpy(), np.array(ANCHORS["jhmdb21"]) * 128 / 224, rtol=1e-6)


def one_box():
    return Boxes(np.zeros(1, np.int64), np.array([[0, 0, 10, 10]], np.float32), np.zeros(1, int), np.zeros(1, int))


def test_fitted_anchors_are_the_boxes_where_there_are_only_five_shapes(project):
    train = videos("train")
    sides = [(13, 12), (26, 24), (52, 48), (104, 24), (104, 96)]  # of frames of 104 x 96
    boxes = {
        video.video: Boxes(
            np.arange(2), np.array([[0, 0, *sides[k % 5]]] * 2, np.float32), np.zeros(2, int), np.zeros(2, int)
        )
        for k, video in enumerate(train)
    }
    anchors, fit = choose_anchors({"anchors": "fitted", "network": {"input": 96}}, train, boxes)
    expected = sorted((3 * w / 104, 3 * h / 96) for w, h in sides)
    np.testing.assert_allclose(sorted(map(tuple, anchors.tolist())), expected, rtol=1e-5)
    assert fit == pytest.approx(1.0)


def test_ratios_count_an_actor_of_a_frame_once():
    frame, tube, label = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 0, 0]), np.array([0, 2, 2, 0, 2])
    boxes = Boxes(frame, np.zeros((5, 4), np.float32), label, tube)  # three actors: (0, 0), (0, 1), (1, 0)
    np.testing.assert_allclose(action_ratios([boxes], 4).numpy(), [2 / 3, 0, 1, 0], rtol=1e-6)


def test_a_file_of_branches_is_a_start(tmp_path):
    torch.manual_seed(0)
    source, model = (build_detector(NETWORK | {"parts": parts}, classes=2) for parts in ("2d", "2d+3d+cfam"))
    state = {f"backbone.{name}": value for name, value in source.state_dict().items() if "backbone_2d" in name}
    write_weights(tmp_path / "branches.safetensors", state)
    before = model.conv_final.weight.clone()
    weights = {"source": "file", "path": str(tmp_path / "branches.safetensors"), "sha256": None}
    with pytest.raises(RunError, match=r"branches\.safetensors lacks backbone_3d"):
        start_from(model, weights)
    model = build_detector(NETWORK, classes=2)
    before = model.conv_final.weight.clone()
    origin = start_from(model, weights)
    first = "backbone_2d.models.0.conv1.weight"
    assert torch.equal(model.state_dict()[first], source.state_dict()[first])
    assert torch.equal(model.conv_final.weight, before)
    assert len(origin["coverage"]["loaded"]) == len(state)
    write_weights(tmp_path / "other.safetensors", {"fc.weight": torch.zeros(2, 2)})
    with pytest.raises(RunError, match=r"other\.safetensors lacks backbone_2d"):
        start_from(model, {"source": "file", "path": str(tmp_path / "other.safetensors"), "sha256": None})


def test_a_detector_with_a_bank_is_trained_and_asked(project):
    """Of videos of 4 to 6 frames no clip of 8 has ended: the 8 frames up to the key frame stand for the clip."""
    folder = freeze(project, "run", network={"parts": "2d+3d+cfam", "bank": "causal", "frames": 1})
    train_detector_run(folder, checkpoints="checkpoints/run")
    out = freeze_detect(project, folder, least_score=0.0)
    detect_run(out)
    found, detector, video = read_detected(f"{out}/boxes.h5"), load_detector(folder), videos("test")[0]
    assert detector.bank.kind == "causal"
    bank = seen(project, video, range(-5, 3))[None]
    is_found(found, found.rows(0), 2, by_hand(project, detector, video, 2, bank, torch.ones(1, 1)))
    other = by_hand(project, detector, video, 2, bank.flip(2), torch.ones(1, 1))
    assert not np.allclose(found.score[found.rows(0)][: len(other.score)], other.score[: len(found)], atol=1e-6)


def test_actors_may_do_several_things_and_have_one_pose(project):
    folder = freeze(project, "run", network={"several": True, "poses": 2})
    train_detector_run(folder, checkpoints="checkpoints/run")
    detector = load_detector(folder)
    assert (detector.poses, detector.classes) == (2, 2)
    one = by_hand(project, detector, videos("test")[0], 0)
    np.testing.assert_allclose(one.score.sum(axis=1), one.confidence, rtol=1e-4)  # of poses an actor has one
    free = load_detector(freeze_as(folder, "free", poses=0))
    score = by_hand(project, free, videos("test")[0], 0)
    assert free.poses == 0
    assert not np.allclose(score.score.sum(axis=1), score.confidence, rtol=1e-2)


def freeze_as(folder, name, **network):
    """A copy of a trained run whose network is said to be another."""
    copy = Path(folder).with_name(name)
    shutil.copytree(folder, copy)
    frozen = read_json(copy / "config.json")
    frozen["config"]["network"] |= network
    write_json(copy / "config.json", frozen)
    return copy


def test_late_training_leaves_the_first_layers(project):
    folder = freeze(project, "run", trains="late", training={"weight_decay": 0.0})
    torch.manual_seed(0)
    start: YOWO = build_detector(NETWORK, classes=2)
    train_detector_run(folder, checkpoints="checkpoints/run")
    state, own = load_file(f"{folder}/model.safetensors"), dict(start.named_parameters())
    first, last = "backbone_2d.models.0.conv1.weight", "conv_final.weight"
    assert torch.equal(state[first], own[first])
    assert not torch.equal(state[last], own[last])


def test_what_is_wrong_is_said(project, monkeypatch):
    folder = freeze(project, "run", anchors="small")
    with pytest.raises(RunError, match="no public anchors for small: write `anchors: fitted`"):
        train_detector_run(folder, checkpoints="checkpoints/run")
    with pytest.raises(RunError, match=r"model\.safetensors is missing: `reaction train_detector"):
        load_detector(folder)
    monkeypatch.setattr(detector_loop, "launch", lambda precision: type("fabric", (), {"world_size": 2}))
    with pytest.raises(TrainingError, match="in one process, not in 2"):
        train_detector(nn.Linear(1, 1), [], None, DetectorRecipe(**TRAINING), **NOWHERE)
    Path(project.index, "boxes.h5").unlink()
    with pytest.raises(RunError, match=r"boxes\.h5 is missing: the dataset's archives hold no boxes"):
        train_detector_run(folder, checkpoints="checkpoints/run")


NOWHERE = {"seed": 0, "checkpoints": Path(), "identity": ""}
