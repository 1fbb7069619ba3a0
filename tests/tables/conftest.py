import h5py
import numpy as np
import pytest

from reaction.evaluation.fuse import evaluate_scores
from reaction.files import write_json, write_text

CLASSES = ("hop", "run", "walk")


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """Makes a scores folder of a run from true and predicted labels; returns its path."""
    monkeypatch.chdir(tmp_path)
    write_text("index/classes.txt", "".join(f"{name}\n" for name in CLASSES))
    write_json("index/official.json", {"split1": {"train": 9, "test": 9}})

    def make(name, labels, predicted):
        settings = {"method": "st", "stream": "rgb", "split": "split1", "seed": 0, "protocol_name": "centre"}
        settings |= {"before_softmax": True, "maps": None, "protocol": {"segments": 1}}
        folder = tmp_path / "scores" / name
        write_json(folder / "config.json", {"config": settings, "inputs": {"index": "index"}})
        with h5py.File(folder / "scores.h5", "w") as file:
            file["video"], file["label"] = [f"v{k}" for k in range(len(labels))], np.asarray(labels)
            file["logits"] = np.eye(len(CLASSES), dtype=np.float32)[np.asarray(predicted)][:, None]
        evaluate_scores(folder)
        return str(folder)

    return make
