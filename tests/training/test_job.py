import subprocess
import sys
from pathlib import Path

import torch

from reaction.files import read_json
from reaction.models.weights import write_weights
from reaction.training.job import be_deterministic
from reaction.training.networks import MODEL, build_network

# What only training needs; importing it costs more CPU time than a small scoring job takes.
TRAINING_ONLY = {"lightning_fabric", "torch._dynamo", "torch._inductor", "sympy"}
SCORE_AND_LOOK = """
import sys
from reaction.attention.maps import gradcam_shard
from reaction.training.scoring import score_run
score_run(sys.argv[1])
gradcam_shard(sys.argv[2], 0)
print(*sorted(sys.modules))
"""


def untrained(project):
    folder = project.run("run")
    config = read_json(Path(folder, "config.json"))["config"]
    write_weights(Path(folder, MODEL), build_network(config["network"], stream="rgb", classes=2).state_dict())
    return folder


def test_scoring_and_looking_import_nothing_that_only_training_needs(small_project):
    inputs = small_project.features("rgb") | {"run": untrained(small_project)}
    protocol = {"segments": 1, "crops": 1, "sampler": "tsn"}
    scores = small_project.freeze("score", "s", {"split": "split1", "protocol": protocol, "maps": None}, inputs)
    looked = {"split": "split1", "part": "train", "layer": "Mixed_7c", "label": "true", "every": 2}
    maps = small_project.freeze("gradcam", "g", looked, inputs)
    command = [sys.executable, "-c", SCORE_AND_LOOK, scores, maps]
    imported = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert Path(scores, "scores.h5").exists()
    assert list(Path(maps).glob("shard-*.h5"))
    assert "torch" in imported
    assert not TRAINING_ONLY & set(imported)


def test_determinism_is_asked_for_with_warnings():
    was = torch.get_deterministic_debug_mode(), torch.get_num_threads()
    try:
        torch.set_deterministic_debug_mode("default")
        be_deterministic(1)
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.set_deterministic_debug_mode(was[0])
        torch.set_num_threads(was[1])
