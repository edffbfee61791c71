"""Model folders and state_dict files: what is loaded is what was saved, or the load stops."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from hf_finetune.errors import ModelError
from hf_finetune.models import (
    Classifier,
    DataDescription,
    build_model,
    load_classifier,
    load_state_dict_file,
    save_classifier,
)
from hf_finetune.models.cnn import Options as CnnOptions
from hf_finetune.models.mlp import Options as MlpOptions

DATA = DataDescription(("no", "yes"), 12, 12, 1, (0.25,), (0.125,))
SMALL = {"channels": (4, 8), "convolutions_per_block": 1}


def cnn(**settings: object) -> Classifier:
    return build_model(CnnOptions(**{**SMALL, **settings}), DATA)


def trained(classifier: Classifier) -> Classifier:
    """Every tensor, batch norm's buffers included, away from its first value."""
    model = classifier.model.train()
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 1, 12, 12) + 1, labels=torch.randint(2, (8,))).loss.backward()
        optimizer.step()
    return classifier


def tensors(classifier: Classifier) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in classifier.model.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_classifier(trained(cnn()), tmp_path / "model")
    return tmp_path / "model"


def change_weights(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("kind", ["batch", "group", "none", "mlp"])
def test_saved_and_loaded_tensors_are_equal_in_every_bit(tmp_path, kind, capfd):
    options = MlpOptions() if kind == "mlp" else CnnOptions(norm=kind, **SMALL)
    classifier = trained(build_model(options, DATA))
    before = tensors(classifier)
    if kind == "batch":
        assert before["features.0.1.num_batches_tracked"] == 3
        assert before["features.0.1.running_mean"].abs().min() > 0
    save_classifier(classifier, tmp_path / "model")
    capfd.readouterr()
    generator_state = torch.get_rng_state()
    loaded = load_classifier(tmp_path / "model")
    assert torch.equal(torch.get_rng_state(), generator_state)  # nothing was drawn
    assert capfd.readouterr() == ("", "")  # no bars
    assert same(tensors(loaded), before)
    assert type(loaded.model) is type(classifier.model)
    assert not loaded.model.training
    assert loaded.channels_last is classifier.channels_last
    assert loaded.model.config.id2label == {0: "no", 1: "yes"}
    assert loaded.processor.to_dict() == classifier.processor.to_dict()
    classifier.model.eval()
    for batch in (1, 4):
        images = torch.randn(batch, 1, 12, 12)
        assert torch.equal(loaded.model(images).logits, classifier.model(images).logits)


def test_a_loaded_model_lies_in_memory_of_its_own(saved):
    model = load_classifier(saved).model
    # Tensors of a mapped file start at any byte, and products of them end in other bits.
    assert all(tensor.data_ptr() % 64 == 0 for tensor in model.state_dict().values())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with (saved / "model.safetensors").open("r+b") as file:
        file.seek(-400, 2)
        file.write(bytes(400))
    assert same(dict(model.state_dict()), before)


def test_plain_from_pretrained_gives_the_same_bits(saved):
    model = transformers.AutoModelForImageClassification.from_pretrained(saved)
    weights = load_file(saved / "model.safetensors")
    assert same(dict(model.state_dict()), weights)


def test_a_missing_tensor_is_drawn_as_torch_does_and_the_others_stay(saved):
    change_weights(saved, lambda weights: weights.pop("classifier.weight"))
    model = transformers.AutoModelForImageClassification.from_pretrained(saved)
    weights = load_file(saved / "model.safetensors")
    assert all(torch.equal(model.state_dict()[name], weights[name]) for name in weights)
    assert 0 < model.classifier.weight.abs().max() <= 8**-0.5


def test_a_folder_holds_no_pickle_and_nothing_is_left_beside_it(saved):
    assert sorted(file.name for file in saved.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    assert [entry.name for entry in saved.parent.iterdir()] == ["model"]


def test_saving_again_replaces_the_model_and_keeps_other_files(saved):
    (saved / "notes.txt").write_text("mine", encoding="utf-8")
    newer = trained(cnn())
    save_classifier(newer, saved)
    assert same(tensors(load_classifier(saved)), tensors(newer))
    assert (saved / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert [entry.name for entry in saved.parent.iterdir()] == ["model"]


def test_a_failed_save_leaves_the_old_folder_as_it_was(saved):
    class Unwilling:
        def save_pretrained(self, folder: Path) -> None:
            raise OSError("disk full")

    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    with pytest.raises(OSError, match="disk full"):
        save_classifier(Classifier(cnn().model, Unwilling(), False), saved)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before
    assert [entry.name for entry in saved.parent.iterdir()] == ["model"]


def test_saving_onto_a_file_is_refused(tmp_path):
    (tmp_path / "model").write_text("", encoding="utf-8")
    with pytest.raises(ModelError, match="this is a file"):
        save_classifier(cnn(), tmp_path / "model")


def test_a_channels_last_model_is_saved_and_loaded(tmp_path):
    classifier = trained(cnn())
    before = tensors(classifier)
    classifier.model.to(memory_format=torch.channels_last)
    save_classifier(classifier, tmp_path / "model")
    assert same(tensors(load_classifier(tmp_path / "model")), before)


def test_not_a_number_and_minus_zero_are_values_like_others(tmp_path):
    classifier = cnn()
    with torch.no_grad():
        classifier.model.classifier.bias.copy_(torch.tensor([float("nan"), -0.0]))
    save_classifier(classifier, tmp_path / "model")
    bias = load_classifier(tmp_path / "model").model.classifier.bias
    assert bias[0].isnan()
    assert bias[1].signbit()


DAMAGE = {
    "dropped": (
        lambda weights: weights.pop("features.1.1.running_var"),
        ["features.1.1.running_var is missing in the file"],
    ),
    "added": (
        lambda weights: weights.update(extra=torch.zeros(1)),
        ["extra is not in the model"],
    ),
    "renamed": (
        lambda weights: weights.update({"head.weight": weights.pop("classifier.weight")}),
        ["head.weight is not in the model", "classifier.weight is missing in the file"],
    ),
    "reshaped": (
        lambda weights: weights.update({"classifier.weight": torch.zeros(3, 8)}),
        ["classifier.weight is float32 [3, 8] in the file, float32 [2, 8] in the model"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_caught_and_the_tensors_named(saved, damage, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    verbosity = transformers.logging.get_verbosity()
    change, messages = DAMAGE[damage]
    change_weights(saved, change)
    with pytest.raises(ModelError) as caught:
        load_classifier(saved)
    assert str(caught.value).startswith(f"{saved}: the weights don't fit the model: ")
    assert all(message in str(caught.value) for message in messages)
    assert caplog.records == []  # transformers' own report would say it a second time
    assert transformers.logging.get_verbosity() == verbosity


def test_weights_that_would_be_rounded_are_caught(saved):
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    (saved / "config.json").write_text(
        json.dumps({**config, "dtype": "bfloat16"}), encoding="utf-8"
    )
    with pytest.raises(ModelError, match=r"float32 \[2, 8\] in the file, bfloat16 \[2, 8\]"):
        load_classifier(saved)


def test_an_error_names_only_the_first_tensors(saved):
    change_weights(saved, lambda weights: [weights.pop(name) for name in list(weights)[1:]])
    with pytest.raises(ModelError, match="; and 5 more"):
        load_classifier(saved)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(ModelError, match=rf"{name} \(.*\) is missing; the folder has "):
        load_classifier(saved)


def test_what_a_killed_save_left_is_removed(tmp_path):
    for name in (".model.77.partial", ".model.best.77.partial", ".model.77", ".models.7.partial"):
        (tmp_path / name).mkdir()
    save_classifier(cnn(), tmp_path / "model")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".model.77", ".model.best.77.partial", ".models.7.partial", "model"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ModelError, match="there is no such folder"):
        load_classifier(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_truncated_file_is_an_error_of_the_folder(saved, name):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="this model folder can't be loaded"):
        load_classifier(saved)


def test_code_in_a_folder_is_not_run(saved):
    config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "stranger", "auto_map": {"AutoConfig": "code.Config"}}
    (saved / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (saved / "code.py").write_text("raise SystemExit", encoding="utf-8")
    with pytest.raises(ModelError, match="trust_remote_code"):
        load_classifier(saved)


def vit() -> Classifier:
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=8,
        patch_size=4,
        num_labels=3,
    )
    model = transformers.ViTForImageClassification(config)
    return Classifier(model, transformers.ViTImageProcessorPil(size=8), False)


def test_transformers_own_models_are_checked_under_either_kind_of_names(tmp_path):
    classifier = vit()
    save_classifier(classifier, tmp_path / "own")
    own_names = load_file(tmp_path / "own" / "model.safetensors").keys()
    assert own_names == classifier.model.state_dict().keys()
    assert same(tensors(load_classifier(tmp_path / "own")), tensors(classifier))

    classifier.model.save_pretrained(tmp_path / "original")
    classifier.processor.save_pretrained(tmp_path / "original")
    original_names = load_file(tmp_path / "original" / "model.safetensors").keys()
    assert original_names != own_names  # the trap of STACK.md is really there
    assert same(tensors(load_classifier(tmp_path / "original")), tensors(classifier))

    dropped = next(name for name in original_names if "layer.0" in name)
    change_weights(tmp_path / "original", lambda weights: weights.pop(dropped))
    with pytest.raises(ModelError, match=f"{dropped} is missing in the file"):
        load_classifier(tmp_path / "original")


def test_shards_are_read_together(tmp_path):
    classifier = cnn()
    classifier.model.save_pretrained(tmp_path, max_shard_size=1000)
    classifier.processor.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert same(tensors(load_classifier(tmp_path)), tensors(classifier))


def test_tied_tensors_stand_once_in_a_file(tmp_path):
    from hf_finetune.models.checkpoint_files import _tensors_of_model

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(2, 2, bias=False)
            self.two = nn.Linear(2, 2, bias=False)
            self.two.weight = self.one.weight
            self.three = nn.Linear(2, 2, bias=False)

    model = Tied()
    in_file = {"one.weight": model.one.weight}
    assert sorted(_tensors_of_model(model, in_file)) == ["one.weight", "three.weight"]


@pytest.mark.parametrize("ending", ["pt", "pth", "safetensors"])
def test_a_state_dict_file_is_loaded(tmp_path, ending):
    source, target = trained(cnn()), cnn()
    file = tmp_path / f"model.{ending}"
    if ending == "safetensors":
        save_file(source.model.state_dict(), file)
    else:
        torch.save(source.model.state_dict(), file)
    load_state_dict_file(target, file)
    assert same(tensors(target), tensors(source))


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.module.", "net."])
def test_a_state_dict_of_a_wrapped_model_is_loaded(tmp_path, wrapper):
    source, target = trained(cnn()), cnn()
    weights = {f"{wrapper}{name}": value for name, value in source.model.state_dict().items()}
    torch.save(weights, tmp_path / "model.pt")
    load_state_dict_file(target, tmp_path / "model.pt")
    assert same(tensors(target), tensors(source))
    weights["other"] = torch.zeros(1)  # then it is no wrapped model's
    torch.save(weights, tmp_path / "model.pt")
    with pytest.raises(ModelError, match="is missing in the file"):
        load_state_dict_file(target, tmp_path / "model.pt")


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_state_dict_that_does_not_fit_leaves_the_model_as_it_was(tmp_path, damage):
    change, messages = DAMAGE[damage]
    weights = dict(trained(cnn()).model.state_dict())
    change(weights)
    torch.save(weights, tmp_path / "model.pt")
    target = cnn()
    before = tensors(target)
    with pytest.raises(ModelError) as caught:
        load_state_dict_file(target, tmp_path / "model.pt")
    assert all(message in str(caught.value) for message in messages)
    assert same(tensors(target), before)


def test_a_load_that_changes_a_value_is_caught(tmp_path):
    source, target = cnn(), cnn()
    torch.save(source.model.state_dict(), tmp_path / "model.pt")

    def round_off(model: nn.Module, _: object) -> None:
        model.classifier.weight.data = model.classifier.weight.data.bfloat16().float()

    target.model.register_load_state_dict_post_hook(round_off)
    with pytest.raises(ModelError, match=r"classifier\.weight has other values in the model"):
        load_state_dict_file(target, tmp_path / "model.pt")


def test_a_pickled_model_is_refused(tmp_path):
    torch.save(cnn().model, tmp_path / "model.pth")
    with pytest.raises(ModelError, match=r"pickled object.*torch\.save\(model\.state_dict\(\)"):
        load_state_dict_file(cnn(), tmp_path / "model.pth")


def test_a_training_checkpoint_is_not_a_state_dict(tmp_path):
    torch.save({"model": cnn().model.state_dict(), "epoch": 3}, tmp_path / "model.pt")
    with pytest.raises(ModelError, match="no state_dict, it holds model, epoch"):
        load_state_dict_file(cnn(), tmp_path / "model.pt")
    torch.save([torch.zeros(1)], tmp_path / "model.pt")
    with pytest.raises(ModelError, match="it holds list"):
        load_state_dict_file(cnn(), tmp_path / "model.pt")


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a file", b"version https://git-lfs"])
def test_an_unreadable_state_dict_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=name):
        load_state_dict_file(cnn(), tmp_path / name)


def test_a_missing_state_dict_file_is_named(tmp_path):
    with pytest.raises(ModelError, match="there is no such file"):
        load_state_dict_file(cnn(), tmp_path / "model.pt")
