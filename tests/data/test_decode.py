"""Every decoder and format must give the frames whose numbers are painted into them: 0, 1, ..., n-1."""

import csv
import os
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from reaction.data import decode
from reaction.data.decode import DecodeError, chunks, count, inspect
from reaction.data.videos import VideoError, read_frames

BITS = 8
decord_only = pytest.mark.skipif(decode._import_decord() is None, reason="decord cannot be imported")


def paint(number, width, height):
    """A picture whose upper half shows `number` as `BITS` black or white blocks, lowest bit first."""
    image = np.full((height, width, 3), 40, np.uint8)
    image[height // 2 :, :, 1] = number * 7 % 200
    for bit in range(BITS):
        block = slice(bit * width // BITS, (bit + 1) * width // BITS)
        image[: height // 2, block] = 230 if number >> bit & 1 else 20
    return image


def painted_number(image):
    height, width = image.shape[:2]
    blocks = [
        image[height // 8 : 3 * height // 8, (4 * b + 1) * width // (4 * BITS) :][:, : width // 16] for b in range(BITS)
    ]
    return sum(1 << bit for bit, block in enumerate(blocks) if block.mean() > 125)


def encode(path, n, codec, *, size=(128, 96), b_frames=0, gop=12, options=None, times=None):
    """Write `n` painted frames; `times` are their display times in 1/90 s, 25 frames a second without them."""
    faststart = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=faststart) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.max_b_frames, stream.codec_context.gop_size = b_frames, gop
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 90)
        for number in range(n):
            frame = av.VideoFrame.from_ndarray(paint(number, *size))
            if times is not None:
                frame.pts, frame.time_base = int(times[number]), Fraction(1, 90)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def pack_b_frames(source, path):
    """Rewrite an MPEG-4 AVI with single B-frames the way XviD's "packed bitstream" does, as in HMDB-51's files.

    P and B share a packet, a placeholder (a picture that is not coded) follows, and the encoder's delay leaves a packet
    of one byte. The DivX mark tells decoders so.
    """
    with av.open(str(source)) as container:
        stream = container.streams.video[0]
        rate, size = stream.average_rate, (stream.width, stream.height)
        packets = [(bytes(packet), packet.is_keyframe) for packet in container.demux(stream) if packet.size]
    start = packets[0][0].index(b"\0\0\1\xb6")
    marked = packets[0][0][:start] + b"\0\0\1\xb2DivX503b1393p" + packets[0][0][start:]
    coded, placeholder = [(marked, True), (b"\x7f", False)], b"\0\0\1\xb6\x50\x4f\0"
    for data, key in packets[1:]:
        is_b = data[data.index(b"\0\0\1\xb6") + 4] >> 6 == 2
        if is_b:
            coded[-1] = (coded[-1][0] + data, coded[-1][1])
        coded.append((placeholder, False) if is_b else (data, key))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt, stream.codec_context.codec_tag = "yuv420p", "XVID"
        for number, (data, key) in enumerate(coded):
            packet = av.Packet(data)
            packet.pts = packet.dts = number
            packet.time_base, packet.is_keyframe, packet.stream = 1 / rate, key, stream
            container.mux(packet)
    return path


def numbers(path, **options):
    return [painted_number(frame) for chunk in chunks(path, **options) for frame in chunk]


def h264_open_gop(folder):
    options = {"preset": "veryfast", "x264-params": "open-gop=1:keyint=250:min-keyint=250:scenecut=0"}
    return encode(folder / "open.mp4", 130, "libx264", b_frames=3, gop=250, options=options)


def h264_short_open_gop(folder):
    options = {"preset": "veryfast", "x264-params": "open-gop=1:keyint=20:scenecut=0"}
    return encode(folder / "short.mp4", 130, "libx264", b_frames=3, gop=20, options=options)


def h264_variable_rate(folder):
    times = np.cumsum(np.random.default_rng(0).integers(1, 9, 130))
    return encode(folder / "vfr.mp4", 130, "libx264", b_frames=2, options={"preset": "veryfast"}, times=times)


def mpeg4_b_frames(folder):
    return encode(folder / "b.avi", 130, "mpeg4", b_frames=2)


def mpeg4_odd_size(folder):
    return encode(folder / "odd.avi", 130, "mpeg4", size=(175, 143), b_frames=2)


def xvid(folder):
    if "libxvid" not in av.codecs_available:
        pytest.skip("this build of PyAV has no XviD encoder")
    return encode(folder / "xvid.avi", 130, "libxvid", b_frames=2)


FORMATS = [h264_open_gop, h264_short_open_gop, h264_variable_rate, mpeg4_b_frames, mpeg4_odd_size, xvid]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("painted")


@pytest.mark.parametrize("make", FORMATS)
def test_every_frame_once_and_in_order(make, folder):
    path = make(folder)
    facts = inspect(path)
    assert facts.frames == 130
    assert facts.warning == ""
    for decoder in ("pyav", facts.decoder):
        assert numbers(path, decoder=decoder) == list(range(130))
    image = next(chunks(path, decoder=facts.decoder))
    assert image.dtype == np.uint8
    assert image.shape[1:] == (facts.height, facts.width, 3)


@decord_only
@pytest.mark.parametrize("make", FORMATS[:-1])
def test_decord_is_right_where_it_is_chosen(make, folder):
    path = make(folder)
    assert inspect(path).decoder == "decord"
    assert numbers(path, decoder="decord") == list(range(130))


def test_packed_b_frames_are_pyav_s(folder):
    path = pack_b_frames(encode(folder / "single_b.avi", 130, "mpeg4", b_frames=1), folder / "packed.avi")
    assert numbers(path) == list(range(130))
    facts = inspect(path)
    assert (facts.frames, facts.decoder, facts.warning) == (130, "pyav", "")


@decord_only
def test_decord_pads_packed_b_frames(folder):
    """Why decord is not believed there. When this fails, decord has been repaired and can be chosen again."""
    path = pack_b_frames(encode(folder / "single_b.avi", 130, "mpeg4", b_frames=1), folder / "packed.avi")
    assert numbers(path, decoder="decord") == [*range(130), 129]


def test_chunks_are_bounded_and_in_order(folder):
    path = mpeg4_b_frames(folder)
    for decoder in ("pyav", "auto"):
        assert [len(chunk) for chunk in chunks(path, decoder=decoder, size=50)] == [50, 50, 30]
    assert numbers(path, size=1) == list(range(130))


def test_rgb_order(folder):
    frame = av.VideoFrame.from_ndarray(np.broadcast_to(np.array([200, 40, 90], np.uint8), (64, 64, 3)).copy())
    with av.open(str(folder / "red.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    facts = inspect(folder / "red.mp4")
    assert (facts.frames, facts.width, facts.height, facts.fps) == (1, 64, 64, 25.0)
    for decoder in ("pyav", "auto"):
        (image,) = next(chunks(folder / "red.mp4", decoder=decoder))
        assert np.abs(image.reshape(-1, 3).mean(axis=0) - [200, 40, 90]).max() < 4


def test_pyav_takes_over_without_decord(folder, monkeypatch):
    path = mpeg4_b_frames(folder)
    monkeypatch.setitem(sys.modules, "decord", None)
    assert inspect(path).decoder == "pyav"
    assert numbers(path) == list(range(130))
    with pytest.raises(DecodeError, match=r"b\.avi was indexed with decord"):
        next(chunks(path, decoder="decord"))


def test_broken_off_file_gives_its_frames_with_a_warning(folder):
    path = encode(folder / "whole.mp4", 130, "libx264", b_frames=2, options={"preset": "veryfast"})
    broken = folder / "broken.mp4"
    broken.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    facts = inspect(broken)
    assert 10 < facts.frames < 130
    assert facts.decoder == "pyav"
    assert facts.warning.startswith(f"breaks off after {facts.frames} frames")
    assert numbers(broken) == list(range(facts.frames))
    damage = []
    assert sum(len(chunk) for chunk in chunks(broken, decoder="pyav", damage=damage)) == facts.frames
    assert damage == [facts.warning.split(": ", 1)[1]]


def test_header_that_announces_too_much_is_a_warning(folder):
    content = bytearray(encode(folder / "plain.avi", 130, "mpeg4").read_bytes())
    length = content.index(b"strh") + 8 + 32  # dwLength of the stream header
    content[length : length + 4] = (200).to_bytes(4, "little")
    (folder / "lies.avi").write_bytes(content)
    assert inspect(folder / "lies.avi").warning == "the header announces 200 frames, 130 can be decoded"
    assert numbers(folder / "lies.avi") == list(range(130))


@pytest.mark.parametrize("content", [b"", b"not a video", b"RIFF\0\0\0\0AVI LIST"])
def test_file_without_frames_is_named(folder, content):
    path = folder / "no_video.avi"
    path.write_bytes(content)
    for decoder in ("auto", "pyav"):
        with pytest.raises(DecodeError, match=r"no_video\.avi: no frame can be decoded"):
            list(chunks(path, decoder=decoder))
    with pytest.raises(DecodeError, match=r"no_video\.avi"):
        inspect(path)


def test_missing_file_and_unknown_decoder(folder):
    with pytest.raises(DecodeError, match=r"nowhere\.avi.*No such file"):
        inspect(folder / "nowhere.avi")
    with pytest.raises(ValueError, match="'cv2', not one of auto, decord, pyav"):
        chunks(folder / "nowhere.avi", decoder="cv2")


def h264_plain(folder):
    return encode(folder / "plain.mp4", 130, "libx264", b_frames=3, gop=12, options={"preset": "veryfast"})


def h264_pyramid(folder):
    options = {"preset": "slow", "x264-params": "b-pyramid=normal:bframes=8:ref=6"}
    return encode(folder / "pyramid.mp4", 130, "libx264", gop=30, options=options)


def h264_intra_refresh(folder):
    """No picture is whole by itself: a start repairs the picture bit by bit."""
    options = {"preset": "veryfast", "x264-params": "intra-refresh=1:keyint=20"}
    return encode(folder / "refresh.mp4", 130, "libx264", gop=250, options=options)


def h264_cut(folder):
    """Frame 31 is shown first, by an edit list: what comes before it is there to decode it with, as `-c copy` cuts."""
    with av.open(str(h264_open_gop(folder))) as source:
        stream = source.streams.video[0]
        packets = [packet for packet in source.demux(stream) if packet.dts is not None]
        first = sorted(packet.pts for packet in packets)[31]
        with av.open(str(folder / "cut.mp4"), "w", options={"avoid_negative_ts": "disabled"}) as container:
            copy = container.add_stream_from_template(stream)
            for packet in packets:
                packet.pts, packet.dts, packet.stream = packet.pts - first, packet.dts - first, copy
                container.mux(packet)
    return folder / "cut.mp4"


SEEKABLE = [h264_open_gop, h264_short_open_gop, h264_variable_rate, h264_plain, h264_pyramid, h264_intra_refresh]


@pytest.mark.parametrize("make", [*SEEKABLE, h264_cut])
def test_single_frames_are_those_of_the_whole_video(make, folder):
    path, rng = make(folder), np.random.default_rng(0)
    whole = numbers(path, decoder="pyav")
    assert whole == list(range(31, 130) if make is h264_cut else range(130))
    starts = rng.integers(len(whole) - 20, size=10)
    wanted = [list(range(start, start + 20)) for start in starts]
    wanted += [sorted(set(rng.integers(len(whole), size=size).tolist())) for size in (1, 2, 3, 8, 30) for _ in range(5)]
    wanted += [[0], [len(whole) - 1], [0, len(whole) - 1], []]
    for positions in wanted:
        found = {k: painted_number(picture) for k, picture in read_frames(path, positions, len(whole))}
        assert found == {k: whole[k] for k in positions}


@pytest.fixture
def decodes_none_whole(monkeypatch):
    """Where only packets are counted."""
    monkeypatch.setattr(decode, "inspect", lambda path: pytest.fail(f"{path} was decoded"))
    monkeypatch.setattr(decode, "CHECKED", 1 << 40)


@pytest.mark.usefixtures("decodes_none_whole")
@pytest.mark.parametrize("make", [*SEEKABLE, h264_cut])
def test_packets_of_h264_in_mp4_are_its_frames(make, folder):
    path = make(folder)
    facts = count(path)
    assert facts.frames == len(numbers(path, decoder="pyav"))
    assert (facts.width, facts.height, facts.decoder, facts.warning) == (128, 96, "pyav", "")
    with av.open(str(path)) as container:
        assert facts.fps == float(container.streams.video[0].average_rate)


def test_what_is_odd_is_decoded_whole(folder, monkeypatch):
    monkeypatch.setattr(decode, "CHECKED", 1 << 40)
    avi, whole = mpeg4_b_frames(folder), h264_plain(folder)
    assert count(avi) == inspect(avi)
    broken = folder / "broken_off.mp4"
    broken.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert count(broken) == inspect(broken)
    assert 10 < count(broken).frames < 130
    (folder / "text.mp4").write_bytes(b"no moov atom")
    with pytest.raises(DecodeError, match=r"text\.mp4: no frame can be decoded"):
        count(folder / "text.mp4")


def test_a_sample_of_those_that_look_whole_is_decoded(folder, monkeypatch):
    """Pictures in the middle are overwritten: the packets are all there, and the decoder gives up or makes fewer."""
    path = h264_plain(folder)
    content = bytearray(path.read_bytes())
    middle = slice(len(content) // 2, len(content) // 2 + 3000)
    content[middle] = bytes(len(content[middle]))
    (folder / "holes.mp4").write_bytes(content)
    monkeypatch.setattr(decode, "CHECKED", 1)
    facts = count(folder / "holes.mp4")
    assert facts.frames < 130
    assert facts.warning == f"130 packets, of which {facts.frames} frames can be decoded"
    assert count(path) == inspect(path)


@pytest.mark.parametrize(
    ("name", "codec", "found"),
    [
        ("b.avi", "libx264", "h264 in avi"),
        ("b.mp4", "mpeg4", "mpeg4 in mov,mp4,m4a,3gp,3g2,mj2"),
        ("b.mkv", "libx264", "h264 in matroska,webm"),
    ],
)
def test_single_frames_of_other_formats_are_refused(folder, name, codec, found):
    path = encode(folder / name, 20, codec)
    with pytest.raises(VideoError, match=rf"{name} is {found}; single frames can be had of H.264 in MP4 alone: use a"):
        list(read_frames(path, [3], 20))


def test_single_frames_of_a_file_that_changed_or_broke(folder):
    path = h264_plain(folder)
    with pytest.raises(VideoError, match=r"plain\.mp4 has 130 frames and 131 were indexed"):
        list(read_frames(path, [3], 131))
    content = bytearray(path.read_bytes())
    content[content.index(b"mdat") + 4 :] = bytes(len(content) - content.index(b"mdat") - 4)
    (folder / "zeros.mp4").write_bytes(content)  # the table of packets comes first and is whole
    with pytest.raises(VideoError, match=r"zeros\.mp4 has no frame at which decoding can begin: replace the file"):
        list(read_frames(folder / "zeros.mp4", [3, 50], 130))
    with pytest.raises(VideoError, match=r"nowhere\.mp4: No such file"):
        list(read_frames(folder / "nowhere.mp4", [3], 130))


def real_folder(*parts):
    if "REACTION_MIRROR" not in os.environ:
        pytest.skip("REACTION_MIRROR is not set")
    folder = Path(os.environ["REACTION_MIRROR"]).joinpath(*parts)
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing")
    return folder


def decoded_frames(path, decoder):
    return sum(len(chunk) for chunk in chunks(path, decoder=decoder))


# Files as users have them: what OpenCV's reader counts, too. HMDB-51's have packed B-frames, where decord pads.
ORIGINALS = {
    "RATRACE_wave_f_nm_np1_fr_goo_37.avi": (72, 560, 240, 30.0, "pyav"),
    "SchoolRulesHowTheyHelpUs_wave_f_nm_np1_ba_med_0.avi": (74, 320, 240, 30.0, "pyav"),
    "TrumanShow_wave_f_nm_np1_fr_med_26.avi": (48, 432, 240, 30.0, "pyav"),
    "hmdb51_Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi": (83, 320, 240, 30.0, "pyav"),
    "v_SoccerJuggling_g23_c01.avi": (240, 320, 240, 29.97, "decord"),
    "v_SoccerJuggling_g24_c01.avi": (251, 320, 240, 29.97, "decord"),
    "R6llTwEh07w.mp4": (303, 340, 256, 30.0, "decord"),
    "SOX5yA1l24A.mp4": (332, 340, 256, 29.97, "decord"),
    "WUzgd7C1pWA.mp4": (327, 340, 256, 29.97, "decord"),
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", ORIGINALS)
def test_original_files_of_the_datasets(name):
    path = real_folder("..", "clips") / name
    facts = inspect(path)
    frames, width, height, fps, decoder = ORIGINALS[name]
    assert (facts.frames, facts.width, facts.height, round(facts.fps, 2)) == (frames, width, height, fps)
    assert facts.decoder == (decoder if decode._import_decord() else "pyav")
    assert facts.warning == ""
    assert decoded_frames(path, facts.decoder) == frames == opencv_frames(path)
    if decoder == "pyav" and decode._import_decord():
        assert decoded_frames(path, "decord") != frames, "decord has been repaired and can be chosen again"


def opencv_frames(path):
    reader, count = cv2.VideoCapture(str(path)), 0
    while reader.grab():
        count += 1
    return count


@pytest.mark.real_data
@pytest.mark.parametrize("name", [name for name in ORIGINALS if name.endswith(".mp4")])
def test_single_frames_of_kinetics_are_those_of_the_whole_video(name):
    path = real_folder("..", "clips") / name
    whole = np.concatenate(list(chunks(path, decoder="pyav")))
    positions = sorted(np.random.default_rng(0).choice(len(whole), 12, replace=False).tolist())
    for k, picture in read_frames(path, positions, len(whole)):
        np.testing.assert_array_equal(picture, whole[k])


@pytest.mark.real_data
def test_ucf101_24_clips_have_the_frames_of_their_annotation():
    folder = real_folder("ucf101_24", "demo_clips")
    with open(folder / "clips.csv", newline="") as file:
        announced = {row["path"]: int(row["frames"]) for row in csv.DictReader(file)}
    assert len(announced) == 9
    assert {name: decoded_frames(folder / name, "pyav") for name in announced} == announced
