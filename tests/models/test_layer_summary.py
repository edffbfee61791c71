"""The table of layers: shapes, counts and totals, and nothing about the model is changed."""

from __future__ import annotations

import torch
import transformers

from hf_finetune.models import DataDescription, LayerSummary, build_model, format_summary, summarize
from hf_finetune.models.cnn import Options

DIGITS = DataDescription(tuple("0123456789"), 28, 28, 1, (0.13,), (0.3,))


def test_the_course_network_layer_by_layer():
    model = build_model(Options(preset="course"), DIGITS).model
    assert summarize(model, (1, 28, 28)) == [
        LayerSummary("features.0.0", "Conv2d", (32, 26, 26), 320),
        LayerSummary("features.0.1", "MaxPool2d", (32, 13, 13), 0),
        LayerSummary("features.0.2", "ReLU", (32, 13, 13), 0),
        LayerSummary("features.1.0", "Conv2d", (64, 11, 11), 18_496),
        LayerSummary("features.1.1", "MaxPool2d", (64, 5, 5), 0),
        LayerSummary("features.1.2", "ReLU", (64, 5, 5), 0),
        LayerSummary("features.2.0", "Conv2d", (128, 3, 3), 73_856),
        LayerSummary("features.2.1", "MaxPool2d", (128, 1, 1), 0),
        LayerSummary("features.2.2", "ReLU", (128, 1, 1), 0),
        LayerSummary("head.flatten", "Flatten", (128,), 0),
        LayerSummary("head.dropout", "Dropout", (128,), 0),
        LayerSummary("classifier", "Linear", (10,), 1_290),
    ]


def test_the_table_has_a_row_a_layer_and_the_totals():
    model = build_model(Options(channels=(4,), convolutions_per_block=1), DIGITS).model
    for parameter in model.features.parameters():
        parameter.requires_grad = False
    lines = format_summary(model, (1, 28, 28)).splitlines()
    assert lines[0].split() == ["layer", "type", "output", "parameters"]
    assert lines[2].split() == ["features.0.0", "Conv2d", "4x28x28", "36"]
    assert lines[-2].split() == ["classifier", "Linear", "10", "50"]
    # 36 + 8 + 50 numbers of 4 bytes; batch norm keeps 8 more, and a count of 8 bytes
    assert lines[-1] == "94 parameters, 50 trainable, 0.00 MB with buffers"
    assert len({len(line) for line in lines[:-1]}) == 1
    large = build_model(Options(), DIGITS).model
    assert "288,170 parameters, 288,170 trainable, 1.16 MB" in format_summary(large, (1, 28, 28))


def test_the_model_and_the_generator_are_left_as_they_were():
    model = build_model(Options(dropout=0.5), DIGITS).model.train()
    model.features[0][1].eval()  # a frozen norm within a model that trains
    modes = {name: module.training for name, module in model.named_modules()}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator_state = torch.get_rng_state()
    gradients_on = []
    watch = model.classifier.register_forward_hook(
        lambda *_: gradients_on.append(torch.is_grad_enabled())
    )
    summarize(model, (1, 28, 28))
    watch.remove()
    assert gradients_on == [False]
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator_state)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_every_parameter_of_a_transformer_is_counted_once():
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=8,
        patch_size=4,
    )
    model = transformers.ViTForImageClassification(config)
    layers = summarize(model, (3, 8, 8))
    assert sum(layer.parameters for layer in layers) == model.num_parameters()
    embeddings = next(layer for layer in layers if layer.type == "ViTEmbeddings")
    assert embeddings.parameters == 16 + 5 * 16  # class token and positions; no layer has them
    assert embeddings.output_shape == (5, 16)
