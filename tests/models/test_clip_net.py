"""Clips of many pictures, as the loader lays them out, against the same clips as the backbones take them."""

import pytest
import torch
from torch import nn

from reaction.models.clip_net import ClipNet, JointNet, as_time


class Told(nn.Module):
    """Keeps what it is given, and answers with the clips' means."""

    last_layer = "fc"

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(1, 2)

    def forward(self, *clips):
        self.clips = clips
        return self.fc(sum(clip.mean((1, 2, 3, 4)) for clip in clips)[:, None])


def test_pictures_side_by_side_become_time():
    clip = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5).flatten(0, 1)  # two pictures of three channels
    taken = as_time(clip, 3)  # (3, 2, 4, 5)
    for picture in range(2):
        for channel in range(3):
            assert torch.equal(taken[channel, picture], clip[3 * picture + channel])


def test_views_of_a_clip_net_are_clips_of_their_own():
    net = ClipNet(Told(), channels=3)
    clip = torch.randn(2, 4, 15, 6, 6)  # 2 videos, 4 views, 5 frames
    logits = net(clip)
    assert net.backbone.clips[0].shape == (8, 3, 5, 6, 6)
    one_by_one = torch.stack([net(clip[:, [k]]) for k in range(4)], dim=1)
    torch.testing.assert_close(logits, one_by_one.mean(1))


def test_a_backbone_that_answers_at_every_step_does_so_for_the_clips():
    class Steps(nn.Module):
        def forward(self, clip):
            return clip.mean((1, 3, 4))[..., None].expand(-1, -1, 7)  # (B, T, 7)

    clip = torch.randn(2, 1, 15, 6, 6)
    assert ClipNet(Steps(), channels=3)(clip).shape == (2, 5, 7)


def test_a_joint_net_gets_frames_and_flow():
    net = JointNet(Told(), frames=2)
    clip = torch.randn(3, 1, 2 * 3 + 8 * 2, 6, 6)
    net(clip)
    rgb, flow = net.backbone.clips
    assert torch.equal(rgb, as_time(clip[:, 0, :6], 3))
    assert rgb.shape == (3, 3, 2, 6, 6)
    assert torch.equal(flow, as_time(clip[:, 0, 6:], 2))
    assert flow.shape == (3, 2, 8, 6, 6)


def test_flow_may_lie_behind_the_colours_of_each_frame_or_side_by_side():
    clip = torch.randn(3, 1, 4 * 3 + 4 * 2, 6, 6)
    net = JointNet(Told(), frames=4, entry="as_channels")
    net(clip)
    (both,) = net.backbone.clips
    assert both.shape == (3, 5, 4, 6, 6)
    for k in range(4):
        assert torch.equal(both[:, :3, k], clip[:, 0, 3 * k : 3 * k + 3])
        assert torch.equal(both[:, 3:, k], clip[:, 0, 12 + 2 * k : 14 + 2 * k])
    with pytest.raises(ValueError, match="'behind'"):
        JointNet(Told(), frames=4, entry="behind")
