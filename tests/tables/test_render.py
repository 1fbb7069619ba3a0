import csv
import io
from dataclasses import fields, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from reaction.evaluation.fuse import evaluate_scores
from reaction.files import write_json, write_text
from reaction.tables.compare import Comparison, Row
from reaction.tables.render import TableError, read_spec, table, to_csv, to_latex, to_markdown

N = 100
CLAIM = {
    "table": "table1",
    "method": "TSN",
    "stream": "rgb",
    "dataset": "toy",
    "splits": [1],
    "metric": "top1",
    "value": 62.0,
    "protocol": "25 frames x 10 crops",
    "source": "Table 1",
    "tolerance": 2.5,
    "reproduced_by": {"method": "tsn", "stream": "rgb"},
}
CLAIM_OF_FLOW = CLAIM | {"stream": "flow", "value": 63.0, "reproduced_by": {"method": "tsn", "stream": "flow"}}
PAPER = {"paper": "toy2016", "title": "T", "venue": "V", "year": 2016, "url": None, "contradictions": []}

NAMES = {"method": "tsn", "stream": "rgb", "dataset": "toy", "splits": "1", "protocol": "centre", "metric": "top1"}
EMPTY = Row(**dict.fromkeys((one.name for one in fields(Row)), None) | NAMES | {"source": "", "why": "", "runs": ""})


@pytest.fixture
def spec(tmp_path, monkeypatch):
    """A table of one run of 60 % beside a claim of 62 %, and a claim that no run answers."""
    monkeypatch.chdir(tmp_path)
    write_text("index/classes.txt", "walk\nrun\n")
    write_json("index/official.json", {"split1": {"train": 5, "test": N}})
    write_text("toy.yaml", yaml.safe_dump(PAPER | {"claims": [CLAIM, CLAIM_OF_FLOW]}))
    write_scores(60)
    return {
        "table": "toy",
        "dataset": "toy",
        "scale": "paper",
        "splits": [1],
        "protocol": "centre",
        "methods": ["tsn"],
        "streams": ["rgb", "flow"],
        "papers": ["toy.yaml"],
        "ceilings": None,
        "comparisons": [["tsn/rgb", "tsn/flow"]],
        "results": [cell()],
    }


def cell(**changed):
    described = {"method": "tsn", "stream": "rgb", "split": 1, "seed": 0, "folder": "scores/tsn_rgb"}
    return described | {"comparable": True, "why": ""} | changed


def write_scores(right):
    folder = Path("scores/tsn_rgb")
    settings = {"method": "tsn", "stream": "rgb", "split": "split1", "seed": 0, "protocol_name": "centre"}
    settings |= {"before_softmax": True, "maps": None, "protocol": {"segments": 1, "crops": 1, "sampler": "tsn"}}
    write_json(folder / "config.json", {"config": settings, "inputs": {"index": "index"}})
    labels = np.arange(N) % 2
    with h5py.File(folder / "scores.h5", "w") as file:
        file["video"], file["label"] = [f"v{position}" for position in range(N)], labels
        file["logits"] = np.eye(2, dtype=np.float32)[np.where(np.arange(N) < right, labels, 1 - labels)][:, None]
    evaluate_scores(folder)


def write_index(groups):
    header = "video,path,labels,group,frames,fps,width,height,sha256,decoder\n"
    rows = (f"v{position},a.avi,0,{group},9,25.0,96,96,0,pyav\n" for position, group in enumerate(groups))
    write_text("index/index.csv", header + "".join(rows))


def rows_of(path):
    return list(csv.DictReader(io.StringIO(Path(path).read_text())))


def test_one_edited_score_file_changes_the_cell_and_the_verdict(spec):
    table(spec, Path("tables/toy.csv"))
    before, not_run = rows_of("tables/toy.csv")
    assert (before["ours"], before["difference"], before["verdict"]) == ("60.00", "-2.00", "reproduced")
    assert (not_run["stream"], not_run["verdict"], not_run["ours"]) == ("flow", "not run", "")
    with h5py.File("scores/tsn_rgb/scores.h5", "r+") as file:
        file["logits"][0] = file["logits"][0][:, ::-1]  # one video more is wrong
    table(spec, Path("tables/toy.csv"))
    after = rows_of("tables/toy.csv")[0]
    assert (after["ours"], after["difference"], after["verdict"]) == ("59.00", "-3.00", "differs")


