"""Networks of clips behind the interface of segments: what the loader hands over, in the shape each backbone takes.

The loader lays the pictures of a clip side by side, as channels (B, K, C, H, W); a network of clips has them as time
(B, c, T, H, W), and one of two modalities has those of each by itself. Views of a video are its K segments: their
logits become the video's by TSN's consensus, of which one view is a case.
"""

import torch
from torch import Tensor, nn

from reaction.models.tsn import TSN

ENTRIES = ("in_time", "side_by_side", "as_channels")


def as_time(clip: Tensor, channels: int) -> Tensor:
    """Pictures side by side (..., T * channels, H, W) as pictures in time (..., channels, T, H, W)."""
    return clip.unflatten(-3, (-1, channels)).transpose(-4, -3)


class ClipNet(TSN):
    """A backbone of one stream's clips (B, c, T, H, W); `channels` is c.

    A backbone that answers at every step while it trains, (B, steps, classes), does so for the clips as well.
    """

    views_at_once = 2

    def __init__(self, backbone: nn.Module, *, channels: int) -> None:
        super().__init__(backbone)
        self.channels = channels

    def enter(self, frames: Tensor, maps: Tensor | None = None) -> Tensor:
        """Clips (..., T * c, H, W) as the backbone takes them, (..., c, T, H, W)."""
        return as_time(super().enter(frames, maps), self.channels)


class JointNet(TSN):
    """A backbone of frames (B, 3, S, H, W) and flow (B, 2, L, H, W); `frames` is S.

    How they enter it: `in_time`, so; `side_by_side`, the pictures as channels, (B, 3 S, H, W) and (B, 2 L, H, W);
    `as_channels`, flow behind the colours of each frame, (B, 5, S, H, W), where L is S.
    """

    views_at_once = 4

    def __init__(self, backbone: nn.Module, *, frames: int, entry: str = "in_time") -> None:
        super().__init__(backbone)
        if entry not in ENTRIES:
            raise ValueError(f"entry is one of {', '.join(ENTRIES)}, not {entry!r}")
        self.frames, self.entry = frames, entry

    def forward(self, clip: Tensor, maps: Tensor | None = None) -> Tensor:
        """Logits (B, classes) of clips (B, K, 3 S + 2 L, H, W), frames before flow."""
        views = self.enter(clip, maps).flatten(0, 1)  # (B * K, 3 S + 2 L, H, W)
        parts = torch.tensor_split(views, [3 * self.frames], dim=1)
        if self.entry != "side_by_side":
            parts = [as_time(part, channels) for part, channels in zip(parts, (3, 2), strict=True)]
        if self.entry == "as_channels":
            parts = [torch.cat(parts, dim=1)]
        logits = self.backbone(*parts)  # (B * K, classes)
        return self.agree(logits.unflatten(0, clip.shape[:2]))
