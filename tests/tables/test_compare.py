from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from reaction.evaluation.fuse import Predictions
from reaction.evaluation.statistics import exact_binomial
from reaction.tables.claims import Paper
from reaction.tables.compare import Result, TableSpec, build_comparisons, build_rows

CLASSES = 4


def spec(**changed):
    described = {
        "name": "toy",
        "dataset": "toy",
        "scale": "paper",
        "splits": (1, 2, 3),
        "protocol": "tsn",
        "methods": ("tsn",),
        "streams": ("rgb",),
    }
    return TableSpec(**(described | changed))


def result(hits, *, method="tsn", stream="rgb", split=1, seed=0, first=0, labels=None, of=None, **changed):
    """A run that is right where `hits` says so; its videos are v<first>, v<first + 1>, ..."""
    hits = np.asarray(hits, dtype=bool)
    labels = np.arange(len(hits)) % CLASSES if labels is None else np.asarray(labels)
    scores = np.eye(CLASSES)[np.where(hits, labels, (labels + 1) % CLASSES)]
    videos = tuple(f"v{first + position}" for position in range(len(hits)))
    metrics = {"of": len(hits) if of is None else of, "chance": 1 / CLASSES}
    folder = f"scores/{method}-{stream}-split{split}-seed{seed}"
    return Result(method, stream, split, seed, folder, metrics, Predictions(videos, labels, scores), **changed)


def hits(right, n):
    return np.arange(n) < right


def paper(*claims):
    base = {
        "table": "table1",
        "method": "theirs",
        "stream": "rgb",
        "dataset": "toy",
        "splits": [1],
        "metric": "top1",
        "value": 60.0,
        "protocol": "25 x 10",
        "source": "Table 1",
        "tolerance": 2.5,
        "reproduced_by": {"method": "tsn", "stream": "rgb"},
    }
    head = {"paper": "toy2016", "title": "Toy", "venue": "-", "year": 2016, "url": None, "contradictions": []}
    return Paper.model_validate(head | {"claims": [base | claim for claim in claims]})


@pytest.mark.parametrize(
    ("right", "verdict"), [(115, "reproduced"), (125, "reproduced"), (114, "differs"), (126, "differs")]
)
def test_the_tolerance_decides_and_includes_its_ends(right, verdict):
    [row] = build_rows(spec(), [result(hits(right, 200))], [paper({})])
    assert row.ours == pytest.approx(right / 2)
    assert row.difference == pytest.approx(right / 2 - 60)
    assert row.verdict == verdict
    assert (row.n, row.of, row.chance, row.ours_std) == (200, 200, 25.0, None)
    assert row.source == "toy2016, Table 1"
    assert row.low < row.ours < row.high


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"comparable": False, "why": "scale small"}, "scale small"),
        ({"of": 240}, "200 of 240 videos tested"),
        (
            {"comparable": False, "why": "no ImageNet weights", "of": 201},
            "no ImageNet weights; 200 of 201 videos tested",
        ),
    ],
)
def test_a_row_that_cannot_be_compared_is_not_whatever_it_scores(changed, why):
    [row] = build_rows(spec(), [result(hits(120, 200), **changed)], [paper({})])
    assert (row.verdict, row.why) == ("not comparable", why)
    assert row.difference == pytest.approx(0)


def test_a_few_videos_that_are_gone_are_said_and_keep_no_number_from_its_paper():
    [row] = build_rows(spec(), [result(hits(120, 200), of=210)], [paper({})])  # 95.2 %
    assert (row.verdict, row.why) == ("reproduced", "200 of 210 videos tested")
    [row] = build_rows(spec(), [result(hits(120, 200), of=211)], [paper({})])  # 94.8 %
    assert (row.verdict, row.why) == ("not comparable", "200 of 211 videos tested")


def test_a_stream_that_a_method_does_not_have_gets_no_row():
    toy, other = spec(methods=("tsn", "other"), streams=("rgb", "flow")), result(hits(1, 2), method="other")
    rows = build_rows(toy, [other, result(hits(1, 2)), result(hits(1, 2), stream="flow")], [])
    assert [(row.method, row.stream) for row in rows] == [("tsn", "rgb"), ("tsn", "flow"), ("other", "rgb")]