def test_all_files_are_written_and_stable(spec):
    names = ["toy.csv", "toy.md", "toy.tex", "toy_comparisons.csv"]
    table(spec, Path("tables/toy.csv"))
    first = [Path("tables", name).read_bytes() for name in names]
    table(spec, Path("tables/toy.csv"))
    assert [Path("tables", name).read_bytes() for name in names] == first
    assert rows_of("tables/toy_comparisons.csv")[0]["words"] == "not run"


def test_csv_has_the_fields_of_the_contract_in_order(spec):
    table(spec, Path("toy.csv"))
    assert Path("toy.csv").read_text().splitlines()[0] == (
        "method,stream,dataset,splits,protocol,metric,published,source,ours,ours_std,n,of,low,high,chance,difference,"
        "tolerance,verdict,why,runs"
    )
    assert rows_of("toy.csv")[0]["protocol"] == "centre (paper: 25 frames x 10 crops)"


def test_markdown_is_aligned_and_latex_escaped(spec):
    table(spec, Path("toy.csv"))
    lines = [line for line in Path("toy.md").read_text().splitlines() if line.startswith("|")][:4]
    assert len({len(line) for line in lines}) == 1
    assert "| -2.00 (± 2.5) | reproduced |" in lines[2]
    latex = Path("toy.tex").read_text()
    assert latex.count(r"\\") == 3
    assert r"95 \%" in latex
    assert r"$\pm$" in latex


def test_a_difference_that_rounds_to_zero_has_no_minus_sign(spec):
    write_text("toy.yaml", yaml.safe_dump(PAPER | {"claims": [CLAIM | {"value": 60.001}]}))
    table(spec, Path("toy.csv"))
    assert rows_of("toy.csv")[0]["difference"] == "0.00"


def test_dependent_videos_are_drawn_by_the_groups_of_the_index(spec):
    table(spec, Path("toy.csv"))
    by_video = rows_of("toy.csv")[0]
    assert "bootstrap over videos" in Path("toy.md").read_text()
    write_index(f"g{position // 10}" for position in range(N))  # the 60 right ones are groups 0 to 5
    table(spec | {"resample": "group"}, Path("toy.csv"))
    by_group = rows_of("toy.csv")[0]
    assert by_group["ours"] == by_video["ours"] == "60.00"
    assert float(by_group["low"]) < float(by_video["low"]) - 10
    assert "bootstrap over groups" in Path("toy.md").read_text()
    write_index(["g0"])
    with pytest.raises(TableError, match=r"scores/tsn_rgb scored 'v1', which index/index\.csv does not list"):
        table(spec | {"resample": "group"}, Path("toy.csv"))


def test_a_column_of_one_digit_is_still_a_markdown_table(spec):
    row = EMPTY
    text = to_markdown(read_spec(spec), [replace(row, ours=1.0, n=6, of=6, verdict="")], [])
    rule = next(line for line in text.splitlines() if line.startswith("| -"))
    assert all(set(cell) >= {"-"} for cell in rule.strip("| ").split(" | "))


def test_what_all_rows_share_is_said_once_above_them(spec):
    row = EMPTY
    facts = {"metric": "top1", "n": 9, "of": 9, "chance": 50.0, "verdict": "not comparable", "ours": 60.0}
    rows = [replace(row, **facts, stream=name, why=f"scale small; {why}no weights") for name, why in STREAMS.items()]
    text = to_markdown(read_spec(spec), rows, [])
    assert "Every row: split 1, top1, 9 videos, chance 50.00, not comparable (scale small; no weights)." in text
    lines = [line.strip("| ") for line in text.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in lines[0].split("|")] == ["method", "stream", "ours", "why"]
    assert [line.endswith("no boxes") for line in lines[2:]] == [False, True], "what is one row's own stays with it"
    assert to_latex(read_spec(spec), rows).splitlines()[3] == r"method & stream & ours \\"
    [alone] = [line for line in to_markdown(read_spec(spec), rows[:1], []).splitlines() if "not comparable" in line]
    assert alone.startswith("| tsn"), "a single row keeps its columns"


STREAMS = {"rgb": "", "flow": "no boxes; "}


