"""From parameters to folders: what a change moves, and what it leaves."""

import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from reaction.artifacts import FILES, KINDS, Run
from reaction.data import synthetic
from reaction.params import ParamsError, parse
from reaction.plan import Plan
from reaction.recipes import RECIPES
from reaction.specs import figure_spec, oracle, table_spec, thesis_files, thesis_spec

ROOT = Path(__file__).parents[1]
SHIPPED = yaml.safe_load((ROOT / "params.yaml").read_text())


def moved(change: Callable[[dict], None], table: str = "synthetic") -> set[tuple[str, str, str]]:
    """(rule, method, stream) of the artifacts that `change` gives another folder."""
    values = deepcopy(SHIPPED)
    change(values)
    before = Plan(parse(SHIPPED)).needed(table)
    after = Plan(parse(values)).needed(table)
    return {_identity(after[folder]) for folder in set(after) - set(before)}


def _identity(artifact) -> tuple[str, str, str]:
    config = artifact.config
    return artifact.rule, config.get("method", ""), config.get("stream", config.get("modality", ""))


def test_every_rule_has_a_recipe_and_a_folder():
    assert set(RECIPES) == set(KINDS)


@pytest.mark.parametrize("rule", FILES)
def test_a_rule_declares_the_files_that_are_waited_for(rule):
    rules = "\n".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    output = re.search(rf"^rule {rule}:\n.*?    output:\n(.*?)\n    \w+:", rules, flags=re.DOTALL | re.MULTILINE)[1]
    assert sorted(re.findall(r'/([\w.]+)"', output)) == sorted(FILES[rule])


def test_the_same_parameters_give_the_same_folders():
    assert list(Plan(parse(SHIPPED)).artifacts) == list(Plan(parse(deepcopy(SHIPPED))).artifacts)


def test_a_parameter_of_phase_two_moves_phase_two_and_what_hangs_below():
    def change(values):
        values["schedules"]["st_attention_rgb"]["weight_decay"] = 0.001

    assert moved(change) == {
        ("train", "st_attention", "rgb"),
        ("score", "st_attention", "rgb"),
        ("fuse", "st_attention", "fusion"),
    }


def test_a_parameter_of_phase_one_moves_the_maps_and_phase_two():
    def change(values):
        values["schedules"]["st_phase1_rgb"]["weight_decay"] = 0.001

    rules = moved(change)
    assert ("train", "st_attention", "flow") in rules, "its maps come from the changed RGB net"
    assert ("gradcam", "", "") in rules
    assert not any(method == "tsn" for _, method, _ in rules)


def test_another_flow_bound_moves_flow_and_what_hangs_below_but_not_rgb():
    def change(values):
        values["features"]["flow-128x96"]["bound"] = 15.0

    rules = moved(change)
    assert ("flow", "", "flow") in rules
    assert ("train", "tsn", "flow") in rules
    assert not {("frames", "", "rgb"), ("train", "tsn", "rgb"), ("index", "", "")} & rules


def test_other_flow_semantics_are_other_features():
    def change(values):
        flow = values["features"]["flow-128x96"]
        flow |= {"semantics": "opencv-cpu"}

    assert ("flow", "", "flow") in moved(change)


def test_a_raised_recipe_moves_what_the_rule_makes(monkeypatch):
    before = set(Plan(parse(SHIPPED)).needed("synthetic"))
    monkeypatch.setitem(RECIPES, "score", RECIPES["score"] + 1)
    after = Plan(parse(SHIPPED)).needed("synthetic")
    assert {after[folder].rule for folder in set(after) - before} == {"score", "fuse"}


def test_adding_a_method_moves_nothing():
    def change(values):
        values["methods"]["tsn7"] = deepcopy(values["methods"]["tsn"]) | {"segments": 7}

    assert moved(change) == set()


def test_maps_cross_over_between_the_streams():
    plan = Plan(parse(SHIPPED))
    run = next(
        a for a in plan.needed("synthetic").values() if a.name.startswith("st_attention-rgb") and a.rule == "train"
    )
    assert run.inputs["maps"].rule == "gradcam"
    assert run.inputs["maps"].inputs["run"].config["stream"] == "flow"
    assert run.inputs["init"].config["method"] == "st_phase1"
    assert run.inputs["init"].config["stream"] == "rgb"


