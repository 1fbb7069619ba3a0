import csv
import io
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from reaction.evaluation import ava, frame_map, video_map
from reaction.files import read_json, write_json, write_text
from reaction.tables.claims import ClaimError, Paper, read_paper
from reaction.tables.compare import Comparison, Row
from reaction.tables.detection import detection_table
from reaction.tables.detection_rows import (
    EVALUATORS,
    DetectionSpec,
    Evaluated,
    build_comparisons,
    build_rows,
    named_evaluator,
)
from reaction.tables.render import TableError

PAPERS = sorted((Path(__file__).parents[2] / "workflow/papers").glob("*.yaml"))
FRAME, VIDEO = ("frame_map@0.5", "padilla"), ("video_map@0.2", "yowo")
HEAD = {"paper": "toy2019", "title": "Toy", "venue": "-", "year": 2019, "url": None, "contradictions": []}


def spec(**changed):
    described = {
        "name": "toy",
        "dataset": "toy",
        "scale": "paper",
        "splits": (1,),
        "protocol": "every",
        "methods": ("yowo",),
        "metrics": {"frame_map@0.5": ("padilla", "act"), "video_map@0.2": ("yowo",)},
    }
    return DetectionSpec(**(described | changed))


def result(value=0.5, *, method="yowo", split=1, seed=0, n=100, of=100, draws=None, measures=None, **changed):
    """A run that every evaluator gives the same value, or those of `measures`; its draws lie around it."""
    known = measures or dict.fromkeys([FRAME, ("frame_map@0.5", "act"), VIDEO], value)
    noise = np.random.default_rng(split).normal(0, 0.02, 1000) if draws is None else np.asarray(draws) - value
    folder = f"maps/{method}-split{split}-seed{seed}"
    metrics = {"n": n, "of": of, "chance": 0.05}
    own = {measure: one + noise for measure, one in known.items()}
    return Evaluated(method, "rgb", split, seed, folder, metrics, known, own, **changed)


def claim(**changed):
    return {
        "table": "toy",
        "method": "YOWO",
        "stream": "rgb",
        "dataset": "toy",
        "splits": [1],
        "metric": "frame_map@0.5",
        "value": 52.0,
        "protocol": "padilla, annotated frames",
        "source": "Table 2",
        "tolerance": 3.0,
        "reproduced_by": {"method": "yowo", "stream": "rgb"},
    } | changed


def theirs(**changed):
    return claim(**({"method": "MOC", "tolerance": None, "reproduced_by": None} | changed))


def papers(*claims):
    return [Paper.model_validate(HEAD | {"claims": list(claims)})]


def cells(rows):
    return {(row.method, row.splits, row.metric, row.protocol.partition(" (")[0]): row for row in rows}


def test_a_row_for_each_method_metric_and_evaluator_in_the_order_of_the_table():
    rows = build_rows(spec(methods=("yowo", "other")), [result(0.5)], papers())
    assert [(row.method, row.metric, row.protocol) for row in rows[:3]] == [
        ("yowo", "frame_map@0.5", "padilla"),
        ("yowo", "frame_map@0.5", "act"),
        ("yowo", "video_map@0.2", "yowo"),
    ]
    assert [row.verdict for row in rows] == [""] * 3 + ["not run"] * 3
    assert [row.why for row in rows] == ["no published number"] * 3 + ["no scores of split 1"] * 3
    assert (rows[0].ours, rows[0].n, rows[0].of, rows[0].chance, rows[0].stream) == (50.0, 100, 100, 5.0, "rgb")


