import os
from pathlib import Path

import cv2
import numpy as np
import pytest


@pytest.fixture(scope="session")
def rubber_whale():
    """Frames uint8 (2, H, W), true flow (2, H, W) and where it is known (H, W), of Middlebury's RubberWhale."""
    if "REACTION_MIRROR" not in os.environ:
        pytest.skip("REACTION_MIRROR is not set")
    folder = Path(os.environ["REACTION_MIRROR"]).parent / "flow_gt" / "middlebury"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing")
    frames = np.stack([cv2.imread(str(folder / f"rubberwhale{i}.png"), cv2.IMREAD_GRAYSCALE) for i in (1, 2)])
    truth = cv2.readOpticalFlow(str(folder / "flow_gt.flo")).transpose(2, 0, 1)
    return frames, truth, (np.abs(truth) < 1e9).all(axis=0)
