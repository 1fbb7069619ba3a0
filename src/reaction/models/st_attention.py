"""Park, "Two-stream Networks with Spatio-Temporal Attention", thesis, Seoul National University, 2019.

Two Inception-V3 streams. A map of where the *other* stream looks enters each network with its input: temporal maps the
RGB network, spatial maps the flow network (section 3.2). Phase 1 trains with constant maps of 0.1, phase 2 with
Grad-CAM maps of phase 1, tests use maps of an attention network.

What the thesis leaves unsaid, and where each choice is a parameter:
- how a map enters: `entry`, `concat` (one more channel, the default) or `multiply` (every channel times the map);
- how the weights of that channel start: `map_channel` of `expand_first_conv`, the mean of the RGB filters or zero;
- input size, stack length, segments, dropout, batch, weight decay, momentum, epochs: the method's block in params.yaml;
- whether phase 2 restarts or goes on from phase 1: `init` of the method;
- whether Grad-CAM sees the augmented view or the frame: the whole frame, and the clip's crop and flip then cut both;
- the crop count of the test and the fusion weights: the protocol.

`concat` with a constant map trains exactly the plain stream: the first convolution is unpadded, has no bias and feeds a
batch normalisation that removes any constant. `multiply` does not vanish: against the smaller variance, eps counts.
"""

import torch
from torch import Tensor, nn

from reaction.models.tsn import TSN

ENTRIES = ("concat", "multiply")


class STAttention(TSN):
    """TSN whose frames carry an attention map; with `concat` the backbone takes one channel more than the stream."""

    def __init__(self, backbone: nn.Module, *, entry: str = "concat", partial_bn: bool = False) -> None:
        super().__init__(backbone, partial_bn=partial_bn)
        if entry not in ENTRIES:
            raise ValueError(f"entry is one of {', '.join(ENTRIES)}, not {entry!r}")
        self.entry = entry

    def enter(self, frames: Tensor, maps: Tensor | None = None) -> Tensor:
        """Frames (..., C, H, W) with maps (..., 1, H, W) in [0, 1]: concat gives (..., C + 1, H, W)."""
        if maps is None:
            raise ValueError("STAttention needs a map for every frame; give the clips a source of maps")
        if self.entry == "concat":
            return torch.cat((frames, maps), dim=-3)
        return frames * maps