def test_claims_without_results_and_results_without_claims():
    [row] = build_rows(spec(), [], [paper({})])
    assert (row.verdict, row.published, row.ours, row.runs) == ("not run", 60.0, None, "")
    [row] = build_rows(spec(), [result(hits(1, 2))], [])
    assert (row.verdict, row.why, row.published) == ("", "no published number", None)
    [row] = build_rows(spec(), [result(hits(1, 2), comparable=False, why="scale small")], [])
    assert (row.verdict, row.why) == ("not comparable", "scale small")


def test_claims_match_by_method_stream_dataset_splits_and_metric():
    claims = paper(
        {"reproduced_by": {"method": "other", "stream": "rgb"}},
        {"reproduced_by": {"method": "tsn", "stream": "flow"}},
        {"dataset": "elsewhere"},
        {"reproduced_by": None, "tolerance": None},
        {"splits": [1, 2, 3], "value": 70.0},
        {"metric": "mean_class", "value": 66.0},
    )
    rows = build_rows(spec(), [result([1, 1, 0, 0], labels=[0, 0, 0, 1])], [claims])
    assert [(row.splits, row.metric, row.published, row.verdict) for row in rows] == [
        ("1", "mean_class", 66.0, "differs"),
        ("1 2 3", "top1", 70.0, "not run"),
    ]
    assert rows[0].ours == pytest.approx(100 * (2 / 3 + 0) / 2)


def test_what_a_paper_did_and_we_can_not_is_a_row_of_the_paper_s_own_table():
    warped = {"method": "Warped", "stream": "warped_flow", "reproduced_by": None, "tolerance": None, "value": 86.9}
    cited = {"method": "cited", "reproduced_by": None, "tolerance": None}
    claims = paper({}, cited, warped | {"not_run": "no warped flow"}, warped | {"not_run": "x", "dataset": "other"})
    ours, left_out = build_rows(spec(), [result(hits(120, 200))], [claims])
    assert ours.verdict == "reproduced"
    assert (left_out.method, left_out.stream, left_out.published) == ("Warped", "warped_flow", 86.9)
    assert (left_out.verdict, left_out.why, left_out.ours) == ("not run", "no warped flow", None)
    assert len(build_rows(spec(split_sets=((1, 2, 3),)), [], [claims])) == 1, "the claim is about split 1"
    other = claims.model_copy(update={"paper": "other", "claims": ()})
    assert len(build_rows(spec(), [result(hits(120, 200))], [claims, other])) == 1, (
        "a table of several papers is no paper's"
    )


def test_the_mean_over_splits_weighs_splits_equally_and_shows_the_spread_of_runs():
    runs = [
        result(hits(60, 100), split=1, seed=0),
        result(hits(70, 100), split=1, seed=1),
        result(hits(20, 40), split=2, first=100),
        result(hits(40, 40), split=3, first=140),
    ]
    single, several = build_rows(spec(), runs, [])
    assert (single.splits, single.n) == ("1", 100)
    assert single.ours == pytest.approx(65)
    assert single.ours_std == pytest.approx(np.std([60, 70], ddof=1))
    assert (several.splits, several.n, several.of) == ("1 2 3", 180, 180)
    assert several.ours == pytest.approx((65 + 50 + 100) / 3)
    assert several.ours_std == pytest.approx(np.std([60, 70, 50, 100], ddof=1))
    assert several.runs.split() == [run.folder for run in runs]


def test_seeds_share_the_drawn_videos():
    """The same run three times is no more certain than once."""
    outcome = np.random.default_rng(0).random(120) < 0.6
    [once] = build_rows(spec(), [result(outcome)], [])
    [thrice] = build_rows(spec(), [result(outcome, seed=seed) for seed in range(3)], [])
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))


