import csv
from pathlib import Path

import pytest

from reaction.files import write_json
from reaction.tables.agreement import AgreementError, build_agreement, read_measured

METRICS = {"constant_bce": 0.6, "entropy_floor": 0.4, "correlation": 0.5, "iou": 0.3, "n": 90, "dead": 2}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def entry(seed=0, *, part=None, bce=0.5, **changed):
    folder = f"attention/{part or 'test'}{seed}"
    key = "heldout_bce" if part == "heldout" else "bce"
    write_json(Path(folder) / "metrics.json", METRICS | {key: bce} | changed)
    described = {"method": "st", "stream": "rgb", "split": 1, "seed": seed, "folder": folder}
    return described | ({"part": part} if part else {})


def test_seeds_are_averaged_and_parts_kept_apart():
    entries = [entry(0), entry(1, bce=0.54, correlation=0.7, n=80), entry(0, part="heldout", bce=0.45)]
    test, heldout = build_agreement(map(read_measured, entries))
    assert (test.part, test.seeds, test.n, test.dead) == ("test", "0 1", 80, 4)
    assert (test.bce, test.correlation) == (pytest.approx(0.52), pytest.approx(0.6))
    assert test.correlation_std == pytest.approx(0.2 / 2**0.5)
    assert (heldout.part, heldout.bce, heldout.bce_std) == ("heldout", 0.45, None)
    assert test.runs.split() == ["attention/test0", "attention/test1"]


def test_errors_name_the_file_and_the_command():
    with pytest.raises(AgreementError, match=r"attention/none/metrics\.json is missing\. Run `reaction agree"):
        read_measured(entry() | {"folder": "attention/none"})
    with pytest.raises(AgreementError, match="lacks iou"):
        read_measured(entry(iou=None))
    with pytest.raises(AgreementError, match="measure the maps of one run"):
        build_agreement([read_measured(entry()), read_measured(entry())])
    with pytest.raises(AgreementError, match="has split 'split2', the table expects 'split1'"):
        read_measured(entry(split="split2"))
    with pytest.raises(AgreementError, match="`part` is one of test, heldout, not 'train'"):
        read_measured(entry() | {"part": "train"})


def test_the_verdict_is_about_the_best_constant_map_with_every_seed():
    def verdict(*bce):
        [row] = build_agreement(read_measured(entry(seed, bce=one)) for seed, one in enumerate(bce))
        return row.verdict

    assert verdict(0.5, 0.52) == "better than a constant map: 45 % of the way to the floor"
    assert verdict(0.5, 0.61, 0.59) == "better than a constant map with 2 of 3 seeds"
    assert verdict(0.6, 0.7) == "no better than a constant map"


def test_an_agreement_is_a_table_beside_the_table():
    from reaction.tables.render import table

    spec = {"table": "toy", "dataset": "toy", "scale": "small", "splits": [1], "protocol": "centre", "methods": ["st"]}
    spec |= {"streams": ["rgb"], "papers": [], "results": [], "maps": [entry(0), entry(1, iou=0.4)]}
    table(spec, Path("toy.csv"))
    with open("toy_maps.csv") as file:
        [row] = csv.DictReader(file)
    assert (row["bce"], row["bce_std"], row["iou_std"], row["n"]) == ("0.5000", "0.0000", "0.0707", "90")
    text = Path("toy.md").read_text()
    assert "0.500 ± 0.000 (2) | 0.400 |    0.600 |" in text
    assert " 90 | better than a constant map: 50 % of the way to the floor |" in text
    assert "Held-out rows are optimistic" in text
    Path("toy_maps.csv").unlink()
    del spec["maps"]
    table(spec, Path("toy.csv"))
    assert not Path("toy_maps.csv").exists()
