"""Networks of clips as runs: they train, go on where they were stopped, and score.

The five architectures of Carreira & Zisserman 2017, and those of Feichtenhofer et al. 2019.
"""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from reaction.files import read_json, sha256
from reaction.models.inception_v1 import InceptionV1
from reaction.training.loop import StopEarly
from reaction.training.networks import MODEL, RunError, load_run
from reaction.training.run import train_run
from reaction.training.scoring import score_run

SEEN = {"segments": 1, "short": "loop", "width": 0.0625}
NETWORKS = {
    "convnet_lstm": ("rgb", {"stack": 3, "stride": 2}),
    "c3d": ("rgb", {"stack": 16}),
    "two_stream_joint": ("joint", {"stack": 10}),
    "fused3d": ("joint", {"stack": 10, "frames": 2}),
    "i3d": ("flow", {"stack": 8}),
    "slow": ("rgb", {"stack": 2, "stride": 2}),
    "fast": ("rgb", {"stack": 4, "pathways": {"beta": 0.5}}),
    "slowfast": ("rgb", {"stack": 4, "pathways": {"alpha": 2, "beta": 0.5}}),
}
PROTOCOL = {"segments": 2, "crops": 1, "sampler": "consecutive"}


def frozen(project, name, backbone, **changes):
    stream, seen = NETWORKS[backbone]
    changes["network"] = SEEN | seen | {"backbone": backbone}
    changes["training"] = {"batch": 4} | changes.get("training", {})
    return project.run(name, stream=stream, **changes)


def trained(project, name, backbone, **changes):
    folder = frozen(project, name, backbone, **changes)
    train_run(folder, checkpoints=f"checkpoints/{name}")
    return Path(folder)


def scored(project, run, protocol):
    stream = read_json(run / "config.json")["config"]["stream"]
    config = {"split": "split1", "protocol": protocol, "maps": None}
    folder = project.freeze("score", f"scores-{run.name}", config, project.features(stream) | {"run": str(run)})
    score_run(folder)
    with h5py.File(Path(folder, "scores.h5")) as file:
        return file["logits"][:]


@pytest.mark.parametrize("backbone", NETWORKS)
def test_training_goes_on_where_it_stopped_and_scores(small_project, backbone):
    whole = trained(small_project, "whole", backbone)
    folder = frozen(small_project, "parts", backbone)
    with pytest.raises(StopEarly):
        train_run(folder, checkpoints="checkpoints/parts", stop_after=0)
    train_run(folder, checkpoints="checkpoints/parts", stop_after=60)
    assert sha256(Path(folder, MODEL)) == sha256(whole / MODEL)
    logits = scored(small_project, whole, PROTOCOL)
    assert logits.shape == (4, 2, 2)
    assert np.isfinite(logits).all()
    assert logits.std() > 0


def test_a_test_may_take_longer_clips_than_the_training(small_project):
    run = trained(small_project, "i3d", "i3d")
    longer = scored(small_project, run, PROTOCOL | {"stack": 24})
    model, _ = load_run(run)
    assert longer.shape == (4, 2, 2)
    assert not np.allclose(longer, scored(small_project, run, PROTOCOL), atol=1e-6)
    assert model.backbone.Conv3d_1a_7x7.conv3d.weight.shape[1] == 2


def test_a_length_in_updates_trains_the_epochs_that_hold_them(small_project):
    training = {"updates": 6, "steps": [3], "batch": 4}
    folder = frozen(small_project, "updates", "i3d")
    config = read_json(Path(folder, "config.json"))
    config["config"]["training"] = {k: v for k, v in config["config"]["training"].items() if k != "epochs"} | training
    from reaction.files import write_json

    write_json(Path(folder, "config.json"), config)
    train_run(folder, checkpoints="checkpoints/updates")
    assert read_json(Path(folder, "metrics.json"))["epochs"] == 2  # 12 videos are 3 updates


