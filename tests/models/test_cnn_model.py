"""The convolutional network: its sizes, its first weights, its loss and what it refuses."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from hf_finetune.errors import ModelError
from hf_finetune.models import DataDescription, build_model
from hf_finetune.models.cnn import Options
from hf_finetune.models.modeling_cnn import CnnConfig, CnnForImageClassification, feature_shape

DIGITS = DataDescription(tuple("0123456789"), 28, 28, 1, (0.13,), (0.3,))
COURSE_EXERCISE = {
    "channels": [32, 64],
    "convolutions_per_block": 1,
    "padding": "valid",
    "norm": "none",
    "pool": "none",
    "head": "flatten",
    "dropout": 0.0,
}


def small(**settings: object) -> CnnForImageClassification:
    settings = {"channels": [4, 8], "convolutions_per_block": 1, "num_labels": 3, **settings}
    return CnnForImageClassification(CnnConfig(**settings))


def parameters_of(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_course_exercise_has_the_course_numbers():
    model = build_model(Options(**COURSE_EXERCISE), DIGITS).model
    assert model.classifier.in_features == 36_864
    assert parameters_of(model) == 387_466


def test_course_preset_is_the_course_network():
    model = build_model(Options(preset="course"), DIGITS).model.eval()
    reference = nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 128, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.5), nn.Linear(128, 10)),
    ).eval()
    pairs = zip(model.state_dict().values(), reference.state_dict().values(), strict=True)
    for own, other in pairs:
        other.copy_(own)
    images = torch.randn(2, 1, 28, 28)
    assert torch.equal(model(images).logits, reference(images))
    assert model.head.dropout.p == 0.5


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("head", ["average", "flatten"])
def test_every_trainable_parameter_gets_a_gradient(padding, norm, head):
    model = small(
        padding=padding,
        norm=norm,
        head=head,
        pool="average",
        activation="gelu",
        image_height=13,
        image_width=18,
        num_channels=3,
    )
    model(torch.randn(4, 3, 13, 18), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert without == []
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    groups = [m.num_groups for m in model.modules() if isinstance(m, nn.GroupNorm)]
    assert groups == ([4, 8] if norm == "group" else [])
    assert all((layer.bias is None) == (norm != "none") for layer in convolutions)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pool": "none"},
        {"padding": "valid", "kernel_size": 4},
        {"channels": [4], "padding": "valid", "convolutions_per_block": 2, "pool_after": "first"},
        {"convolutions_per_block": 3, "pool_after": "first", "residual": True},
    ],
)
def test_feature_shape_is_what_the_blocks_give(settings):
    model = small(image_height=21, image_width=16, **settings)
    features = model.features(torch.zeros(1, 1, 21, 16))
    assert tuple(features.shape[1:]) == feature_shape(model.config)


def test_a_block_pools_where_it_is_told_and_adds_what_the_first_convolution_gave():
    settings = {"channels": [4], "convolutions_per_block": 2, "norm": "none"}
    model = small(**settings, pool_after="first", residual=True)
    kinds = [type(layer).__name__ for layer in model.features[0]]
    assert kinds == ["Conv2d", "MaxPool2d", "ReLU", "Residual"]
    first, others = model.features[0][:3], model.features[0][3]
    images = torch.randn(2, 1, 28, 28)
    halved = first(images)
    assert halved.shape == (2, 4, 14, 14)
    assert torch.equal(model.features(images), halved + others[1](others[0](halved)))
    plain = small(**settings, pool_after="last")
    kinds = [type(layer).__name__ for layer in plain.features[0]]
    assert kinds == ["Conv2d", "ReLU", "Conv2d", "MaxPool2d", "ReLU"]


def test_relu_after_the_pool_changes_no_bit():
    """Ties and pixels below 0 among them: what is largest, and what flows back, stays the same."""
    block = small(channels=[4], convolutions_per_block=2, norm="batch").features[0]
    usual = nn.Sequential(*block[:-2], block[-1], block[-2])
    images = torch.randn(9, 1, 28, 28).round()
    images[:3] = 0
    outcomes = []
    for layers in (block, usual):
        layers.zero_grad()
        output = layers(images)
        output.square().sum().backward()
        gradients = [p.grad.clone() for p in block.parameters() if p.grad is not None]
        outcomes.append([output, *gradients])
    assert len(outcomes[0]) == 7
    assert (outcomes[0][0] == 0).any()
    assert all(torch.equal(own, other) for own, other in zip(*outcomes, strict=True))


@pytest.mark.parametrize("settings", [{"activation": "gelu"}, {"pool": "average"}])
def test_what_does_not_commute_keeps_its_order(settings: dict[str, str]):
    kinds = [type(layer).__name__ for layer in small(channels=[4], **settings).features[0]]
    assert kinds[-1].endswith("Pool2d")


def test_a_residual_needs_equal_sizes():
    for kind in (Options, CnnConfig):
        with pytest.raises(ValueError, match="residual: false"):
            kind(padding="valid", residual=True, convolutions_per_block=2)
    assert Options(preset="residual").residual is True
    assert (
        Options(preset="residual", padding="valid").residual is False
    )  # the preset's own gives way
    assert Options(padding="valid", residual=True, convolutions_per_block=1).residual


def test_first_weights_are_spread_as_torch_spreads_them():
    torch.manual_seed(0)
    model = small(channels=[64, 128], norm="none")
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            assert module.weight.abs().max() <= 1 / math.sqrt(fan_in)
            assert module.weight.std().item() == pytest.approx(1 / math.sqrt(3 * fan_in), rel=0.06)
            assert module.bias.abs().max() > 0
    norm = small(norm="batch").features[0][1]
    assert norm.weight.tolist() == [1.0] * 4
    assert norm.running_var.tolist() == [1.0] * 4


def test_weights_come_from_the_global_generator():
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return build_model(Options(), DIGITS).model.classifier.weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_loss_is_the_mean_cross_entropy_and_takes_no_loss_arguments():
    model = small().eval()
    images, labels = torch.randn(5, 1, 28, 28), torch.tensor([0, 2, 1, 1, 0])
    output = model(images, labels=labels)
    expected = nn.functional.cross_entropy(output.logits, labels)
    assert output.loss.item() == pytest.approx(expected.item())
    assert model(images).loss is None
    # Trainer would multiply loss and gradient by the accumulated steps otherwise.
    assert model.accepts_loss_kwargs is False
    assert list(inspect.signature(model.forward).parameters) == ["pixel_values", "labels"]


def test_a_picture_too_small_for_the_blocks_is_refused_when_built():
    tiny = DataDescription(("a", "b"), 8, 8, 3, (0.5,) * 3, (0.2,) * 3)
    with pytest.raises(ModelError, match=r"block 2 of 3 gets 3x3 pixels.*8x8"):
        build_model(Options(preset="course"), tiny)
    larger = build_model(Options(preset="course", image_size=32), tiny)
    assert larger.processor.size == {"height": 32, "width": 32}
    assert larger.model(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 2)


def test_pictures_of_another_shape_are_refused():
    flat = small(head="flatten").eval()
    with pytest.raises(ValueError, match=r"\[2, 1, 27, 28\].*\[batch, 1, 28, 28\]"):
        flat(torch.zeros(2, 1, 27, 28))
    average = small(head="average").eval()
    assert average(torch.zeros(2, 1, 40, 31)).logits.shape == (2, 3)
    for shape in ((2, 3, 28, 28), (1, 28, 28)):
        with pytest.raises(ValueError, match="The network was built for"):
            average(torch.zeros(shape))


def test_mirrored_evaluation_answers_alike_for_a_picture_and_its_mirror_image():
    torch.manual_seed(0)
    plain, images = small(), torch.randn(3, 1, 28, 28)
    model = small(mirrored_evaluation=True)
    model.load_state_dict(plain.state_dict())
    assert torch.equal(model(images).logits, plain(images).logits)  # in training as ever
    plain.eval(), model.eval()
    expected = (plain(images).logits + plain(images.flip(-1)).logits) / 2
    assert torch.equal(model(images).logits, expected)
    assert torch.allclose(model(images.flip(-1)).logits, expected)
    assert build_model(Options(mirrored_evaluation=True), DIGITS).model.config.mirrored_evaluation


def test_shifted_evaluation_is_the_mean_over_a_picture_and_its_neighbours():
    torch.manual_seed(0)
    plain, images = small(), torch.randn(3, 1, 28, 28)
    images[..., 0, :] = images[..., -1, :] = images[..., 0] = images[..., -1] = 0.5  # a plain edge
    model = small(shifted_evaluation=True)
    model.load_state_dict(plain.state_dict())
    assert torch.equal(model(images).logits, plain(images).logits)  # in training as ever
    plain.eval(), model.eval()
    moved = [images.roll(step, axis) for axis in (2, 3) for step in (-1, 1)]
    expected = torch.stack([plain(view).logits for view in (images, *moved)]).mean(dim=0)
    assert torch.allclose(model(images).logits, expected, atol=1e-6)
    both = small(shifted_evaluation=True, mirrored_evaluation=True).eval()
    both.load_state_dict(plain.state_dict())
    assert torch.allclose(both(images).logits, both(images.flip(-1)).logits, atol=1e-6)
    assert build_model(Options(shifted_evaluation=True), DIGITS).model.config.shifted_evaluation


def test_labels_size_and_processor_come_from_the_data():
    data = DataDescription(("cat", "dog", "eel"), 20, 24, 3, (0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    classifier = build_model(Options(), data)
    config = classifier.model.config
    assert config.id2label == {0: "cat", 1: "dog", 2: "eel"}
    assert config.label2id == {"cat": 0, "dog": 1, "eel": 2}
    assert (config.num_labels, config.image_height, config.image_width) == (3, 20, 24)
    processor = classifier.processor
    assert processor.size == {"height": 20, "width": 24}
    assert processor.image_mean == (0.4, 0.5, 0.6)
    assert processor.image_std == (0.1, 0.2, 0.3)
    assert processor.num_channels == 3
    assert classifier.channels_last is True


def test_images_of_differing_size_need_an_image_size():
    data = DataDescription(("a", "b"), None, None, 1, (0.5,), (0.2,))
    with pytest.raises(ModelError, match=r"^model\.image_size: .*Set model\.image_size"):
        build_model(Options(), data)
    assert build_model(Options(image_size=16), data).model.config.image_height == 16


def test_images_without_contrast_are_refused():
    data = DataDescription(("a", "b"), 28, 28, 1, (0.5,), (0.0,))
    with pytest.raises(ModelError, match="one value everywhere"):
        build_model(Options(), data)


def test_an_even_kernel_cannot_keep_the_size():
    with pytest.raises(ValidationError, match="kernel_size 4 is even"):
        Options(kernel_size=4)
    with pytest.raises(ValueError, match="even"):
        CnnConfig(kernel_size=4)
    assert Options(kernel_size=4, padding="valid").kernel_size == 4


@pytest.mark.parametrize("name", ["padding", "norm", "activation", "pool", "pool_after", "head"])
def test_config_refuses_unknown_choices(name):
    with pytest.raises(ValueError, match=rf"^{name}: unknown value 'x'. Allowed: "):
        CnnConfig(**{name: "x"})


def test_preset_fills_only_what_is_not_given():
    options = Options(preset="course", dropout=0.1)
    assert (options.dropout, options.padding, options.channels) == (0.1, "valid", (32, 64, 128))
    for preset in ("other", ["course"]):
        with pytest.raises(ValidationError, match="preset"):
            Options(preset=preset)


def test_it_learns():
    torch.manual_seed(0)
    model = small(image_height=8, image_width=8, num_labels=2)
    images = torch.randn(16, 1, 8, 8)
    labels = (images.mean(dim=(1, 2, 3)) > 0).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = model(images, labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
