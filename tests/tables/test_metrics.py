"""A table's numbers by name, as DVC's metrics read them."""

import csv
import json
from pathlib import Path

import pytest

from reaction.tables.compare import Row
from reaction.tables.render import to_metrics

RESULTS = Path(__file__).parents[2] / "results"


def row(**changed) -> Row:
    values = dict.fromkeys(Row.__dataclass_fields__)
    facts = {"dataset": "toy", "method": "tsn", "stream": "rgb", "metric": "top1", "splits": "1", "ours": 61.8181}
    return Row(**(values | facts | changed))


def test_numbers_are_named_by_what_was_measured_and_not_by_its_runs():
    rows = [
        row(runs="results/scores/toy/tsn-rgb-aaaaaaaa"),
        row(stream="flow", ours=None),
        row(method="tsn:centre", splits="1 2 3", ours=60.0),
    ]
    assert to_metrics(rows) == {
        "toy": {
            "tsn": {"rgb": {"top1 on split 1": 61.82}},
            "tsn:centre": {"rgb": {"top1 on split 1 2 3": 60.0}},
        }
    }


@pytest.mark.parametrize("table", sorted(path.stem for path in RESULTS.glob("metrics/*.json")))
def test_the_numbers_in_git_are_those_of_the_table_beside_them(table):
    numbers = json.loads((RESULTS / f"metrics/{table}.json").read_text())
    rows = list(csv.DictReader((RESULTS / f"tables/{table}.csv").read_text().splitlines()))
    told = [one for one in rows if one["ours"]]
    for one in told:
        found = numbers[one["dataset"]][one["method"]][one["stream"]]
        assert found[f"{one['metric']} on split {one['splits']}"] == float(one["ours"])
    leaves = [value for methods in numbers.values() for streams in methods.values() for value in streams.values()]
    assert sum(len(leaf) for leaf in leaves) == len(told)
