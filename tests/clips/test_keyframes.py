"""Painted boxes through crop, flip and resizing, and which frames a clip has."""

import colorsys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from reaction.clips.keyframes import (
    Around,
    Bank,
    Distortion,
    TestKeyFrames,
    TrainKeyFrames,
    View,
    collate,
)
from reaction.clips.transforms import Crop
from reaction.data.boxes import Boxes
from reaction.data.index import Video
from reaction.models.yowo import decode, detect
from reaction.training.region_loss import Targets, region_loss

torch.set_num_threads(1)

WIDTH, HEIGHT = 320, 240  # of the original frames
STORED = (80, 120)  # height and width, squeezed otherwise than the original
INPUT = 64
PLAIN = Distortion(jitter=0, hue=0, saturation=1, exposure=1, flip=False)


class MemoryShards:
    """Stands in for `reaction.data.store.Shards`."""

    def __init__(self, pictures):
        self.stored, self.read = pictures, []

    def length(self, video):
        return len(self.stored[video])

    def pictures(self, video, indices):
        self.read += [int(k) for k in indices]
        return [self.stored[video][k] for k in indices]


def video(name, frames):
    facts = {"path": "", "labels": (0,), "group": "g", "fps": 25.0, "sha256": "", "decoder": "pyav"}
    return Video(video=name, frames=frames, width=WIDTH, height=HEIGHT, **facts)


def one_tube(box, *, label=3):
    count = len(box)
    return Boxes(np.arange(count), np.array(box, np.float32), np.full(count, label), np.zeros(count, np.int64))


def numbered(count):
    """Frame i is everywhere 10 i."""
    return [np.full((*STORED, 3), 10 * i, np.uint8) for i in range(count)]


def painted(boxes):
    """A bright rectangle on grey where the box of each frame is."""
    scale = np.array([STORED[1] / WIDTH, STORED[0] / HEIGHT] * 2)
    pictures = []
    for box in boxes:
        x1, y1, x2, y2 = np.rint(np.array(box) * scale).astype(int)
        picture = np.full((*STORED, 3), 60, np.uint8)
        picture[y1:y2, x1:x2] = (200, 220, 240)
        pictures.append(picture)
    return pictures


def moving(count):
    """Corners that fall on whole pixels of the stored frames."""
    return [[80 + 8 * i, 60 + 3 * i, 160 + 8 * i, 180 + 3 * i] for i in range(count)]


def bright(frame):
    """x1, y1, x2, y2, in fractions, of what is brighter than half way from grey in (3, h, w)."""
    shown = frame.mean(0) + 1
    inside = shown > 0.65 * shown.max()
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / len(shown)


def train(shards, boxes, **changes):
    options = {"around": Around(4), "input": INPUT, "distortion": PLAIN, "seed": 7, "strides": (1,)} | changes
    videos = [video(name, shards.length(name)) for name in shards.stored]
    return TrainKeyFrames(videos, shards, boxes, **options)


def values(clip):
    """The value of each of numbered frames, from a clip (3, T, h, w)."""
    return np.rint((clip[0, :, 0, 0].numpy() + 1) * 127.5).astype(int).tolist()


def test_a_clip_ends_at_its_key_frame_and_a_short_start_repeats_the_first_one():
    shards = MemoryShards({"a": numbered(12)})
    clips = train(shards, {"a": one_tube(moving(12))})
    assert len(clips) == 12
    assert [values(clips[k]["clip"]) for k in (0, 2, 11)] == [[0, 0, 0, 0], [0, 0, 10, 20], [80, 90, 100, 110]]
    assert values(train(shards, {"a": one_tube(moving(12))}, strides=(3,))[10]["clip"]) == [10, 40, 70, 100]
    assert shards.read[:5] == [0, 0, 1, 2, 8], "a frame that repeats is decoded once"


def test_a_clip_may_lie_around_its_key_frame():
    middle = Around(4, "middle")
    assert middle.indices(np.array([0, 5, 11]), 12).tolist() == [[0, 0, 0, 1], [3, 4, 5, 6], [9, 10, 11, 11]]
    assert Around(4).indices(np.array([5]), 12, stride=2).tolist() == [[0, 1, 3, 5]]
    # facebookresearch/SlowFast `datasets/utils.py`: range(centre - 32, centre + 32, 2) of 32 frames
    assert Around(32, "middle").indices(np.array([90]), 999, 2)[0].tolist() == list(range(58, 122, 2))


