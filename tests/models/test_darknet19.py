"""YOLOv2's graph, its count of numbers, and files of Darknet written here by its own rules."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from reaction.models.darknet19 import Darknet19, darknet_state, read_darknet_weights, reorganise
from reaction.models.weights import WeightsError

torch.set_num_threads(1)

NORMALISED = 22  # convolutions with a batch normalisation; the 23rd has a bias


def numbers(network: Darknet19) -> int:
    """How many float32 a file of Darknet has: parameters, and mean and variance of each normalised channel."""
    state = network.state_dict()
    return sum(value.numel() for name, value in state.items() if not name.endswith("num_batches_tracked"))


def written(path: Path, network: Darknet19, *, version: tuple[int, int] = (0, 1), layers: int = 23) -> Path:
    """As darknet's `save_weights` does: bias, scale, mean, variance, kernel of each convolution, in order."""
    state = network.state_dict()
    seen = struct.pack("<q" if version >= (0, 2) else "<i", 5)
    with open(path, "wb") as file:
        file.write(struct.pack("<3i", *version, 0) + seen)
        for n in range(1, layers + 1):
            (kernel,) = [name for name in state if f".conv{n}.weight" in name]
            norm = kernel.replace(f"conv{n}.weight", f"bn{n}.")
            parts = ("bias", "weight", "running_mean", "running_var") if n <= NORMALISED else ()
            first = [norm + part for part in parts] or [kernel.replace("weight", "bias")]
            for name in [*first, kernel]:
                file.write(state[name].numpy().astype("<f4").tobytes())
    return path


def tiny() -> Darknet19:
    torch.manual_seed(0)
    network = Darknet19(width=0.0625)
    for name, value in network.state_dict().items():
        if value.is_floating_point() and "bn" in name:
            value.uniform_(0.5, 1.5)
    return network


def test_counts_of_yolo_weights():
    """The reference file, yolo.weights: 16 bytes of header and 50,983,561 numbers, 203,934,260 bytes."""
    with torch.device("meta"):
        network = Darknet19()
        assert sum(parameter.numel() for parameter in network.parameters()) == 50_962_889
        assert 16 + 4 * numbers(network) == 203_934_260
        assert network(torch.empty(2, 3, 224, 224)).shape == (2, 425, 7, 7)
        assert network(torch.empty(1, 3, 416, 320)).shape == (1, 425, 13, 10)


def test_layers_have_the_numbers_of_the_configuration_file():
    with torch.device("meta"):
        kernels = {n: tuple(v.shape) for n, v in Darknet19().state_dict().items() if v.dim() == 4}
    assert len(kernels) == 23
    assert kernels["models.0.conv1.weight"] == (32, 3, 3, 3)
    assert kernels["models.16.conv13.weight"] == (512, 256, 3, 3)
    assert kernels["models.26.conv21.weight"] == (64, 512, 1, 1)
    assert kernels["models.29.conv22.weight"] == (1024, 4 * 64 + 1024, 3, 3)
    assert kernels["models.30.conv23.weight"] == (425, 1024, 1, 1)


def test_reorganised_cells():
    x = torch.arange(2 * 4 * 6.0).view(1, 2, 4, 6)
    y = reorganise(x)
    assert y.shape == (1, 8, 2, 3)
    for channel in range(2):
        for row in range(4):
            for column in range(6):
                place = 2 * (2 * (row % 2) + column % 2) + channel
                assert y[0, place, row // 2, column // 2] == x[0, channel, row, column]


@pytest.mark.parametrize("version", [(0, 1), (0, 2)])
def test_a_file_of_darknet_comes_back_tensor_by_tensor(tmp_path, version):
    network = tiny()
    state = read_darknet_weights(written(tmp_path / "yolo.weights", network, version=version), Darknet19(width=0.0625))
    own = network.state_dict()
    assert set(state) == {name for name in own if not name.endswith("num_batches_tracked")}
    assert all(torch.equal(value, own[name]) for name, value in state.items())


def test_a_trunk_alone_gives_its_layers(tmp_path):
    state = read_darknet_weights(written(tmp_path / "darknet19.conv.18", tiny(), layers=18), tiny())
    assert {name.split(".")[1] for name in state} == {str(n) for n in (*range(23),) if n not in (1, 3, 7, 11, 17)}


def test_a_detector_of_other_classes_keeps_its_own_last_layer(tmp_path):
    network = tiny()
    network.models["30"].conv23 = torch.nn.Conv2d(64, 12, 1)
    state = read_darknet_weights(written(tmp_path / "voc.weights", network), tiny())
    assert state["models.30.conv23.weight"].shape == (12, 64, 1, 1)
    assert torch.equal(state["models.30.conv23.bias"], network.models["30"].conv23.bias)


def test_damaged_files_are_named(tmp_path):
    path = written(tmp_path / "yolo.weights", tiny())
    raw = path.read_bytes()
    for cut, message in ((4 * 5000, "ends within layer"), (2, "no whole float32"), (4, "is it another network's")):
        path.write_bytes(raw[:-cut])
        with pytest.raises(WeightsError, match=rf"yolo\.weights: .*{message}"):
            read_darknet_weights(path, tiny())
    path.write_bytes(raw[:12])
    with pytest.raises(WeightsError, match="12 bytes are no weights"):
        read_darknet_weights(path, tiny())
    with pytest.raises(WeightsError, match="no such file"):
        read_darknet_weights(tmp_path / "none.weights", tiny())


def test_sides_not_divisible_by_32_are_refused():
    with pytest.raises(ValueError, match="divisible by 32, got 100 x 64"):
        tiny()(torch.empty(1, 3, 64, 100))


def test_numbers_of_darknet_are_read_in_place():
    values = torch.from_numpy(np.arange(numbers(tiny()), dtype=np.float32))
    state = darknet_state(values, tiny())
    assert state["models.0.bn1.bias"].tolist() == list(range(8))
    assert state["models.0.conv1.weight"].flatten()[0] == 32