def test_the_mean_over_splits_of_the_mean_over_seeds_and_its_draws():
    rng = np.random.default_rng(0)
    runs = {(1, 0): 0.4, (1, 1): 0.6, (2, 0): 0.7}
    draws = {run: value + rng.normal(0, 0.05, 1000) for run, value in runs.items()}
    results = [result(runs[run], split=run[0], seed=run[1], draws=draws[run]) for run in runs]
    rows = cells(build_rows(spec(splits=(1, 2)), results, papers()))
    both, first = rows["yowo", "1 2", *VIDEO], rows["yowo", "1", *VIDEO]
    assert (first.ours, first.n) == (pytest.approx(50), 100)
    assert first.ours_std == pytest.approx(np.std([40, 60], ddof=1))
    assert (both.ours, both.n) == (pytest.approx((50 + 70) / 2), 200)
    assert both.ours_std == pytest.approx(np.std([40, 60, 70], ddof=1))
    averaged = [(draws[1, 0][k] + draws[1, 1][k]) / 4 + draws[2, 0][k] / 2 for k in range(1000)]
    assert (both.low, both.high) == pytest.approx(tuple(100 * np.percentile(averaged, [2.5, 97.5])))
    assert both.runs.split() == [run.folder for run in results]


def test_a_mean_takes_all_splits_of_the_table_and_is_never_shown_for_a_part():
    results = [result(0.4, split=1), result(0.6, split=2)]
    rows = build_rows(spec(splits=(1, 2, 3)), results, papers())
    assert [row.splits for row in rows] == ["1"] * 3 + ["2"] * 3 + ["1 2 3"] * 3
    assert {row.verdict for row in rows if row.splits == "1 2 3"} == {"not run"}
    assert cells(rows)["yowo", "2", *FRAME].ours == pytest.approx(60)


def test_draws_without_a_truth_are_left_out_and_draws_that_all_agree_say_nothing():
    draws = np.linspace(0.3, 0.7, 1000)
    holes = np.where(np.arange(1000) % 4 == 0, np.nan, draws)
    row = build_rows(spec(), [result(0.5, draws=holes)], papers())[0]
    assert (row.low, row.high) == pytest.approx(tuple(100 * np.nanpercentile(holes, [2.5, 97.5])))
    row = build_rows(spec(), [result(1.0, draws=np.ones(1000))], papers())[0]
    assert (row.ours, row.low, row.high) == (100.0, None, None)
    perfect = 1 / (1 + 1e-5 / np.arange(1, 1001))  # by `yowo`, of one truth to a thousand
    row = build_rows(spec(), [result(perfect[9], draws=perfect)], papers())[-1]
    assert (round(row.ours, 2), row.low) == (100.0, None)


@pytest.mark.parametrize(("ours", "verdict"), [(0.49, "reproduced"), (0.55, "reproduced"), (0.489, "differs")])
def test_a_claim_stands_beside_the_evaluator_it_names(ours, verdict):
    padilla, act, _ = build_rows(spec(), [result(ours)], papers(claim()))
    assert (padilla.published, padilla.verdict) == (52.0, verdict)
    assert padilla.difference == pytest.approx(100 * ours - 52)
    assert padilla.protocol == "padilla (paper: padilla, annotated frames)"
    assert padilla.source == "toy2019, Table 2"
    assert (act.published, act.why) == (None, "no published number")


@pytest.mark.parametrize(
    ("changed", "why"),
    [({"comparable": False, "why": "scale small"}, "scale small"), ({"of": 120}, "100 of 120 videos tested")],
)
def test_what_cannot_be_compared_is_not_whatever_it_gives(changed, why):
    row = build_rows(spec(), [result(0.52, **changed)], papers(claim()))[0]
    assert (row.verdict, row.why, row.difference) == ("not comparable", why, pytest.approx(0))


def test_an_unsaid_evaluator_is_avas_official_one_or_the_first_of_the_table():
    unsaid = claim(protocol="unsaid, 60 classes, validation")
    metrics = {"frame_map@0.5": ("slowfast", "activitynet")}
    ran = result(measures={("frame_map@0.5", name): 0.5 for name in ("slowfast", "activitynet")})
    slowfast, official = build_rows(spec(metrics=metrics), [ran], papers(unsaid))
    assert slowfast.published is None
    assert (official.published, official.why) == (52.0, "evaluator unsaid")
    assert official.protocol == "activitynet (paper: unsaid, 60 classes, validation)"
    first, second, _ = build_rows(spec(), [result()], papers(unsaid))
    assert (first.published, second.published) == (52.0, None)


