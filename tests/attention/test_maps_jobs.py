import csv
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from reaction.attention import gradcam as cam
from reaction.attention.attention_net import entropy_floor
from reaction.attention.maps import (
    AttentionError,
    agree_maps,
    attend_shard,
    correlation,
    focus_iou,
    gradcam_shard,
    load_attention_net,
    train_attention_net,
)
from reaction.clips.loader import Stream, TestClips, WholeFrames
from reaction.clips.maps import ConstantMaps, StoredMaps
from reaction.data.index import part_videos, read_index
from reaction.data.splits import hold_out
from reaction.data.store import Maps, MapWriter, shard_name, shard_of
from reaction.files import read_json, sha256
from reaction.models.inception_v3 import FIRST_CONV, InceptionV3
from reaction.models.weights import cpu_copy, write_weights
from reaction.training.inputs import open_features
from reaction.training.networks import load_run
from reaction.training.run import train_run
from reaction.training.scoring import score, score_run

LAYER = "Mixed_6e"
LAYERS = ["Mixed_7a", "Mixed_5d", "Mixed_7c", "Mixed_6e"]  # 112 pixels: 2 x 2, 11 x 11, 2 x 2, 5 x 5
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


def gradcams(project, run, name="gradcam", where=None, **changes):
    config = {"label": "true", "part": "train", "split": "split1", "every": 2} | (where or {"layer": LAYER})
    inputs = project.features("rgb") | {"run": run}
    folder = project.freeze("gradcam", name, config | {"maps": CONSTANT} | changes, inputs)
    for shard in range(2):
        gradcam_shard(folder, shard)
    return folder


def attention_net(project, run, cams, name="net", where=None, **changes):
    inputs = project.features("rgb") | {"run": run, "gradcam": cams}
    config = (where or {"layer": LAYER}) | {"split": "split1", "seed": 0} | NET | changes
    folder = project.freeze("attention_net", name, config, inputs)
    train_attention_net(folder)
    return Path(folder)


def read_rows(path):
    with path.open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def learned(project, run, net, name="learned", where=None):
    inputs = project.features("rgb") | {"run": run, "attention_net": str(net)}
    folder = project.freeze("attend", name, (where or {"layer": LAYER}) | {"every": 2}, inputs)
    for shard in range(2):
        attend_shard(folder, shard)
    return folder


def test_features_that_fit_are_computed_once_and_give_the_same_network(small_project, monkeypatch):
    run = phase_one(small_project)
    cams = gradcams(small_project, run)
    calls, forward = [], InceptionV3.features

    def counted(self, x, layer):
        calls.append(len(x))
        return forward(self, x, layer)

    monkeypatch.setattr(InceptionV3, "features", counted)
    kept = read_rows(attention_net(small_project, run, cams, "kept", epochs=3) / "history.csv")
    frames = sum(Maps(cams).length(video.video) for video in part_videos(small_project.index, "split1", "train"))
    assert sum(calls) == frames  # in three epochs, each with its held-out videos
    calls.clear()
    monkeypatch.setattr("reaction.attention.maps.KEPT", 0)
    anew = read_rows(attention_net(small_project, run, cams, "anew", epochs=3) / "history.csv")
    assert sum(calls) > frames
    for once, again in zip(kept, anew, strict=True):
        assert once == pytest.approx(again, rel=1e-3)


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


def awake(project):
    """A run whose scores follow what it sees: few steps leave the statistics far from those of its activations."""
    run = phase_one(project)
    model, clips = whole_frames(project, run, part_videos(project.index, "split1", "train"))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()
    with torch.no_grad():
        model.backbone(torch.cat([model.enter(clips[k]["clip"], clips[k]["map"]) for k in range(4)]))
    write_weights(Path(run, "model.safetensors"), cpu_copy(model))
    return run


def combined(backbone, x, label, layers, size):
    """The rule as it is written: each layer's map up-sampled, their mean, min-max; (M, H, W)."""
    maps = [cam.gradcam(backbone, x, torch.full((len(x),), label), layer)[:, None] for layer in layers]
    mean = torch.cat([F.interpolate(map, size, mode="bilinear") for map in maps], dim=1).mean(1)
    low, high = mean.amin((1, 2), keepdim=True), mean.amax((1, 2), keepdim=True)
    return ((mean - low) / (high - low)).numpy()


def test_maps_of_several_layers_are_read_as_their_up_sampled_mean(small_project):
    run = awake(small_project)
    maps = Maps(gradcams(small_project, run, where={"layers": LAYERS}))
    videos = part_videos(small_project.index, "split1", "train")
    assert maps.attributes["layers"] == LAYERS
    assert [part.shape for part in maps.parts(videos[0].video, 0)] == [(2, 2), (11, 11), (5, 5)]
    model, clips = whole_frames(small_project, run, videos)
    for index, size in ((0, (96, 104)), (5, (112, 112))):
        item, video = clips[index], videos[index]
        expected = combined(model.backbone, model.enter(item["clip"], item["map"]), video.labels[0], LAYERS, size)
        for k, one in enumerate(expected):
            np.testing.assert_allclose(StoredMaps(maps, dead=0.1).at(video.video, 2 * k, *size), one, atol=2e-3)


