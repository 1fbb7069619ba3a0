import cv2
import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader

from reaction.clips.loader import Augmentation, Stream, TestClips, TrainClips, WholeFrames
from reaction.clips.maps import ConstantMaps, StoredMaps
from reaction.clips.samplers import test_segments, train_segments
from reaction.clips.transforms import Crop, test_crops
from reaction.data.index import Video
from reaction.data.store import Shards, ShardWriter, encode_jpeg, shard_name

HEIGHT, WIDTH, INPUT = 48, 64, 32
JPEG = 4 / 255 * 2  # what JPEG at quality 100 and rounding to bytes may cost, in units of [-1, 1]
RGB, FLOW = Stream("rgb"), Stream("flow", 3)
CENTRED = Stream("flow", 3, mean_flow=True)
DIFFERENCES, COLOURS = Stream("rgbdiff", 3), Stream("rgb", 4)  # three differences of four frames


class MemoryShards:
    """Stands in for `reaction.data.store.Shards`, and counts how often an item is read."""

    def __init__(self, blobs):
        self.blobs, self.read_items = blobs, []

    def length(self, video):
        return len(self.blobs[video])

    def pictures(self, video, indices):
        self.read_items += [(video, int(k)) for k in indices]
        return [decoded(self.blobs[video][k]) for k in indices]


def decoded(blob):
    """An image (H, W, c): a grey JPEG is the two components of a field, one over the other."""
    image = cv2.imdecode(np.frombuffer(blob, np.uint8), cv2.IMREAD_UNCHANGED)
    if image.ndim == 2:
        return image.reshape(2, -1, image.shape[1]).transpose(1, 2, 0)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class MemoryMaps:
    """Stands in for `reaction.data.store.Maps`."""

    def __init__(self, maps):
        self.maps, self.attributes = maps, {"every": 1, "normalise": False}

    def length(self, video):
        return len(self.maps[video])

    def read(self, video, k):
        return self.maps[video][k]


def videos(names):
    facts = {"group": "g", "frames": 0, "fps": 25.0, "width": WIDTH, "height": HEIGHT, "sha256": "", "decoder": "pyav"}
    return [Video(video=name, path=f"{name}.mp4", labels=(k + 2,), **facts) for k, name in enumerate(names)]


def rgb_blobs(images):
    return [encode_jpeg(np.repeat(image[..., None], 3, axis=2), 100) for image in images]


def flow_blobs(fields):
    """`fields` (n, 2, H, W), stored x over y."""
    return [encode_jpeg(np.concatenate(list(field)), 100) for field in fields]


def flat_fields(count):
    """Field i has x = 100 + 4 i and y = 30 + 4 i everywhere."""
    steps = 4 * np.arange(count)[:, None, None] + np.zeros((HEIGHT, WIDTH))
    return np.stack([100 + steps, 30 + steps], axis=1).astype(np.uint8)


def bytes_of(clip):
    return np.rint((np.asarray(clip) + 1) * 127.5).astype(int)


def lumpy_maps(count, seed=0):
    """A different 4 x 4 map for each frame, smooth once up-sampled."""
    return np.random.default_rng(seed).random((count, 4, 4), dtype=np.float32)


def pictures_of(maps):
    """The maps as pictures of the whole frame, up-sampled by torch."""
    whole = interpolate(torch.from_numpy(maps)[:, None], (HEIGHT, WIDTH), mode="bilinear", align_corners=False)
    return np.rint(255 * whole[:, 0].numpy()).astype(np.uint8)


def map_scene(stream, count=20):
    """Shards and maps in which frame i, or the y of field i, shows exactly map i."""
    maps = lumpy_maps(count)
    pictures = pictures_of(maps)
    fields = np.stack([np.full_like(pictures, 128), pictures], axis=1)
    blobs = rgb_blobs(pictures) if stream.name == "rgb" else flow_blobs(fields)
    return MemoryShards({"a": blobs}), StoredMaps(MemoryMaps({"a": maps}), dead=0.1)


def shown(clip):
    """The picture that carries the map: any colour, or the first field's y. (K, 1, h, w) in [0, 1]."""
    return (clip[:, 1:2] + 1) / 2


def train_clips(frames, names=("a",), *, stream=RGB, maps=None, **changes):
    augmentation = Augmentation(**changes)
    return TrainClips(
        videos(names), frames, stream=stream, segments=3, input=INPUT, augmentation=augmentation, seed=5, maps=maps
    )