def test_only_a_new_classifier_learns_on_fixed_features(small_project):
    source = trained(small_project, "source", "i3d")
    run = trained(small_project, "fixed", "i3d", inputs={"init": str(source)}, trains="last", new_classifier=True)
    before, after = load_file(source / MODEL), load_file(run / MODEL)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {"backbone.logits.conv3d.weight", "backbone.logits.conv3d.bias"}


def test_a_run_on_other_classes_starts_with_a_new_classifier(small_project):
    source = trained(small_project, "source", "two_stream_joint")
    Path(small_project.index, "classes.txt").write_text("left\nright\nup\n")
    inputs = {"init": str(source)}
    with pytest.raises(RunError, match="do not fit"):
        trained(small_project, "refused", "two_stream_joint", inputs=inputs)
    run = trained(small_project, "all", "two_stream_joint", inputs=inputs, new_classifier=True)
    assert load_file(run / MODEL)["backbone.rgb.fc.weight"].shape[0] == 3
    assert load_file(run / MODEL)["backbone.flow.fc.weight"].shape[0] == 3


@pytest.mark.parametrize("backbone", ["convnet_lstm", "two_stream_joint", "fused3d", "i3d"])
def test_imagenet_weights_of_inception_v1_start_every_network_made_of_it(small_project, backbone):
    torch.manual_seed(1)
    image = InceptionV1(classes=7, width=0.0625)
    save_file(image.state_dict(), "imagenet.safetensors")
    weights = {"source": "file", "path": "imagenet.safetensors", "url": None, "sha256": None}
    run = trained(small_project, "run", backbone, weights=weights, training={"epochs": 1, "learning_rate": 1e-9})
    started = load_file(run / MODEL)
    stem = image.state_dict()["inception4b.branch1.conv.weight"]
    ours = [value for name, value in started.items() if name.endswith("inception4b.branch1.conv.weight")]
    if backbone == "i3d":
        ours = [started["backbone.Mixed_4c.b0.conv3d.weight"][:, :, 0]]
    assert len(ours) == (2 if backbone in ("two_stream_joint", "fused3d") else 1)
    for weight in ours:
        torch.testing.assert_close(weight, stem, atol=1e-5, rtol=0)


def test_slowfast_is_tested_by_ten_clips_of_three_larger_crops(small_project):
    run = trained(small_project, "slowfast", "slowfast")
    protocol = {"segments": 10, "crops": 3, "sampler": "uniform", "crop": 1.0, "input": 96}
    assert scored(small_project, run, protocol).shape == (4, 30, 2)


def test_a_fast_pathway_may_see_flow(small_project):
    seen = {
        "backbone": "slowfast",
        "frames": 4,
        "stack": 1,
        "pathways": {"alpha": 2, "beta": 0.5, "fast_input": "flow"},
    }
    folder = small_project.run("flow", stream="joint", network=SEEN | seen, training={"batch": 4})
    train_run(folder, checkpoints="checkpoints/flow")
    assert load_file(Path(folder, MODEL))["backbone.s1.pathway1_stem.conv.weight"].shape[1] == 2


def test_precise_statistics_replace_the_moving_ones_and_nothing_else(small_project):
    plain = load_file(trained(small_project, "plain", "slow") / MODEL)
    precise = load_file(trained(small_project, "precise", "slow", training={"precise_bn": 8}) / MODEL)
    changed = {name.rpartition(".")[2] for name in plain if not torch.equal(plain[name], precise[name])}
    assert changed == {"running_mean", "running_var"}


def test_precise_statistics_go_with_groups_of_videos(small_project):
    groups = {"bn_group": 2}
    plain = load_file(trained(small_project, "plain", "slow", training=groups) / MODEL)
    precise = load_file(trained(small_project, "precise", "slow", training=groups | {"precise_bn": 8}) / MODEL)
    changed = {name.rpartition(".")[2] for name in plain if not torch.equal(plain[name], precise[name])}
    assert changed == {"running_mean", "running_var"}