def test_layers_of_one_resolution_are_one_stored_map(small_project):
    run, where = awake(small_project), {"layers": ["Mixed_7a", "Mixed_7b", "Mixed_7c"]}
    three = Maps(gradcams(small_project, run, where=where))
    video = three.videos[0]
    each = [Maps(gradcams(small_project, run, layer, where={"layer": layer})) for layer in where["layers"]]
    (stored,) = three.parts(video, 0)
    np.testing.assert_allclose(stored, np.mean([maps.read(video, 0) for maps in each], axis=0), rtol=1e-3, atol=1e-7)


def test_the_attention_network_of_several_layers_learns_their_mean_from_the_last_one_named(small_project):
    run, where = awake(small_project), {"layers": LAYERS}
    net = attention_net(small_project, run, gradcams(small_project, run, where=where), where=where, epochs=1)
    model, _ = load_run(run)
    assert load_attention_net(net).conv.in_channels == model.backbone.Mixed_6e.outputs
    _, heldout = hold_out(part_videos(small_project.index, "split1", "train"), 0.3, seed=0)
    _, clips = whole_frames(small_project, run, heldout)
    targets = []
    for index, video in enumerate(heldout):  # 3 frames a video, and each has 2 or 3 maps
        item = clips[index]
        x = model.enter(item["clip"], item["map"])
        targets.append(combined(model.backbone, x, video.labels[0], LAYERS, (112, 112)))
    floor = entropy_floor(torch.from_numpy(np.concatenate(targets)).clamp(0, 1)).mean().item()
    metrics = read_json(net / "metrics.json")
    assert (metrics["n"], metrics["dead"]) == (sum(map(len, targets)), 0)
    assert metrics["entropy_floor"] == pytest.approx(floor, rel=1e-3)
    maps = Maps(learned(small_project, run, net, where=where))
    assert maps.read(maps.videos[0], 0).shape == (5, 5)


@pytest.mark.parametrize("label", ["true", "predicted"])
def test_scores_read_the_grad_cam_maps_of_test_videos(small_project, label):
    run = awake(small_project)
    cams = gradcams(small_project, run, f"gradcam-{label}", part="test", label=label)
    videos = part_videos(small_project.index, "split1", "test")
    assert Maps(cams).videos == sorted(video.video for video in videos)
    model, clips = whole_frames(small_project, run, videos)
    item = clips[1]
    x = model.enter(item["clip"], item["map"])
    with torch.no_grad():
        labels = item["label"].expand(len(x)) if label == "true" else model.backbone(x).argmax(1)
    expected = cam.gradcam(model.backbone, x, labels, LAYER).numpy()
    for k, one in enumerate(expected):
        np.testing.assert_allclose(Maps(cams).read(videos[1].video, k), one, rtol=1e-3, atol=1e-6)
    found = scores(small_project, run, {"source": f"gradcam-{label}", "dead": 0.1}, {"maps": cams})
    read = StoredMaps(Maps(cams), dead=0.1)
    options = {"stream": Stream("rgb"), "segments": 2, "crops": 1, "input": 112, "sampler": "tsn", "maps": read}
    by_hand = score(model, TestClips(videos, open_features(small_project.rgb), **options), report=lambda _: None)
    np.testing.assert_allclose(found, by_hand, rtol=1e-5, atol=1e-6)
    assert np.abs(found - scores(small_project, run, CONSTANT, {})).max() > 1e-4


def scores(project, run, maps, inputs):
    """Logits (videos, views, classes) that the job `score` writes with these maps."""
    protocol = {"segments": 2, "crops": 1, "sampler": "tsn"}
    config = {"split": "split1", "protocol": protocol, "maps": maps}
    folder = project.freeze("score", f"score-{maps['source']}", config, project.features("rgb") | {"run": run} | inputs)
    score_run(folder)
    with h5py.File(f"{folder}/scores.h5") as file:
        return file["logits"][:]


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


def test_what_a_job_took_is_written_beside_its_maps(small_project):
    run = phase_one(small_project)
    cams = gradcams(small_project, run)
    net = attention_net(small_project, run, cams, epochs=1)
    maps = learned(small_project, run, net)
    for folder in (Path(cams), Path(maps)):
        assert {path.name for path in folder.iterdir()} == {
            "config.json", "shard-000.h5", "provenance-000.json", "shard-001.h5", "provenance-001.json"
        }  # fmt: skip
    for path in (Path(cams) / "provenance-001.json", Path(maps) / "provenance-000.json", net / "provenance.json"):
        assert 0 < read_json(path)["seconds"] < 600
        assert read_json(path)["threads"] == 1


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