def test_colour_jitter_shifts_each_channel_of_a_clip_and_nothing_else():
    frames, _ = map_scene(RGB)
    plain, jittered = train_clips(frames), train_clips(frames, jitter=0.1)
    shifts = []
    for epoch in range(3):
        plain.set_epoch(epoch)
        jittered.set_epoch(epoch)
        change = jittered[0]["clip"] - plain[0]["clip"]  # (3, 3, h, w): the same crop and flip
        shifts.append(change.mean((0, 2, 3)))
        assert (change - shifts[-1][:, None, None]).abs().max() < 1e-6
        assert torch.equal(jittered[0]["clip"], jittered[0]["clip"])
    assert (shifts[0] - shifts[1]).abs().max() > 1e-4


@pytest.mark.parametrize("fixed_offsets", [True, False])
@pytest.mark.parametrize("stream", [RGB, FLOW], ids=["rgb", "flow"])
def test_image_and_map_go_through_the_same_crop_and_flip(stream, fixed_offsets):
    frames, maps = map_scene(stream)
    clips = train_clips(frames, stream=stream, maps=maps, fixed_offsets=fixed_offsets)
    distances = []
    for epoch in range(40):
        clips.set_epoch(epoch)
        item = clips[0]
        assert item["map"].shape == (3, 1, INPUT, INPUT)
        picture = shown(item["clip"])
        assert (picture - item["map"]).abs().max() < JPEG / 2
        distances.append((picture - item["map"].flip(-1)).abs().max())
    assert min(distances) > 0.1  # the test would notice a map that is not flipped


@pytest.mark.parametrize("stream", [RGB, FLOW], ids=["rgb", "flow"])
def test_test_views_and_their_maps_coincide(stream):
    frames, maps = map_scene(stream)
    options = {"stream": stream, "segments": 4, "crops": 10, "input": INPUT, "sampler": "tsn"}
    item = TestClips(videos("a"), frames, maps=maps, **options)[0]
    assert item["clip"].shape == (40, stream.channels, INPUT, INPUT)
    assert item["map"].shape == (40, 1, INPUT, INPUT)
    assert (shown(item["clip"]) - item["map"]).abs().max() < JPEG / 2


def test_flow_channels_alternate_and_stacks_repeat_the_last_field():
    frames = MemoryShards({"a": flow_blobs(flat_fields(5))})
    item = WholeFrames(videos("a"), frames, stream=FLOW, input=INPUT, every=2)[0]
    assert item["clip"].shape == (3, 6, INPUT, INPUT)
    values = bytes_of(item["clip"])
    assert (values == values[:, :, :1, :1]).all()
    assert values[:, :, 0, 0].tolist() == [
        [100, 30, 104, 34, 108, 38],
        [108, 38, 112, 42, 116, 46],
        [116, 46, 116, 46, 116, 46],
    ]


@pytest.mark.parametrize("count", [1, 2, 3], ids=["n = 1", "n < L", "n = L"])
def test_short_videos_fill_their_stacks(count):
    frames = MemoryShards({"a": flow_blobs(flat_fields(count))})
    expected = [value + 4 * min(k, count - 1) for k in range(3) for value in (100, 30)]
    clip = train_clips(frames, stream=FLOW, flip=False)[0]["clip"]
    assert bytes_of(clip)[:, :, 0, 0].tolist() == [expected] * 3
    options = {"stream": FLOW, "segments": 25, "crops": 1, "input": INPUT, "sampler": "ends"}
    clip = TestClips(videos("a"), frames, **options)[0]["clip"]
    assert bytes_of(clip)[:, :, 0, 0].tolist() == [expected] * 25


def test_flipped_test_crops_mirror_and_negate_only_x_flow():
    fields = np.random.default_rng(0).integers(0, 256, (4, 2, HEIGHT, WIDTH), dtype=np.uint8)
    frames = MemoryShards({"a": flow_blobs(fields)})
    options = {"stream": FLOW, "segments": 2, "crops": 10, "input": INPUT, "sampler": "tsn"}
    clip = TestClips(videos("a"), frames, **options)[0]["clip"]
    plain, flipped = clip.reshape(2, 10, 6, INPUT, INPUT).split(5, dim=1)
    signs = torch.tensor([-1, 1, -1, 1, -1, 1])[:, None, None]
    assert (flipped - plain.flip(-1) * signs).abs().max() <= 2 / 255 + 1e-6