def test_groups_that_stand_or_fall_together_are_drawn_as_one():
    """12 scenes of 6 videos each are no more certain than 12 videos."""
    outcome = np.random.default_rng(0).random(12) < 0.6
    scenes = tuple(f"g{number}" for number in range(12) for _ in range(6))
    [one_by_one] = build_rows(spec(), [result(np.repeat(outcome, 6))], [])
    [grouped] = build_rows(spec(), [result(np.repeat(outcome, 6), groups=scenes)], [])
    [few] = build_rows(spec(), [result(outcome)], [])
    assert (grouped.n, grouped.ours) == (72, pytest.approx(few.ours))
    assert (grouped.low, grouped.high) == pytest.approx((few.low, few.high))
    assert grouped.high - grouped.low > 2 * (one_by_one.high - one_by_one.low)


def test_groups_of_unequal_size_weigh_by_their_videos():
    """Three groups have 27 draws, whose accuracies are ratios of sums."""
    right, size = np.array([3, 0, 1]), np.array([4, 1, 2])
    draws = [list(draw) for draw in product(range(3), repeat=3)]
    every = np.array([100 * right[draw].sum() / size[draw].sum() for draw in draws])
    [row] = build_rows(spec(), [result([1, 1, 1, 0, 0, 1, 0], groups=tuple("aaaabcc"))], [])
    assert (row.low, row.high) == pytest.approx((every.min(), every.max()))  # each of 1/27 > 2.5 %


def test_groups_without_misses_are_as_certain_as_their_number():
    [row] = build_rows(spec(), [result(hits(6, 6), groups=tuple("aabbcc"))], [])
    assert row.low == pytest.approx(100 * exact_binomial(3, 3).low)


def test_one_video_or_one_group_has_no_interval():
    toy = spec(methods=("tsn", "old"), comparisons=(("tsn/rgb", "old/rgb"),))
    runs = [result([1, 0], groups=("g", "g"), method=method) for method in ("tsn", "old")]
    assert [(row.ours, row.low, row.high) for row in build_rows(toy, runs, [])] == [(50.0, None, None)] * 2
    [pair] = build_comparisons(toy, runs)
    assert (pair.difference, pair.low, pair.words) == (0.0, None, "too few videos to say")


def test_a_comparison_of_groups_tells_their_number():
    better, worse = [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1]
    toy = spec(methods=("new", "old"), comparisons=(("new/rgb", "old/rgb"),))
    runs = [result(hit, method=name, groups=tuple("aabbcc")) for hit, name in ((better, "new"), (worse, "old"))]
    [pair] = build_comparisons(toy, runs)
    allowed = "0.00 lower to 100.00 higher is possible"
    assert pair.words == f"no difference shown at n = 6 in 3 groups: {allowed}", "group c alone is drawn 1 time in 27"
    assert pair.n == 6
    assert (pair.gained, pair.mcnemar, pair.mcnemar_runs) == (None, None, ""), "videos of a group are not independent"


def test_a_run_without_misses_still_has_an_interval():
    [row] = build_rows(spec(), [result(hits(30, 30))], [])
    assert (row.low, row.high) == pytest.approx(tuple(100 * bound for bound in exact_binomial(30, 30)))


@pytest.mark.parametrize(
    ("right", "why"),
    [(40, "this stream alone can know 50.00"), (90, "above the 50.00 that this stream alone can know")],
)
def test_a_ceiling_is_told_and_passing_it_shows(right, why):
    [row] = build_rows(spec(ceilings={"rgb": 0.5}), [result(hits(right, 100))], [])
    assert row.why == f"no published number; {why}"


def test_a_stream_at_its_ceiling_in_every_group_is_not_above_it_by_rounding():
    """A third of each scene is right, whatever the draw: the interval is one point, some of it rounded up."""
    runs = [result([1, 0, 0] * 23, seed=seed, groups=tuple(f"g{k // 3}" for k in range(69))) for seed in range(3)]
    [row] = build_rows(spec(ceilings={"rgb": 1 / 3}), runs, [])
    assert row.low == pytest.approx(row.high) == pytest.approx(100 / 3)
    assert row.why == "no published number; this stream alone can know 33.33"


