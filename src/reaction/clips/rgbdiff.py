"""RGB difference, TSN's third stream: Wang et al., ECCV 2016, section 3.2, and yjxiong/tsn-pytorch `models.py`.

A stack of L differences comes from L + 1 consecutive frames, L = 5 as for flow. What the paper leaves unsaid follows
tsn-pytorch: a later frame less the one before it; L x 3 channels in temporal order, R, G, B within each; differences
are of normalised frames, so that they lie in [-2, 2]; past the end of a video the last frame repeats and the difference
is zero. For ResNet and VGG tsn-pytorch divides by twice the frames' deviation; here every network sees the same.

The stream is cropped and flipped as frames are: a mirrored difference keeps its sign. A first convolution starts as
that of flow, with the mean of the RGB filters in each of the 3L channels (`expand_first_conv`, stream "rgbdiff").
"""

import numpy as np


def frames_needed(differences: int) -> int:
    """How many consecutive frames make a stack of so many differences."""
    return differences + 1


def frame_differences(stacks: np.ndarray) -> np.ndarray:
    """Stacks of frames (K, L + 1, 3, h, w), uint8, to differences (K, 3L, h, w), float32 in [-2, 2]."""
    frames = stacks.astype(np.int16)  # bytes would wrap around below zero
    steps = (frames[:, 1:] - frames[:, :-1]).astype(np.float32)  # (K, L, 3, h, w)
    steps *= np.float32(2 / 255)
    return steps.reshape(len(stacks), -1, *stacks.shape[-2:])
