import math
from pathlib import Path

import pytest
import yaml

from reaction.tables.claims import ClaimError, left_out, read_paper, reproducible

PAPERS = sorted((Path(__file__).parents[2] / "workflow/papers").glob("*.yaml"))
TEST_VIDEOS = {"hmdb51": [1530, 1530, 1530], "ucf101": [3783, 3734, 3696], "kinetics400": [19761]}
TEST_VIDEOS |= {"ucf101_24": [910], "jhmdb21": [268, 270, 265]}


@pytest.fixture
def described():
    claim = {
        "table": "table1",
        "method": "TSN",
        "stream": "rgb",
        "dataset": "hmdb51",
        "splits": [1],
        "metric": "top1",
        "value": 50.0,
        "protocol": "25 x 10",
        "source": "Table 1",
        "tolerance": 2.5,
        "reproduced_by": {"method": "tsn", "stream": "rgb"},
    }
    head = {"paper": "wang2016", "title": "TSN", "venue": "ECCV", "year": 2016, "url": None, "contradictions": []}
    return head | {"claims": [claim]}


def written(described, folder, name="paper.yaml"):
    path = folder / name
    path.write_text(yaml.safe_dump(described), encoding="utf-8")
    return path


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_shipped_papers_are_valid_and_named_after_their_file(path):
    assert read_paper(path).paper == path.stem


def values(paper, **wanted):
    """(dataset, stream): value, of the claims with these fields."""
    claims = read_paper(next(path for path in PAPERS if path.stem == paper)).claims
    chosen = [claim for claim in claims if all(getattr(claim, key) == value for key, value in wanted.items())]
    return {(claim.dataset, claim.stream): claim.value for claim in chosen}


def test_headline_numbers():
    hmdb51 = {("hmdb51", "rgb"): 55.03, ("hmdb51", "flow"): 63.9, ("hmdb51", "fusion"): 71.2}
    assert values("park2019", table="table4_1", method="Spatio-temporal attention") == hmdb51
    svm = {("ucf101", "fusion"): 88.0, ("hmdb51", "fusion"): 59.4}
    assert values("simonyan2014", method="Two-stream, SVM") == svm
    tsn = {("ucf101", "fusion"): 94.0, ("hmdb51", "fusion"): 68.5}
    assert values("wang2016", method="TSN, two modalities") == tsn
    split1 = {("ucf101", "rgb"): 85.7, ("ucf101", "flow"): 87.9, ("ucf101", "fusion"): 93.5}
    assert values("wang2016", method="TSN, average") == split1


def test_slowfasts_ablations_start_from_the_network_of_its_table_2():
    claims = read_paper(next(path for path in PAPERS if path.stem == "feichtenhofer2019")).claims
    same = ("SlowFast 4x16, R50", "SlowFast, T-conv", "beta = 1/8", "RGB")
    printed = {(claim.metric, claim.value, claim.gflops) for claim in claims if claim.method in same}
    assert printed == {("top1", 75.6, 36.1), ("top5", 92.1, 36.1), ("top1", 78.8, 36.1)}  # the last of Kinetics-600
    slow = {(claim.metric, claim.value, claim.gflops) for claim in claims if claim.method.startswith("Slow-only")}
    assert {("top1", 72.6, 27.3), ("top5", 90.3, 27.3), ("map", 39.0, 187)} < slow


def test_detection_has_numbers_of_each_dataset_metric_and_kind():
    """YOWO's as printed, and MOC's to two digits: the mean of ten thresholds lies below its first."""
    yowo = values("kopuklu2019", method="YOWO, 16 frames", metric="frame_map@0.5")
    assert yowo == {("ucf101_24", "rgb"): 80.4, ("jhmdb21", "rgb"): 74.4, ("ava", "rgb"): 17.9}
    claims = read_paper(next(path for path in PAPERS if path.stem == "kopuklu2019")).claims
    printed = {}
    for claim in claims:
        kind, _, threshold = claim.metric.partition("@")
        cell = (claim.method, claim.source, claim.dataset, claim.stream, kind)
        assert threshold not in printed.setdefault(cell, {}), claim
        printed[cell][threshold] = claim.value
    for row in printed.values():
        falling = [row[threshold] for threshold in sorted(row, key=lambda text: float(text.partition(":")[0]))]
        assert falling == sorted(falling, reverse=True) or "0.5:0.95" in row
        assert row.get("0.75", 0) < row.get("0.5", 100)
        assert row.get("0.5:0.95", 0) < row.get("0.5", 100)


