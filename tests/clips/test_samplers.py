import numpy as np
import pytest

from reaction.clips.samplers import stack_indices, test_segments, train_segments

SHAPES = [(n, segments, span) for n in range(1, 120) for segments in (1, 3, 7, 25) for span in (1, 5, 10)]


@pytest.mark.parametrize(
    ("length", "segments", "span"),
    [(1, 3, 1), (1, 3, 10), (9, 3, 10), (10, 3, 10), (10, 25, 10)],
    ids=["n = 1", "n = 1 < L", "n < L", "n = L", "n = L, 25 segments"],
)
def test_a_video_no_longer_than_its_stack_starts_at_zero(length, segments, span):
    zeros = [0] * segments
    assert train_segments(length, segments, span, np.random.default_rng(0)).tolist() == zeros
    assert test_segments(length, segments, span, "tsn").tolist() == zeros
    assert test_segments(length, segments, span, "ends").tolist() == zeros


def test_training_draws_every_start_of_its_part_and_never_the_remainder():
    rng = np.random.default_rng(0)
    drawn = np.array(
        [train_segments(14, 3, 5, rng) for _ in range(300)]
    )  # 10 starts: three parts of 3, start 9 is left
    assert drawn.dtype == np.int64
    assert [sorted(set(column)) for column in drawn.T.tolist()] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_training_with_fewer_starts_than_segments_draws_sorted_with_repetition():
    rng = np.random.default_rng(0)
    drawn = {tuple(train_segments(6, 3, 5, rng).tolist()) for _ in range(200)}
    assert drawn == {(0, 0, 0), (0, 0, 1), (0, 1, 1), (1, 1, 1)}


def test_test_segments_worked_by_hand():
    assert test_segments(75, 25, 1).tolist() == list(range(1, 75, 3))
    assert test_segments(13, 3, 5).tolist() == [1, 4, 7]  # 9 starts, tick 3
    assert test_segments(4, 8, 1).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert test_segments(50, 25, 1, "ends").tolist() == list(range(0, 50, 2))
    assert test_segments(13, 3, 5, "ends").tolist() == [0, 4, 8]
    assert test_segments(13, 1, 5, "ends").tolist() == [0]


def test_tsn_rule_is_the_papers_code_up_to_its_rounding():
    for length, segments, span in SHAPES:
        if length < span:
            continue  # the code there gives negative positions
        tick = (length - span + 1) / segments
        theirs = np.array([int(tick / 2.0 + tick * x) for x in range(segments)])
        ours = test_segments(length, segments, span)
        middles = (length - span + 1) * (2 * np.arange(segments) + 1)
        rounded = (theirs == ours - 1) & (middles % (2 * segments) == 0)
        assert ((ours == theirs) | rounded).all(), (length, segments, span)


def test_ends_rule_is_the_caffe_evaluation():
    for length, segments, span in SHAPES:
        if segments == 1:
            continue  # the code there divides by zero
        step = (length - span) // (segments - 1)
        end = min(2 + step * (segments - 1), length + 1)
        theirs = list(range(1, end, step)) if step > 0 else [1] * segments
        assert (test_segments(length, segments, span, "ends") + 1).tolist() == theirs


def test_tsn_rule_is_symmetric_in_time_but_for_whole_middles():
    for length, segments, span in SHAPES:
        starts = max(length - span + 1, 1)
        forwards = test_segments(length, segments, span)
        backwards = (starts - 1 - forwards)[::-1]  # the same stacks, counted from the other end
        whole = starts * (2 * np.arange(segments) + 1) % (2 * segments) == 0
        assert (forwards - backwards).tolist() == whole.astype(int).tolist(), (length, segments, span)


def test_one_segment_is_a_clip_anywhere_it_fits_or_in_the_middle():
    span = 3 * 3 + 1  # 4 frames, every third
    starts = {int(train_segments(12, 1, span, np.random.default_rng(seed))[0]) for seed in range(50)}
    assert starts == {0, 1, 2}
    middle = test_segments(20, 1, span)
    assert stack_indices(middle, 4, 20, stride=3).tolist() == [[5, 8, 11, 14]]


def test_consecutive_segments_cover_the_video_once_and_then_again():
    starts = test_segments(10, 3, 4, "consecutive")
    assert stack_indices(starts, 4, 10, loop=True).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]
    ten_seconds = stack_indices(test_segments(300, 15, 16, "consecutive"), 16, 300, loop=True)
    assert ten_seconds.ravel().tolist() == list(range(240))


def test_uniform_segments_begin_at_equal_steps_and_stop_short_of_the_end():
    # facebookresearch/SlowFast: delta * i / clips with delta = length - span
    assert test_segments(300, 10, 64, "uniform").tolist() == [int(236 * k / 10) for k in range(10)]
    assert test_segments(40, 10, 64, "uniform").tolist() == [0] * 10


def test_a_short_video_is_played_again_as_often_as_it_takes():
    assert stack_indices(np.array([0]), 4, 5, stride=2, loop=True).tolist() == [[0, 2, 4, 1]]
    assert stack_indices(np.array([0]), 3, 1, stride=2, loop=True).tolist() == [[0, 0, 0]]


def test_stacks_repeat_the_last_item():
    assert stack_indices(np.array([0, 3]), 4, 5).tolist() == [[0, 1, 2, 3], [3, 4, 4, 4]]
    assert stack_indices(np.array([0]), 3, 1).tolist() == [[0, 0, 0]]


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="length 0"):
        test_segments(0, 3, 1)
    with pytest.raises(ValueError, match="'middle'"):
        test_segments(10, 3, 1, "middle")
