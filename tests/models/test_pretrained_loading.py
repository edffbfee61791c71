"""Which tensors are the checkpoint's: told by their bits, in any format and under any names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from small_checkpoints import CONFIGS, make_classifier_network, scatter, write_pretrained

from hf_finetune.errors import ModelError
from hf_finetune.models.checkpoint_files import match_weights, read_weights

HEAD = ("classifier.bias", "classifier.weight")


@pytest.fixture(autouse=True)
def _no_bars():
    transformers.logging.disable_progress_bar()


def load(name: str, folder: Path) -> Any:
    """A classifier from a pretrained model's folder, as transformers gives it."""
    network = type(make_classifier_network(name))
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    model = network.from_pretrained(folder, num_labels=3)
    transformers.logging.set_verbosity(verbosity)
    return model


def test_a_base_model_without_prefix_is_recognised(tmp_path: Path):
    stored = read_weights(write_pretrained(tmp_path, "dinov2"))
    assert "embeddings.cls_token" in stored
    model = load("dinov2", tmp_path)
    match = match_weights(model, stored)
    assert (set(match.new), match.different, match.unused) == (set(HEAD), (), ())
    torch.nn.init.normal_(model.dinov2.embeddings.cls_token)
    assert match_weights(model, stored).different == ("dinov2.embeddings.cls_token",)


def test_a_prefix_that_the_classifier_lacks_is_recognised(tmp_path: Path):
    stored = read_weights(write_pretrained(tmp_path, "whisper"))
    assert "model.encoder.conv1.weight" in stored
    model = load("whisper", tmp_path)
    match = match_weights(model, stored)
    assert set(match.new) == {*HEAD, "projector.bias", "projector.weight"}
    assert match.different == ()
    assert {name.split(".")[1] for name in match.unused} == {"decoder"}
    torch.nn.init.normal_(model.encoder.conv1.weight)
    assert match_weights(model, stored).different == ("encoder.conv1.weight",)


@pytest.mark.parametrize("name", ["vit", "swin", "ast"])
def test_a_renamed_tensor_that_stayed_random_is_found(name: str, tmp_path: Path):
    """In the original format all of these go by other names than the model's own."""
    stored = read_weights(write_pretrained(tmp_path, name))
    model = load(name, tmp_path)
    assert match_weights(model, stored).different == ()
    renamed = next(n for n in model.state_dict() if n.endswith("q_proj.weight"))
    torch.nn.init.normal_(model.get_parameter(renamed))
    (found,) = match_weights(model, stored).different
    assert found.endswith("query.weight")


def test_a_tensor_in_another_place_is_found(tmp_path: Path):
    """Right in number, shape and content, but two of them exchanged."""
    stored = read_weights(write_pretrained(tmp_path, "vit"))
    model = load("vit", tmp_path)
    first, second = (layer.layernorm_before.weight for layer in model.vit.layers)
    first.data, second.data = second.data, first.data
    assert len(match_weights(model, stored).different) == 2


def test_split_tensors_are_put_together_again(tmp_path: Path):
    """DINOv2's gated feed-forward: one tensor in the file is two in the model."""
    config = CONFIGS["dinov2"]()
    config.use_swiglu_ffn = True
    scatter(transformers.Dinov2Model(config)).save_pretrained(tmp_path)
    stored = read_weights(tmp_path)
    model = load("dinov2", tmp_path)
    assert match_weights(model, stored).different == ()
    torch.nn.init.normal_(model.dinov2.encoder.layer[1].mlp.gate_proj.weight)
    (found,) = match_weights(model, stored).different
    assert found.endswith("layer.1.mlp.weights_in.weight")


@pytest.mark.parametrize("is_remembered", [True, False])
def test_names_of_old_are_recognised(is_remembered: bool, tmp_path: Path):
    """torch's older words for a normalised weight; or by content, where no name leads there."""
    write_pretrained(tmp_path, "wav2vec2")
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    conv = "wav2vec2.encoder.pos_conv_embed.conv"
    for now, then in (("original0", "weight_g"), ("original1", "weight_v")):
        weights[f"{conv}.{then}"] = weights.pop(f"{conv}.parametrizations.weight.{now}")
    save_file(weights, file, metadata={"format": "pt"})
    model = load("wav2vec2", tmp_path)
    if not is_remembered:
        del model._weight_conversions  # what transformers remembers of a load
    match = match_weights(model, read_weights(tmp_path))
    assert set(match.new) == {*HEAD, "projector.bias", "projector.weight"}
    assert match.different == ()
    assert not any(conv in name for name in match.unused)
    torch.nn.init.normal_(model.get_parameter(f"{conv}.parametrizations.weight.original1"))
    match = match_weights(model, read_weights(tmp_path))
    name = "weight_v" if is_remembered else "parametrizations.weight.original1"
    assert f"{conv}.{name}" in {*match.new, *match.different}


def test_parts_and_pickles_hold_the_same(tmp_path: Path):
    whole = read_weights(write_pretrained(tmp_path / "whole", "vit"))
    network = transformers.ViTModel.from_pretrained(tmp_path / "whole")
    network.save_pretrained(tmp_path / "parts", max_shard_size="8KB")
    assert len(list((tmp_path / "parts").glob("model-*-of-*.safetensors"))) > 1
    (tmp_path / "pickle").mkdir()
    torch.save(whole, tmp_path / "pickle/pytorch_model.bin")
    for kind in ("parts", "pickle"):
        read = read_weights(tmp_path / kind)
        assert read.keys() == whole.keys()
        assert all(torch.equal(read[name], whole[name]) for name in whole)
    with pytest.raises(ModelError, match=r"there are no weights \(model.safetensors or pytorch"):
        read_weights(tmp_path)
