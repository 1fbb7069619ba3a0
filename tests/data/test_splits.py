import pytest

from reaction.data.index import Video
from reaction.data.splits import SplitError, hold_out


def videos(groups):
    names = [f"{group}_{clip}" for group in range(groups) for clip in range(3)]
    return [Video(name, f"{name}.avi", (0,), name[:-2], 9, 25.0, 8, 6, "0", "pyav") for name in names]


@pytest.mark.parametrize(("groups", "share", "measured"), [(10, 0.2, 2), (10, 0.01, 1), (3, 0.9, 2), (2, 0.5, 1)])
def test_a_share_of_the_groups_measures_and_no_group_is_on_both_sides(groups, share, measured):
    everything = videos(groups)
    training, heldout = hold_out(everything, share, seed=0)
    assert {video.group for video in training}.isdisjoint(video.group for video in heldout)
    assert len(heldout) == 3 * measured
    assert sorted(training + heldout, key=everything.index) == everything


def test_videos_keep_their_order():
    for part in hold_out(videos(10), 0.4, seed=3):
        assert part == sorted(part, key=lambda video: video.video)


def test_the_seed_chooses_the_groups_whatever_the_order_of_the_videos():
    everything = videos(10)
    chosen = [{video.group for video in hold_out(everything, 0.2, seed=seed)[1]} for seed in range(20)]
    assert chosen[0] == {video.group for video in hold_out(everything[::-1], 0.2, seed=0)[1]}
    assert set.union(*chosen) == {video.group for video in everything}


def test_nothing_is_held_out_for_a_share_of_zero():
    assert hold_out(videos(1), 0.0, seed=0) == (videos(1), [])


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(SplitError, match="at least 2 groups, the training videos have 1"):
        hold_out(videos(1), 0.2, seed=0)
    with pytest.raises(SplitError, match="not 1"):
        hold_out(videos(3), 1, seed=0)