def test_split_sets_are_tables_of_their_own(spec):
    described = read_spec(spec | {"splits": [1, 2], "split_sets": [[1], [1, 2]]})
    row = EMPTY
    rows = [replace(row, splits=splits, ours=ours) for splits, ours in (("1", 40.0), ("1 2", 50.0))]
    first, second = to_markdown(described, rows, []).split("## Split 1\n")[1].split("## Mean over splits 1, 2\n")
    assert ("40.00" in first, "50.00" in first) == (True, False)
    assert ("40.00" in second, "50.00" in second) == (False, True)
    assert "splits |" not in first + second
    latex = to_latex(described, rows)
    assert latex.count(r"\midrule") == 2
    assert " & 1 2 & " in latex, "in one tabular each row says its splits"


def test_latex_has_a_minus_where_a_number_is_negative_and_a_dash_between_two(spec):
    row = EMPTY
    facts = {
        "ours": 40.0,
        "low": 30.0,
        "high": 50.0,
        "difference": -2.5,
        "tolerance": 1.0,
        "source": "Inception-V3, T-1",
    }
    line = to_latex(read_spec(spec), [replace(row, **facts)]).splitlines()[-3]
    assert "30.00--50.00" in line
    assert r"$-$2.50 ($\pm$ 1)" in line
    assert "Inception-V3, T-1" in line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scael": "paper"}, "table toy: scael: Unexpected keyword argument"),
        ({"splits": ["one"]}, "table toy: splits.0: Input should be a valid integer"),
        ({"results": [cell(folder="scores/none")]}, r"scores/none/metrics\.json is missing\. Run `reaction score`"),
        ({"results": [cell(seed=3)]}, r"has seed 0, the table expects 3"),
        ({"results": [cell(split=2)]}, r"has split 'split1', the table expects 'split2'"),
    ],
)
def test_errors_name_the_key_or_the_file(spec, change, message):
    with pytest.raises(TableError, match=message):
        table(spec | change, Path("toy.csv"))


def test_a_p_value_keeps_its_digits_and_an_empty_one_its_silence(spec):
    measured = {"difference": 5.0, "difference_std": 2.0, "low": 1.0, "high": 9.0, "n": 100, "runs": 2, "seeds": 2}
    tested = {"gained": 20, "lost": 4, "mcnemar": 1.5441e-3, "mcnemar_runs": "split 1"}
    pairs = [Comparison("a/rgb", "b/rgb", "1", "top1", **measured, **tested, words="higher")]
    assert to_csv(Comparison, pairs).splitlines()[1] == (
        "a/rgb,b/rgb,1,top1,5.00,2.00,1.00,9.00,100,2,2,20,4,0.00154,split 1,higher"
    )
    text = to_markdown(read_spec(spec), [], pairs)
    assert "| a/rgb | b/rgb   | 1      | +5.00 ± 2.00 (2) |                 0.0015 | higher   |" in text
    assert "McNemar p (these runs): exact" in text
    assert "bootstrap over videos and seeds allows" in text
    assert "Student's t" in text
    single = to_markdown(read_spec(spec), [], [replace(pairs[0], seeds=1)])
    assert "over videos allows, for these trained networks" in single
    assert "Student" not in single
    grouped = to_markdown(read_spec(spec), [], [replace(pairs[0], mcnemar=None)])
    assert "McNemar" not in grouped


def test_an_oracle_is_a_row_like_any_other_that_cannot_be_compared(spec):
    table(spec | {"results": [cell(oracle=True)]}, Path("toy.csv"))
    row = rows_of("toy.csv")[0]
    assert (row["ours"], row["verdict"], row["why"]) == (
        "60.00",
        "not comparable",
        "oracle: its maps know the true label",
    )
    assert "oracle: its maps know the true label" in Path("toy.md").read_text()


def test_split_sets_are_read_from_the_specification(spec):
    table(spec | {"splits": [1, 2], "split_sets": [[1], [1, 2]]}, Path("toy.csv"))
    assert [row["splits"] for row in rows_of("toy.csv")] == ["1", "1", "1 2", "1 2"]
    with pytest.raises(TableError, match=r"table toy: .*split_sets has \[2\], of splits \[1\]"):
        table(spec | {"split_sets": [[2]]}, Path("toy.csv"))
