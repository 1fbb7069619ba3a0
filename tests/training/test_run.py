import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from reaction.clips.loader import Stream, TestClips
from reaction.clips.maps import ConstantMaps
from reaction.clips.samplers import train_segments
from reaction.data.index import part_videos, read_index
from reaction.data.splits import hold_out
from reaction.data.store import MapWriter, StoreError, shard_name
from reaction.files import read_json, sha256, write_json
from reaction.models.bn_inception import BNInception
from reaction.models.cnn_m import CNNM
from reaction.models.inception_v3 import FIRST_CONV, InceptionV3
from reaction.models.vgg import VGG16
from reaction.models.weights import WeightsError, fold_input, write_weights
from reaction.training.inputs import entering_maps, open_features, training_clips
from reaction.training.job import write_rows
from reaction.training.loop import StopEarly
from reaction.training.networks import MODEL, RunError, build_network, load_run, stream_of
from reaction.training.run import train_run
from reaction.training.scoring import score_run

CONCAT = {"network": {"entry": "concat", "map_channel": "zero"}, "maps": {"source": "constant", "value": 0.1}}
LEARNED = {"source": "learned", "dead": 0.1}
FIRST_BN = "Conv2d_1a_3x3.bn."
PROTOCOL = {"segments": 3, "crops": 10, "sampler": "tsn"}


def trained(project, name, **changes):
    folder = project.run(name, **changes)
    train_run(folder, checkpoints=f"checkpoints/{name}")
    return Path(folder)


def scored(project, name, run, *, stream="rgb", maps=None, workers=0, inputs=None, **more):
    config = {"split": "split1", "protocol": PROTOCOL, "maps": maps} | more
    folder = project.freeze("score", name, config, project.features(stream) | {"run": str(run)} | (inputs or {}))
    score_run(folder, workers=workers)
    return Path(folder)