def test_nothing_computed_with_the_test_label_enters_a_test_but_an_oracle_s():
    params = parse(SHIPPED)
    plan = Plan(params)
    for name, results in plan.tables.items():
        for result in results:
            scored = [one for one in result.artifact.with_ancestors() if one.rule == "score" and "maps" in one.inputs]
            labelled = any(one.inputs["maps"].config.get("label") == "true" for one in scored)
            assert labelled == oracle(params, params.tables[name].parts[0], result.method)


def ablation(**changes):
    """The plan of a table with st_attention alone, some of whose keys are changed."""
    method = SHIPPED["methods"]["st_attention"] | changes
    table = SHIPPED["tables"]["synthetic"] | {"methods": ["odd"], "seeds": [0], "comparisons": [], "papers": []}
    changed = SHIPPED | {
        "methods": SHIPPED["methods"] | {"odd": method},
        "tables": {"odd": table},
        "reproduce": [],
        "figures": {},
        "cost_figures": {},
    }
    return Plan(parse(changed))


def test_one_directional_attention_leaves_the_other_stream_its_constant():
    plan = ablation(attention=SHIPPED["methods"]["st_attention"]["attention"] | {"streams": ["rgb"]})
    maps = {r.stream: r.artifact.config["maps"]["source"] for r in plan.tables["odd"] if r.stream != "fusion"}
    assert maps == {"rgb": "learned", "flow": "constant"}
    runs = {r.stream: r.artifact.inputs["run"] for r in plan.tables["odd"] if r.stream != "fusion"}
    assert "maps" in runs["rgb"].inputs
    assert "maps" not in runs["flow"].inputs


def test_a_stream_that_another_method_trains_just_so_is_that_method_s_run():
    plan = Plan(parse(SHIPPED))
    rows = {(r.method, r.stream): r.artifact for r in plan.tables["park2019_ablations_small"] if r.seed == 0}
    for row, trained in (("only_t", ("attention", "phase1_longer")), ("only_s", ("phase1_longer", "attention"))):
        fused = rows[f"st_attention_{row}", "fusion"]
        for stream, method in zip(("rgb", "flow"), trained, strict=True):
            assert rows[f"st_attention_{row}", stream] is fused.inputs[stream] is rows[f"st_{method}", stream]
    assert fused.config["runs"] == {"rgb": "st_phase1_longer", "flow": "st_attention"}
    assert not any(one.name.startswith("st_attention_only") for one in plan.artifacts.values() if one.rule == "train")


def test_a_run_of_another_method_is_the_one_that_would_be_trained():
    """But for the name: what `runs:` takes is what the same parameters make without it."""
    values = deepcopy(SHIPPED)
    taken = {name: values["methods"][name].pop("runs") for name, one in SHIPPED["methods"].items() if "runs" in one}
    assert set(taken) == {"st_attention_only_t", "st_attention_only_s", "two_stream_multitask"}
    plan = Plan(parse(values))
    for table in ("park2019_ablations_small", "simonyan2014_hmdb51"):
        for one in plan.needed(table).values():
            if one.rule == "train" and one.config["stream"] in taken.get(one.config["method"], {}):
                name, stream = one.config["method"], one.config["stream"]
                protocol = plan.params.tables[table].protocol
                seeds = (int(one.config["split"][-1]), one.config["seed"], one.config["scale"])
                other = plan.run(Run(one.dataset, taken[name][stream], *seeds, protocol), stream)
                assert one.config | {"method": ""} == other.config | {"method": ""}
                assert one.inputs == other.inputs


