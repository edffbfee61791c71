"""Names in a configuration are names of files, and every room's listing is complete."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from hf_finetune.errors import UserError
from hf_finetune.registry import VERBS, kind, kind_names, usual_name

PACKAGE = Path(__file__).resolve().parent.parent / "hf_finetune"

# Written out by hand: a listing that found nothing would agree with itself.
EXPECTED = {
    "data": {"corrupt_mnist", "mnist", "fashion_mnist", "cifar10", "image_folder"},
    "models": {"auto_audio", "auto_image", "cnn", "mlp"},
    "losses": {"cross_entropy", "focal", "binary"},
    "engines": {"trainer", "loop"},
    "trackers": {"jsonl", "comet", "tensorboard", "trackio", "wandb", "mlflow"},
}


def defines(path: Path, verb: str) -> bool:
    body = ast.parse(path.read_text()).body
    return any(isinstance(node, ast.FunctionDef) and node.name == verb for node in body)


@pytest.mark.parametrize("room", sorted(VERBS))
def test_a_room_lists_its_kinds(room: str):
    assert set(kind_names(room)) >= EXPECTED[room]
    files = {path.stem for path in (PACKAGE / room).glob("*.py") if defines(path, VERBS[room])}
    assert set(kind_names(room)) == files - {"__init__"}


@pytest.mark.parametrize("room", sorted(VERBS))
def test_every_kind_keeps_its_contract(room: str):
    for name in kind_names(room):
        module = kind(room, name)
        assert callable(getattr(module, VERBS[room]))
        if room in ("data", "models", "losses"):
            assert module.Options.model_fields["name"].default == name


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("fashionmnist", "fashion_mnist"),
        ("fashion-mnist", "fashion_mnist"),
        ("Fashion_MNIST", "fashion_mnist"),
        ("cifar", "cifar10"),
        ("CIFAR-10", "cifar10"),
        ("mnist", "mnist"),
        ("emnist", "emnist"),
    ],
)
def test_usual_spellings_are_understood(word: str, name: str):
    from hf_finetune.config import config_from
    from hf_finetune.errors import ConfigError

    assert usual_name(word, kind_names("data")) == name
    tree = {"data": {"name": word}, "model": {"name": "cnn"}}
    if name in kind_names("data"):
        assert config_from(tree).data.name == name
    else:
        with pytest.raises(ConfigError, match="Did you mean 'mnist'"):
            config_from(tree)


def test_an_unknown_kind_is_named_with_its_nearest():
    with pytest.raises(UserError, match=r"models: unknown name 'cnnn'. Did you mean 'cnn'"):
        kind("models", "cnnn")
    with pytest.raises(UserError, match=r"Allowed: auto_audio, auto_image, cnn, log_mel_cnn, mlp"):
        kind("models", "transformer")
