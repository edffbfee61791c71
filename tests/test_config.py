"""The configuration as a whole: reading, defaults, writing back, and how long it takes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

import hf_finetune
from hf_finetune.config import (
    RunConfig,
    config_from,
    config_schema,
    dump_config,
    load_config,
    parse_config,
)
from hf_finetune.errors import ConfigError
from hf_finetune.registry import kind_names

LEAST = "data: {name: corrupt_mnist}\nmodel: {name: cnn}\n"
# Text that a careless reader or writer takes for something else.
NASTY = ["2e-5", "1E5", "60_000", "010", "0x1F", "1:30", "no", "on", "true", "~", "null", ".inf"]
NASTY += ["", " ", "2024-01-01", "a: b", "a #b", "- a", "<<", "*a", "&a", "!t", "@", "%", "é\n\tx"]
NASTY += ["'", '"', "{}", "[1]", "=", "x" * 300, "two words " * 30, "\x07", "\u2028", "🙂", "1_0.5"]


def test_defaults_fill_what_is_not_written() -> None:
    config = parse_config(LEAST)
    assert (config.seed, config.loss.name, config.trackers) == (0, "cross_entropy", ("jsonl",))
    assert config.train.learning_rate == 1e-3
    assert config.model.convolutions_per_block == 2  # type: ignore[attr-defined]


def test_every_kind_of_every_room_is_an_alternative() -> None:
    properties = config_schema()["properties"]
    for section, room in (("data", "data"), ("model", "models"), ("loss", "losses")):
        assert set(kinds_in(properties[section])) == set(kind_names(room))


def test_name_is_the_files_stem_unless_given(tmp_path: Path) -> None:
    path = tmp_path / "digits_cnn.v2.yaml"
    path.write_text(LEAST)
    assert load_config(path).name == "digits_cnn.v2"
    path.write_text(f"name: other\n{LEAST}")
    assert load_config(path).name == "other"
    assert load_config(path, ["name=third"]).name == "third"
    assert parse_config(LEAST).name == "run"


@pytest.mark.parametrize("name", ["my run", "a/b", "", "..", ".hidden", "-x", "é", "a\n"])
def test_name_must_make_a_folder(name: str) -> None:
    tree = {**yaml.safe_load(LEAST), "name": name}
    with pytest.raises(ConfigError, match=r"name: must be letters, digits"):
        config_from(tree)


def test_sections_that_name_no_kind_are_the_default_kind() -> None:
    text = LEAST + "loss: {label_smoothing: 0.1}\ntrain: {schedule: {warmup_steps: 5}}\n"
    config = parse_config(text)
    assert config.loss.label_smoothing == 0.1  # type: ignore[attr-defined]
    assert (config.train.schedule.name, config.train.schedule.warmup_steps) == ("constant", 5)


def test_config_from_takes_tuples_and_sections_and_leaves_its_argument_alone() -> None:
    parsed = parse_config(LEAST)
    tree: dict[str, Any] = {"data": parsed.data, "model": {"name": "cnn", "channels": (8.0, 16)}}
    config = config_from(tree, ["model.dropout=0.25"])
    assert config.data == parsed.data
    assert config.model.channels == (8, 16)  # type: ignore[attr-defined]
    assert tree["model"] == {"name": "cnn", "channels": (8.0, 16)}


def test_config_from_refuses_keys_that_are_not_text() -> None:
    with pytest.raises(ConfigError, match=r"^train: keys must be text, got 3\.$"):
        config_from({"train": {3: 1}})


def test_faults_of_a_mapping_are_told_by_key() -> None:
    with pytest.raises(ConfigError) as caught:
        config_from({**yaml.safe_load(LEAST), "seed": float("nan"), "sed": 1})
    assert caught.value.problems == (
        "unknown key 'sed'. Did you mean 'seed'?",
        "seed: must be a whole number of at least 0, got NaN (a number).",
    )


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        parse_config(LEAST).seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("text", NASTY)
def test_text_survives_writing_and_reading(text: str) -> None:
    tree = yaml.safe_load(LEAST)
    tree["run"] = {"directory": text}
    tree["loss"] = {"class_weights": {text: 0.5, f"{text}x": 2}}
    config = config_from(tree)
    written = dump_config(config)
    assert parse_config(written) == config
    assert yaml.safe_load(written)["run"]["directory"] == text  # and by others' readers


@pytest.mark.parametrize("number", [2e-5, 1e-8, 1e22, 5e-324, 0.1, 1 / 3, 3, 123456789.0])
def test_numbers_survive_writing_and_reading(number: float) -> None:
    config = config_from({**yaml.safe_load(LEAST), "train": {"learning_rate": number}})
    written = dump_config(config)
    assert parse_config(written).train.learning_rate == number
    assert yaml.safe_load(written)["train"]["learning_rate"] == number


def test_a_dump_holds_the_whole_tree_in_order_and_lists_in_one_line() -> None:
    written = dump_config(parse_config(LEAST))
    assert list(yaml.safe_load(written)) == list(RunConfig.model_fields)
    assert "  channels: [32, 64, 128]\n" in written
    assert "image_size: null\n" in written


def test_generated_configs_survive_writing_and_reading_and_satisfy_the_schema() -> None:
    configs = generated_configs(80)
    schema = jsonschema.Draft202012Validator(config_schema())
    for config in configs:
        written = dump_config(config)
        assert parse_config(written) == config
        schema.validate(yaml.safe_load(written))
    schedules = {config.train.schedule.name for config in configs}
    assert schedules == set(
        kinds_in(config_schema()["$defs"]["TrainOptions"]["properties"]["schedule"])
    )
    assert {config.model.name for config in configs} >= {"cnn", "mlp"}


def test_checking_a_config_is_quick_and_imports_no_torch(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(LEAST)
    code = f"""