def test_maps_are_measured_once_however_many_methods_read_them():
    plan = Plan(parse(SHIPPED))
    maps = table_spec(plan, "park2019_ablations_small")["maps"]
    assert "st_attention" in {row["method"] for row in maps}
    assert not {"st_attention_only_t", "st_attention_learned", "st_attention_anew"} & {row["method"] for row in maps}
    measured = [one for one in plan.needed("park2019_ablations_small").values() if one.rule == "agree"]
    assert len({(one.inputs["learned"], one.inputs["gradcam"]) for one in measured}) == len(measured)


def test_several_layers_make_one_map():
    layers = ["Mixed_7a", "Mixed_7b"]
    plan = ablation(attention=SHIPPED["methods"]["st_attention"]["attention"] | {"layers": layers})
    nets = [one for one in plan.needed("odd").values() if one.rule == "attention_net"]
    renamed = [SHIPPED["scales"]["tiny"]["layers"][layer] for layer in layers]
    assert {tuple(one.config["layers"]) for one in nets} == {tuple(renamed)}
    assert all("layer" not in one.config for one in nets)


def test_alternation_follows_algorithm_1():
    """Round by round: rgb reads the maps of the flow net before it, flow those of the rgb net beside it."""
    attention = SHIPPED["methods"]["st_attention"]["attention"] | {"from": None}
    plan = ablation(init=None, attention=attention, alternation={"epochs_per_round": 8})
    runs = {one.name: one for one in plan.needed("odd").values() if one.rule == "train"}
    epochs = SHIPPED["scales"]["tiny"]["epochs"]
    assert len(runs) == 2 * -(-epochs // 8)

    def number(stream, k):
        return runs[f"odd-{stream}-split1-seed0-tiny-round{k}"]

    first, last = number("rgb", 0), number("rgb", 3)
    assert "maps" not in first.inputs
    assert "init" not in first.inputs
    assert first.config["maps"] == {"source": "constant", "value": 0.1}
    assert number("flow", 0).inputs["maps"].inputs["run"] is first
    assert last.inputs["maps"].inputs["run"] is number("flow", 2)
    assert last.inputs["maps"].name == "gradcam-true-Mixed_6e-odd-flow-split1-seed0-tiny-round2"
    assert last.inputs["init"] is number("rgb", 2)
    assert last.config["training"]["first_epoch"] == 24
    assert last.config["training"]["epochs"] == epochs - 24
    assert sum(number("flow", k).config["training"]["epochs"] for k in range(4)) == epochs


def test_an_svm_s_kind_is_written_only_where_it_is_not_the_usual_one():
    def svm(**said):
        values = deepcopy(SHIPPED)
        values["protocols"]["two_stream_svm"]["svm"] |= said
        found = Plan(parse(values)).needed("simonyan2014_ucf101").values()
        return next(one.config["svm"] for one in found if "svm" in one.config)

    assert svm() == svm(multi_class="one-vs-rest") == {"c": 1.0}
    assert svm(multi_class="crammer-singer") == {"c": 1.0, "multi_class": "crammer-singer"}
    with pytest.raises(ParamsError, match=r"protocols\.two_stream_svm\.svm\.multi_class"):
        svm(multi_class="one-vs-one")


def test_an_option_that_is_not_taken_moves_no_hash():
    plan = Plan(parse(SHIPPED))
    for one in plan.needed("hmdb51").values():
        taken = {"consensus", "mean_flow", "first_epoch", "part", "layers", "sweep", "svm"} & {
            *one.config,
            *one.config.get("network", {}),
            *one.config.get("training", {}),
        }
        assert not taken - ({"part"} if one.rule == "gradcam" else set())


def test_a_stream_learns_from_the_training_videos_of_another_dataset_too():
    plan = Plan(parse(SHIPPED))
    for own, other in (("hmdb51", "ucf101"), ("ucf101", "hmdb51")):
        runs = {}
        for one in plan.needed(f"simonyan2014_{own}").values():
            if one.rule == "train" and one.config["split"] == "split2":
                runs[one.config["method"], one.config["stream"]] = one
        both, alone = runs["two_stream_multitask", "flow"], runs["two_stream_cnn_m", "flow"]
        assert both.config["multi_task"] == {"dataset": other, "split": "split1"}
        assert both.inputs["index"].dataset == both.dataset == own
        assert both.inputs["other_index"] is plan.index(other)
        assert both.inputs["other_features"] is plan.features(other, "flow-340x256")
        assert ("two_stream_multitask", "rgb") not in runs, "that is two_stream_cnn_m's"
        for run in (alone, runs["two_stream_cnn_m", "rgb"]):
            assert "multi_task" not in run.config
            assert set(run.inputs) == {"index", "features"}
        same = {"network", "weights", "training", "augmentation", "maps"}
        assert {key: both.config[key] for key in same} == {key: alone.config[key] for key in same}


def test_a_stream_that_learns_from_two_datasets_is_scored_on_its_own():
    plan = Plan(parse(SHIPPED))
    scored = [one for one in plan.needed("simonyan2014_hmdb51").values() if one.rule == "score"]
    scored = [one for one in scored if one.config["method"] == "two_stream_multitask"]
    assert {one.config["stream"] for one in scored} == {"flow"}
    for one in scored:
        assert {key: source.dataset for key, source in one.inputs.items()} == dict.fromkeys(one.inputs, "hmdb51")


def test_weights_of_a_fusion_are_swept_on_held_out_training_groups():
    streams = {stream: SHIPPED["schedules"][f"st_phase1_{stream}"] | {"holdout": 0.2} for stream in ("rgb", "flow")}
    method = SHIPPED["methods"]["st_phase1"] | {"streams": streams}
    swept = {k: v for k, v in SHIPPED["protocols"]["centre"].items() if k != "fusion"} | {
        "sweep": {"rgb": [1.0], "flow": [0.5, 1.0, 2.0]}
    }
    table = SHIPPED["tables"]["synthetic"] | {"methods": ["held:swept"], "seeds": [0], "comparisons": [], "papers": []}
    changed = SHIPPED | {
        "methods": SHIPPED["methods"] | {"held": method},
        "protocols": SHIPPED["protocols"] | {"swept": swept},
        "tables": {"odd": table},
        "reproduce": [],
        "figures": {},
        "cost_figures": {},
    }
    fused = next(r.artifact for r in Plan(parse(changed)).tables["odd"] if r.stream == "fusion")
    assert set(fused.inputs) == {"index", "rgb", "flow", "heldout_rgb", "heldout_flow"}
    assert fused.inputs["heldout_rgb"].config["part"] == "heldout"
    assert fused.inputs["heldout_rgb"].inputs["run"] is fused.inputs["rgb"].inputs["run"]
    with pytest.raises(ParamsError, match="holdout"):
        parse(changed | {"methods": SHIPPED["methods"] | {"held": SHIPPED["methods"]["st_phase1"]}})
    seen = SHIPPED["methods"]["st_attention_heldout"]
    for leak in (
        {"init": "st_phase1"},
        {"attention": seen["attention"] | {"from": "st_phase1"}},
        {"attention": seen["attention"] | {"net": SHIPPED["attention_nets"]["st_attention"] | {"holdout": 0.1}}},
        {"streams": seen["streams"] | {"flow": SHIPPED["schedules"]["st_heldout_flow"] | {"holdout": 0.3}}},
    ):
        with pytest.raises(ParamsError, match=r"nothing has learned from; .*`holdout: 0\.2`"):
            parse(changed | {"methods": SHIPPED["methods"] | {"held": seen | leak}})


def test_the_shipped_sweep_and_the_attention_network_hold_out_the_same_groups():
    found = Plan(parse(SHIPPED)).needed("park2019_ablations_small").values()
    nets = [one for one in found if one.rule in ("train", "attention_net") and "_heldout" in one.name]
    shares = {one.config.get("training", one.config)["holdout"] for one in nets}
    assert shares == {0.2}
    assert {(one.rule, one.config["split"]) for one in nets} == {("train", "split1"), ("attention_net", "split1")}
    swept = [one for one in found if one.rule == "fuse" and "sweep" in one.config]
    assert [one.config["seed"] for one in swept] == SHIPPED["tables"]["park2019_ablations_small"]["seeds"]
    assert all(one.inputs["heldout_rgb"].inputs["maps"].rule == "attend" for one in swept)


def maps_in(shards: int | None):
    """Of the synthetic table, whose features are in two shards: features, maps and what reads these."""
    values = deepcopy(SHIPPED)
    values["scales"]["tiny"]["map_shards"] = shards
    made = Plan(parse(values)).needed("synthetic").values()
    return next(one for one in made if one.rule == "frames"), [one for one in made if one.rule in ("gradcam", "attend")]


def test_a_scale_may_have_its_maps_in_fewer_shards_than_the_features():
    features, maps = maps_in(1)
    assert features.shards == 2
    for one in maps:
        assert one.shards == one.config["shards"] == 1
        assert one.files == [f"{one.folder}/shard-000.h5"]
        assert features.files_for(one, "000") == features.files, "any of its videos may be in either"


def test_maps_in_the_features_own_shards_read_one_each_and_do_not_say_so():
    features, maps = maps_in(None)
    for one in maps:
        assert one.shards == features.shards == 2
        assert "shards" not in one.config
        assert features.files_for(one, "001") == [features.files[1]]


def test_other_shards_of_maps_move_the_maps_and_phase_two_only():
    def change(values):
        values["scales"]["tiny"]["map_shards"] = None

    rules = {(rule, method) for rule, method, _ in moved(change)}
    assert {("gradcam", ""), ("attention_net", ""), ("attend", ""), ("train", "st_attention")} <= rules
    assert not {("train", "st_phase1"), ("train", "tsn"), ("frames", ""), ("flow", "")} & rules


def test_a_scale_brings_its_own_schedule_and_paper_scale_keeps_the_methods():
    plan = Plan(parse(SHIPPED))
    tiny = next(a for a in plan.needed("synthetic").values() if a.name.startswith("tsn-rgb"))
    paper = next(a for a in plan.needed("hmdb51").values() if a.name.startswith("tsn-rgb"))
    assert tiny.config["training"]["epochs"] == SHIPPED["scales"]["tiny"]["epochs"]
    assert tiny.config["training"]["steps"] == SHIPPED["scales"]["tiny"]["steps"]
    assert (paper.config["training"]["epochs"], paper.config["training"]["steps"]) == (80, [30, 60])


def test_statistics_of_an_untrained_net_are_not_frozen():
    plan = Plan(parse(SHIPPED))
    tiny = next(a for a in plan.needed("synthetic").values() if a.name.startswith("tsn-rgb"))
    paper = next(a for a in plan.needed("hmdb51").values() if a.name.startswith("tsn-rgb"))
    assert not tiny.config["network"]["partial_bn"]
    assert paper.config["network"]["partial_bn"]


def specs(plan, table):
    """The specification of a table for each of its datasets."""
    spec = table_spec(plan, table)
    return spec.get("parts", [spec])


SIMONYAN = {f"two_stream_{net}{protocol}" for net in ("cnn_m", "multitask") for protocol in ("", ":two_stream_svm")}
CLIPS = {  # by the test that Carreira & Zisserman 2017 have for each
    "convnet_lstm": "clips_lstm",
    "two_stream_joint": "clips_two_stream",
    "fused3d": "clips_fused3d",
    "i3d": "clips_i3d",
}


def transferred(*ways: str, scratch: tuple[bool, ...] = (False, True)) -> set[str]:
    methods = {name + "_scratch" * anew: protocol for name, protocol in CLIPS.items() for anew in scratch}
    return {f"{name}@{way}:{protocol}" for name, protocol in ({"c3d": "clips_c3d"} | methods).items() for way in ways}


COMPARABLE = {  # rows of the papers' own network, weights and test; every other row of every table says why it is not
    "hmdb51": {"st_phase1", "st_attention"},
    "ucf101": {"st_phase1", "st_attention"},
    "jhmdb21": {"st_phase1", "st_attention"},
    "park2019_table4_1": {"st_attention"},
    "park2019_table4_2": {"st_attention"},
    # Not on Kinetics, whose test labels are not public.
    "carreira2017_table2": transferred("original", scratch=(False,)) | {"two_stream_inception_v1@original:frames25"},
    "carreira2017_table4": transferred("original", "fixed", "full_ft"),
    "carreira2017_table5": {"i3d@full_ft:clips_i3d", "i3d_scratch@full_ft:clips_i3d"},
    "simonyan2014_ucf101": SIMONYAN,  # their rgb: flow is by TV-L1
    "simonyan2014_hmdb51": SIMONYAN,
    "wang2016_ucf101": {"tsn_bn_inception", "tsn_bn_inception:tsn3", "tsn_k1", "tsn_max", "tsn_weighted"},
    "wang2016_hmdb51": {"tsn_bn_inception", "tsn_bn_inception:tsn3", "tsn_k1", "tsn_max", "tsn_weighted"},
}


def test_rows_that_may_be_set_against_a_paper():
    plan = Plan(parse(SHIPPED))
    for table in SHIPPED["tables"]:
        cells = [cell for spec in specs(plan, table) for cell in spec["results"]]
        of_slowfast = re.fullmatch(r"feichtenhofer2019_table\w+", table)  # the paper's own, all of them
        expected = {cell["method"] for cell in cells} if of_slowfast else COMPARABLE.get(table, set())
        assert {cell["method"] for cell in cells if cell["comparable"]} == expected, table
        assert all(cell["comparable"] == (not cell["why"]) for cell in cells)


def test_every_result_and_every_side_of_a_comparison_has_a_row():
    plan = Plan(parse(SHIPPED))
    specs = [table_spec(plan, name) for name in SHIPPED["tables"]]
    for part in (part for spec in specs for part in spec.get("parts", [spec])):
        assert {cell["stream"] for cell in part["results"]} == set(part["streams"]), part["table"]
        rows = {f"{method}/{stream}" for method in part["methods"] for stream in part["streams"]}
        assert {side for pair in part["comparisons"] for side in pair} <= rows, part["table"]


def test_what_stands_in_is_told_of_the_stream_that_it_is_about():
    cells = table_spec(Plan(parse(SHIPPED)), "simonyan2014_hmdb51")["results"]
    why = {(cell["method"], cell["stream"]): cell["why"] for cell in cells}
    assert why["two_stream_cnn_m", "rgb"] == ""
    assert why["two_stream_cnn_m", "flow"] == why["two_stream_cnn_m", "fusion"] == "flow by TV-L1 instead of Brox"
    assert why["two_stream_vgg16", "rgb"] == "VGG-16 instead of CNN-M-2048"
    both = "VGG-16 instead of CNN-M-2048; VGG-16 instead of CNN-M-2048; flow by TV-L1 instead of Brox"
    assert why["two_stream_vgg16", "fusion"] == both


def test_two_stream_s_own_schedules_count_updates_and_its_rgb_trains_the_last_layer():
    plan = Plan(parse(SHIPPED))
    for table in ("simonyan2014_ucf101", "simonyan2014_hmdb51"):
        runs = [one for one in plan.needed(table).values() if one.rule == "train"]
        rgb, flow = ([one.config for one in runs if one.config["stream"] == stream] for stream in ("rgb", "flow"))
        assert {one["training"]["updates"] for one in rgb} == {20_000}
        assert {one["training"]["updates"] for one in flow} == {80_000}
        assert {(one.get("trains"), one["augmentation"].get("jitter")) for one in rgb} == {("last", 0.1)}
        assert {(one.get("trains"), one["augmentation"].get("jitter")) for one in flow} == {(None, None)}


def test_the_ceilings_told_are_those_that_are_proved():
    generator = SHIPPED["datasets"]["synthetic"]["generator"] | {"splits": 3}
    told = table_spec(Plan(parse(SHIPPED)), "synthetic")["ceilings"]
    assert told == synthetic.ceilings(synthetic.read_generator(generator))


def test_a_holdout_moves_the_training():
    def change(values):
        values["schedules"]["tsn_rgb"]["holdout"] = 0.2

    assert moved(change) == {("train", "tsn", "rgb"), ("score", "tsn", "rgb"), ("fuse", "tsn", "fusion")}


def test_a_row_says_which_layer_stands_for_the_one_it_is_named_after():
    plan = Plan(parse(SHIPPED))
    why = {cell["method"]: cell["why"] for cell in table_spec(plan, "park2019_ablations_small")["results"]}
    assert why["st_attention_7a"] == "scale small; no ImageNet weights; maps of Mixed_6a for Mixed_7a"
    assert why["st_phase1"] == "scale small; no ImageNet weights"
    assert all("maps of" not in cell["why"] for cell in table_spec(plan, "hmdb51")["results"])


def test_videos_of_a_film_or_shooting_are_drawn_together_and_no_artifact_moves():
    def change(values):
        values["datasets"]["synthetic"]["resample"] = "video"

    plan = Plan(parse(SHIPPED))
    drawn = {table for table in SHIPPED["tables"] for spec in specs(plan, table) if spec["resample"] == "group"}
    alone = {name for name, one in SHIPPED["tables"].items() if one["dataset"] == "kinetics400"}
    assert drawn == set(SHIPPED["tables"]) - alone  # every clip of Kinetics is of another video
    assert moved(change) == set()


def test_maps_of_layers_are_shown_as_grad_cam_of_the_test_videos_and_as_learned():
    plan = Plan(parse(SHIPPED))
    drawn = {one.folder: one for one in plan.drawn("park2019_small")}
    gradcam, learned = thesis_spec(plan, "park2019_small")["layers"]["lines"]
    assert [line["name"] for line in (gradcam, learned)] == ["Grad-CAM", "learned"]
    layers = ["Mixed_6a", "Mixed_6c", "Mixed_6e"]
    assert [[layer["name"] for layer in line["layers"]] for line in (gradcam, learned)] == [layers] * 2
    for layer in gradcam["layers"]:
        config = drawn[layer["maps"]].config
        assert (config["label"], config["part"], config["layer"]) == ("true", "test", layer["name"])
    assert {drawn[layer["maps"]].rule for layer in learned["layers"]} == {"attend"}
    assert set(drawn) >= {layer["maps"] for line in (gradcam, learned) for layer in line["layers"]}


def test_every_file_that_the_figures_of_the_thesis_read_is_waited_for_and_made():
    plan = Plan(parse(SHIPPED))
    files, spec = set(thesis_files(plan, "park2019_small")), thesis_spec(plan, "park2019_small")
    stages = [stage for way in spec["alternation"] for stage in way["stages"]]
    assert files >= {f"{stage['history']}/history.csv" for stage in stages}
    assert files >= {file for stage in stages for file in stage["maps"]}
    folders = [folder for side in spec["gain"].values() for folder in side["folders"]]
    assert files >= {f"{folder}/fusion.h5" for folder in folders}
    assert {file.rpartition("/")[0] for file in files} <= set(plan.artifacts)


def test_a_stage_pays_for_the_maps_that_it_reads_and_for_no_others():
    plan = Plan(parse(SHIPPED))
    ways = {way["name"]: way["stages"] for way in thesis_spec(plan, "park2019_small")["alternation"]}
    before, after = ways["two-phase/rgb"]
    assert plan.artifacts[after["history"]].inputs["init"].folder == before["history"], "the run it goes on from"
    assert before["maps"] == []
    maps = plan.artifacts[after["history"]].inputs["maps"]
    shards = SHIPPED["scales"]["small"].get("map_shards", SHIPPED["datasets"]["jhmdb21"]["shards"])
    assert after["maps"] == [f"{maps.folder}/provenance-{k:03d}.json" for k in range(shards)]
    assert ways["end to end/rgb"][0]["maps"] == [], "there is no net to look at before the first round"
    assert all(stage["maps"] for stage in ways["end to end/rgb"][1:] + ways["end to end/flow"])


def test_maps_are_measured_on_test_videos_and_on_the_groups_held_out_from_their_network():
    plan = Plan(parse(SHIPPED))
    maps = table_spec(plan, "park2019_jhmdb21_small")["maps"]
    described = SHIPPED["tables"]["park2019_jhmdb21_small"]
    assert len(maps) == 2 * 2 * len(described["splits"]) * len(described["seeds"]), "a part, a stream"
    made = {(row["method"], row["part"]): plan.artifacts[row["folder"]].rule for row in maps}
    assert made == {("st_attention", "test"): "agree", ("st_attention", "heldout"): "attention_net"}
    for row in maps:
        trained = plan.artifacts[row["folder"]].inputs["run"].config
        assert (trained["stream"], trained["seed"]) == (row["stream"], row["seed"])
    assert {row["folder"] for row in maps} <= {one.folder for one in plan.asked("park2019_jhmdb21_small")}


def test_an_alternation_s_rounds_are_drawn_as_one_training():
    plan = Plan(parse(SHIPPED))
    spec = figure_spec(plan, "park2019_ablations_small")
    folders = {entry["name"]: entry["folders"] for entry in spec["curves"]}
    epochs, each = SHIPPED["scales"]["small"]["epochs"], SHIPPED["methods"]["st_end_to_end"]["alternation"]
    rounds = -(-epochs // each["epochs_per_round"])
    runs = folders["st_end_to_end/flow"]
    assert len(runs) == len(set(runs)) == rounds * 3, "of three seeds"
    first = [plan.artifacts[folder].config["training"].get("first_epoch", 0) for folder in runs]
    assert first == [number * each["epochs_per_round"] for number in range(rounds)] * 3
    assert len(folders["st_attention/rgb"]) == 3, "phase 1 is a method of its own"


def test_figures_show_every_run_and_each_methods_fusion():
    plan = Plan(parse(SHIPPED))
    spec = figure_spec(plan, "synthetic")
    curves = {entry["name"]: entry["folders"] for entry in spec["curves"]}
    assert list(curves) == [f"{m}/{s}" for m in SHIPPED["tables"]["synthetic"]["methods"] for s in ("rgb", "flow")]
    trained = [folder for folder, one in plan.needed("synthetic").items() if one.rule == "train"]
    assert sorted(folder for folders in curves.values() for folder in folders) == sorted(trained)
    fused = [folder for folder, one in plan.needed("synthetic").items() if one.rule == "fuse"]
    assert sorted(folder for entry in spec["per_class"] for folder in entry["folders"]) == sorted(fused)


def test_a_method_with_one_stream_is_tested_and_drawn_without_fusion():
    values = deepcopy(SHIPPED)
    del values["methods"]["tsn"]["streams"]["flow"]
    for table in values["tables"].values():
        table["comparisons"] = []
    plan = Plan(parse(values))
    assert {result.stream for result in plan.tables["synthetic"] if result.method == "tsn"} == {"rgb"}
    assert figure_spec(plan, "synthetic")["per_class"][0]["name"] == "tsn/rgb"


def test_a_mended_link_moves_nothing():
    def change(values):
        values["datasets"]["hmdb51"]["archives"][0]["urls"] = ["https://example.org/hmdb51_org.rar"]

    assert moved(change, "hmdb51") == set()


def test_videos_with_several_classes_say_so_in_their_runs_scores_and_tables():
    plan = Plan(parse(SHIPPED))
    result = plan.tables["feichtenhofer2019_table4"][0].artifact
    run = result.inputs["run"]
    assert (result.config["views"], run.config["labels"], run.config["new_classifier"]) == ("max", "clip", True)
    assert run.inputs["init"].dataset == "kinetics400"
    assert table_spec(plan, "feichtenhofer2019_table4")["metric"] == "map"
    others = [
        one for name in SHIPPED["tables"] if name != "feichtenhofer2019_table4" for one in plan.needed(name).values()
    ]
    assert not any({"views", "labels"} & set(one.config) for one in others)


def test_an_svm_that_chooses_one_class_is_not_for_videos_of_several():
    values = deepcopy(SHIPPED)
    values["tables"]["feichtenhofer2019_table4"]["protocol"] = "centre_svm"
    with pytest.raises(ParamsError, match="give the weights by `fusion:`"):
        parse(values)
