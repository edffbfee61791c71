"""Head, backbone and layers of every architecture, told by the names of their tensors."""

from __future__ import annotations

import pytest
import torch
import transformers
from small_checkpoints import CONFIGS, make_classifier_network

from hf_finetune.errors import ModelError
from hf_finetune.models import DataDescription, build_model
from hf_finetune.models.anatomy import head_names, layer_numbers
from hf_finetune.models.cnn import Options

# Name: parts of the head, number of layers, and a few parameters with the layer of each.
EXPECTED = {
    "deit": ({"classifier"}, 2, {"deit.embeddings.cls_token": 0, "deit.layernorm.bias": 3}),
    "vit": ({"classifier"}, 2, {"vit.layers.1.mlp.fc1.weight": 2}),
    "swin": (
        {"classifier"},
        3,
        {
            "swin.embeddings.norm.weight": 0,
            "swin.encoder.layers.0.downsample.norm.weight": 1,
            "swin.encoder.layers.1.blocks.1.mlp.fc1.weight": 3,
            "swin.layernorm.weight": 4,
        },
    ),
    "dinov2": ({"classifier"}, 2, {"dinov2.encoder.layer.1.norm1.bias": 2}),
    "convnext": (
        {"classifier"},
        3,
        {
            "convnext.embeddings.patch_embeddings.weight": 0,
            "convnext.encoder.stages.1.downsampling_layer.0.weight": 1,
            "convnext.encoder.stages.1.layers.0.dwconv.weight": 2,
            "convnext.layernorm.weight": 4,
        },
    ),
    "resnet": (
        {"classifier"},
        3,
        {
            "resnet.embedder.embedder.convolution.weight": 0,
            "resnet.encoder.stages.0.layers.0.layer.1.convolution.weight": 1,
            "resnet.encoder.stages.1.layers.1.layer.0.convolution.weight": 3,
        },
    ),
    "ast": ({"classifier"}, 2, {"audio_spectrogram_transformer.layernorm.weight": 3}),
    "wav2vec2": (
        {"projector", "classifier"},
        2,
        {
            "wav2vec2.feature_extractor.conv_layers.1.conv.weight": 0,
            "wav2vec2.encoder.pos_conv_embed.conv.bias": 0,
            "wav2vec2.encoder.layer_norm.weight": 0,  # before the layers
            "wav2vec2.encoder.layers.1.final_layer_norm.bias": 2,
        },
    ),
    "wav2vec2_layer": (
        {"projector", "classifier"},
        2,
        {"wav2vec2.encoder.layer_norm.weight": 3},  # after them
    ),
    "hubert": ({"projector", "classifier"}, 2, {"hubert.encoder.layers.0.layer_norm.bias": 1}),
    "wavlm": ({"projector", "classifier"}, 2, {"wavlm.masked_spec_embed": 0}),
    "whisper": (
        {"projector", "classifier"},
        2,
        {"encoder.conv2.weight": 0, "encoder.layers.0.fc1.bias": 1, "encoder.layer_norm.bias": 3},
    ),
}


def test_every_architecture_is_listed():
    assert EXPECTED.keys() == CONFIGS.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_head_and_layers_are_told(name: str):
    parts, count, places = EXPECTED[name]
    model = make_classifier_network(name)
    head = head_names(model)
    assert {tensor.split(".")[0] for tensor in head} == parts
    numbers, layers = layer_numbers(model)
    assert layers == count
    assert numbers.keys() == {tensor for tensor, _ in model.named_parameters()} - head
    assert set(numbers.values()) >= set(range(count + 1))
    assert {tensor: numbers[tensor] for tensor in places} == places


def test_a_stem_beside_the_encoder_is_no_head():
    with torch.device("meta"):  # no memory, no weights
        model = transformers.HGNetV2ForImageClassification(transformers.HGNetV2Config())
    assert {name.split(".")[0] for name in head_names(model)} == {"fc"}


def test_our_own_networks_have_a_head_and_no_layers():
    data = DataDescription(("a", "b"), 12, 12, 1, (0.5,), (0.2,))
    model = build_model(Options(channels=(4,)), data).model
    assert head_names(model) == {"classifier.weight", "classifier.bias"}
    with pytest.raises(ModelError, match="CnnForImageClassification has no layers"):
        layer_numbers(model)