def test_full_and_mini_validation_are_evaluators_of_their_own():
    metrics = {"frame_map@0.5": ("slowfast-mini", "slowfast")}
    ran = result(measures={("frame_map@0.5", "slowfast-mini"): 0.3, ("frame_map@0.5", "slowfast"): 0.2})
    mini, full = build_rows(spec(metrics=metrics), [ran], papers(claim(protocol="slowfast")))
    assert (mini.protocol, mini.ours, mini.published) == ("slowfast-mini", 30.0, None)
    assert (full.protocol, full.ours, full.published) == ("slowfast (paper: slowfast)", 20.0, 52.0)


def test_claims_by_what_the_table_does_not_measure_are_not_run():
    unmeasured = claim(metric="video_map@0.5", protocol="act, tubelets")
    row = build_rows(spec(), [result()], papers(unmeasured))[-1]
    assert (row.metric, row.protocol) == ("video_map@0.5", "act (paper: act, tubelets)")
    assert (row.verdict, row.published, row.ours) == ("not run", 52.0, None)
    assert row.why == "its protocol does not measure this"


def test_numbers_of_others_stand_behind_ours_each_with_its_splits():
    elsewhere = theirs(dataset="elsewhere")
    mean = theirs(splits=[1, 2, 3], value=70.79, protocol="act, all frames", note="both streams", stream="fusion")
    unasked = claim(method="YOWO + LFB", reproduced_by={"method": "yowo_lfb", "stream": "rgb"})
    rows = build_rows(spec(), [result()], papers(mean, elsewhere, theirs(), unasked))
    assert [(row.method, row.splits, row.verdict) for row in rows[3:]] == [
        ("MOC", "1", "cited"),
        ("YOWO + LFB", "1", "cited"),
        ("MOC", "1 2 3", "cited"),
    ]
    last = rows[-1]
    assert (last.published, last.protocol, last.stream) == (70.79, "act, all frames", "fusion")
    assert (last.ours, last.difference, last.why, last.runs) == (None, None, "both streams", "")


def test_a_comparison_of_single_runs_pairs_their_draws():
    rng = np.random.default_rng(2)
    shared = rng.normal(0, 0.1, 1000)  # which videos were drawn moves both sides
    new, old = 0.6 + shared + rng.normal(0, 0.01, 1000), 0.5 + shared
    runs = [result(0.6, method="new", draws=new), result(0.5, method="old", draws=old)]
    described = spec(methods=("new", "old"), comparisons=(("new", "old"), ("old", "new")))
    pairs = build_comparisons(described, runs)
    assert [pair.protocol for pair in pairs] == ["padilla", "act", "yowo"] * 2
    forward, backward = pairs[0], pairs[3]
    assert forward.difference == pytest.approx(10)
    low, high = 100 * np.percentile(new - old, [2.5, 97.5])
    assert (forward.low, forward.high) == pytest.approx((low, high))
    assert forward.words == f"higher by 10.00 ({low:.2f} to {high:.2f}) at n = 100"
    assert backward.words == forward.words.replace("higher", "lower")
    assert (forward.runs, forward.seeds, forward.n, forward.mcnemar) == (1, 1, 100, None)


def test_seeds_that_differ_widen_a_comparison():
    values = {("new", 0): 0.58, ("new", 1): 0.42, ("new", 2): 0.56, ("old", 0): 0.4, ("old", 1): 0.4, ("old", 2): 0.4}
    runs = [result(value, method=name, seed=seed) for (name, seed), value in values.items()]
    pair = build_comparisons(spec(methods=("new", "old"), comparisons=(("new", "old"),)), runs)[0]
    half = 4.303 * np.std([18, 2, 16], ddof=1) / 3**0.5  # Student's t of two degrees of freedom
    assert pair.difference == pytest.approx(12)
    assert (pair.low, pair.high) == pytest.approx((12 - half, 12 + half), abs=0.5)
    assert pair.difference_std == pytest.approx(np.std([18, 2, 16], ddof=1))
    assert pair.words.startswith("no difference shown at n = 100 and 3 seeds: ")


