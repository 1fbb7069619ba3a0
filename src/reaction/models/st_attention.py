"""Park, "Two-stream Networks with Spatio-Temporal Attention", thesis, Seoul National University, 2019.

Two Inception-V3 streams. A map of where the *other* stream looks enters each network with its input: temporal maps the
RGB network, spatial maps the flow network (section 3.2). Phase 1 trains with constant maps of 0.1, phase 2 with
Grad-CAM maps of phase 1, tests use maps of an attention network.

What the thesis leaves unsaid, the parameter of params.yaml that says it, and what we chose:
- how a map enters: the method's `map.entry`, `concat` (one more channel, the default) or `multiply` (every channel
  times the map);
- how the weights of that channel start: `map.channel`, the mean of the RGB filters (the default) or zero;
- what stands in for a Grad-CAM map that is zero everywhere: `map.constant`, the 0.1 of phase 1;
- which of its M layers make the map: `attention.layers`, Mixed_7c, the one it chose; of several, each map is
  up-sampled, and their mean is normalised again;
- which maps phase 2 trains with: `attention.train_maps`, Grad-CAM maps of the true label, although they may tell the
  label to a network that a test leaves without it; `learned` ones are those of the test;
- whether both streams need maps: `attention.streams`, both;
- the flow stack's length: the stream's `stack`, 10 as in Two-Stream ConvNets;
- the input: the method's `input`, 299 pixels, Inception-V3's own;
- segments in training: the method's `segments`, 1 (TSN is cited for its augmentation only);
- batch, momentum, weight decay, dropout, epochs, gradient clipping, warm-up: keys of the stream by these names;
  batch normalisation: the method's `partial_bn`, off;
- the schedule on UCF-101: `steps` and `epochs` of the stream, those of HMDB-51;
- whether phase 2 restarts or goes on: `init` of the method, which names phase 1, whose last epoch it starts from;
  without it, phase 2 starts where phase 1 did, from `weights`;
- how often end-to-end training (Algorithm 1) makes new maps: `alternation.epochs_per_round`. A round is a run of its
  own, which starts from the round before; schedule and shuffling go on, the optimiser's momentum begins anew;
- the attention network: `attention.net`, its `hidden` width, its batch, epochs, Adam's `learning_rate`, the frames
  it sees of each video; its first kernel: `attention.net.kernel`, 3;
- for which frames maps are computed: `attention.every`, each one;
- what stands for the maps in a test: the protocol's `maps`, those of the attention network; Grad-CAM of the true label
  is an oracle, and what it scores is no result;
- crops in the test, the sampler, the fusion's weights, before or after softmax: the protocol, TSN's;
- whether Grad-CAM sees the augmented view or the frame: the frame. This is no parameter: maps are made once and stored,
  and the clip's crop and flip cut image and map alike.

`concat` with a constant map trains exactly the plain stream: Inception-V3's first convolution is unpadded, has no bias
and feeds a batch normalisation that removes any constant. `multiply` does not vanish: against the smaller variance, eps
counts.
"""

import torch
from torch import Tensor, nn

from reaction.models.tsn import TSN

ENTRIES = ("concat", "multiply")


class STAttention(TSN):
    """TSN whose frames carry an attention map; with `concat` the backbone takes one channel more than the stream."""

    def __init__(
        self,
        backbone: nn.Module,
        *,
        entry: str = "concat",
        partial_bn: bool = False,
        consensus: str = "average",
        segments: int | None = None,
    ) -> None:
        super().__init__(backbone, partial_bn=partial_bn, consensus=consensus, segments=segments)
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
