"""Lengths of clips: cuts for training, windows for evaluation, and the least that a model takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from hf_finetune.features.clip_lengths import (
    common_width,
    least_samples,
    least_training_samples,
    random_starts,
    window_starts,
)

SMALL = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 4,
}
LAYERS = {"conv_dim": (4,) * 3, "conv_stride": (5, 2, 3), "conv_kernel": (10, 3, 2)}


@pytest.mark.parametrize(
    ("frames", "length", "windows", "starts"),
    [
        (100, 40, 1, [30]),
        (101, 40, 1, [30]),
        (100, 100, 1, [0]),
        (30, 40, 1, [0]),
        (30, 40, 5, [0]),
        (100, 40, 2, [0, 60]),
        (100, 40, 3, [0, 30, 60]),
        (100, 40, 50, [0, 30, 60]),  # three cover it
        (41, 40, 9, [0, 1]),
        (80, 40, 9, [0, 40]),
        (1, 1, 1, [0]),
    ],
)
def test_windows_are_spread_over_the_clip(frames, length, windows, starts):
    assert window_starts(frames, length, windows) == starts


def test_batches_come_in_few_widths_and_are_padded_little():
    lengths = np.arange(1, 2**17)
    widths = np.array([common_width(int(length)) for length in lengths])
    assert (widths >= lengths).all()
    assert (widths <= lengths * 17 / 16).all()
    assert (widths / lengths)[2**12 :].mean() < 1.03
    for octave in range(5, 17):
        assert len(np.unique(widths[(widths > 2**octave) & (widths <= 2 ** (octave + 1))])) == 16
    assert widths[:32].tolist() == lengths[:32].tolist()
    assert [common_width(int(width)) for width in np.unique(widths)] == np.unique(widths).tolist()


def test_random_cuts_reach_every_place_and_no_further():
    numbers = np.random.default_rng(0).random(2000)
    starts = random_starts(np.full(2000, 25), np.full(2000, 16), numbers)
    assert np.unique(starts).tolist() == list(range(10))
    counts = np.bincount(starts)
    assert counts.min() > 130
    highest = np.nextafter(1.0, 0.0)
    frames, lengths = np.array([25, 16, 10]), np.array([16, 16, 10])
    assert random_starts(frames, lengths, np.full(3, highest)).tolist() == [9, 0, 0]


def test_a_base_model_needs_25_milliseconds():
    config = transformers.Wav2Vec2Config()
    assert least_samples(config) == 400
    assert least_training_samples(config) == 400 + 9 * 320
    assert least_training_samples(transformers.Wav2Vec2Config(apply_spec_augment=False)) == 1
    assert least_training_samples(transformers.Wav2Vec2Config(mask_time_prob=0.0)) == 1


@pytest.mark.parametrize("config", [None, SimpleNamespace(), transformers.ASTConfig()])
def test_models_without_such_convolutions_need_one_sample(config):
    assert least_samples(config) == least_training_samples(config) == 1


def build(kind: str) -> Any:
    settings = {**SMALL, **LAYERS, "mask_time_length": 4}
    if kind == "Data2VecAudio":
        settings["conv_pos_kernel_size"] = 3
    config = getattr(transformers, f"{kind}Config")(**settings)
    return getattr(transformers, f"{kind}ForSequenceClassification")(config)


@pytest.mark.parametrize("kind", ["Wav2Vec2", "Hubert", "Data2VecAudio", "SEW"])
def test_real_models_take_the_least_and_no_less(kind):
    model = build(kind)
    for least, training in (
        (least_samples(model.config), False),
        (least_training_samples(model.config), True),
    ):
        model.train(training)
        assert model(torch.randn(2, least)).logits.isfinite().all()
        with pytest.raises((RuntimeError, ValueError)):
            model(torch.randn(2, least - 1))
