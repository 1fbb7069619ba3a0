"""Networks beside what was published: the counts, what counts as equal, and the project's own file of networks."""

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
from torch import nn

import reaction.models
from reaction.cli import main
from reaction.models.tsn import TSN
from reaction.verify import Counts, Described, VerifyError, agrees, count, markdown, read_networks, verify, wrong

ROOT = Path(__file__).parents[1]


def described(build: str, inputs: tuple[int, ...], *published: dict, **options) -> Described:
    return Described(name="net", build=build, inputs=[inputs], options=options, published=published)


@pytest.fixture(scope="module")
def catalogue():
    return read_networks(ROOT / "workflow/networks.yaml")


@pytest.fixture(scope="module")
def counted(catalogue) -> dict[str, Counts]:
    return {one.name: count(one) for one in catalogue.networks}


def test_no_network_differs_from_what_was_published(catalogue, counted):
    assert {one.name: found for one in catalogue.networks if (found := wrong(one, counted[one.name]))} == {}


def test_the_table_in_the_docs_is_what_the_command_prints(catalogue, counted):
    """`reaction verify` prints it: paste its output over the one in docs/models.md."""
    assert markdown(catalogue, list(counted.values())) in (ROOT / "docs/models.md").read_text()


def test_every_network_of_the_project_is_listed(catalogue):
    """A network is what names its last layer, or layers, and is no other network's base."""
    listed = {one.build for one in catalogue.networks}
    for found in pkgutil.iter_modules(reaction.models.__path__):
        module = importlib.import_module(f"reaction.models.{found.name}")
        for name, member in inspect.getmembers(module, inspect.isclass):
            named = hasattr(member, "last_layer") or hasattr(member, "last_layers")
            own = member.__module__ == module.__name__ and not member.__subclasses__()
            if issubclass(member, nn.Module) and named and own and not issubclass(member, TSN):
                assert f"{found.name}.{name}" in listed


@pytest.mark.parametrize(
    ("build", "pixels", "convolutions", "products", "total"),
    [
        # fvcore 0.1.5.post20221221, FlopCountAnalysis.by_operator of the same networks
        ("inception_v3.InceptionV3", 299, 5711168096, 5713216096, 5731151072),
        ("bn_inception.BNInception", 224, 2031576064, 2032600064, 2040073152),
        ("cnn_m.CNNM", 224, 1579801632, 1665735712, 1665735712),
    ],
)
def test_multiply_adds_are_fvcores(build, pixels, convolutions, products, total):
    counts = count(described(build, (3, pixels, pixels)))
    assert (counts.convolutions, counts.products, counts.total) == (convolutions, products, total)


def test_parameters_and_multiply_adds_by_arithmetic():
    """Chatfield 2014: kernel, inputs, outputs and the cells of the output, which the paddings leave at 224 pixels."""
    layers = [(7, 3, 96, 109), (5, 96, 256, 26), (3, 256, 512, 13), (3, 512, 512, 13), (3, 512, 512, 13)]
    linear = [(512 * 36, 4096), (4096, 2048), (2048, 1000)]
    counts = count(described("cnn_m.CNNM", (3, 224, 224), {"source": "paper", "features": "512 x 6 x 6"}))
    assert counts.convolutions == sum(k * k * i * o * cells**2 for k, i, o, cells in layers)
    assert counts.products - counts.convolutions == sum(i * o for i, o in linear)
    weights = [*((k * k * i, o) for k, i, o, _ in layers), *linear]
    assert counts.parameters == sum((inputs + 1) * outputs for inputs, outputs in weights)
    assert (counts.output, counts.features) == ("1000", "512 x 6 x 6")


@pytest.mark.parametrize(
    ("ours", "text", "equal"),
    [
        (1234567, "1,234,567", True),
        (1234568, "1,234,567", False),
        (39_770_384, "39 M", True),  # cut
        (8_954_928, "9 M", True),  # rounded
        (38_000_000, "39 M", False),
        (36.098e9, "36.1 G", True),
        (36.21e9, "36.1 G", False),
        (5.71322e9, "5.713 G", True),
        (2_032_600_064, "2,048.06 M", False),
        ("2048 x 8 x 8", "2048 x 8 x 8", True),
        ("2048 x 8 x 8", "2048 x 5 x 5", False),
    ],
)
def test_a_figure_says_as_much_as_its_digits(ours, text, equal):
    assert agrees(ours, text) == equal


def test_what_differs_is_named_and_so_is_what_was_said_to_differ_and_does_not():
    network = described(
        "cnn_m.CNNM",
        (3, 64, 64),
        {"source": "a", "parameters": "90,000,000"},
        {"source": "b", "parameters": "92 M", "differs": "another classifier"},
    )
    assert wrong(network, count(network)) == [
        "parameters 92,469,864, by a 90,000,000",
        "parameters 92,469,864, by b 92 M",
    ]


FILE = """
sources: {{paper: "A paper"}}
networks:
  - name: small
    build: {build}
    options: {{width: 0.125, classes: 4}}
    inputs: [[3, 64, 64]]
    published: [{{source: {source}, parameters: "{parameters}"}}]
"""


def write(path: Path, *, build="vgg.VGG16", source="paper", parameters="2,366,612") -> Path:
    path.write_text(FILE.format(build=build, source=source, parameters=parameters))
    return path


def test_the_status_says_whether_all_is_equal(tmp_path, capsys):
    vgg = sum((9 * i + 1) * o for i, o in zip((3, 8, 8, 16, 16, 32, 32, 32, 64, 64, 64, 64, 64), SIDES, strict=True))
    vgg += sum((i + 1) * o for i, o in ((64 * 49, 512), (512, 512), (512, 4)))
    assert verify(write(tmp_path / "networks.yaml", parameters=f"{vgg:,}")) == 0
    row = "| small | 3 x 64 x 64 | 4 |"
    out = capsys.readouterr().out
    assert row in out
    assert "| equal |" in out
    assert "* [paper] A paper" in out
    assert verify(write(tmp_path / "networks.yaml", parameters="1,000,000")) == 1
    assert "DIFFERS: parameters" in capsys.readouterr().out


SIDES = (8, 8, 16, 16, 32, 32, 32, 64, 64, 64, 64, 64, 64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "nobody"}, "no source is called nobody"),
        ({"build": "vgg.VGG17"}, r"small is built by vgg\.VGG17, which there is not"),
        ({"build": "nothing.VGG16"}, r"nothing\.VGG16, which there is not"),
        ({"build": "VGG16"}, r"networks\.yaml: .*build"),
    ],
)
def test_errors_name_the_file_and_what_is_wrong(tmp_path, changes, message):
    path = write(tmp_path / "networks.yaml", **changes)
    with pytest.raises(VerifyError, match=f"(?s){message}"):
        verify(path)


def test_outside_the_project_it_says_where_to_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["verify"]) == 1
    assert "workflow/networks.yaml does not exist; run this in the project's root" in capsys.readouterr().err