def test_comparisons_of_splits_take_whole_sets_and_say_where_draws_say_nothing():
    runs = [result(0.5, method=name, split=split) for name in ("new", "old") for split in (1, 2)]
    metrics = [["frame_map@0.5", ["padilla"]]]
    described = spec(methods=("new", "old"), splits=(1, 2, 3), comparisons=(("new", "old"),), metrics=metrics)
    pairs = build_comparisons(described, runs)
    assert [pair.splits for pair in pairs] == ["1", "2", "1 2 3"]
    assert pairs[0].words == "the same in every draw at n = 100, which tells a bootstrap nothing"
    assert (pairs[0].difference, pairs[0].low) == (0.0, None)
    assert (pairs[2].words, pairs[2].difference) == ("not run", None)


def test_every_evaluator_is_told_what_it_does():
    assert set(EVALUATORS["frame_map"]) == set(frame_map.PROTOCOLS) | set(ava.PROTOCOLS)
    assert set(EVALUATORS["video_map"]) == set(video_map.PROTOCOLS)


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_shipped_claims_name_a_known_evaluator_or_say_that_none_is_named(path):
    claims = [claim for claim in read_paper(path).claims if claim.metric.partition("@")[0] in EVALUATORS]
    assert bool(claims) == (path.stem == "kopuklu2019")
    named = {(claim.dataset, named_evaluator(claim)) for claim in claims}
    if claims:
        assert {("jhmdb21", "padilla"), ("jhmdb21", "act"), ("ucf101_24", "road"), ("ava", None)} < named


def test_a_claim_of_an_unknown_evaluator_is_refused():
    [paper] = papers(claim(protocol="padila, annotated frames"))
    with pytest.raises(ClaimError, match="begins neither with 'unsaid' nor with one of padilla, act"):
        named_evaluator(paper.claims[0])
    [paper] = papers(claim(metric="video_map@0.5", protocol="padilla"))
    with pytest.raises(ClaimError, match="one of yowo, act, road, multisports"):
        named_evaluator(paper.claims[0])


def entry(**changed):
    described = {"method": "yowo", "split": 1, "seed": 0, "folder": "maps/yowo", "comparable": True, "why": ""}
    return described | changed


def write_run(folder="maps/yowo", values=(0.52, 0.48, 0.7), size=1000, **changed):
    described = {"method": "yowo", "stream": "rgb", "split": "split1", "seed": 0, "n": 9, "of": 9, "chance": 0.05}
    frame, video = {"padilla": values[0], "act": values[1]}, {"yowo": values[2]}
    described |= {"values": {"frame_map@0.5": frame, "video_map@0.2": video}}
    write_json(f"{folder}/metrics.json", described | changed)
    with h5py.File(f"{folder}/draws.h5", "w") as file:
        for name, value in zip(
            ("frame_map@0.5/padilla", "frame_map@0.5/act", "video_map@0.2/yowo"), values, strict=True
        ):
            file[name] = value + np.linspace(-0.1, 0.1, size)
            file[name].attrs["value"] = value


@pytest.fixture
def written(tmp_path, monkeypatch):
    """The specification of a table of one run beside its claim and a work of others, with its files."""
    monkeypatch.chdir(tmp_path)
    write_run()
    tubes = {
        "method": "MOC",
        "protocol": "act, tubelets",
        "splits": [1, 2, 3],
        "metric": "video_map@0.5",
        "value": 77.19,
    }
    both = [theirs(gflops=9.5), theirs(metric="video_map@0.2", protocol="unsaid", value=80.0, note="of tubes; guessed")]
    write_text("toy.yaml", yaml.safe_dump(HEAD | {"claims": [claim(), *both, theirs(**tubes)]}))
    return {
        "table": "toy_small",
        "dataset": "toy",
        "scale": "paper",
        "splits": [1],
        "protocol": "every",
        "methods": ["yowo"],
        "papers": ["toy.yaml"],
        "resample": "video",
        "metrics": [["video_map@0.2", ["yowo"]], ["frame_map@0.5", ["padilla", "act"]]],
        "comparisons": [],
        "results": [entry()],
    }