def test_training_flips_half_of_the_clips_and_negates_only_x_flow():
    frames = MemoryShards({"a": flow_blobs(flat_fields(9))})
    clips = train_clips(frames, stream=FLOW)
    seen = []
    for epoch in range(60):
        clips.set_epoch(epoch)
        x, y = bytes_of(clips[0]["clip"])[0, :2, 0, 0]
        flipped = x == 255 - (y + 70)
        assert flipped or x == y + 70
        seen.append(flipped)
    assert 18 <= sum(seen) <= 42  # binomial(60, 1/2): three deviations


def test_test_views_are_ordered_by_segment_and_cut_at_seven_eighths():
    x = np.arange(WIDTH) * np.ones((HEIGHT, 1))
    images = [(x + 20 * k).astype(np.uint8) for k in range(8)]
    frames = MemoryShards({"a": rgb_blobs(images)})
    options = {"stream": RGB, "segments": 2, "crops": 5, "input": 42, "sampler": "tsn"}  # 42 = 7/8 of 48: no resizing
    clip = TestClips(videos("a"), frames, **options)[0]["clip"]
    left = bytes_of(clip)[:, 0, 20, 0]
    offsets = np.array([0, 20, 0, 20, 10])  # 4 * (22 // 4) and half of it
    assert np.abs(left - np.concatenate([offsets + 20 * 2, offsets + 20 * 6])).max() <= 3


def test_one_crop_is_the_last_of_five():
    frames, maps = map_scene(RGB)
    options = {"stream": RGB, "segments": 4, "input": INPUT, "sampler": "tsn", "maps": maps}
    one = TestClips(videos("a"), frames, crops=1, **options)[0]
    five = TestClips(videos("a"), frames, crops=5, **options)[0]
    for name in ("clip", "map"):
        assert torch.equal(one[name], five[name][4::5])


@pytest.mark.parametrize("stream", [RGB, FLOW], ids=["rgb", "flow"])
def test_whole_frames_and_their_maps_coincide(stream):
    frames, maps = map_scene(stream, count=7)
    item = WholeFrames(videos("a"), frames, stream=stream, input=INPUT, every=3, maps=maps)[0]
    assert item["clip"].shape == (3, stream.channels, INPUT, INPUT)
    assert (shown(item["clip"]) - item["map"]).abs().max() < 0.03  # up-sampled once, and once resized


@pytest.mark.parametrize("batch", [1, 2, 5, 100])
def test_chunks_are_the_whole_item_in_pieces(batch):
    frames, maps = map_scene(FLOW, count=9)
    clips = WholeFrames(videos("a"), frames, stream=FLOW, input=INPUT, every=2, maps=maps)
    pieces = list(clips.chunks(0, batch))
    assert max(len(piece["clip"]) for piece in pieces) == min(batch, 5)
    for name in ("clip", "map"):
        assert torch.equal(torch.cat([piece[name] for piece in pieces]), clips[0][name])


@pytest.mark.parametrize("sampler", ["tsn", "ends"])
def test_each_stored_item_is_read_once(sampler):
    frames, _ = map_scene(FLOW, count=12)
    options = {"stream": FLOW, "segments": 25, "crops": 10, "input": INPUT}
    TestClips(videos("a"), frames, sampler=sampler, **options)[0]
    assert len(frames.read_items) == len(set(frames.read_items)) <= 12


def noise_shards(names, count=12):
    rng = np.random.default_rng(0)
    return MemoryShards(
        {name: rgb_blobs(rng.integers(0, 256, (count, HEIGHT, WIDTH), dtype=np.uint8)) for name in names}
    )


def collect(loader):
    """Items of an epoch by index."""
    return {int(k): clip for batch in loader for k, clip in zip(batch["index"], batch["clip"], strict=True)}


def test_items_depend_on_seed_epoch_and_index_alone():
    names = "abcdef"
    frames = noise_shards(names)
    clips, again = train_clips(frames, names), train_clips(frames, names)
    again.set_epoch(1)
    again[3]
    again.set_epoch(0)
    forwards = {k: clips[k]["clip"] for k in range(6)}
    other_ranks = {k: again[k]["clip"] for rank in (1, 0) for k in range(5 - rank, -1, -2)}
    assert forwards.keys() == other_ranks.keys()
    assert all(torch.equal(forwards[k], other_ranks[k]) for k in range(6))
    clips.set_epoch(1)
    assert not any(torch.equal(forwards[k], clips[k]["clip"]) for k in range(6))


