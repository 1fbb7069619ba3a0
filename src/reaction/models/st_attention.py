"""Park, "Two-stream Networks with Spatio-Temporal Attention", thesis, Seoul National University, 2019.

Two Inception-V3 streams. A map of where the *other* stream looks enters each network with its input: temporal maps the
RGB network, spatial maps the flow network (section 3.2). Phase 1 trains with constant maps of 0.1, phase 2 with
Grad-CAM maps of phase 1, tests use maps of an attention network.

What the thesis leaves unsaid: the parameter of params.yaml that says it, the default, and why.

The maps and the networks they enter
- how a map enters: the method's `map.entry`, `concat`, one more channel, which leaves the picture as the pretrained
  filters know it; `multiply` is every channel times the map, and nothing where the map is 0;
- how the weights of that channel start: `map.channel`, the mean of the RGB filters, as TSN starts the channels of flow;
  or zero, with which phase 2 begins as the plain stream;
- what stands in for a Grad-CAM map that is zero everywhere: `map.constant`, the 0.1 that the net knows from phase 1;
- how M layers make one map: `attention.layers` names them, Mixed_7c, the one it chose; of several, each map is
  up-sampled, and their mean, the plainest combination, is normalised to [0, 1];
- which maps phase 2 trains with: `attention.train_maps`, Grad-CAM of the true label, as we read section 3.2, although
  it may tell the label to a network that a test leaves without it; `learned` ones are those of the test;
- whether both streams need maps: `attention.streams`, both, as section 3.2 has it;
- for which frames maps are computed: `attention.every`, 1, each frame: the dearest, and nothing is left out;
- whether Grad-CAM sees the augmented view or the frame: the frame. No parameter: maps are made once and stored,
  whatever crop is drawn later, and the clip's crop and flip cut image and map alike.

Training
- the input: the method's `input`, 299 pixels, Inception-V3's own and that of its pretrained weights;
- m, the flow stack's length: the stream's `stack`, 10 as in Two-Stream ConvNets, whose temporal net it takes up;
- K segments: the method's `segments`, 1: TSN is cited for its augmentation only;
- `batch`: 64, half of tsn-pytorch's 128, a guess at what its GPU held at 299 pixels; the rate is stated and stays;
- `momentum` 0.9 and `weight_decay` 0.0005: those of Two-Stream and TSN alike; `clip_gradient` 20 is tsn-pytorch's;
- `dropout`: 0.5, Inception-V3's own. TSN's 0.8 goes with its freezing of batch normalisation (`partial_bn`), which is
  not mentioned, and is off; no `warmup_epochs` either;
- `epochs`: 300 in each phase: the second step is stated after 250, and fifty more at the last rate change little;
- the schedule on UCF-101: `steps` and `epochs`, those of HMDB-51, the only ones stated;
- whether phase 2 restarts: `init` names phase 1, whose last epoch it goes on from, since it is the same model that is
  trained again; with `init: null` it starts from `weights`, as phase 1 did;
- how often end-to-end training (Algorithm 1) makes new maps: `alternation.epochs_per_round`, 5. Maps at each iteration
  would take most of the time, which is why the thesis itself turns to two phases. A round is a run of its own, which
  starts from the round before; schedule and shuffling go on, the optimiser's momentum begins anew.

The attention network (`attention.net`)
- `hidden` and `kernel`: 512 channels by 3x3, so that a cell sees its neighbours, at a quarter of Mixed_7c's channels;
  the second convolution is 1x1 and no parameter: it only weighs what the first one found;
- `learning_rate`: 0.001, Adam's own default (Kingma & Ba, ICLR 2015), as are its other constants, no parameters;
- `epochs` 20, `batch` 64 frames, `frames_per_video` 8: the epoch that does best on the held-out fifth is kept, so that
  more would only cost; the 8:2 of the samples is `holdout`, by groups of videos, since frames of a video are alike.

The test (the protocol)
- `crops` and `sampler`: 10 crops of TSN's 25 segments, which it says it tests like; small tables take the centre;
- `fusion`, the weights of the mean of both streams: TSN's 1 : 1.5 before the softmax (`before_softmax`); `sweep`
  chooses them on groups held out of the training;
- `maps`, what stands for the maps: those of the attention network; Grad-CAM of the true label is an oracle, and what it
  scores is no result.

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