@pytest.mark.parametrize("distortion", [Distortion(), Distortion(hue=0, saturation=1, exposure=1)])
def test_a_bright_rectangle_follows_its_box(distortion):
    boxes = moving(10)
    clips = train(MemoryShards({"a": painted(boxes)}), {"a": one_tube(boxes)}, distortion=distortion)
    seen = set()
    for epoch in range(8):
        clips.set_epoch(epoch)
        for item in clips:
            shown = bright(item["clip"][:, -1].numpy())
            np.testing.assert_allclose(item["box"][0].numpy(), shown, atol=1.01 / INPUT)
            seen.add(tuple(item["box"][0].tolist()))
            assert item["label"].tolist() == [3]
    assert len(seen) == 80, "every epoch draws anew"


def test_half_of_the_clips_are_mirrored_and_all_of_their_frames_alike():
    boxes = [[40, 60, 120, 180]] * 200
    clips = train(MemoryShards({"a": painted(boxes)}), {"a": one_tube(boxes)}, distortion=Distortion(jitter=0))
    right = [item["box"][0, 0].item() > 0.5 for item in clips]
    assert 70 < sum(right) < 130
    frames = clips[0]["clip"]
    assert torch.equal(frames[:, 0], frames[:, -1])


def test_a_crop_beyond_the_frame_is_black_there_and_boxes_move_exactly():
    view = View(Crop(-40, 10, 120, 60))  # of frames of 120 x 80
    frame = np.full((*STORED, 3), 200, np.uint8)
    (seen,) = view.pictures([frame], 60)
    assert seen[:, :20].max() == 0
    assert seen[:, 20:].min() == 200
    box, kept = view.boxes(np.array([[0.0, 0.25, 0.5, 0.5], [0.9, 0.9, 1.0, 1.0]]), 120, 80)
    assert kept.tolist() == [0], "the second lies wholly outside of the view"
    np.testing.assert_allclose(box, [[40 / 120, 10 / 60, 100 / 120, 30 / 60]], rtol=1e-6)
    flipped, _ = view._replace(flipped=True).boxes(np.array([[0.0, 0.25, 0.5, 0.5]]), 120, 80)
    np.testing.assert_allclose(flipped, [[20 / 120, 10 / 60, 80 / 120, 30 / 60]], rtol=1e-6)


def test_edges_of_crops_move_in_and_out_by_a_fifth():
    rng = np.random.default_rng(0)
    crops = [Distortion().draw(100, 50, rng).crop for _ in range(4000)]
    assert {crop.x for crop in crops} == set(range(-20, 21))
    assert {crop.y for crop in crops} == set(range(-10, 11))
    assert {crop.x + crop.w for crop in crops} == set(range(80, 121))


def test_colours_turn_and_stretch_as_in_hsv():
    pixel = (0.8, 0.4, 0.3)
    frame = np.full((4, 4, 3), np.rint(255 * np.array(pixel)), np.uint8)
    hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
    view = View(Crop(0, 0, 4, 4), hue=0.1, saturation=1.2, exposure=0.7)
    expected = 255 * np.array(colorsys.hsv_to_rgb((hue + 0.1) % 1, min(saturation * 1.2, 1), value * 0.7))
    np.testing.assert_allclose(view.pictures([frame], 4)[0, 0, 0], expected, atol=3)
    factors = [Distortion().draw(8, 8, np.random.default_rng(seed)) for seed in range(500)]
    for name in ("saturation", "exposure"):
        drawn = np.array([getattr(view, name) for view in factors])
        assert drawn.min() >= 1 / 1.5
        assert drawn.max() <= 1.5
        assert 200 < (drawn > 1).sum() < 300