import sys, time
from hf_finetune.config import load_config
load_config({str(path)!r})
print(time.process_time())
print([name for name in ("torch", "transformers", "numpy", "datasets") if name in sys.modules])
"""
    root = str(Path(hf_finetune.__file__).parents[1])
    answers = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": root},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()
        for _ in range(2)
    ]
    assert [imported for _, imported in answers] == ["[]", "[]"]
    # Seconds of computing since Python's start, which other work on the machine hardly changes;
    # the better of two, because the first may have to compile.
    assert min(float(seconds) for seconds, _ in answers) < 0.5


def kinds_in(schema: dict[str, Any]) -> list[str]:
    """Names of the kinds that a section's schema lists."""
    definitions = config_schema()["$defs"]
    references = [part["$ref"] for part in schema.get("oneOf", [schema])]
    return [
        definitions[reference.rsplit("/", 1)[1]]["properties"]["name"]["const"]
        for reference in references
    ]


def generated_configs(count: int) -> list[RunConfig]:
    """Configurations drawn from the schema; those that a validator refuses are drawn anew."""
    rng, schema, configs = random.Random(0), config_schema(), []
    for _ in range(40 * count):
        tree = drawn(schema, schema["$defs"], rng)
        try:
            configs.append(config_from(tree))
        except ConfigError:
            continue
        if len(configs) == count:
            return configs
    raise AssertionError(f"only {len(configs)} of {40 * count} trees were valid")


def drawn(schema: dict[str, Any], definitions: dict[str, Any], rng: random.Random) -> Any:
    """A value that satisfies a schema."""
    if "$ref" in schema:
        return drawn(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions, rng)
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return drawn(rng.choice(schema[several]), definitions, rng)
    if "const" in schema or "enum" in schema:
        return rng.choice(schema.get("enum") or [schema["const"]])
    kind = schema.get("type")
    if kind == "object":
        return drawn_object(schema, definitions, rng)
    if kind == "array":
        parts = schema.get("prefixItems") or [schema["items"]] * rng.randint(1, 4)
        return [drawn(part, definitions, rng) for part in parts]
    low = schema.get("minimum", schema.get("exclusiveMinimum", -5))
    high = schema.get("maximum", schema.get("exclusiveMaximum", low + 10))
    return {
        "integer": lambda: low + rng.randint(1, 9),
        "number": lambda: low + (high - low) * rng.choice([rng.random(), 2e-5, 1e-8, 0.5]),
        "boolean": lambda: rng.random() < 0.5,
        "string": lambda: rng.choice(NASTY),
        "null": lambda: None,
    }[str(kind)]()


def drawn_object(schema: dict[str, Any], definitions: dict[str, Any], rng: random.Random) -> Any:
    if "properties" not in schema:
        keys = [schema["propertyNames"]["const"]] if "propertyNames" in schema else "ab"
        return {key: drawn(schema["additionalProperties"], definitions, rng) for key in keys}
    known = {
        "engine": ["trainer", "loop"],
        "metric_for_best_model": ["accuracy", "loss"],
        "trackers": [["jsonl"]],
        "repo_id": ["me/x"],
        "language": [["de"]],
        "leave_out": [None, {"speaker": ["a", 1]}],
        "fold": [1],
    }
    if schema["properties"].keys() >= {"data", "train"}:
        known["name"] = ["a", "1.0", "2e-5", "no"]
    return {
        key: rng.choice(known[key]) if key in known else drawn(part, definitions, rng)
        for key, part in schema["properties"].items()
        if key in schema.get("required", [])
        or rng.random() < (0.8 if part.keys() & {"$ref", "oneOf"} else 0.3)
    }