def flat_maps(project, name, value, *, every=1, shortfall=0):
    """A folder of learned maps for every video; `value(video, k)` fills the k-th one, `shortfall` are missing."""
    folder = Path(project.freeze("attend", name, {}, {}))
    with MapWriter(folder / shard_name(0), {"every": every, "normalise": False}) as writer:
        for video in read_index(project.index):
            values = [value(video, k) for k in range(-(-(video.frames - shortfall) // every))]
            writer.add(video.video, np.array(values, np.float32)[:, None, None] * np.ones((1, 5, 5), np.float32))
    return str(folder)


def relabelled(project):
    """The index with labels that the pictures do not show."""
    path = Path(project.index, "index.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    write_rows(path, [row | {"labels": k // 2 % 2} for k, row in enumerate(rows)])


def test_a_run_leaves_its_four_files_and_no_checkpoint(small_project):
    run = trained(small_project, "run")
    names = {"config.json", "model.safetensors", "history.csv", "metrics.json", "provenance.json"}
    assert {path.name for path in run.iterdir()} == names
    assert list(Path("checkpoints/run").iterdir()) == []
    assert (run / "history.csv").read_text().splitlines()[0] == "epoch,loss,top1,learning_rate,seconds"
    metrics = read_json(run / "metrics.json")
    assert (metrics["n"], metrics["epochs"], metrics["method"], metrics["seed"]) == (12, 2, "small", 0)
    assert {"seconds", "device", "threads", "versions", "commit", "weights"} <= set(read_json(run / "provenance.json"))


def test_equal_configs_give_equal_bytes_and_seeds_differ(small_project):
    a, b, c = (trained(small_project, name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    for name in ("model.safetensors", "metrics.json"):
        assert sha256(a / name) == sha256(b / name)
    assert sha256(a / "model.safetensors") != sha256(c / "model.safetensors")


def test_a_run_stopped_for_time_goes_on_to_the_same_bytes(small_project):
    whole = trained(small_project, "whole")
    folder = small_project.run("parts")
    with pytest.raises(StopEarly):
        train_run(folder, checkpoints="checkpoints/parts", stop_after=0)
    assert not Path(folder, "model.safetensors").exists()
    train_run(folder, checkpoints="checkpoints/parts", stop_after=60)
    assert sha256(Path(folder, "model.safetensors")) == sha256(whole / "model.safetensors")


def test_a_run_learns_what_is_left_and_what_is_right(small_project):
    training = {"epochs": 15, "learning_rate": 0.02, "steps": [12], "clip_gradient": None}
    run = trained(small_project, "run", training=training, augmentation={"flip": False})
    assert read_json(run / "metrics.json")["top1"] >= 11 / 12


def test_scores_are_the_logits_of_each_view_alone(small_project):
    run = trained(small_project, "run")
    scores = scored(small_project, "scores", run)
    videos = part_videos(small_project.index, "split1", "test")
    model, _ = load_run(run)
    frames = open_features(small_project.rgb)
    clips = TestClips(videos, frames, stream=Stream("rgb"), input=80, **PROTOCOL)
    with h5py.File(scores / "scores.h5") as file:
        assert file["logits"].dtype == np.float32
        assert file["logits"].shape == (4, 30, 2)
        assert list(file["video"].asstr()) == [video.video for video in videos]
        assert file["label"][:].tolist() == [0, 1, 0, 1]
        assert (file.attrs["segments"], file.attrs["crops"]) == (3, 10)
        with torch.no_grad():
            for video, view in ((0, 0), (3, 29)):
                alone = model.backbone(clips[video]["clip"][view : view + 1])[0].numpy()
                np.testing.assert_allclose(file["logits"][video, view], alone, rtol=1e-4, atol=1e-5)


def test_scores_have_the_same_bytes_every_time_with_workers_too(small_project):
    run = trained(small_project, "run", **CONCAT)
    maps = {"source": "constant", "value": 0.1}
    once, again = (scored(small_project, f"scores{w}", run, maps=maps, workers=w) for w in (0, 2))
    assert sha256(once / "scores.h5") == sha256(again / "scores.h5")


def test_flow_stacks_with_a_multiplied_map_train_and_score(small_project):
    half = {"source": "constant", "value": 0.5}
    network = {"entry": "multiply", "stack": 2, "map_channel": "mean"}
    run = trained(small_project, "run", stream="flow", network=network, maps=half)
    assert load_file(run / "model.safetensors")["backbone." + FIRST_CONV].shape[1] == 4
    scores = scored(small_project, "scores", run, stream="flow", maps=half)
    with h5py.File(scores / "scores.h5") as file:
        assert np.isfinite(file["logits"][:]).all()


def test_phase_two_starts_from_the_weights_of_phase_one(small_project):
    first = trained(small_project, "first", **CONCAT)
    still = {"epochs": 1, "learning_rate": 0.0}
    second = trained(small_project, "second", training=still, inputs={"init": str(first)}, **CONCAT)
    before, after = (load_file(run / "model.safetensors") for run in (first, second))
    for name in before:
        if "running" not in name and "tracked" not in name:
            assert torch.equal(before[name], after[name]), name
    assert read_json(second / "provenance.json")["weights"] == {"source": "run", "run": str(first)}


@pytest.mark.parametrize("stream", ["rgb", "flow"])
def test_each_segment_reads_its_own_frames_map_of_the_other_stream(small_project, stream):
    """Maps made of flow are one fewer than the frames: the last frame takes the last one."""

    def code(video, k):
        return (8 * int(video.video[-2:]) + k) / 128

    every, shortfall = (2, 1) if stream == "rgb" else (1, 0)
    maps = flat_maps(small_project, "maps", code, every=every, shortfall=shortfall)
    network = {"entry": "concat", "map_channel": "mean", "segments": 3, "stack": 1 if stream == "rgb" else 2}
    inputs = {"maps": maps}
    folder = small_project.run("run", stream=stream, network=network, maps=LEARNED, inputs=inputs)
    frozen = read_json(Path(folder, "config.json"))
    clips, _ = training_clips(frozen["config"], frozen["inputs"])
    read = set()
    for epoch in range(3):
        clips.set_epoch(epoch)
        for index, video in enumerate(clips.videos):
            items = video.frames if stream == "rgb" else video.frames - 1
            starts = train_segments(items, 3, network["stack"], np.random.default_rng([0, epoch, index]))
            last = -(-(video.frames - shortfall) // every) - 1
            expected = [code(video, min(start // every, last)) for start in starts.tolist()]
            got = clips[index]["map"]
            assert got.flatten(1).std(dim=1).max() < 1e-6
            np.testing.assert_allclose(got.mean(dim=(1, 2, 3)), expected, atol=1e-6)
            read |= set(starts.tolist())
    assert read >= ({0, 1, 2, 3, 4} if stream == "rgb" else {0, 1, 2})


@pytest.mark.parametrize("stream", ["rgb", "flow"])
@pytest.mark.parametrize("entry", ["concat", "multiply"])
def test_what_only_the_maps_tell_is_learned_and_believed(small_project, entry, stream):
    relabelled(small_project)
    right = flat_maps(small_project, "right", lambda video, k: video.labels[0])
    wrong = flat_maps(small_project, "wrong", lambda video, k: 1 - video.labels[0])
    training = {"epochs": 30, "batch": 12, "learning_rate": 0.02, "steps": [24], "clip_gradient": None}
    network = {"entry": entry, "map_channel": "mean", "dropout": 0.0, "segments": 1}
    changes = {"stream": stream, "network": network, "training": training, "maps": LEARNED}
    run = trained(small_project, "run", **changes, inputs={"maps": right})
    assert read_json(run / "metrics.json")["top1"] >= 0.75
    margins, labels = [], None
    for maps in (right, wrong):
        inputs = {"maps": maps}
        scores = scored(small_project, Path(maps).name, run, stream=stream, maps=LEARNED, inputs=inputs)
        with h5py.File(scores / "scores.h5") as file:
            logits, labels = file["logits"][:].mean(axis=1), file["label"][:]
        margins.append(logits[:, 1] - logits[:, 0])
    assert (np.sign(margins[0] - margins[1]) == np.where(labels == 1, 1, -1)).all()


def test_held_out_groups_choose_the_best_weights_and_never_train(small_project):
    changes = {"training": {"holdout": 0.3, "epochs": 4}}
    run = trained(small_project, "run", **changes)
    videos = part_videos(small_project.index, "split1", "train")
    training, heldout = hold_out(videos, 0.3, seed=0)
    frozen = read_json(run / "config.json")
    clips, measured = training_clips(frozen["config"], frozen["inputs"], 0.3)
    assert (clips.videos, measured.videos) == (training, heldout)
    metrics = read_json(run / "metrics.json")
    assert (metrics["n"], metrics["heldout"]) == (8, 4)
    rows = list(csv.DictReader((run / "history.csv").read_text().splitlines()))
    assert list(rows[0])[:5] == ["epoch", "loss", "top1", "val_loss", "val_top1"]
    best = min(rows, key=lambda row: (-float(row["val_top1"]), float(row["val_loss"])))
    assert metrics["best"] == {key: float(best[key]) for key in ("epoch", "val_loss", "val_top1")}
    model, _ = load_run(run)
    model.load_state_dict(load_file(run / "best.safetensors"))
    with torch.no_grad():
        logits = model(torch.stack([measured[k]["clip"] for k in range(4)]))
    labels = torch.tensor([video.labels[0] for video in heldout])
    assert torch.nn.functional.cross_entropy(logits, labels).item() == pytest.approx(metrics["best"]["val_loss"], 1e-4)


def test_a_run_stopped_again_and_again_keeps_the_same_best_weights(small_project):
    changes = {"training": {"holdout": 0.3, "epochs": 4, "learning_rate": 0.1}}
    whole, folder = trained(small_project, "whole", **changes), small_project.run("parts", **changes)
    for _ in range(3):
        with pytest.raises(StopEarly):
            train_run(folder, checkpoints="checkpoints/parts", stop_after=0)
    train_run(folder, checkpoints="checkpoints/parts")
    for name in ("model.safetensors", "best.safetensors", "metrics.json"):
        assert sha256(Path(folder, name)) == sha256(whole / name)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_partial_bn_keeps_the_statistics_it_started_from(small_project, precision):
    first = trained(small_project, "first")
    training = {"precision": precision, "holdout": 0.3}
    options = {"network": {"partial_bn": True}, "training": training, "inputs": {"init": str(first)}}
    before, after = (load_file(run / MODEL) for run in (first, trained(small_project, "second", **options)))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert all(FIRST_BN in name for name in moved if ".bn." in name)
    assert {name for name in before if ".conv." in name} | {f"backbone.{FIRST_BN}running_mean"} <= moved


def test_a_start_of_another_shape_is_refused_naming_its_folder(small_project):
    first = trained(small_project, "first")
    folder = small_project.run("second", inputs={"init": str(first)}, **CONCAT)
    with pytest.raises(RunError, match=r"models/small/first.*do not fit"):
        train_run(folder, checkpoints="checkpoints/second")


def test_pretrained_weights_enter_by_cross_modality_and_are_accounted_for(small_project):
    first = trained(small_project, "first")
    weights = {
        "source": "file",
        "path": str(first / "model.safetensors"),
        "sha256": sha256(first / "model.safetensors"),
    }
    still = {"epochs": 1, "learning_rate": 0.0}
    network = {"entry": "concat", "map_channel": "zero", "stack": 2}
    changes = CONCAT | {"network": network, "weights": weights, "training": still}
    run = trained(small_project, "flow", stream="flow", **changes)
    source, conv = (load_file(folder / "model.safetensors")["backbone." + FIRST_CONV] for folder in (first, run))
    torch.testing.assert_close(conv[:, :4], source.mean(1, keepdim=True).expand(-1, 4, -1, -1))
    assert conv[:, 4:].abs().max() == 0
    recorded = read_json(run / "provenance.json")["weights"]
    assert recorded["sha256"] == weights["sha256"]
    assert recorded["coverage"]["reshaped"] == [FIRST_CONV]


def test_a_weights_file_with_another_checksum_is_refused(small_project):
    Path("weights.pth").write_bytes(b"something else")
    weights = {"source": "file", "path": "weights.pth", "sha256": "0cc3c7bd"}
    with pytest.raises(WeightsError, match=r"weights\.pth.*0cc3c7bd.*params\.yaml"):
        train_run(small_project.run("run", weights=weights), checkpoints="checkpoints/run")


def test_features_made_by_another_config_are_refused(small_project):
    path = Path(small_project.rgb, "config.json")
    frozen = json.loads(path.read_text())
    write_json(path, {"config": frozen["config"] | {"jpeg_quality": 50}})
    with pytest.raises(StoreError, match=r"jpeg_quality = 95.*50"):
        train_run(small_project.run("run"), checkpoints="checkpoints/run")


BASELINES = {
    "bn_inception, weighted, rgb": ("rgb", {"backbone": "bn_inception", "consensus": "weighted", "segments": 3}),
    "bn_inception, rgbdiff": ("rgbdiff", {"backbone": "bn_inception", "stack": 2}),
    "cnn_m, flow less its mean": ("flow", {"backbone": "cnn_m_2048", "stack": 2, "segments": 1, "mean_flow": True}),
    "cnn_m, rgb": ("rgb", {"backbone": "cnn_m_2048", "segments": 1}),
    "vgg16, max, flow": ("flow", {"backbone": "vgg16", "stack": 2, "consensus": "max"}),
    "vgg16, rgb": ("rgb", {"backbone": "vgg16", "segments": 1}),
}
CLASSES = {"inception_v3": InceptionV3, "bn_inception": BNInception, "cnn_m_2048": CNNM, "vgg16": VGG16}


def stored(stream):
    """The stream whose features another reads."""
    return "flow" if stream == "flow" else "rgb"


def described_run(project, name, stream, **changes):
    """A run's folder, of streams that read another's features too."""
    folder = Path(project.run(name, stream=stored(stream), **changes))
    frozen = read_json(folder / "config.json")
    write_json(folder / "config.json", frozen | {"config": frozen["config"] | {"stream": stream}})
    return folder


@pytest.mark.parametrize(("stream", "network"), BASELINES.values(), ids=BASELINES)
def test_every_backbone_trains_resumes_and_scores(small_project, stream, network):
    changes = {"network": network, "training": {"holdout": 0.3, "learning_rate": 0.001}}
    whole, parts = (described_run(small_project, name, stream, **changes) for name in ("whole", "parts"))
    train_run(whole, checkpoints="checkpoints/whole")
    with pytest.raises(StopEarly):
        train_run(parts, checkpoints="checkpoints/parts", stop_after=0)
    train_run(parts, checkpoints="checkpoints/parts")
    for name in (MODEL, "best.safetensors", "metrics.json"):
        assert sha256(whole / name) == sha256(parts / name)
    model, config = load_run(whole)
    backbone = CLASSES[network["backbone"]]
    assert type(model.backbone) is backbone
    assert model.backbone.state_dict()[backbone.first_conv].shape[1] == stream_of(config).channels
    protocol = {"segments": 3, "crops": 1, "sampler": "ends"}
    scores = scored(small_project, "scores", whole, stream=stored(stream), protocol=protocol)
    with h5py.File(scores / "scores.h5") as file:
        assert file["logits"].shape == (4, 3, 2)
        assert np.isfinite(file["logits"][:]).all()
        assert np.ptp(file["logits"][:]) > 0


@pytest.mark.parametrize("stream", ["rgb", "flow"])
def test_only_the_temporal_cnn_m_leaves_the_second_normalisation_out(stream):
    network = {"backbone": "cnn_m_2048", "width": 0.0625, "dropout": 0.9, "partial_bn": False, "segments": 1}
    model = build_network(network | {"stack": 1, "entry": None}, stream=stream, classes=2)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.LocalResponseNorm)]
    assert len(norms) == (1 if stream == "flow" else 2)


def test_a_weighted_consensus_is_trained_stored_and_loaded(small_project):
    network = {"consensus": "weighted", "segments": 3, "entry": "concat", "map_channel": "mean"}
    run = trained(small_project, "run", **CONCAT | {"network": network})
    weights = load_file(run / MODEL)["segment_weights"]
    assert weights.shape == (3,)
    assert not torch.equal(weights, torch.full((3,), 1 / 3))
    model, _ = load_run(run)
    assert torch.equal(model.segment_weights, weights)


@pytest.mark.parametrize("ours", [False, True])
def test_public_weights_are_refitted_to_our_input_and_a_runs_own_are_not(small_project, ours):
    source = BNInception(classes=2, width=0.0625).state_dict()
    write_weights(Path("bn.safetensors"), {("backbone." if ours else "") + name: v for name, v in source.items()})
    weights = {"source": "file", "path": "bn.safetensors"}
    still = {"epochs": 1, "learning_rate": 0.0}
    run = trained(small_project, "run", network={"backbone": "bn_inception"}, weights=weights, training=still)
    expected = source if ours else fold_input(source, BNInception(width=0.0625), stream="rgb")
    after = load_file(run / MODEL)
    for name in ("conv1_7x7_s2.weight", "conv1_7x7_s2.bias", "inception_3a_1x1.weight", "last_linear.weight"):
        torch.testing.assert_close(after[f"backbone.{name}"], expected[name], rtol=0, atol=0)


def test_mean_flow_is_taken_off_in_training_in_measuring_and_in_the_test(small_project):
    run = described_run(small_project, "run", "flow", network={"stack": 2, "mean_flow": True})
    frozen = read_json(run / "config.json")
    assert stream_of(frozen["config"]) == Stream("flow", 2, mean_flow=True)
    plain = read_json(described_run(small_project, "plain", "flow", network={"stack": 2}) / "config.json")
    for centred, other in zip(
        training_clips(frozen["config"], frozen["inputs"], 0.3),
        training_clips(plain["config"], plain["inputs"], 0.3),
        strict=True,
    ):
        off = other[0]["clip"] - centred[0]["clip"]  # (K, 4, h, w): one number per channel
        assert off.std(dim=(2, 3)).max() < 1e-6
        assert off.abs().mean() > 0.01
    train_run(run, checkpoints="checkpoints/run")
    scores = scored(small_project, "scores", run, stream="flow", protocol={"segments": 2, "crops": 1, "sampler": "tsn"})
    videos = part_videos(small_project.index, "split1", "test")
    options = {"stream": Stream("flow", 2, mean_flow=True), "segments": 2, "crops": 1, "sampler": "tsn", "input": 80}
    clip = TestClips(videos, open_features(small_project.flow), **options)[1]["clip"]
    with h5py.File(scores / "scores.h5") as file, torch.no_grad():
        expected = load_run(run)[0].backbone(clip).numpy()
        np.testing.assert_allclose(file["logits"][1], expected, rtol=1e-4, atol=1e-5)


def test_two_rounds_are_one_run_but_for_the_momentum(small_project):
    training = {"momentum": 0.0, "holdout": 0.3, "steps": [3], "warmup_epochs": 1.5}
    whole = trained(small_project, "whole", training=training | {"epochs": 4})
    first = trained(small_project, "first", training=training)
    second = trained(small_project, "second", training=training | {"first_epoch": 2}, inputs={"init": str(first)})
    assert sha256(second / MODEL) == sha256(whole / MODEL)
    rows = [list(csv.DictReader((run / "history.csv").read_text().splitlines())) for run in (whole, first, second)]
    for row in rows[0] + rows[1] + rows[2]:
        del row["seconds"]
    assert rows[1] + rows[2] == rows[0]
    assert read_json(second / "metrics.json")["epochs"] == 2


def test_parts_of_the_split_are_scored_as_asked(small_project):
    run = trained(small_project, "run", training={"holdout": 0.3})
    training = part_videos(small_project.index, "split1", "train")
    heldout = hold_out(training, 0.3, seed=0)[1]
    protocol = {"segments": 2, "crops": 1, "sampler": "tsn"}
    found = {}
    for part in ("train", "heldout"):
        with h5py.File(scored(small_project, part, run, part=part, protocol=protocol) / "scores.h5") as file:
            found[part] = {name: file[name][:] for name in ("video", "label", "logits")}
    assert [name.decode() for name in found["train"]["video"]] == [video.video for video in training]
    assert [name.decode() for name in found["heldout"]["video"]] == [video.video for video in heldout]
    logits, labels = (torch.from_numpy(found["heldout"][name]) for name in ("logits", "label"))
    last = list(csv.DictReader((run / "history.csv").read_text().splitlines()))[-1]
    loss = torch.nn.functional.cross_entropy(logits.mean(dim=1), labels).item()
    assert loss == pytest.approx(float(last["val_loss"]), rel=1e-4)


def test_a_run_that_held_nothing_out_has_no_held_out_scores(small_project):
    run = trained(small_project, "run", training={"epochs": 1})
    with pytest.raises(RunError, match=r"models/small/run held no groups out.*holdout"):
        scored(small_project, "scores", run, part="heldout")


def test_what_a_maps_block_describes():
    assert entering_maps(None, None) is None
    assert entering_maps({"source": "constant", "value": 0.1}, None) == ConstantMaps(0.1)
    with pytest.raises(RunError, match=r"inputs\.maps"):
        entering_maps({"source": "learned", "dead": 0.1}, None)


def test_a_run_without_weights_says_what_makes_them(small_project):
    with pytest.raises(RunError, match="reaction train results/models/small/run"):
        load_run(small_project.run("run"))
