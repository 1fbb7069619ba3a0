from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from reaction.attention import gradcam as cam
from reaction.attention.maps import (
    AttentionError,
    attend_shard,
    correlation,
    focus_iou,
    gradcam_shard,
    load_attention_net,
    train_attention_net,
)
from reaction.clips.loader import Stream, WholeFrames
from reaction.clips.maps import ConstantMaps
from reaction.data.index import part_videos, read_index
from reaction.data.splits import hold_out
from reaction.data.store import Maps, MapWriter, shard_name, shard_of
from reaction.files import read_json, sha256
from reaction.models.inception_v3 import FIRST_CONV
from reaction.training.run import load_run, open_features, train_run

LAYER = "Mixed_6e"
CONSTANT = {"source": "constant", "value": 0.1}
CONCAT = {"network": {"entry": "concat", "map_channel": "mean", "input": 112}, "maps": CONSTANT}
NET = {
    "hidden": 16,
    "kernel": 3,
    "epochs": 12,
    "batch": 16,
    "learning_rate": 0.01,
    "holdout": 0.3,
    "frames_per_video": 3,
}


def phase_one(project, name="first", **changes):
    folder = project.run(name, **(CONCAT | changes))
    train_run(folder, checkpoints=f"checkpoints/{name}")
    return folder


def gradcams(project, run, name="gradcam", **changes):
    config = {"layer": LAYER, "label": "true", "part": "train", "split": "split1", "every": 2}
    inputs = project.features("rgb") | {"run": run}
    folder = project.freeze("gradcam", name, config | {"maps": CONSTANT} | changes, inputs)
    for shard in range(2):
        gradcam_shard(folder, shard)
    return folder


def attention_net(project, run, cams, name="net", **changes):
    inputs = project.features("rgb") | {"run": run, "gradcam": cams}
    config = {"layer": LAYER, "split": "split1", "seed": 0} | NET | changes
    folder = project.freeze("attention_net", name, config, inputs)
    train_attention_net(folder)
    return Path(folder)


def learned(project, run, net, name="learned"):
    inputs = project.features("rgb") | {"run": run, "attention_net": str(net)}
    folder = project.freeze("attend", name, {"layer": LAYER, "every": 2}, inputs)
    for shard in range(2):
        attend_shard(folder, shard)
    return folder


def whole_frames(project, run, videos):
    """The network, and what it sees of each video's every second frame with the constant map."""
    model, config = load_run(run)
    frames = open_features(project.rgb)
    stream, input = Stream("rgb"), config["network"]["input"]
    clips = WholeFrames(videos, frames, stream=stream, input=input, every=2, maps=ConstantMaps(0.1))
    return model, clips


def test_grad_cam_maps_are_those_of_each_frame_for_the_true_label(small_project):
    run = phase_one(small_project)
    maps = Maps(gradcams(small_project, run))
    videos = part_videos(small_project.index, "split1", "train")
    assert maps.videos == sorted(video.video for video in videos)
    assert (maps.attributes["normalise"], maps.attributes["every"], maps.attributes["layer"]) == (True, 2, LAYER)
    model, clips = whole_frames(small_project, run, videos)
    for index in (0, 5):
        item = clips[index]
        assert maps.length(videos[index].video) == len(item["clip"]) == (videos[index].frames + 1) // 2
        x = torch.cat((item["clip"], torch.full_like(item["clip"][:, :1], 0.1)), dim=1)
        expected = cam.gradcam(model.backbone, x, torch.tensor(videos[index].labels * len(x)), LAYER)
        for k, one in enumerate(expected):
            np.testing.assert_allclose(maps.read(videos[index].video, k), one.numpy(), rtol=1e-3, atol=1e-6)


def test_each_video_is_in_the_shard_its_name_says(small_project):
    folder = Path(gradcams(small_project, phase_one(small_project), part="all"))
    single = Path("single")
    single.mkdir()
    (folder / shard_name(0)).rename(single / shard_name(0))
    names = {video.video for video in read_index(small_project.index)}
    assert set(Maps(single).videos) == {name for name in names if shard_of(name, 2) == 0}
    assert set(Maps(folder).videos) == {name for name in names if shard_of(name, 2) == 1}


def test_predicted_labels_give_other_maps_only_where_the_prediction_is_wrong(small_project):
    run = phase_one(small_project)
    true, predicted = (Maps(gradcams(small_project, run, label, label=label)) for label in ("true", "predicted"))
    videos = part_videos(small_project.index, "split1", "train")
    model, clips = whole_frames(small_project, run, videos)
    agree = []
    for index, video in enumerate(videos):
        item = clips[index]
        with torch.no_grad():
            right = model.backbone(model.enter(item["clip"], item["map"])).argmax(1) == item["label"]
        for k, is_right in enumerate(right.tolist()):
            same = np.allclose(true.read(video.video, k), predicted.read(video.video, k), rtol=1e-4, atol=1e-7)
            agree.append((is_right, same))
    assert all(same for is_right, same in agree if is_right)
    assert not all(same for is_right, same in agree if not is_right)


def test_the_same_job_writes_the_same_bytes(small_project):
    run = phase_one(small_project)
    digests = {sha256(Path(gradcams(small_project, run, "same"), shard_name(0))) for _ in range(2)}
    assert len(digests) == 1


