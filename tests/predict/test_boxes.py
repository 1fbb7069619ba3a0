"""Which clips a detector is asked about, by a detector that only remembers them."""

import weakref
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from reaction.clips.keyframes import Around
from reaction.data.decode import chunks
from reaction.data.extract import resized
from reaction.files import write_json
from reaction.models.yowo import Detections
from reaction.predict.boxes import CLIPS_AT_ONCE, Finder
from reaction.predict.video import READ, Clock, Source
from reaction.training.networks import RunError

FRAMES, INPUT = 5, 32


@dataclass
class Remembers:
    """A detector that finds one box in each key frame, as large as what it was told of the frame."""

    network: torch.nn.Module = field(default_factory=lambda: torch.nn.Conv2d(1, 1, 1))
    classes: int = 3
    poses: int | None = None
    around: Around = field(default_factory=lambda: Around(FRAMES, "last"))
    input: int = INPUT
    bank: None = None
    clips: list = field(default_factory=list)

    def detect(self, clips, *, width, height, least_score, suppression):
        assert (least_score, suppression) == (0.3, 0.4 if self.poses is None else 0.5)
        self.clips.extend(clips)
        return [Detections(torch.tensor([[0.0, 0, width, height]]), torch.eye(3)[:1], torch.ones(1)) for _ in clips]


@pytest.fixture
def finder(tmp_path, monkeypatch):
    """A finder on frames stored 64 x 48, and the detector inside."""
    monkeypatch.chdir(tmp_path)
    write_json(Path("features/config.json"), {"config": {"resize": "64x48"}})
    write_json(Path("run/config.json"), {"inputs": {"features": "features"}})
    detector = Remembers()
    monkeypatch.setattr("reaction.predict.boxes.load_detector", lambda run: detector)
    return Finder("run", Clock(), 0.3), detector


@pytest.mark.parametrize("count", [1, 3, CLIPS_AT_ONCE, 2 * CLIPS_AT_ONCE + 3])
def test_every_frame_ends_a_clip_and_the_first_repeats_before_it(finder, filmed, moving, count):
    network, detector = finder
    path = filmed(moving(count))
    found = list(network.frames(Source(path, Clock())))
    frames = np.concatenate(list(chunks(path, decoder="pyav")))
    assert len(found) == len(detector.clips) == count
    assert all((frame == one).all() for (frame, _), one in zip(found, frames, strict=True))
    assert found[0][1].box.tolist() == [[0, 0, 104, 96]], "in the video's own pixels"
    seen = np.stack([resized(resized(frame, (64, 48)), (INPUT, INPUT)) for frame in frames])
    for key, clip in enumerate(detector.clips):
        expected = seen[[max(0, key - before) for before in range(FRAMES - 1, -1, -1)]] / 127.5 - 1  # (T, h, w, 3)
        np.testing.assert_allclose(clip, expected.transpose(3, 0, 1, 2), atol=1e-6)


def test_only_a_batch_and_a_clip_are_held(finder, moving, monkeypatch, filmed):
    network, detector = finder
    alive, peak = [], 0

    def counted(path, *, decoder, size, damage):
        nonlocal peak
        for frame in moving(60):
            chunk = frame[None].copy()
            alive.append(weakref.ref(chunk))
            detector.clips.clear()
            peak = max(peak, sum(one() is not None for one in alive))
            yield chunk

    path = filmed(moving(1))
    monkeypatch.setattr("reaction.predict.video.chunks", counted)
    shown = 0
    for _ in network.frames(Source(path, Clock())):
        shown += 1
    assert shown == 60
    assert peak <= 2 * CLIPS_AT_ONCE + READ < 60


def test_it_says_how_many_classes_it_tells_apart(finder):
    assert finder[0].classes == 3


@pytest.mark.parametrize(("poses", "told"), [(None, [2]), (0, [2, 0]), (2, [2, 0])])
def test_of_classes_that_exclude_each_other_the_best_is_told_else_all_above_the_threshold(
    finder, filmed, moving, poses, told
):
    network, detector = finder
    detector.poses = poses
    assert network.told(np.array([0.5, 0.3, 0.9], np.float32)) == told
    assert len(list(network.frames(Source(filmed(moving(1)), Clock())))) == 1, "and boxes overlap as in the protocol"


def test_a_run_that_reads_the_whole_video_is_refused(finder, monkeypatch):
    _, detector = finder
    detector.bank = "around"
    with pytest.raises(RunError, match="run reads clips of the whole video"):
        Finder("run", Clock(), 0.3)