def test_papers_that_cite_each_other_agree():
    cited = values("wang2016", method="Two-Stream ConvNets (cited)")
    assert cited == values("wang2016", method="Clarifai (cited)")
    measured = values("simonyan2014", splits=(1,), dataset="ucf101", table="table1a") | values(
        "simonyan2014", method="Temporal, L = 10, stacking, mean subtraction"
    )
    assert cited["ucf101", "flow"] == measured["ucf101", "flow"]
    assert (
        cited["ucf101", "fusion"]
        == values("simonyan2014", method="Uni-directional flow, multi-task, SVM")["ucf101", "fusion"]
    )
    thesis = values("park2019", method="Two-Stream (cited)", table="table4_1")
    assert thesis["hmdb51", "fusion"] == values("simonyan2014", method="Two-stream, SVM")["hmdb51", "fusion"]


@pytest.mark.parametrize("dataset", TEST_VIDEOS)
def test_tolerances_are_half_the_binomial_interval_rounded_up_to_half_points(dataset):
    claims = [claim for _, claim in reproducible(map(read_paper, PAPERS), dataset)]
    assert claims
    for claim in claims:
        n = sum(TEST_VIDEOS[dataset][split - 1] for split in claim.splits)
        half = 196 * math.sqrt(claim.value / 100 * (1 - claim.value / 100) / n)
        assert claim.tolerance == math.ceil(2 * half) / 2, claim


def test_errors_name_file_and_key(described, tmp_path):
    described["claims"][0] |= {"value": 700, "confidence": 1}
    with pytest.raises(ClaimError, match=r"paper\.yaml") as raised:
        read_paper(written(described, tmp_path))
    assert "claims.0.value: Input should be less than or equal to 100, got 700" in str(raised.value)
    assert "claims.0.confidence: Extra inputs are not permitted" in str(raised.value)


def test_a_claim_we_reproduce_needs_a_tolerance(described, tmp_path):
    described["claims"][0]["tolerance"] = None
    with pytest.raises(ClaimError, match="both given or both null"):
        read_paper(written(described, tmp_path))


def test_warped_flow_says_that_it_is_not_run():
    [paper] = [read_paper(path) for path in PAPERS if path.stem == "wang2016"]
    warped = {claim.value for _, claim in left_out(paper, "ucf101") if "warped" in claim.not_run}
    assert warped == {86.9, 87.8, 92.3, 91.7}, "table 2: alone, with flow, with flow and RGB, with all"


def test_only_a_claim_that_nobody_reproduces_is_left_out(described, tmp_path):
    described["claims"][0]["not_run"] = "too long"
    with pytest.raises(ClaimError, match="`not_run` is for a claim that is not"):
        read_paper(written(described, tmp_path))


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(ClaimError, match=r"nobody\.yaml does not exist"):
        read_paper(tmp_path / "nobody.yaml")
    (tmp_path / "broken.yaml").write_text("paper: [")
    with pytest.raises(ClaimError, match=r"broken\.yaml is not YAML"):
        read_paper(tmp_path / "broken.yaml")


def test_two_claims_on_one_cell_are_refused(described, tmp_path):
    first = read_paper(written(described, tmp_path))
    second = read_paper(written(described | {"paper": "park2019"}, tmp_path))
    with pytest.raises(ClaimError, match="wang2016 Table 1 and park2019 Table 1 both claim"):
        reproducible([first, second], "hmdb51")
    assert reproducible([first, second], "ucf101") == []
