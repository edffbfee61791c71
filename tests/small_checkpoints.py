"""Checkpoints of the true architectures, small enough to train on a CPU in a moment.

Every weight is random and no two tensors are alike, zeros and ones of fresh norms and biases
included: what a load leaves out can be seen.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf

_VIT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 16,
}
_SPEECH: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": (8, 8),
    "conv_stride": (10, 8),
    "conv_kernel": (20, 16),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
    "mask_time_length": 3,
}
_LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
_WHISPER: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 24,
    "vocab_size": 20,
    "max_source_positions": 50,
    "num_mel_bins": 8,
    "classifier_proj_size": 8,
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0),
}
_STAGES = {"hidden_sizes": [8, 16], "depths": [1, 2]}

# Settings by architecture; wav2vec2 stands twice, with group norm and with layer norm.
CONFIGS: dict[str, Callable[[], Any]] = {
    "deit": lambda: hf.DeiTConfig(**_VIT),
    "vit": lambda: hf.ViTConfig(**_VIT),
    "swin": lambda: hf.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 2], num_heads=[2, 2], window_size=4
    ),
    "dinov2": lambda: hf.Dinov2Config(**{**_VIT, "mlp_ratio": 2}),
    "convnext": lambda: hf.ConvNextConfig(num_stages=2, **_STAGES),
    "resnet": lambda: hf.ResNetConfig(embedding_size=8, layer_type="basic", **_STAGES),
    "ast": lambda: hf.ASTConfig(
        **{**_VIT, "max_length": 48, "num_mel_bins": 32, "frequency_stride": 16, "time_stride": 16}
    ),
    "wav2vec2": lambda: hf.Wav2Vec2Config(**_SPEECH),
    "wav2vec2_layer": lambda: hf.Wav2Vec2Config(**_SPEECH, **_LAYER_NORM),
    "hubert": lambda: hf.HubertConfig(**_SPEECH),
    "wavlm": lambda: hf.WavLMConfig(**_SPEECH),
    "whisper": lambda: hf.WhisperConfig(**_WHISPER),
}
IMAGE = ("deit", "vit", "swin", "dinov2", "convnext", "resnet")
AUDIO = tuple(name for name in CONFIGS if name not in IMAGE)
# What stands in for what a user would download: the model that was pretrained, not a classifier.
PRETRAINED = {
    "deit": "DeiTModel",
    "vit": "ViTModel",
    "swin": "SwinModel",
    "dinov2": "Dinov2Model",
    "convnext": "ConvNextModel",
    "resnet": "ResNetModel",
    "ast": "ASTModel",
    "wav2vec2": "Wav2Vec2ForPreTraining",
    "wav2vec2_layer": "Wav2Vec2ForCTC",
    "hubert": "HubertModel",
    "wavlm": "WavLMModel",
    "whisper": "WhisperForConditionalGeneration",
}


def make_processor(name: str) -> Any:
    """The processor that such a checkpoint comes with."""
    if name == "ast":
        return hf.ASTFeatureExtractor(max_length=48, num_mel_bins=32)
    if name == "whisper":
        return hf.WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    if name in AUDIO:
        return hf.Wav2Vec2FeatureExtractor(return_attention_mask=name == "wav2vec2_layer")
    return hf.ViTImageProcessor(size={"height": 32, "width": 32})


def make_classifier_network(name: str, classes: int = 7) -> Any:
    """A classifier of that architecture, with fresh random weights."""
    config = CONFIGS[name]()
    config.num_labels, config.architectures = classes, []
    auto = (
        hf.AutoModelForImageClassification if name in IMAGE else hf.AutoModelForAudioClassification
    )
    return scatter(auto.from_config(config))


def scatter(model: Any) -> Any:
    """Moves every parameter and buffer of floats a little, each by noise of its own."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                # Of one sign: a variance among them must stay above 0.
                tensor.add_(torch.rand(tensor.shape, generator=generator) * 0.05)
    return model


def write_checkpoint(
    folder: Path,
    name: str,
    network: Any = None,
    *,
    save_original_format: bool = True,
    processor: bool = True,
) -> Path:
    """Saves a classifier (or another network of that architecture) and its processor."""
    network = make_classifier_network(name) if network is None else network
    network.save_pretrained(folder, save_original_format=save_original_format)
    if processor:
        make_processor(name).save_pretrained(folder)
    return folder


def write_pretrained(folder: Path, name: str) -> Path:
    """Saves what such a model is before any classification: a base or a pretraining model."""
    network = scatter(getattr(hf, PRETRAINED[name])(CONFIGS[name]()))
    return write_checkpoint(folder, name, network)


def edit_json(path: Path, **changes: Any) -> None:
    """Lays settings over a JSON file; None takes one out."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def make_batch(name: str, model: Any, rows: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """A batch as the collator would make it: inputs of equal length, labels and index."""
    generator = np.random.default_rng(seed)
    labels = torch.from_numpy(generator.integers(0, model.config.num_labels, rows))
    shapes = {"ast": (48, 32), "whisper": (8, 100)}
    shape = (3, 32, 32) if name in IMAGE else shapes.get(name, (4000,))
    values = torch.from_numpy(generator.normal(size=(rows, *shape)).astype(np.float32))
    batch = {model.main_input_name: values, "labels": labels, "index": torch.arange(rows)}
    if name == "wav2vec2_layer":
        batch["attention_mask"] = torch.ones(rows, 4000, dtype=torch.int64)
    return batch
