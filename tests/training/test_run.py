import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from reaction.clips.loader import Stream, TestClips
from reaction.clips.maps import ConstantMaps
from reaction.data.index import part_videos
from reaction.data.store import StoreError
from reaction.files import read_json, sha256, write_json
from reaction.models.inception_v3 import FIRST_CONV
from reaction.training.loop import StopEarly
from reaction.training.run import RunError, entering_maps, load_run, open_features, score_run, train_run

CONCAT = {"network": {"entry": "concat", "map_channel": "zero"}, "maps": {"source": "constant", "value": 0.1}}
PROTOCOL = {"segments": 3, "crops": 10, "sampler": "tsn"}


def trained(project, name, **changes):
    folder = project.run(name, **changes)
    train_run(folder, checkpoints=f"checkpoints/{name}")
    return Path(folder)


def scored(project, name, run, *, stream="rgb", maps=None, workers=0):
    config = {"split": "split1", "protocol": PROTOCOL, "maps": maps}
    folder = project.freeze("score", name, config, project.features(stream) | {"run": str(run)})
    score_run(folder, workers=workers)
    return Path(folder)


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
    with pytest.raises(RunError, match=r"weights\.pth.*0cc3c7bd"):
        train_run(small_project.run("run", weights=weights), checkpoints="checkpoints/run")


def test_features_made_by_another_config_are_refused(small_project):
    path = Path(small_project.rgb, "config.json")
    frozen = json.loads(path.read_text())
    write_json(path, {"config": frozen["config"] | {"jpeg_quality": 50}})
    with pytest.raises(StoreError, match=r"jpeg_quality = 95.*50"):
        train_run(small_project.run("run"), checkpoints="checkpoints/run")


def test_what_a_maps_block_describes():
    assert entering_maps(None, None) is None
    assert entering_maps({"source": "constant", "value": 0.1}, None) == ConstantMaps(0.1)
    with pytest.raises(RunError, match=r"inputs\.maps"):
        entering_maps({"source": "learned", "dead": 0.1}, None)


def test_a_run_without_weights_says_what_makes_them(small_project):
    with pytest.raises(RunError, match="reaction train results/models/small/run"):
        load_run(small_project.run("run"))