def table_of(text, title):
    """The cells below a title of a Markdown file."""
    block = text.split(f"### {title}\n")[1].split("\n#")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines() if line[:1] == "|"]
    return [lines[0], *lines[2:]]


def test_files_hold_every_field_and_the_numbers_by_name(written):
    rows = detection_table(written, Path("out/toy.csv"), Path("out/metrics.json"))
    lines = list(csv.DictReader(io.StringIO(Path("out/toy.csv").read_text())))
    assert list(lines[0]) == list(Row.__dataclass_fields__)
    assert [line["metric"] for line in lines[:3]] == ["video_map@0.2", "frame_map@0.5", "frame_map@0.5"]
    assert [(line["ours"], line["low"], line["high"]) for line in lines[:1]] == [("70.00", "60.50", "79.50")]
    assert (
        [line["verdict"] for line in lines] == [row.verdict for row in rows] == ["", "reproduced", "", *["cited"] * 3]
    )
    ours = {"frame_map@0.5 by act on split 1": 48.0, "frame_map@0.5 by padilla on split 1": 52.0}
    ours["video_map@0.2 by yowo on split 1"] = 70.0
    assert read_json("out/metrics.json") == {"toy": {"yowo": {"rgb": ours}}}
    assert Path("out/toy_comparisons.csv").read_text().split() == [
        ",".join([*Comparison.__dataclass_fields__, "protocol"])
    ]


def test_markdown_sets_ours_and_published_side_by_side(written):
    detection_table(written, Path("toy.csv"))
    single, mean = Path("toy.md").read_text().split("## Mean over splits 1, 2, 3\n")
    assert table_of(single, "Ours: frame-mAP at 0.5") == [
        ["method", "padilla", "act"],
        ["yowo", "52.00 (42.50 - 61.50)", "48.00 (38.50 - 57.50)"],
    ]
    assert single.count("Every row: 1 run, 9 videos, chance 5.00.") == 1
    assert table_of(single, "Published") == [
        ["work", "stream", "GFLOPs", "frame by", "frame 0.5", "video by", "video 0.2", "read in", "note"],
        ["YOWO", "rgb", "", "padilla", "52.00", "", "", "Table 2", ""],
        [
            "MOC",
            "rgb",
            "9.5",
            "padilla",
            "52.00",
            "unsaid",
            "80.00",
            "Table 2",
            "video 0.2: of tubes; video 0.2: guessed",
        ],
    ]
    beside = dict(zip(*table_of(single, "Claims beside ours"), strict=True))
    assert (beside["method"], beside["metric"]) == ("yowo", "frame_map@0.5 by padilla")
    assert (beside["difference"], beside["verdict"]) == ("+0.00 (± 3)", "reproduced")
    assert "Ours" not in mean.split("## How to read this")[0]
    assert ["MOC", "rgb", "act", "77.19", "Table 2"] in table_of(mean, "Published")
    for name in ("frame-mAP by `padilla`", "frame-mAP by `act`", "video-mAP by `yowo`", "video-mAP by `act`"):
        assert mean.count(f"* {name}: ") == 1
    assert "`gurkirt`" not in mean


