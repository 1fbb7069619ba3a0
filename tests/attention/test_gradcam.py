"""Grad-CAM against full backward passes through hooks, and the rules around it."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reaction.attention.gradcam import by_resolution, closed_form, gradcam, gradcams, upsample
from reaction.models.inception_v3 import LAYERS, InceptionV3

torch.set_num_threads(1)

LABELS = torch.tensor([0, 3, 1])


def build() -> InceptionV3:
    torch.manual_seed(0)
    model = InceptionV3(classes=5, width=0.0625, dropout=0.8)
    model(images())  # moves the statistics, so that activations stay of order one in evaluation mode
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model(images())
    return model.eval()


def images() -> Tensor:
    return torch.rand(3, 3, 139, 171, generator=torch.Generator().manual_seed(1)) * 2 - 1


def by_hooks(model: InceptionV3, x: Tensor, labels: Tensor, layer: str) -> Tensor:
    """The usual way: hooks on the layer, a whole backward pass per image."""
    kept = {}
    module = model.get_submodule(layer)
    hooks = [
        module.register_forward_hook(lambda _m, _i, output: kept.update(features=output.detach())),
        module.register_full_backward_hook(lambda _m, _i, gradients: kept.update(gradient=gradients[0])),
    ]
    maps = []
    for image, label in zip(x, labels, strict=True):
        model.zero_grad()
        model(image[None])[0, label].backward()
        weights = kept["gradient"].mean((2, 3), keepdim=True)
        maps.append(F.relu((weights * kept["features"]).sum(1)))
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    return torch.cat(maps)


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.max() > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.max().item())


@pytest.mark.parametrize("layer", ["Mixed_5d", "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c"])
def test_maps_equal_a_full_backward_pass_with_hooks(layer):
    model, x = build().double(), images().double()
    assert_close(gradcam(model, x, LABELS, layer), by_hooks(model, x, LABELS, layer))


@pytest.mark.parametrize(
    "layers", [["Mixed_7c", "Mixed_5d", "Mixed_6e"], ["Mixed_7a", "Mixed_7b", "Mixed_7c"], ["Mixed_7c", "Mixed_7c"]]
)
def test_maps_of_several_layers_are_each_layers_own_in_the_order_named(layers):
    model, x = build().double(), images().double()
    for layer, maps in zip(layers, gradcams(model, x, LABELS, layers), strict=True):
        assert_close(maps, by_hooks(model, x, LABELS, layer))


def test_one_forward_and_one_backward_pass_serve_all_layers(monkeypatch):
    model, x = build(), images()
    forwards, backwards, grad = [], [], torch.autograd.grad
    for name in ("Conv2d_1a_3x3", *LAYERS, "fc"):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: forwards.append(name))
    monkeypatch.setattr(torch.autograd, "grad", lambda *given: backwards.append(given) or grad(*given))
    gradcams(model, x, None, ["Mixed_7b", "Mixed_6a", "Mixed_7c"])
    assert forwards == ["Conv2d_1a_3x3", *LAYERS, "fc"]
    assert len(backwards) == 1


def test_an_unknown_layer_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"'Mixed_8a'.*Mixed_7c"):
        gradcams(build(), images(), LABELS, ["Mixed_7c", "Mixed_8a"])


def test_the_closed_form_equals_autograd_in_single_precision():
    model, x = build(), images()
    features = model.features(x).detach().requires_grad_()
    score = model.classify(features).gather(1, LABELS[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, features)
    expected = F.relu((gradient.mean((2, 3), keepdim=True) * features.detach()).sum(1))
    assert_close(closed_form(features.detach(), model.fc.weight.detach(), LABELS), expected)


def test_the_closed_form_on_numbers_worked_by_hand():
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])  # (1, 2, 1, 2)
    weight = torch.tensor([[9.0, 9.0], [4.0, -2.0]])
    assert closed_form(features, weight, torch.tensor([1])).tolist() == [[[0.0, 4.0]]]


@pytest.mark.parametrize("layer", ["Mixed_6e", "Mixed_7c"])
def test_a_batch_is_its_images_one_by_one(layer):
    model, x = build().double(), images().double()
    single = torch.cat([gradcam(model, x[i : i + 1], LABELS[i : i + 1], layer) for i in range(3)])
    torch.testing.assert_close(gradcam(model, x, LABELS, layer), single)


@pytest.mark.parametrize("layer", ["Mixed_6e", "Mixed_7c"])
def test_without_labels_the_predicted_ones_are_used(layer):
    model, x = build(), images()
    with torch.no_grad():
        predicted = model(x).argmax(1)
    assert torch.equal(gradcam(model, x, None, layer), gradcam(model, x, predicted, layer))


@pytest.mark.parametrize("layer", ["Mixed_6e", "Mixed_7c"])
def test_the_model_is_left_as_it_was(layer):
    model, x = build(), images()
    expected = gradcam(model, x, LABELS, layer)
    model.train()
    model.Mixed_5b.eval()
    flags = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        maps = gradcam(model, x, LABELS, layer)
    assert torch.equal(maps, expected)
    assert not maps.requires_grad
    assert [module.training for module in model.modules()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_map_against_which_everything_speaks_is_zero():
    features, weight = torch.rand(1, 4, 3, 3), -torch.ones(2, 4)
    assert not closed_form(features, weight, torch.tensor([0])).any()


def test_upsampling_interpolates_between_pixel_centres():
    maps = torch.tensor([[[0.0, 1.0]]])
    assert upsample(maps, 1, 4)[0, 0].tolist() == [0.0, 0.25, 0.75, 1.0]


@pytest.mark.parametrize("size", [(17, 17), (60, 81), (299, 299)])
def test_addends_up_sample_to_the_mean_of_the_layers(size):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(2, side, side + 1, generator=generator, dtype=torch.float64) for side in (8, 17, 8, 35)]
    parts = by_resolution(maps)
    assert [tuple(part.shape) for part in parts] == [(2, 8, 9), (2, 17, 18), (2, 35, 36)]
    expected = torch.stack([upsample(map, *size) for map in maps]).mean(0)
    torch.testing.assert_close(sum(upsample(part, *size) for part in parts), expected)


def test_the_mean_of_one_layer_is_its_map_to_the_bit():
    maps = torch.rand(2, 5, 5)
    (part,) = by_resolution([maps])
    assert torch.equal(part, maps)
