"""`reaction RULE FOLDER`: one sub-command per rule of the workflow. Each parses, then calls one function."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

UNFINISHED = 75  # sysexits' EX_TEMPFAIL: stopped before the end on purpose, run the same command again


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if getattr(options, "gpus", None) == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before PyTorch is imported, which looks once
    try:
        return options.run(options) or 0
    except (ValueError, OSError) as error:
        if options.traceback:
            raise
        print(f"reaction {options.command}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="reaction", description=__doc__)
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for phase in (_data, _features, _training, _attention, _evaluation, _detection, _tables, _networks, _housekeeping):
        phase(commands)
    return parser


def _data(commands) -> None:
    freeze = commands.add_parser("freeze", help="write an artifact's config.json")
    freeze.add_argument("config", type=Path)
    freeze.add_argument("frozen", help="the frozen config, as JSON")
    freeze.set_defaults(run=_freeze)

    fetch = _on_folder(commands, "fetch", "download or find a dataset's archives and unpack them", _fetch)
    fetch.add_argument("--downloads", type=Path, default=Path("downloads"))
    index = _on_folder(commands, "index", "decode every video once; write the index and the splits", _index)
    _threads(index)


def _features(commands) -> None:
    _on_shard(commands, "frames", "extract RGB frames", _frames)
    flow = _on_shard(commands, "flow", "compute TV-L1 flow", _flow)
    _gpus(flow)
    flow.add_argument("--backend", default="auto", help="native, gpu, torch, opencv, opencv-cuda; unsaid: the fastest")


def _training(commands) -> None:
    for name, text, run in (
        ("train", "train one stream", _train),
        ("train_detector", "train a detector", _train_detector),
    ):
        train = _on_folder(commands, name, text, run)
        train.add_argument("--checkpoints", type=Path, required=True, help="resume states go here")
        _workers(train)
        train.add_argument("--stop-after", type=float, help="minutes; save and leave with status 75 before they end")
        _threads(train)
        _gpus(train)
    commands.choices["train"].add_argument(
        "--at-once",
        type=int,
        help="videos that go through the network at a time, where BatchNorm has groups; unsaid: all",
    )


def _attention(commands) -> None:
    _gpus(_on_shard(commands, "gradcam", "compute Grad-CAM maps of a trained run", _gradcam))
    net = _on_folder(commands, "attention_net", "train the network that predicts the maps", _attention_net)
    _threads(net)
    _gpus(net)
    _gpus(_on_shard(commands, "attend", "predict maps with an attention network", _attend))
    _threads(_on_folder(commands, "agree", "measure how far predicted maps are from the Grad-CAM they imitate", _agree))


def _evaluation(commands) -> None:
    score = _on_folder(commands, "score", "score the test videos and evaluate them", _score)
    _workers(score)
    _threads(score)
    _gpus(score)
    _on_folder(commands, "fuse", "fuse the scores of streams and evaluate them", _fuse)


def _detection(commands) -> None:
    detect = _on_folder(commands, "detect", "find boxes in the test videos", _detect)
    _workers(detect)
    _threads(detect)
    _gpus(detect)
    _on_folder(commands, "link", "link boxes into tubes", _link)
    _on_folder(commands, "evaluate", "measure boxes and tubes against the annotated ones", _evaluate)
    table = commands.add_parser("detection_table", help="set published mean average precisions beside ours")
    table.add_argument("csv", type=Path)
    table.add_argument("--spec", required=True, type=json.loads, help="what the table holds, as JSON")
    table.add_argument("--metrics", type=Path, help="where our numbers go by name, as JSON; unsaid: nowhere")
    table.set_defaults(run=_detection_table)
    figures = commands.add_parser("detection_figures", help="draw curves, classes, errors and tubes")
    figures.add_argument("stem", type=Path, help="what the files' names begin with")
    figures.add_argument("--spec", required=True, type=json.loads, help="what is drawn, as JSON")
    figures.set_defaults(run=_detection_figures)


def _tables(commands) -> None:
    table = commands.add_parser("table", help="set published numbers beside ours")
    table.add_argument("csv", type=Path)
    table.add_argument("--spec", required=True, type=json.loads, help="what the table holds, as JSON")
    table.add_argument("--metrics", type=Path, help="where our numbers go by name, as JSON; unsaid: nowhere")
    table.set_defaults(run=_table)
    networks = commands.add_parser("network_table", help="set networks' sizes and what they see beside a paper's")
    networks.add_argument("csv", type=Path)
    networks.add_argument("--spec", required=True, type=json.loads, help="what the table holds, as JSON")
    networks.set_defaults(run=_network_table)
    figure = commands.add_parser("figure", help="draw a table's training curves and accuracies per class")
    figure.add_argument("stem", type=Path, help="what the files' names begin with")
    figure.add_argument("--spec", required=True, type=json.loads, help="what is drawn, as JSON")
    figure.set_defaults(run=_figure)
    costs = commands.add_parser("cost_figure", help="draw accuracy against multiply-adds: a paper's points and ours")
    costs.add_argument("stem", type=Path, help="what the files' names begin with")
    costs.add_argument("--spec", required=True, type=json.loads, help="what is drawn, as JSON")
    costs.set_defaults(run=_cost_figure)
    thesis = commands.add_parser("thesis_figures", help="draw the figures of the thesis")
    thesis.add_argument("stem", type=Path, help="what the files' names begin with")
    thesis.add_argument("--spec", required=True, type=json.loads, help="what is drawn, as JSON")
    thesis.set_defaults(run=_thesis_figures)


def _networks(commands) -> None:
    convert = commands.add_parser("convert", help="turn downloaded weights into ours: .pt, .pth, .pyth, .tar, .pkl")
    convert.add_argument("file", type=Path, nargs="+", help="YOWO takes one for each branch, of Darknet (.weights) too")
    convert.add_argument("out", type=Path, help="a .safetensors file")
    convert.add_argument("--to", required=True, metavar="NETWORK", help="as `reaction verify` names it")
    convert.set_defaults(run=_convert)
    predict = commands.add_parser("predict", help="show what a trained run sees in a video: a copy of it, and a CSV")
    predict.add_argument("video", type=Path, help="anything that ffmpeg decodes")
    predict.add_argument("--run", dest="trained", type=Path, required=True, help="the trained run's folder")
    predict.add_argument("--out", type=Path, default=Path("predictions"), help="a folder; unsaid: predictions")
    predict.add_argument("--classes", type=Path, help="names of the classes, a line each; unsaid: those of its index")
    predict.add_argument("--threshold", type=float, default=0.3, help="leave out boxes of a lower score; unsaid: 0.3")
    _threads(predict)
    _gpus(predict)
    predict.set_defaults(run=_predict)
    verify = commands.add_parser("verify", help="set networks' parameters and multiply-adds beside the published ones")
    verify.set_defaults(run=_verify)


def _housekeeping(commands) -> None:
    ls = commands.add_parser("ls", help="list artifacts: what they are, their size, whether params.yaml asks for them")
    ls.set_defaults(run=_ls)
    gc = commands.add_parser("gc", help="remove artifacts that params.yaml no longer asks for")
    gc.add_argument("--delete", action="store_true", help="really remove them; without it they are only listed")
    gc.set_defaults(run=_gc)
    check = commands.add_parser("check", help="say what this machine lacks, and what that costs")
    check.set_defaults(run=_check)
    doctor = commands.add_parser("doctor", help="say what this machine has, and whether it can make tables")
    doctor.add_argument("tables", nargs="*", metavar="TABLE", help="unsaid: those under `reproduce:` in params.yaml")
    doctor.set_defaults(run=_doctor)


def _on_folder(commands, name: str, text: str, run) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text)
    command.add_argument("folder", type=Path, help="the artifact's folder; its config.json says everything else")
    command.set_defaults(run=run)
    return command


def _on_shard(commands, name: str, text: str, run) -> argparse.ArgumentParser:
    command = _on_folder(commands, name, text, run)
    command.add_argument("--shard", type=int, required=True)
    _threads(command)
    return command


def _workers(command: argparse.ArgumentParser) -> None:
    command.add_argument("--workers", type=int, help="processes that load clips; unsaid: one fewer than threads")


def _loaders(options: argparse.Namespace) -> int:
    return max(0, options.threads - 1) if options.workers is None else options.workers


def _threads(command: argparse.ArgumentParser) -> None:
    command.add_argument("--threads", type=int, default=1)


def _gpus(command: argparse.ArgumentParser) -> None:
    command.add_argument("--gpus", type=int, help="0 hides those of this machine; unsaid: any that is seen")


# The imports are inside, so that a command loads only the libraries it needs and `reaction --help` is instant.


def _freeze(options: argparse.Namespace) -> None:
    from reaction.files import write_json

    write_json(options.config, json.loads(options.frozen))


def _fetch(options: argparse.Namespace) -> None:
    from reaction.data.fetch import fetch_dataset

    fetch_dataset(options.folder, options.downloads)


def _index(options: argparse.Namespace) -> None:
    from reaction.data.index import build_index

    build_index(options.folder, options.threads)


def _frames(options: argparse.Namespace) -> None:
    from reaction.data.extract import frames_shard

    frames_shard(options.folder, options.shard)


def _flow(options: argparse.Namespace) -> None:
    from reaction.data.extract import flow_shard

    flow_shard(options.folder, options.shard, options.threads, options.backend)


def _train(options: argparse.Namespace) -> int | None:
    from reaction.training.run import train_run

    return _trained(train_run, options, at_once=options.at_once or None)


def _train_detector(options: argparse.Namespace) -> int | None:
    from reaction.training.detector_run import train_detector_run

    return _trained(train_detector_run, options)


def _trained(job: Callable[..., None], options: argparse.Namespace, **more: int | None) -> int | None:
    from reaction.training.loop import StopEarly

    how = {"checkpoints": options.checkpoints, "stop_after": options.stop_after}
    try:
        job(options.folder, workers=_loaders(options), threads=options.threads, **how, **more)
    except StopEarly as stop:
        print(stop)
        return UNFINISHED
    return None


def _gradcam(options: argparse.Namespace) -> None:
    from reaction.attention.maps import gradcam_shard

    gradcam_shard(options.folder, options.shard, options.threads)


def _attention_net(options: argparse.Namespace) -> None:
    from reaction.attention.maps import train_attention_net

    train_attention_net(options.folder, options.threads)


def _attend(options: argparse.Namespace) -> None:
    from reaction.attention.maps import attend_shard

    attend_shard(options.folder, options.shard, options.threads)


def _agree(options: argparse.Namespace) -> None:
    from reaction.attention.maps import agree_maps

    agree_maps(options.folder, options.threads)


def _score(options: argparse.Namespace) -> None:
    from reaction.evaluation.fuse import evaluate_scores
    from reaction.training.scoring import score_run

    score_run(options.folder, workers=_loaders(options), threads=options.threads)
    evaluate_scores(options.folder)


def _fuse(options: argparse.Namespace) -> None:
    from reaction.evaluation.fuse import fuse_scores

    fuse_scores(options.folder)


def _detect(options: argparse.Namespace) -> None:
    from reaction.training.detecting import detect_run

    detect_run(options.folder, workers=_loaders(options), threads=options.threads)


def _link(options: argparse.Namespace) -> None:
    from reaction.evaluation.linking import link_detections

    link_detections(options.folder)


def _evaluate(options: argparse.Namespace) -> None:
    from reaction.evaluation.detection import evaluate_detections

    evaluate_detections(options.folder)


def _detection_table(options: argparse.Namespace) -> None:
    from reaction.tables.detection import detection_table

    detection_table(options.spec, options.csv, options.metrics)


def _detection_figures(options: argparse.Namespace) -> None:
    from reaction.tables.detection_figures import detection_figures

    detection_figures(options.spec, options.stem)


def _table(options: argparse.Namespace) -> None:
    from reaction.tables.render import table

    table(options.spec, options.csv, options.metrics)


def _network_table(options: argparse.Namespace) -> None:
    from reaction.tables.architectures import network_table

    network_table(options.spec, options.csv)


def _figure(options: argparse.Namespace) -> None:
    from reaction.tables.figures import figures

    figures(options.spec, options.stem)


def _cost_figure(options: argparse.Namespace) -> None:
    from reaction.tables.costs import cost_figure

    cost_figure(options.spec, options.stem)


def _thesis_figures(options: argparse.Namespace) -> None:
    from reaction.tables.thesis import thesis_figures

    thesis_figures(options.spec, options.stem)


def _ls(options: argparse.Namespace) -> None:
    from reaction.catalogue import list_artifacts

    list_artifacts()


def _gc(options: argparse.Namespace) -> None:
    from reaction.catalogue import collect_garbage

    collect_garbage(delete=options.delete)


def _convert(options: argparse.Namespace) -> None:
    from reaction.convert import convert

    convert(options.file, options.to, options.out)


def _predict(options: argparse.Namespace) -> None:
    from reaction.predict.job import predict

    given = {"classes": options.classes, "threshold": options.threshold, "threads": options.threads}
    predict(options.video, options.trained, options.out, **given)


def _verify(options: argparse.Namespace) -> int:
    from reaction.verify import verify

    return verify()


def _check(options: argparse.Namespace) -> None:
    from reaction.machine import missing

    for line in missing():
        print(line)


def _doctor(options: argparse.Namespace) -> int:
    from reaction.doctor import doctor

    return doctor(options.tables)


if __name__ == "__main__":
    sys.exit(main())