def test_persistent_workers_see_the_epoch_change(tmp_path):
    names = "abcdef"
    with ShardWriter(tmp_path / shard_name(0), {"modality": "rgb"}) as writer:
        for name, blobs in noise_shards(names).blobs.items():
            writer.add(name, blobs, source_sha256="")
    cv2.resize(np.zeros((2000, 2000), np.uint8), (3000, 3000))  # start OpenCV's threads: a fork must survive them
    clips = train_clips(Shards(tmp_path), names)
    loader = DataLoader(clips, batch_size=2, num_workers=2, persistent_workers=True, timeout=60)
    for epoch in (0, 1, 7):
        clips.set_epoch(epoch)
        served = collect(loader)
        assert all(torch.equal(served[k], clips[k]["clip"]) for k in range(6))


def test_items_carry_label_and_index_and_maps_only_when_asked():
    frames = noise_shards("ab")
    item = train_clips(frames, "ab")[1]
    assert (item["label"].dtype, int(item["label"]), int(item["index"])) == (torch.int64, 3, 1)
    assert item["clip"].dtype == torch.float32
    assert "map" not in item
    constant = train_clips(frames, "ab", maps=ConstantMaps(0.1))[1]
    assert torch.equal(constant["map"], torch.full((3, 1, INPUT, INPUT), 0.1))
    assert torch.equal(constant["clip"], item["clip"])  # maps draw nothing


def coloured_shards(count):
    images = np.random.default_rng(0).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)
    return MemoryShards({"a": [encode_jpeg(image, 100) for image in images]})


def differences_of(clip):
    """Differences (K, 3L, h, w) of consecutive frames of clips (K, 3 (L + 1), h, w)."""
    return clip.unflatten(1, (-1, 3)).diff(dim=1).flatten(1, 2)


@pytest.mark.parametrize("count", [3, 12], ids=["short", "long"])
def test_an_rgbdiff_clip_is_the_differences_of_the_rgb_clip(count):
    frames, maps = coloured_shards(count), ConstantMaps(0.1)
    differences, colours = (train_clips(frames, stream=stream, maps=maps) for stream in (DIFFERENCES, COLOURS))
    flips = 0
    for epoch in range(12):
        differences.set_epoch(epoch)
        colours.set_epoch(epoch)
        got, clip = differences[0], colours[0]["clip"]
        assert got["clip"].shape == (3, 9, INPUT, INPUT)
        torch.testing.assert_close(got["clip"], differences_of(clip), rtol=0, atol=1e-6)
        assert torch.equal(got["map"], colours[0]["map"])
        rng = np.random.default_rng([5, epoch, 0])
        train_segments(count, 3, 4, rng)
        flips += differences._augment(WIDTH, HEIGHT, rng)[1]
    assert 0 < flips < 12


def test_rgbdiff_views_of_the_test_and_of_whole_frames_are_differences_too():
    frames = coloured_shards(7)
    options = {"segments": 2, "crops": 10, "input": INPUT, "sampler": "tsn"}
    got, clip = (TestClips(videos("a"), frames, stream=one, **options)[0]["clip"] for one in (DIFFERENCES, COLOURS))
    torch.testing.assert_close(got, differences_of(clip), rtol=0, atol=1e-6)
    got, clip = (
        WholeFrames(videos("a"), frames, stream=one, input=INPUT, every=2)[0]["clip"] for one in (DIFFERENCES, COLOURS)
    )
    torch.testing.assert_close(got, differences_of(clip), rtol=0, atol=1e-6)
    assert got[-1].abs().max() == 0  # the last frame has no later one