def test_the_note_of_a_claim_stays_with_its_row():
    [row] = build_rows(spec(), [result(hits(3, 5), comparable=False, why="scale small")], [paper({"note": "rounded"})])
    assert row.why == "scale small; rounded"


def test_two_results_for_one_run_are_refused():
    with pytest.raises(ValueError, match="a table takes one result per run"):
        build_rows(spec(), [result([1]), result([0])], [])


def test_comparisons_are_paired_and_put_into_words():
    shared = np.random.default_rng(1).random(300) < 0.5
    better = shared.copy()
    better[np.flatnonzero(~shared)[:30]] = True
    runs = [result(better, method="new"), result(shared, method="old"), result(shared, method="old", seed=1)]
    toy = spec(
        methods=("new", "old"), comparisons=(("new/rgb", "old/rgb"), ("old/rgb", "new/rgb"), ("old/rgb", "old/rgb"))
    )
    forward, backward, same = build_comparisons(toy, runs)
    assert forward.difference == pytest.approx(10.0)
    assert forward.words.startswith("higher by 10.00 (")
    assert (forward.first, forward.second, forward.splits, forward.n) == ("new/rgb", "old/rgb", "1", 300)
    assert backward.words == forward.words.replace("higher", "lower")
    most = 100 * exact_binomial(0, 300).high
    assert (
        same.words == f"no difference shown at n = 300 and 2 seeds: {most:.2f} lower to {most:.2f} higher is possible"
    )
    assert (same.low, same.high) == pytest.approx((-most, most)), "no two hits differ, and still 300 videos are few"


def pair_of(runs, **changed):
    toy = spec(methods=("new", "old"), comparisons=(("new/rgb", "old/rgb"),), **changed)
    return build_comparisons(toy, runs)


def test_mcnemar_of_one_run_of_several_and_of_runs_whose_videos_lie_in_another_order():
    old, new = hits(10, 40), hits(16, 40)
    new[:1] = False  # 6 gained, 1 lost
    runs = [result(new, method="new"), result(old, method="old")]
    [one] = pair_of(runs)
    p = 2 * (7 + 1) / 2**7
    assert (one.gained, one.lost, one.mcnemar) == (6, 1, pytest.approx(p))
    assert one.mcnemar_runs == f"split 1 seed 0: 6 to 1, p = {p:.3g}"
    turned = runs[1].predictions
    turned = Predictions(turned.videos[::-1], turned.labels[::-1], turned.scores[::-1])
    assert pair_of([runs[0], replace(runs[1], predictions=turned)]) == [one]
    [two] = pair_of([*runs, result(old, method="new", seed=1), result(old, method="old", seed=1)])
    assert (two.gained, two.lost) == (6, 1)
    assert two.mcnemar == pytest.approx(1.0), "twice the mean of p and 1 is above 1"
    assert two.mcnemar_runs.endswith("; split 1 seed 1: 0 to 0, p = 1")
    [thrice] = pair_of([replace(run, seed=seed) for seed in range(3) for run in runs])
    assert thrice.mcnemar == pytest.approx(2 * p), "the same run three times is no stronger evidence"


def test_a_comparison_of_several_runs_tells_how_far_they_differ():
    right = {("new", 0): 50, ("new", 1): 70, ("old", 0): 45, ("old", 1): 40}
    runs = [result(hits(many, 100), method=name, seed=seed) for (name, seed), many in right.items()]
    [pair] = pair_of(runs)
    assert (pair.difference, pair.runs) == (pytest.approx(17.5), 2)
    assert pair.difference_std == pytest.approx(np.std([5, 30], ddof=1))
    [single] = pair_of(runs[::2])
    assert (single.difference, single.difference_std, single.runs) == (pytest.approx(5), None, 1)