def test_thresholds_stand_side_by_side_below_their_evaluator(written):
    by = {"yowo": 0.7, "act": 0.6}
    values = {"video_map@0.2": by, "video_map@0.5": {"yowo": 0.4}}
    write_json("maps/yowo/metrics.json", read_json("maps/yowo/metrics.json") | {"values": values})
    with h5py.File("maps/yowo/draws.h5", "w") as file:
        for metric, known in values.items():
            for name, value in known.items():
                file[f"{metric}/{name}"] = np.full(10, value)
                file[f"{metric}/{name}"].attrs["value"] = value
    metrics = [["video_map@0.2", ["yowo", "act"]], ["video_map@0.5", ["yowo"]]]
    detection_table(written | {"metrics": metrics, "methods": ["yowo", "late"]}, Path("toy.csv"))
    text = Path("toy.md").read_text()
    assert table_of(text, "Ours: video-mAP") == [
        ["evaluator", "method", "0.2", "0.5"],
        ["yowo", "yowo", "70.00", "40.00"],
        ["act", "yowo", "60.00", ""],
    ]
    assert "Not run: late." in text


def test_what_differs_between_methods_has_columns(written):
    write_run("maps/small", (0.3, 0.3, 0.3))
    small = entry(method="small", folder="maps/small", comparable=False, why="scale small")
    pairs = {"methods": ["yowo", "small"], "comparisons": [["yowo", "small"]], "results": [entry(), small]}
    detection_table(written | pairs, Path("toy.csv"))
    text = Path("toy.md").read_text()
    columns, yowo, other = table_of(text, "Ours: frame-mAP at 0.5")
    assert columns == ["method", "padilla", "act", "verdict"]
    assert yowo[-1] == ""
    assert other[-1] == "not comparable (scale small)"
    assert text.count("| padilla   |") == 1, "of several evaluators the first is compared in words"
    assert "| act       |" not in text
    assert Path("toy_comparisons.csv").read_text().count("frame_map@0.5") == 2


def test_latex_has_the_same_tables_without_reasons(written):
    detection_table(written, Path("toy.csv"))
    latex = Path("toy.tex").read_text()
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 5
    assert "yowo & 52.00 (42.50--61.50) & 48.00 (38.50--57.50) " in latex
    assert "guessed" not in latex
    assert all(line.startswith("%") for line in latex.splitlines() if "trapezoids" in line)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scael": "paper"}, "table toy_small: scael: Unexpected keyword argument"),
        (
            {"metrics": [["video_map@0.2", ["padilla"]]]},
            "metrics has 'padilla' of 'video_map@0.2', which is none of yowo",
        ),
        ({"comparisons": [["yowo", "yolo"]]}, "comparisons has 'yolo', which is none of yowo"),
        ({"results": [entry(folder="maps/none")]}, r"maps/none/metrics\.json is missing\. Run `reaction evaluate`"),
        ({"results": [entry(seed=3)]}, "has seed 0, the table expects 3"),
        ({"results": [entry(split=2)]}, "has split 'split1', the table expects 'split2'"),
    ],
)
def test_errors_name_the_key_or_the_file(written, change, message):
    with pytest.raises(TableError, match=message):
        detection_table(written | change, Path("toy.csv"))


def test_files_of_a_run_have_to_agree(written):
    values = {"frame_map@0.5": {"padilla": 0.53}}
    write_json("maps/yowo/metrics.json", read_json("maps/yowo/metrics.json") | {"values": values})
    with pytest.raises(
        TableError, match=r"draws\.h5 and metrics\.json beside it do not agree on frame_map@0\.5/padilla"
    ):
        detection_table(written, Path("toy.csv"))
    values["frame_map@0.5"]["padilla"] = None
    write_json("maps/yowo/metrics.json", read_json("maps/yowo/metrics.json") | {"values": values})
    with pytest.raises(TableError, match="has no value, so no class of its test videos has a truth"):
        detection_table(written, Path("toy.csv"))
    write_run()
    write_run("maps/older", size=500, seed=1)
    both = written | {"results": [entry(), entry(seed=1, folder="maps/older")]}
    with pytest.raises(TableError, match=r"different numbers of draws, 1000 \(maps/yowo\) and 500 \(maps/older\)"):
        detection_table(both, Path("toy.csv"))
    Path("maps/yowo/draws.h5").unlink()
    with pytest.raises(TableError, match=r"maps/yowo/draws\.h5 is missing\. Run `reaction evaluate`"):
        detection_table(written, Path("toy.csv"))