def test_one_frame_of_each_group_is_drawn_anew_every_epoch():
    clips = train(MemoryShards({"a": numbered(10)}), {"a": one_tube(moving(10))}, every=4)
    drawn = []
    for epoch in range(30):
        clips.set_epoch(epoch)
        drawn.append([values(item["clip"])[-1] // 10 for item in clips])
    assert [set(one) for one in zip(*drawn, strict=True)] == [{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9}]


def test_an_item_depends_on_seed_epoch_and_index_alone():
    boxes = moving(10)
    shards = MemoryShards({"a": painted(boxes)})
    options = {"distortion": Distortion(), "strides": (1, 2)}
    first, second = (train(shards, {"a": one_tube(boxes)}, **options) for _ in range(2))
    for clips in (first, second):
        clips.set_epoch(3)
    assert torch.equal([*first][9]["clip"], second[9]["clip"]), "whatever was read before"
    other = train(shards, {"a": one_tube(boxes)}, seed=8, **options)
    assert not torch.equal(other[9]["clip"], train(shards, {"a": one_tube(boxes)}, **options)[9]["clip"])


def test_only_annotated_frames_are_trained_on_and_batches_are_the_losss_targets():
    frame, tube = np.array([2, 2, 5]), np.array([0, 1, 0])
    box = np.array([[0, 0, 160, 120], [160, 120, 320, 240], [0, 0, 80, 60]], np.float32)
    boxes = {"a": Boxes(frame, box, np.array([4, 1, 4]), tube)}
    clips = train(MemoryShards({"a": numbered(8), "unannotated": numbered(3)}), boxes)
    assert len(clips) == 2
    batch = next(iter(DataLoader(clips, batch_size=2, collate_fn=collate)))
    assert batch.clip.shape == (2, 3, 4, INPUT, INPUT)
    targets = Targets(batch.image, batch.box, batch.label)
    assert targets.image.tolist() == [0, 0, 1]
    assert targets.box.tolist() == [[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0, 0.25, 0.25]]
    assert targets.label.tolist() == [4, 1, 4]
    assert batch.index.tolist() == [0, 1]


def perfect_output(batch, anchors, cells):
    """Predictions (B, A (5 + 2), cells, cells) that have each box in its centre's cell, by the anchor most like it."""
    output = torch.full((len(batch.clip), len(anchors), 7, cells, cells), -20.0)
    for image, box, label in zip(batch.image, batch.box * cells, batch.label, strict=True):
        centre, sides = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        shared = torch.minimum(anchors, sides).prod(1)
        anchor = (shared / (anchors.prod(1) + sides.prod() - shared)).argmax()
        column, row = centre.long().tolist()
        place = output[image, anchor, :, row, column]
        place[:2], place[2:4], place[4] = torch.logit(centre - centre.long()), (sides / anchors[anchor]).log(), 20.0
        place[5 + label] = 20.0
    return output.flatten(1, 2)


def test_boxes_mean_the_same_places_to_the_loss_and_to_detections():
    boxes = moving(10)
    anchors = torch.tensor([[1.0, 1.0], [2.0, 4.0], [4.0, 2.0]])
    clips = train(MemoryShards({"a": painted(boxes)}), {"a": one_tube(boxes, label=1)})
    batch = next(iter(DataLoader(clips, batch_size=10, collate_fn=collate)))
    output = perfect_output(batch, anchors, 8)
    losses = region_loss(output, Targets(batch.image, batch.box, batch.label), anchors)
    assert losses.total < 1e-6
    for image in range(10):
        found = detect(decode(output, anchors), image, width=WIDTH, height=HEIGHT)
        torch.testing.assert_close(found.box, torch.tensor([boxes[image]], dtype=torch.float32), rtol=0, atol=1e-2)
        torch.testing.assert_close(found.score, torch.tensor([[0.0, 1.0]]))


def test_actors_who_do_several_things_have_one_box():
    corners = np.array([[0, 0, 160, 120]] * 2 + [[160, 0, 320, 240]], np.float32)
    boxes = {"a": Boxes(np.zeros(3, np.int64), corners, np.array([0, 2, 2]), np.array([5, 5, 9]))}
    item = train(MemoryShards({"a": numbered(2)}), boxes, classes=4)[0]
    assert item["box"].tolist() == [[0, 0, 0.5, 0.5], [0.5, 0, 1, 1]]
    assert item["label"].tolist() == [[1, 0, 1, 0], [0, 0, 1, 0]]


def test_every_frame_is_tested_whole_and_decoded_about_once():
    boxes = moving(10)
    shards = MemoryShards({"a": painted(boxes), "b": painted(boxes[:3])})
    videos = [video("a", 10), video("b", 3)]
    items = [*TestKeyFrames(videos, shards, around=Around(4), input=INPUT, batch=6)]
    assert [(item["index"].item(), item["frame"].tolist()) for item in items] == [
        (0, [0, 1, 2, 3, 4, 5]),
        (0, [6, 7, 8, 9]),
        (1, [0, 1, 2]),
    ]
    assert len(shards.read) == 6 + 7 + 3
    assert items[1]["clip"].shape == (4, 3, 4, INPUT, INPUT)
    for item in items:
        for clip, frame in zip(item["clip"], item["frame"].tolist(), strict=True):
            for back in range(4):
                box = np.array(boxes[max(frame - back, 0)]) / ([WIDTH, HEIGHT] * 2)
                np.testing.assert_allclose(bright(clip[:, -1 - back].numpy()), box, atol=1.01 / INPUT)


def test_key_frames_alone_are_tested_where_they_are_given():
    shards = MemoryShards({"a": numbered(12), "b": numbered(5)})
    videos = [video("a", 12), video("b", 5)]
    options = {"around": Around(3), "input": 8, "batch": 2, "stride": 2, "at": {"a": [1, 6, 11]}}
    items = [*TestKeyFrames(videos, shards, **options)]
    assert [item["frame"].tolist() for item in items] == [[1, 6], [11]]
    assert [values(clip) for item in items for clip in item["clip"]] == [[0, 0, 10], [20, 40, 60], [70, 90, 110]]


def test_features_at_another_rate_are_refused():
    shards = MemoryShards({"a": numbered(5)})
    with pytest.raises(ValueError, match=r"a has 10 frames and 5 are stored: .* take features without `fps`"):
        TestKeyFrames([video("a", 10)], shards, around=Around(), input=8, batch=2)


def test_distortions_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"jitter lies in \[0, 0.5\)"):
        Distortion(jitter=0.5)
    with pytest.raises(ValueError, match="saturation and exposure are 1 or more"):
        Distortion(exposure=0.5)


def test_a_bank_has_the_clips_around_the_key_frame_or_those_before_it():
    """Of a video of 160 frames, 20 clips of 8."""
    around, causal = Bank("around"), Bank("causal")
    assert around.starts(80, 160) == list(range(48, 112, 8)), "frames 48 to 111"
    assert around.starts(0, 160) == [0, 8, 16, 24], "there is nothing before the video"
    assert around.starts(159, 160) == [120, 128, 136, 144, 152]
    assert causal.starts(79, 160) == list(range(16, 80, 8)), "frame 79 ends the tenth clip"
    assert causal.starts(78, 160) == list(range(8, 72, 8))
    assert causal.starts(7, 160) == [0]
    assert causal.starts(4, 160) == [-3], "none has ended: the 8 frames up to it"


def test_key_frames_share_the_clips_of_a_bank():
    frames, weight = Bank("around").read([0, 8, 40], 61)  # the eighth clip is filled up with the last frame
    assert frames[:, 0].tolist() == [0, 8, 16, 24, 32, 40, 48, 56]
    assert frames[-1].tolist() == [56, 57, 58, 59, 60, 60, 60, 60]
    np.testing.assert_allclose(weight.sum(axis=1), 1)
    assert [row.nonzero()[0].tolist() for row in weight] == [[0, 1, 2, 3], [0, 1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7]]
    early, _ = Bank("causal").read([4], 61)
    assert early.tolist() == [[0, 0, 0, 0, 1, 2, 3, 4]]


def test_items_have_the_pictures_of_the_bank():
    shards, boxes = MemoryShards({"a": numbered(20)}), {"a": one_tube([[0, 0, 160, 120]] * 20)}
    options = {"around": Around(4), "input": INPUT, "bank": Bank("causal")}
    test = TestKeyFrames([video("a", 20)], shards, batch=20, **options)[0]
    shown = ((test["bank"][:, 0, :, 0, 0] + 1) * 127.5 / 10).round().int().tolist()
    assert shown[-2:] == [list(range(8)), list(range(8, 16))]
    assert test["weight"][15].tolist() == [0.0] * (len(shown) - 2) + [0.5, 0.5]
    train = TrainKeyFrames([video("a", 20)], shards, boxes, distortion=PLAIN, seed=0, strides=(1,), **options)
    batch = collate([train[3], train[15]])
    assert batch.bank.shape == (3, 3, 8, INPUT, INPUT)
    assert batch.weight.tolist() == [[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]
    assert ((batch.bank[0, 0, :, 0, 0] + 1) * 127.5 / 10).round().int().tolist() == [0, 0, 0, 0, 0, 1, 2, 3]
    assert (
        collate(
            [
                TrainKeyFrames(
                    [video("a", 20)], shards, boxes, around=Around(4), input=INPUT, distortion=PLAIN, seed=0
                )[0]
            ]
            * 2
        ).bank
        is None
    )