def test_seeds_that_differ_a_lot_widen_the_interval_of_a_comparison():
    """In every seed all videos but a few agree, so that the videos alone would be sure of the gain."""
    right = {("new", 0): 58, ("new", 1): 42, ("new", 2): 56, ("old", 0): 40, ("old", 1): 40, ("old", 2): 40}
    runs = [result(hits(many, 100), method=name, seed=seed) for (name, seed), many in right.items()]
    [pair] = pair_of(runs)
    assert (pair.difference, pair.runs, pair.seeds) == (pytest.approx(12), 3, 3)
    half = 4.303 * np.std([18, 2, 16], ddof=1) / 3**0.5
    assert (pair.low, pair.high) == pytest.approx((12 - half, 12 + half), abs=2), "the videos add next to nothing"
    assert pair.low < 0
    assert pair.words.startswith("no difference shown at n = 100 and 3 seeds: ")
    [two] = pair_of([run for run in runs if run.seed < 2])
    assert two.high == 100, "10 + 12.7 x 8: two seeds say next to nothing, but there is no more than all"
    assert -100 < two.low < -70
    [single] = pair_of(runs[::3])
    assert single.words.startswith("higher by 18.00 (")
    assert single.words.endswith("at n = 100"), "of these two networks"
    assert single.seeds == 1


def test_split_sets_keep_single_splits_and_means_apart():
    claims = paper(
        {"splits": [1, 2, 3], "value": 68.5},
        {"splits": [1], "value": 55.0},
        {"splits": [2], "value": 1.0},
        {"reproduced_by": {"method": "old", "stream": "rgb"}, "splits": [1, 2, 3], "value": 59.4},
    )
    runs = [result(hits(50 + split, 100), split=split) for split in (1, 2, 3)] + [result(hits(40, 100), method="old")]
    rows = build_rows(spec(methods=("old", "tsn"), split_sets=((1,), (1, 2, 3))), runs, [claims])
    assert [(row.splits, row.method, row.published) for row in rows] == [
        ("1", "old", None),
        ("1", "tsn", 55.0),
        ("1 2 3", "old", 59.4),
        ("1 2 3", "tsn", 68.5),
    ]
    assert [row.ours for row in rows] == [pytest.approx(40), pytest.approx(51), None, pytest.approx(52)]
    assert (rows[2].verdict, rows[3].difference) == ("not run", pytest.approx(-16.5))


def test_comparisons_of_split_sets_take_whole_sets():
    runs = [result(hits(50, 100), method=name, split=split) for name in ("new", "old") for split in (1, 2)]
    first, both = pair_of(runs, split_sets=((1,), (1, 2)))
    assert [pair.splits for pair in (first, both)] == ["1", "1 2"]
    assert first.mcnemar_runs.count("split") == 1
    assert both.mcnemar_runs.count("split") == 2
    [missing] = pair_of(runs, split_sets=((1, 2, 3),))
    assert (missing.splits, missing.words, missing.n) == ("1 2 3", "not run", 0)


def test_a_split_set_needs_splits_of_the_table():
    with pytest.raises(ValueError, match=r"split_sets has \[1, 4\], of splits \[1, 2, 3\]"):
        spec(split_sets=((1,), (1, 4)))


def test_an_oracle_is_never_comparable_and_its_comparisons_say_so():
    [row] = build_rows(spec(), [result(hits(120, 200), oracle=True)], [paper({})])
    assert (row.verdict, row.why) == ("not comparable", "oracle: its maps know the true label")
    told = {"oracle": True, "comparable": False, "why": "scale small"}
    [row] = build_rows(spec(), [result(hits(120, 200), **told)], [])
    assert row.why == "oracle: its maps know the true label; scale small"
    [pair] = pair_of([result(hits(9, 10), method="new", oracle=True), result(hits(1, 10), method="old")])
    assert pair.words.endswith("at n = 10; new/rgb knows the true label")


def test_only_the_field_makes_an_oracle_not_what_a_reason_says():
    named = {"comparable": False, "why": "flow of another oracle"}
    runs = [result(hits(9, 10), method="new", **named), result(hits(1, 10), method="old")]
    [row, _] = build_rows(spec(methods=("new", "old")), runs, [])
    assert row.why == "flow of another oracle"
    [pair] = pair_of(runs)
    assert pair.words.endswith("at n = 10")


