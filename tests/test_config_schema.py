"""The JSON schema that editors use: accepts what a configuration may be, and no misspelt key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from hf_finetune.config import config_schema, load_config
from hf_finetune.config.yaml_text import read_yaml

LEAST = "data: {name: corrupt_mnist}\nmodel: {name: cnn}\n"
CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


def validator() -> Any:
    schema = config_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configs_are_valid(path: Path) -> None:
    load_config(path)
    validator().validate(read_yaml(path.read_text(encoding="utf-8"), path.name).tree)


@pytest.mark.parametrize(
    "text",
    [
        LEAST,
        f"{LEAST}loss: {{label_smoothing: 0.1}}\n",
        f"{LEAST}train: {{schedule: {{warmup_steps: 3}}}}\n",
        f"{LEAST}train: {{schedule: {{name: one_cycle}}}}\n",
        "data: {name: corrupt_mnist}\nmodel: {name: cnn, preset: course, dropout: 0.1}\n",
    ],
)
def test_what_a_user_may_leave_out_is_not_demanded(text: str) -> None:
    validator().validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    "text",
    [
        "data: {name: corrupt_mnist}\n",
        "data: {root: x}\nmodel: {name: cnn}\n",
        "data: {name: corrupt_mnist}\nmodel: {channels: [8]}\n",
        "data: {name: corrupt_mnist}\nmodel: {name: cnn, hidden_sizes: [8]}\n",
        f"{LEAST}train: {{learning_rat: 0.1}}\n",
        f"{LEAST}sed: 1\n",
        f"{LEAST}seed: -1\n",
        f"{LEAST}train: {{schedule: {{name: linear, gamma: 0.1}}}}\n",
        f"{LEAST}train: {{schedule: {{name: zzz}}}}\n",
    ],
)
def test_faulty_configs_are_not_valid(text: str) -> None:
    assert not validator().is_valid(yaml.safe_load(text))


def test_descriptions_are_the_docstrings() -> None:
    schema = config_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    train = schema["$defs"]["TrainOptions"]["properties"]
    assert train["max_grad_norm"]["description"] == "Clip the gradient's norm to this; 0 leaves it."
    assert schema["properties"]["seed"]["description"].startswith("Decides weights")


def test_every_section_is_closed() -> None:
    schema = config_schema()
    for section in [schema, *schema["$defs"].values()]:
        assert section["additionalProperties"] is False