def test_the_attention_network_beats_the_best_constant_map_on_held_out_groups(small_project):
    run = phase_one(small_project)
    cams = gradcams(small_project, run, every=1)
    net = attention_net(small_project, run, cams)
    metrics = read_json(net / "metrics.json")
    assert metrics["entropy_floor"] < metrics["heldout_bce"] < metrics["constant_bce"]
    assert metrics["correlation"] > 0.3
    again = attention_net(small_project, run, cams, "again")
    for name in ("attention_net.safetensors", "history.csv", "metrics.json"):
        assert sha256(net / name) == sha256(again / name)


def test_learned_maps_cover_every_video_and_are_the_networks_sigmoids(small_project):
    run = phase_one(small_project)
    net = attention_net(small_project, run, gradcams(small_project, run), epochs=2, kernel=5)
    assert load_attention_net(net).conv.kernel_size == (5, 5)
    maps = Maps(learned(small_project, run, net))
    videos = read_index(small_project.index)
    assert maps.videos == sorted(video.video for video in videos)
    assert maps.attributes["normalise"] is False
    model, clips = whole_frames(small_project, run, videos)
    item = clips[15]
    with torch.no_grad():
        features = model.backbone.features(model.enter(item["clip"], item["map"]), LAYER)
        expected = load_attention_net(net)(features)[:, 0].numpy()
    stored = np.stack([maps.read(videos[15].video, k) for k in range(maps.length(videos[15].video))])
    np.testing.assert_allclose(stored, expected, rtol=1e-4, atol=1e-6)
    assert 0 < stored.min() < stored.max() < 1


def test_phase_two_goes_on_from_phase_one_with_the_other_streams_maps(small_project):
    spatial = phase_one(small_project)
    network = CONCAT["network"] | {"stack": 2}
    temporal = phase_one(small_project, "flow", stream="flow", network=network)
    cams = gradcams(small_project, spatial)
    options = {"stream": "flow", "network": network, "maps": {"source": "gradcam-true", "dead": 0.1, "value": None}}
    second = phase_one(small_project, "second", **options, inputs={"init": temporal, "maps": cams})
    constant = phase_one(small_project, "third", stream="flow", network=network, inputs={"init": temporal})
    assert read_json(f"{second}/provenance.json")["weights"]["run"] == temporal
    before, after, unmapped = (map_weights(run) for run in (temporal, second, constant))
    assert (after - before).abs().max() > 10 * (unmapped - before).abs().max()


def map_weights(run):
    """The first convolution's filters of the map channel, which a constant map cannot teach."""
    return load_file(f"{run}/model.safetensors")["backbone." + FIRST_CONV][:, -1]


def test_dead_maps_are_left_out_and_counted(small_project):
    run = phase_one(small_project)
    folder = small_project.freeze("gradcam", "dead", {}, {})
    videos = part_videos(small_project.index, "split1", "train")
    ramp = np.linspace(0, 1, 25, dtype=np.float32).reshape(5, 5)
    with MapWriter(Path(folder) / shard_name(0), {"every": 2, "normalise": True}) as writer:
        for video in videos:
            count = (video.frames + 1) // 2
            writer.add(video.video, np.stack([np.zeros_like(ramp), *[ramp] * (count - 1)]))
    net = attention_net(small_project, run, folder, epochs=1)
    trained_on, heldout = hold_out(videos, 0.3, seed=0)
    metrics = read_json(net / "metrics.json")
    assert metrics["dead"] == len(heldout)
    assert metrics["n"] == sum((video.frames + 1) // 2 - 1 for video in heldout)
    header, row = (line.split(",") for line in (net / "history.csv").read_text().splitlines())
    assert int(row[header.index("train_dead")]) == len(trained_on)


def test_only_dead_maps_are_an_error(small_project):
    run = phase_one(small_project)
    folder = small_project.freeze("gradcam", "dead", {}, {})
    with MapWriter(Path(folder) / shard_name(0), {"every": 2, "normalise": True}) as writer:
        for video in part_videos(small_project.index, "split1", "train"):
            writer.add(video.video, np.zeros(((video.frames + 1) // 2, 5, 5)))
    with pytest.raises(AttentionError, match="dead"):
        attention_net(small_project, run, folder)


def test_correlation_is_pearsons_and_zero_for_a_constant():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(3, 7, 5, generator=generator), torch.rand(3, 7, 5, generator=generator)
    expected = [np.corrcoef(x.flatten(), y.flatten())[0, 1] for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    np.testing.assert_allclose(correlation(a, b), expected, atol=1e-5)
    torch.testing.assert_close(correlation(a, 2 - 3 * a), torch.full((3,), -1.0))
    assert correlation(torch.full((1, 7, 5), 0.5), b[:1]).item() == 0


def test_focus_overlap_of_two_half_overlapping_rectangles_is_a_third():
    a, b = torch.full((1, 4, 8), 0.2), torch.zeros(1, 4, 8)
    a[:, :, 0:4] = 0.3
    b[:, :, 2:6] = 1.0
    assert focus_iou(a, b).item() == pytest.approx(1 / 3)
    assert focus_iou(b, b).item() == 1