def test_a_row_says_by_which_protocol_it_was_tested():
    tested = result(hits(1, 2))
    tested = replace(tested, metrics={**tested.metrics, "protocol": {"protocol_name": "centre"}})
    [row] = build_rows(spec(), [tested], [paper({})])
    assert row.protocol == "centre (paper: 25 x 10)"


def test_a_row_tells_the_weights_that_were_swept_and_of_how_many_runs():
    def swept(seed, flow):
        tested, weights = result(hits(1, 2), seed=seed), {"rgb": 1.0, "flow": flow}
        return replace(tested, metrics={**tested.metrics, "protocol": {"weights": weights, "swept_on": 40}})

    [row] = build_rows(spec(), [swept(0, 0.25), swept(1, 1.0), swept(2, 1.0)], [])
    assert row.why == "no published number; weights swept: rgb 1, flow 1 (2); rgb 1, flow 0.25 (1)"


def test_a_comparison_says_what_has_not_run_and_refuses_a_name_it_does_not_know():
    pairs = (("tsn/fusion", "tsn/rgb"), ("other/fusion", "other/rgb"))
    toy = spec(streams=("rgb", "fusion"), methods=("tsn", "other"), comparisons=pairs)
    ran, missing = build_comparisons(toy, [result([1, 0]), result([1, 1], stream="fusion")])
    assert ran.difference == pytest.approx(50.0)
    assert (missing.words, missing.difference) == ("not run", None)
    with pytest.raises(ValueError, match="'flow', which is none of tsn/rgb, tsn/fusion"):
        build_comparisons(spec(streams=("rgb", "fusion"), comparisons=(("flow", "tsn/rgb"),)), [])


def test_videos_with_several_classes_are_compared_by_mean_average_precision():
    rng = np.random.default_rng(0)
    labels = (rng.random((80, 5)) < 0.3).astype(int)
    videos = tuple(f"v{k}" for k in range(80))

    def ranked(method, sharpness):
        scores = rng.normal(size=labels.shape) + sharpness * labels
        metrics = {"of": 80, "chance": labels.mean()}
        return Result(method, "rgb", 1, 0, method, metrics, Predictions(videos, labels, scores))

    results = [ranked("tsn", 1.0), ranked("sharper", 4.0)]
    described = spec(splits=(1,), methods=("tsn", "sharper"), metric="map", comparisons=(("sharper/rgb", "tsn/rgb"),))
    claimed = paper({"metric": "map", "value": 60.0})
    blunt, sharp = build_rows(described, results, [claimed])
    for row, found in zip((blunt, sharp), results, strict=True):
        theirs = average_precision_score(labels, found.predictions.scores, average="macro")
        assert row.metric == "map"
        assert row.ours == pytest.approx(100 * theirs)
        assert row.low < row.ours < row.high
    assert (blunt.published, sharp.published) == (60.0, None)
    (pair,) = build_comparisons(described, results)
    assert (pair.metric, pair.mcnemar, pair.gained) == ("map", None, None)
    assert pair.difference == pytest.approx(sharp.ours - blunt.ours)
    assert pair.low > 0


def test_a_claim_of_the_five_best_is_measured_by_the_five_best():
    labels = np.arange(20) % 6
    scores = -np.abs(np.arange(6) - labels[:, None] + 3.0)  # the true class is never the best
    predictions = Predictions(tuple(f"v{k}" for k in range(20)), labels, scores)
    one = Result("tsn", "rgb", 1, 0, "run", {"of": 20, "chance": 1 / 6}, predictions)
    rows = build_rows(spec(splits=(1,)), [one], [paper({"metric": "top1"}, {"metric": "top5"})])
    order = np.argsort(-scores, axis=1, kind="stable")
    expected = {k: 100 * (order[:, :k] == labels[:, None]).any(axis=1).mean() for k in (1, 5)}
    assert expected[5] > expected[1]
    assert {row.metric: row.ours for row in rows} == pytest.approx({"top1": expected[1], "top5": expected[5]})
