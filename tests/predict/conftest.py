from pathlib import Path

import av
import numpy as np
import pytest
import torch

RATE = 4


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small lose by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def filmed(tmp_path):
    """Encodes frames (n, H, W, 3) as H.264 of such quality that little is lost; returns the file."""

    def make(frames, name="film.mp4", rate=RATE, codec="libx264"):
        path = tmp_path / name
        with av.open(str(path), "w", options={"movflags": "faststart"} if name.endswith("mp4") else {}) as container:
            stream = container.add_stream(codec, rate=rate, options={"crf": "4", "preset": "veryfast"})
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
            container.mux(stream.encode(None))
        return path

    return make


@pytest.fixture
def untrained(small_project):
    """A classification run with weights that nobody trained; returns its folder."""
    from reaction.files import read_json, write_json
    from reaction.models.weights import write_weights
    from reaction.training.networks import build_network, stream_of

    def make(name="run", *, features=None, **changes):
        folder = Path(small_project.run(name, **changes))
        config = read_json(folder / "config.json")["config"]
        torch.manual_seed(0)
        network = build_network(config["network"], stream=config["stream"], classes=2)
        _awaken(network, stream_of(config).channels, config)
        write_weights(folder / "model.safetensors", network.state_dict())
        for role, more in (features or {}).items():
            path = Path(getattr(small_project, role), "config.json")
            write_json(path, {"config": read_json(path)["config"] | more})
        return folder

    return make


def _awaken(network, channels, config):
    """Statistics for its normalisations of smooth pictures: without them it says the same of everything."""
    side = config["network"]["input"]
    maps = [torch.full((16, 1, 1, side, side), 0.1)] if config["maps"] else []
    smooth = torch.nn.functional.interpolate(torch.rand(16, channels, 5, 5) * 2 - 1, (side, side), mode="bilinear")
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    network.train()
    with torch.no_grad():
        network(smooth[:, None], *maps)
    network.eval()


@pytest.fixture
def moving():
    """Makes n smooth frames, uint8 (n, height, width, 3), that a square crosses and changes its colour."""

    def make(n, height=96, width=104):
        y, x = np.mgrid[:height, :width]
        base = 128 + 50 * np.sin(x / 9) * np.cos(y / 7)
        frames = np.repeat(np.repeat(base[None, ..., None], n, axis=0), 3, axis=-1)
        for k, frame in enumerate(frames):
            left = 4 + 2 * k % 60
            frame[20:60, left : left + 36] = (40 + 30 * k % 200, 200 - 17 * k % 180, 60 + 55 * k % 190)
        return frames.round().astype(np.uint8)

    return make