@pytest.mark.parametrize("crops", [5, 10])
def test_mean_flow_comes_off_test_views_as_the_whole_stored_field_has_it(crops):
    fields = np.random.default_rng(0).integers(0, 256, (6, 2, HEIGHT, WIDTH), dtype=np.uint8)
    fields[:, :, :, : WIDTH // 2] //= 2  # no crop's mean is the field's
    frames = MemoryShards({"a": flow_blobs(fields)})
    options = {"segments": 2, "crops": crops, "input": INPUT, "sampler": "tsn"}
    plain, got = (TestClips(videos("a"), frames, stream=one, **options)[0]["clip"] for one in (FLOW, CENTRED))
    stored = [cv2.imdecode(np.frombuffer(blob, np.uint8), 0).reshape(2, -1) for blob in frames.blobs["a"]]
    means = np.array([field.mean(axis=1) / 127.5 - 1 for field in stored])  # (6, 2)
    for view in range(2 * crops):
        start = (1, 3)[view // crops]  # the middles of four starts in two parts
        expected = means[start : start + 3].copy()
        if view % crops >= 5:
            expected[:, 0] *= -1
        difference = (plain[view] - got[view]).numpy()
        np.testing.assert_allclose(difference, expected.reshape(6, 1, 1) + np.zeros_like(difference), atol=1e-6)


def test_less_its_mean_a_pan_is_no_motion_whatever_the_crop_and_flip():
    frames = MemoryShards({"a": flow_blobs(flat_fields(9))})
    clips, plain = (train_clips(frames, stream=stream) for stream in (CENTRED, FLOW))
    for epoch in range(20):
        clips.set_epoch(epoch)
        plain.set_epoch(epoch)
        assert clips[0]["clip"].abs().max() < 1e-6
        assert plain[0]["clip"].abs().min() > 1e-3
    whole = WholeFrames(videos("a"), frames, stream=CENTRED, input=INPUT, every=2)[0]["clip"]
    assert whole.abs().max() < 1e-6


def slowly(blobs, stream, starts, crop, flipped):
    """The clip (K, C, h, w) of the segments at `starts`, picture by picture and segment by segment."""
    clip = []
    for start in starts:
        for step in range(stream.stack):
            image = cv2.imdecode(
                np.frombuffer(blobs[min(start + step, len(blobs) - 1)], np.uint8), cv2.IMREAD_UNCHANGED
            )
            planes = np.split(image, 2) if stream.name == "flow" else list(image[..., ::-1].transpose(2, 0, 1))
            for k, plane in enumerate(planes):
                patch = np.ascontiguousarray(plane[crop.y : crop.y + crop.h, crop.x : crop.x + crop.w])
                patch = cv2.resize(patch, (INPUT, INPUT), interpolation=cv2.INTER_LINEAR)
                patch = patch[:, ::-1] if flipped else patch
                patch = 255 - patch if flipped and stream.name == "flow" and k == 0 else patch
                clip.append(patch.astype(np.float32) * np.float32(2 / 255) - np.float32(1))
    return np.stack(clip).reshape(len(starts), -1, INPUT, INPUT)


@pytest.mark.parametrize("count", [4, 40], ids=["short: segments share pictures", "long"])
@pytest.mark.parametrize("stream", [RGB, FLOW, COLOURS], ids=["rgb", "flow", "colours"])
def test_clips_are_to_the_bit_what_the_plain_way_gives(stream, count):
    rng = np.random.default_rng(0)
    if stream.name == "flow":
        frames = MemoryShards({"a": flow_blobs(rng.integers(0, 256, (count, 2, HEIGHT, WIDTH), dtype=np.uint8))})
    else:
        frames = coloured_shards(count)
    blobs = frames.blobs["a"]
    clips = train_clips(frames, stream=stream)
    for epoch in range(8):
        clips.set_epoch(epoch)
        rng = np.random.default_rng([5, epoch, 0])
        starts = train_segments(count, 3, stream.span, rng)
        expected = slowly(blobs, stream, starts, *clips._augment(WIDTH, HEIGHT, rng))
        np.testing.assert_array_equal(clips[0]["clip"].numpy(), expected)
    options = {"stream": stream, "segments": 4, "input": INPUT, "sampler": "tsn"}
    starts = test_segments(count, 4, stream.span)
    for crops in (1, 10):
        views = [slowly(blobs, stream, starts, *view) for view in test_crops(WIDTH, HEIGHT, 42, crops)]
        expected = np.stack(views, axis=1).reshape(-1, *views[0].shape[1:])
        np.testing.assert_array_equal(
            TestClips(videos("a"), frames, crops=crops, **options)[0]["clip"].numpy(), expected
        )
    expected = slowly(blobs, stream, range(0, count, 3), Crop(0, 0, WIDTH, HEIGHT), False)
    whole = WholeFrames(videos("a"), frames, stream=stream, input=INPUT, every=3)[0]["clip"]
    np.testing.assert_array_equal(whole.numpy(), expected)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="'depth'"):
        Stream("depth")
    with pytest.raises(ValueError, match=r"mean_flow: stream 'rgbdiff'"):
        Stream("rgbdiff", 5, mean_flow=True)
    with pytest.raises(ValueError, match=r"1\.5"):
        Augmentation(scales=(1.0, 1.5))
    many = Video("a", "a.mp4", (1, 2), "g", 9, 25.0, WIDTH, HEIGHT, "", "pyav")
    with pytest.raises(ValueError, match="exactly one"):
        WholeFrames([many], MemoryShards({}), stream=RGB, input=INPUT, every=1)


def test_channels():
    assert [RGB.channels, FLOW.channels, Stream("flow", 10).channels, Stream("rgbdiff", 5).channels] == [3, 6, 20, 15]
    assert [RGB.span, FLOW.span, Stream("rgbdiff", 5).span] == [1, 3, 6]


def levels(count, first=0):
    """Grey pictures whose level is first + 5 k everywhere."""
    return [np.full((HEIGHT, WIDTH), first + 5 * k, np.uint8) for k in range(count)]


def stored(view, channels):
    """The stored levels (pictures, channels) of a view (C, h, w) of flat pictures."""
    return np.rint((view.mean(axis=(1, 2)) + 1) * 127.5).astype(int).reshape(-1, channels)


def test_a_clip_takes_every_nth_frame_and_plays_a_short_video_again():
    frames = MemoryShards({"a": rgb_blobs(levels(10))})
    stream = Stream("rgb", 4, stride=3, loop=True)
    view = TestClips(videos("a"), frames, stream=stream, segments=1, crops=1, input=INPUT, sampler="tsn")[0]["clip"]
    assert stream.span == 10
    assert (stored(view[0].numpy(), 3)[:, 0] // 5).tolist() == [0, 3, 6, 9]
    long = Stream("rgb", 6, stride=3, loop=True)
    view = TestClips(videos("a"), frames, stream=long, segments=1, crops=1, input=INPUT, sampler="tsn")[0]["clip"]
    assert (stored(view[0].numpy(), 3)[:, 0] // 5).tolist() == [0, 3, 6, 9, 2, 5]


def test_the_joint_stream_has_each_frame_with_the_fields_after_it():
    frames = MemoryShards({"a": rgb_blobs(levels(13))})
    fields = [np.concatenate([a, b]) for a, b in zip(levels(12, 100), levels(12, 50), strict=True)]
    flow = MemoryShards({"a": [encode_jpeg(field, 100) for field in fields]})
    stream = Stream("joint", 3, frames=2, loop=True)
    assert (stream.channels, stream.span) == (2 * 3 + 6 * 2, 6)
    options = {"stream": stream, "segments": 2, "crops": 1, "input": INPUT, "sampler": "consecutive", "flow": flow}
    item = TestClips(videos("a"), frames, **options)[0]["clip"].numpy()
    for view, first in zip(item, (0, 6), strict=True):
        assert (stored(view[:6], 3)[:, 0] // 5).tolist() == [first, first + 3]
        x_and_y = stored(view[6:], 2)
        assert ((x_and_y - [100, 50]) // 5).tolist() == [[first + k] * 2 for k in range(6)]


def test_the_joint_stream_flips_its_parts_as_what_they_show():
    frames = MemoryShards({"a": rgb_blobs(levels(5))})
    flow = MemoryShards({"a": flow_blobs(flat_fields(4))})
    stream = Stream("joint", 2)
    clips = TestClips(videos("a"), frames, stream=stream, segments=1, crops=10, input=INPUT, sampler="tsn", flow=flow)
    plain, flipped = clips[0]["clip"].numpy()[[4, 9]]
    np.testing.assert_array_equal(flipped[:3], plain[:3])
    np.testing.assert_allclose(flipped[3::2], -plain[3::2], atol=1e-6)
    np.testing.assert_array_equal(flipped[4::2], plain[4::2])


def test_the_joint_stream_wants_flow_of_the_same_size():
    frames, flow = MemoryShards({"a": rgb_blobs(levels(5))}), MemoryShards({"a": flow_blobs(flat_fields(4)[..., :40])})
    options = {"segments": 1, "crops": 1, "input": INPUT, "sampler": "tsn"}
    with pytest.raises(ValueError, match="64x48 and 40x48"):
        TestClips(videos("a"), frames, stream=Stream("joint", 2), flow=flow, **options)[0]
    with pytest.raises(ValueError, match="goes with 'joint'"):
        TestClips(videos("a"), frames, stream=Stream("joint", 2), **options)
