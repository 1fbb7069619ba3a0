"""What a network sees of a video, against clips cut by hand from the frames that were decoded."""

import weakref

import cv2
import numpy as np
import pytest
import torch

from reaction.clips.transforms import cut, normalise, test_crops
from reaction.data.decode import chunks
from reaction.data.extract import resized
from reaction.data.rate import kept
from reaction.evaluation.classification import sigmoid, softmax
from reaction.flow import TVL1, quantise, tvl1
from reaction.predict.classes import CLIPS, PAIRS, Recogniser
from reaction.predict.video import READ, Clock, Source
from reaction.training.networks import RunError, load_run

FLOW = {"parameters": {"nscales": 1, "warps": 1, "inner_iterations": 3, "outer_iterations": 1, "median": 1}}
FLOW |= {"semantics": "opencv-cuda", "bound": 4.0, "resize": "64x48"}
CONCAT = {"network": {"entry": "concat", "map_channel": "mean"}}


def seconds_of(run, path):
    source = Source(path, Clock())
    found = list(Recogniser(run, Clock()).seconds(source))
    return [len(frames) for frames, _ in found], np.stack([probabilities for _, probabilities in found])


def decoded(path):
    return np.concatenate(list(chunks(path, decoder="pyav")))


def view(pictures, input=80):
    """The centre crop of pictures (n, H, W, c), one after the other as channels: (1, n c, input, input)."""
    height, width = pictures[0].shape[:2]
    ((crop, _),) = test_crops(width, height, round(0.875 * min(height, width)), 1)
    return torch.from_numpy(normalise(cut(pictures, crop, input)).reshape(1, -1, input, input))


def told(run, clips, likelihoods=softmax):
    """The probabilities of each second by the network alone, from its clips (1, C, H, W) of each second."""
    model, _ = load_run(run)
    with torch.no_grad():
        logits = [[model(clip[:, None])[0].numpy() for clip in of_second] for of_second in clips]
    return np.stack([likelihoods(np.stack(some)).mean(axis=0) for some in logits])


def test_each_second_is_the_mean_of_two_frames_of_its_own(untrained, filmed, moving):
    run, path = untrained(), filmed(moving(11))
    counts, found = seconds_of(run, path)
    assert CLIPS == 2
    assert counts == [4, 4, 3], "four frames a second"
    frames = [resized(frame, (104, 96)) for frame in decoded(path)]
    expected = told(run, [[view([frames[k]]) for k in pair] for pair in ((0, 2), (4, 6), (8, 10))])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(found[:, 0]) > 0.01, "the network tells frames apart"


def test_flow_is_that_of_the_whole_video_and_stacks_stay_inside_of_it(untrained, filmed, moving):
    run = untrained(stream="flow", network={"stack": 3}, features={"flow": FLOW})
    path = filmed(moving(PAIRS + 6))
    counts, found = seconds_of(run, path)
    assert counts == [4, 4, 4, 4, 4, 2]
    grey = [cv2.cvtColor(resized(frame, (64, 48)), cv2.COLOR_RGB2GRAY) for frame in decoded(path)]
    fields = quantise(tvl1(np.stack(grey), TVL1(**FLOW["parameters"]), semantics="opencv-cuda"), 4.0)
    fields = fields.transpose(0, 2, 3, 1)
    starts = [(0, 1), (3, 5), (7, 9), (11, 13), (15, 17), (PAIRS + 2,)]  # of 21 fields the last stack begins at 18
    expected = told(run, [[view(fields[k : k + 3]) for k in some] for some in starts])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_video_is_brought_to_the_rate_that_the_run_knows(untrained, filmed, moving):
    run, path = untrained(features={"rgb": {"fps": 3.0}}), filmed(moving(12), rate=6)
    counts, found = seconds_of(run, path)
    assert counts == [6, 6], "every frame is shown nevertheless"
    frames = decoded(path)[kept(12, 6.0, 3.0)]
    expected = told(run, [[view([resized(frames[k], (104, 96))]) for k in pair] for pair in ((0, 1), (3, 4))])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_short_video_repeats_its_last_frame_and_a_single_frame_stands_still(untrained, filmed, moving):
    run = untrained(stream="flow", network={"stack": 3}, features={"flow": FLOW})
    counts, found = seconds_of(run, filmed(moving(1)))
    still = np.full((3, 48, 64, 2), 128, np.uint8)
    assert counts == [1]
    np.testing.assert_allclose(found, told(run, [[view(still)]]), atol=1e-5)


def test_several_labels_are_probable_each_by_itself(untrained, filmed, moving):
    run, path = untrained(labels="video"), filmed(moving(2))
    _, found = seconds_of(run, path)
    frames = [resized(frame, (104, 96)) for frame in decoded(path)]
    np.testing.assert_allclose(found, told(run, [[view([frames[0]]), view([frames[1]])]], sigmoid), atol=1e-5)


@pytest.mark.parametrize("maps", [{"source": "constant", "value": 0.1}, {"source": "gradcam-true", "dead": 0.1}])
def test_a_network_that_reads_maps_gets_the_constant_one(untrained, filmed, moving, maps):
    run, path = untrained(maps=maps, **CONCAT), filmed(moving(1))
    _, found = seconds_of(run, path)
    model, _ = load_run(run)
    clip = view([resized(decoded(path)[0], (104, 96))])
    with torch.no_grad():
        expected = model(clip[:, None], torch.full((1, 1, 1, 80, 80), 0.1))[0].numpy()
    np.testing.assert_allclose(found[0], softmax(expected), atol=1e-5)


@pytest.mark.parametrize("stream", ["rgbdiff", "joint"])
def test_other_streams_are_seen_too(untrained, filmed, moving, small_project, monkeypatch, stream):
    network = {"stack": 2} if stream == "rgbdiff" else {"backbone": "two_stream_joint", "stack": 10}
    same = {"resize": "104x96"}
    monkeypatch.setattr(type(small_project), "rgbdiff", small_project.rgb, raising=False)
    run = untrained(stream=stream, network=network, features={"flow": FLOW | same, "rgb": same})
    counts, found = seconds_of(run, filmed(moving(9)))
    assert counts == [4, 4, 1]
    assert found.sum(axis=1) == pytest.approx(1)


def test_frames_are_freed_as_they_are_shown(untrained, moving, monkeypatch, filmed):
    """However long a video is, frames are alive for a second, a clip and what is read at once."""
    rate, span = 4, 5
    alive, peaks = weakref.WeakSet(), []

    class Chunk(np.ndarray):
        """An array that can be counted."""

        def __hash__(self):
            return id(self)

    def endless(path, *, decoder, size, damage):
        for frame in moving(40):
            chunk = frame[None].view(Chunk)
            alive.add(chunk)
            peaks.append(len(alive))
            yield chunk

    path = filmed(moving(1))
    monkeypatch.setattr("reaction.predict.video.chunks", endless)
    run = untrained(network={"backbone": "c3d", "stack": span, "input": 32, "segments": 1})
    shown = 0
    for frames, _ in Recogniser(run, Clock()).seconds(Source(path, Clock())):
        shown += len(frames)
        del frames
    assert shown == 40
    assert max(peaks) <= 2 * rate + span + READ < 40
    assert max(peaks[20:]) == max(peaks[:20]), "it does not grow"


def test_an_incomplete_project_is_named(untrained, small_project, tmp_path):
    run = untrained()
    config = tmp_path / small_project.rgb / "config.json"
    config.unlink()
    with pytest.raises(RunError, match=r"rgb-0/config\.json is missing: it says how the pictures"):
        Recogniser(run, Clock())
