"""The door of the models room: names, kinds and the lazily imported functions."""

from __future__ import annotations

import pytest
import transformers

from hf_finetune import models
from hf_finetune.errors import UserError
from hf_finetune.models import DataDescription, ModelOptions, auto_classes, build_model
from hf_finetune.models.mlp import Options
from hf_finetune.models.modeling_mlp import MlpConfig, MlpForImageClassification
from hf_finetune.registry import kind_names

DATA = DataDescription(("a", "b"), 4, 4, 1, (0.5,), (0.2,))


def test_the_kinds_are_the_files_with_build():
    assert {"cnn", "mlp"} <= set(kind_names("models"))
    assert "from_scratch" not in kind_names("models")


def test_build_model_follows_the_name():
    assert type(build_model(Options(), DATA).model) is MlpForImageClassification
    with pytest.raises(
        UserError, match=r"ModelOptions\(name='mlpp'\): these are no kind's own options"
    ):
        build_model(ModelOptions(name="mlpp"), DATA)


def test_what_is_built_is_known_to_the_auto_classes(monkeypatch):
    done = []
    register = auto_classes.register
    monkeypatch.setattr(auto_classes, "register", lambda: done.append(register()))
    build_model(Options(), DATA)
    assert done == [None]
    assert type(transformers.AutoConfig.for_model("hf_finetune_mlp")) is MlpConfig


def test_every_name_of_the_door_is_there():
    for name in models._HOMES:
        assert callable(getattr(models, name))
    with pytest.raises(AttributeError, match="no attribute 'load_clasifier'"):
        models.load_clasifier  # noqa: B018
