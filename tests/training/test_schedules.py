import math

import pytest

from reaction.training.schedules import in_epochs, learning_rate


def thesis(progress, warmup_epochs=0.0):
    return learning_rate(progress, base=1e-3, steps=[30, 250], factor=0.1, warmup_epochs=warmup_epochs)


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0.0, 1e-3), (29.999, 1e-3), (30.0, 1e-4), (249.5, 1e-4), (250.0, 1e-5), (1000.0, 1e-5)],
)
def test_thesis_schedule_drops_after_epoch_30_and_after_250(progress, expected):
    assert thesis(progress) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.25, 0.1), (1.25, 0.5), (2.5, 1.0), (2.6, 1.0)])
def test_warmup_rises_linearly_over_a_fraction_of_epochs(progress, share):
    assert thesis(progress, warmup_epochs=2.5) == pytest.approx(share * 1e-3, rel=1e-12)


def test_no_steps_means_a_constant_rate():
    assert learning_rate(7.3, base=0.5, steps=[], factor=0.1, warmup_epochs=0) == 0.5


def test_the_area_under_the_schedule_is_its_closed_form():
    fine = [thesis((k + 0.5) / 100, warmup_epochs=2.0) / 100 for k in range(100 * 300)]
    assert sum(fine) == pytest.approx(1e-3 * (2 / 2 + 28) + 1e-4 * 220 + 1e-5 * 50, rel=1e-9)


def test_updates_become_whole_epochs_and_the_rate_falls_where_it_was_to():
    training = {"updates": 5000, "steps": [3500, 4500], "batch": 96, "factor": 0.1}
    ours = in_epochs(training, 3570)  # HMDB-51: 38 updates an epoch
    assert (ours["epochs"], ours["factor"], "updates" in ours) == (132, 0.1, False)
    assert [step * 38 for step in ours["steps"]] == pytest.approx([3500, 4500])
    assert in_epochs({"updates": 1, "steps": [], "batch": 96}, 3570)["epochs"] == 1
    assert in_epochs({"updates": 30, "steps": [], "batch": 10}, 21)["epochs"] == 15  # a last single video is no batch


def test_a_length_in_epochs_stays():
    assert in_epochs({"epochs": 7, "steps": [3], "batch": 96}, 5) == {"epochs": 7, "steps": [3], "batch": 96}


def slowfast(progress):
    """facebookresearch/SlowFast's 8x8 R50: rate 0.1, 196 epochs, warm-up of 34 from 0.01."""
    return learning_rate(
        progress, base=0.1, steps=[], factor=1, decay="cosine", epochs=196, warmup_epochs=34, warmup_from=0.1
    )


def test_cosine_falls_over_half_a_period_and_the_warm_up_meets_it():
    assert slowfast(0) == pytest.approx(0.01)
    assert slowfast(98) == pytest.approx(0.05)
    assert slowfast(196) == pytest.approx(0, abs=1e-15)
    end = 0.1 * (1 + math.cos(math.pi * 34 / 196)) / 2
    assert slowfast(34) == pytest.approx(end)
    assert slowfast(17) == pytest.approx((0.01 + end) / 2)


def test_a_step_at_the_warm_up_s_end_lowers_nothing_before_it():
    rates = {"base": 0.1, "steps": [1], "factor": 0.1, "warmup_epochs": 1}
    assert learning_rate(0.75, **rates) == pytest.approx(0.075)
    assert learning_rate(1.0, **rates) == pytest.approx(0.01)