def written(project, name, maps, *, run, every=1, normalise):
    """A folder of maps (n, h, w) by video, made from `run`."""
    folder = Path(project.freeze("gradcam", name, {}, {"run": run}))
    with MapWriter(folder / shard_name(0), {"every": every, "normalise": normalise}) as writer:
        for video, stored in maps.items():
            writer.add(video, stored)
    return str(folder)


def agreement(project, learned, cams):
    facts = {"stream": "rgb", "split": "split1", "seed": 3, "scale": "tiny", "part": "test"}
    inputs = {"index": project.index, "learned": learned, "gradcam": cams}
    folder = project.freeze("agree", "agree", facts, inputs)
    agree_maps(folder)
    metrics = read_json(f"{folder}/metrics.json")
    assert {key: metrics[key] for key in facts} == facts
    return metrics


def cams_of_test_videos(project):
    """Random maps of every second frame, the first of each video dead, beside the same up-sampled and stretched."""
    rng, run = np.random.default_rng(0), project.run("first")  # sees 80 x 80 pixels
    cams, targets = {}, {}
    for video in part_videos(project.index, "split1", "test"):
        cams[video.video] = np.float32(5 * rng.random(((video.frames + 1) // 2, 5, 5)) + 1)
        cams[video.video][0] = 0
        up = F.interpolate(torch.from_numpy(cams[video.video][1:, None]), (80, 80), mode="bilinear")[:, 0].numpy()
        low, high = up.min((1, 2), keepdims=True), up.max((1, 2), keepdims=True)
        targets[video.video] = (up - low) / (high - low)
    return run, written(project, "cams", cams, run=run, every=2, normalise=True), targets


def test_agreement_of_learned_maps_with_grad_cam_on_test_videos(small_project):
    run, cams, targets = cams_of_test_videos(small_project)
    rng = np.random.default_rng(1)
    sigmoids = {video: np.float32(0.1 + 0.8 * rng.random((6, 4, 4))) for video in targets}
    found = agreement(small_project, written(small_project, "net", sigmoids, run=run, normalise=False), cams)
    rows = []
    for video, target in targets.items():
        maps = torch.from_numpy(sigmoids[video][2 : 2 * len(target) + 1 : 2, None])  # frames 2, 4, ...
        for p, t in zip(F.interpolate(maps, (80, 80), mode="bilinear")[:, 0].double().numpy(), target, strict=True):
            a, b = (p - p.min()) / (p.max() - p.min()) >= 0.5, t >= 0.5
            bce = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
            inside = t[(t > 0) & (t < 1)]
            floor = -(inside * np.log(inside) + (1 - inside) * np.log(1 - inside)).sum() / t.size
            rows.append((bce, floor, np.corrcoef(p.ravel(), t.ravel())[0, 1], (a & b).sum() / (a | b).sum()))
    expected = dict(zip(("bce", "entropy_floor", "correlation", "iou"), np.mean(rows, axis=0), strict=True))
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-3, abs=1e-4)
    mean = np.concatenate(list(targets.values())).mean()
    assert found["constant_bce"] == pytest.approx(-mean * np.log(mean) - (1 - mean) * np.log(1 - mean), rel=1e-4)
    assert (found["n"], found["dead"]) == (len(rows), len(targets))


def test_maps_that_are_the_grad_cam_agree_wholly_and_the_best_constant_not_at_all(small_project):
    run, cams, targets = cams_of_test_videos(small_project)
    whole = {video: np.repeat(np.concatenate((target[:1], target)), 2, axis=0) for video, target in targets.items()}
    found = agreement(small_project, written(small_project, "same", whole, run=run, normalise=False), cams)
    assert found["bce"] == pytest.approx(found["entropy_floor"], abs=1e-5)
    assert (found["correlation"], found["iou"]) == pytest.approx((1, 1), abs=1e-4)
    mean = np.concatenate(list(targets.values())).mean()
    flat = {video: np.full((1, 3, 3), mean) for video in targets}
    found = agreement(small_project, written(small_project, "flat", flat, run=run, normalise=False), cams)
    assert found["bce"] == pytest.approx(found["constant_bce"], abs=1e-5)
    assert found["correlation"] == pytest.approx(0, abs=1e-3)


def test_maps_of_different_runs_are_not_compared(small_project):
    _, cams, targets = cams_of_test_videos(small_project)
    other = small_project.run("other")
    flat = {video: np.full((1, 3, 3), 0.5) for video in targets}
    with pytest.raises(AttentionError, match=r"first.*other"):
        agreement(small_project, written(small_project, "flat", flat, run=other, normalise=False), cams)


def test_agreement_with_dead_maps_only_is_an_error(small_project):
    run = small_project.run("first")
    maps = {video.video: np.zeros((1, 3, 3)) for video in part_videos(small_project.index, "split1", "test")}
    made = [written(small_project, name, maps, run=run, normalise=name == "cams") for name in ("net", "cams")]
    with pytest.raises(AttentionError, match="cams is dead"):
        agreement(small_project, *made)
