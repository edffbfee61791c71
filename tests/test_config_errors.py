"""Faults of a configuration: each told once, with its line, in plain words, all together."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

from hf_finetune.config import RunConfig, config_from, parse_config
from hf_finetune.config.renames import GONE, RENAMED, foreign_advice
from hf_finetune.config.tree import key_paths
from hf_finetune.errors import ConfigError
from hf_finetune.registry import kind_names

LEAST = "data: {name: corrupt_mnist}\nmodel: {name: cnn}\n"


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "x.yaml")
    return caught.value.problems


def only(line: str, where: str = "x.yaml:3: ") -> str:
    """The one problem that a third line makes, without its place."""
    (problem,) = problems(f"{LEAST}{line}\n")
    assert problem.startswith(where)
    return problem.removeprefix(where)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            "train: {learning_rat: 1}",
            "unknown key 'train.learning_rat'. Did you mean 'train.learning_rate'?",
        ),
        (
            "train: {learningRate: 1}",
            "unknown key 'train.learningRate'. Did you mean 'train.learning_rate'?",
        ),
        ("models: {name: cnn}", "unknown key 'models'. Did you mean 'model'?"),
        ("learning_rat: 1", "unknown key 'learning_rat'. Did you mean 'train.learning_rate'?"),
        (
            "learning_rate: 1",
            "unknown key 'learning_rate'. It belongs under 'train': write train.learning_rate.",
        ),
        (
            "train: {warmup_ratio: 0.1}",
            "unknown key 'train.warmup_ratio'. It belongs under 'train.schedule': "
            "write train.schedule.warmup_ratio.",
        ),
        (
            "features: {dropout: 0.1}",
            "unknown key 'features.dropout'. It belongs under 'model': write model.dropout.",
        ),
        (
            "train: {seed: 1}",
            "unknown key 'train.seed'. It belongs at the top level: write seed.",
        ),
        (
            "train.learning_rate: 1",
            "unknown key 'train.learning_rate'. In a file, write learning_rate below 'train:'.",
        ),
        (
            "features: {zzzzzz: 1}",
            "unknown key 'features.zzzzzz'. Allowed in 'features': augmentation, audio, "
            "keep_frozen.",
        ),
        (
            "train: {schedule: {name: linear, gamma: 0.1}}",
            "unknown key 'train.schedule.gamma': 'linear' has none. "
            "It belongs to multi_step or step.",
        ),
    ],
)
def test_unknown_keys(line: str, problem: str) -> None:
    assert only(line) == problem


def test_of_two_like_keys_the_one_of_the_same_section_is_meant() -> None:
    text = "data: {name: corrupt_mnist, split: {sed: 1}}\nmodel: {name: cnn}\n"
    told = "x.yaml:1: unknown key 'data.split.sed'. Did you mean 'data.split.seed'?"
    assert problems(text) == (told,)


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("evaluation_strategy", "Write train.eval_strategy."),
        ("lr_scheduler_type", "Write train.schedule.name."),
        ("optim", "Write train.optimizer.name."),
        ("label_smoothing_factor", "Write loss.label_smoothing."),
        ("no_cuda", "Write compute.device: cpu."),
        ("bf16", "Write compute.precision: bf16."),
        ("lr", "Write train.learning_rate."),
        ("epochs", "Write train.num_train_epochs."),
        ("batch_size", "Write train.per_device_train_batch_size."),
        ("output_dir", "Write run.directory."),
        ("report_to", "Write trackers."),
        ("adam_beta1", "Write train.optimizer.betas: [beta1, beta2]."),
        ("save_steps", "Write train.save_every_evaluations."),
        ("overwrite_output_dir", "A run never overwrites another: leave it out."),
        ("load_best_model_at_end", "That is always done here: leave it out."),
        (
            "weight_decay",
            "It belongs under 'train.optimizer': write train.optimizer.weight_decay.",
        ),
        ("save_total_limit", None),
        ("dataloader_num_workers", None),
    ],
)
def test_arguments_of_trainer_are_known_wherever_written(key: str, advice: str | None) -> None:
    moved = f"It belongs under 'train': write train.{key}."
    assert only(f"{key}: 1") == f"unknown key '{key}'. {advice or moved}"
    if advice is not None:
        assert only(f"train: {{{key}: 1}}") == f"unknown key 'train.{key}'. {advice}"


def test_every_argument_of_the_installed_trainer_is_explained() -> None:
    spec = importlib.util.find_spec("transformers")
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse((Path(spec.origin).parent / "training_args.py").read_text(encoding="utf-8"))
    (arguments,) = (
        [field.target.id for field in part.body if isinstance(field, ast.AnnAssign)]  # type: ignore[union-attr]
        for part in tree.body
        if isinstance(part, ast.ClassDef) and part.name == "TrainingArguments"
    )
    assert len(arguments) > 80
    known = {path[-1] for path in key_paths(RunConfig)}
    unexplained = [key for key in arguments if key not in known and foreign_advice(key) is None]
    assert unexplained == []


def test_advice_leads_to_keys_that_exist() -> None:
    known = {".".join(path) for path in key_paths(RunConfig)}
    targets = {target.split(": ")[0].split(" ")[-1] for target in RENAMED.values()}
    assert targets - known == set()
    assert not RENAMED.keys() & GONE.keys()
    # A key of ours is never taken for somebody else's.
    assert not {path[-1] for path in key_paths(RunConfig)} & (RENAMED.keys() | GONE.keys())


@pytest.mark.parametrize("name", ["corupt_mnist", "corrupt-mnits", "CoruptMNIST"])
def test_misspelt_names_of_kinds(name: str) -> None:
    (problem,) = problems(f"data: {{name: {name}}}\nmodel: {{name: cnn}}")
    assert problem == (
        f"x.yaml:1: data.name: unknown name '{name}'. Did you mean 'corrupt_mnist'? "
        f"Allowed: {', '.join(kind_names('data'))}."
    )


def test_keys_of_a_misspelt_kind_are_checked_as_of_the_meant_one() -> None:
    models = ", ".join(kind_names("models"))
    text = "data: {name: corupt-mnist, rooot: x, root: 3}\nmodel: {name: zzz, chanels: [1]}"
    assert (
        problems(text)
        == (
            "x.yaml:1: data.name: unknown name 'corupt-mnist'. Did you mean 'corrupt_mnist'? "
            f"Allowed: {', '.join(kind_names('data'))}.",
            "x.yaml:1: unknown key 'data.rooot'. Did you mean 'data.root'?",
            "x.yaml:1: data.root: must be text, got 3 (a whole number). Put it in quotes: '3'.",
            f"x.yaml:2: model.name: unknown name 'zzz'. Allowed: {models}.",
            "x.yaml:2: unknown key 'model.chanels'. Did you mean 'model.channels'?",
        )[: len(problems(text))]
    )
    assert len(problems(text)) == 5


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("seed: -1", "seed: must be a whole number of at least 0, got -1 (a whole number)."),
        ("seed: true", "seed: must be a whole number of at least 0, got true."),
        (
            "train: {logging_steps: 0}",
            "train.logging_steps: must be a whole number greater than 0, got 0 (a whole number).",
        ),
        (
            "train: {num_train_epochs: '3'}",
            "train.num_train_epochs: must be a whole number greater than 0, got '3' (text). "
            "Write 3 without quotes.",
        ),
        (
            "train: {learning_rate: '0,1'}",
            "train.learning_rate: must be a number greater than 0, got '0,1' (text). "
            "Write 0.1 without quotes.",
        ),
        (
            "train: {learning_rate: null}",
            "train.learning_rate: must be a number greater than 0, got nothing (null).",
        ),
        (
            "train: {eval_strategy: epochs}",
            "train.eval_strategy: must be 'epoch' or 'steps', got 'epochs' (text). "
            "Did you mean 'epoch'?",
        ),
        (
            "train: {optimizer: {nesterov: yes}}",
            "train.optimizer.nesterov: must be true or false, got 'yes' (text). Write true.",
        ),
        (
            "train: {optimizer: {betas: [0.9]}}",
            "train.optimizer.betas: must be a list of 2 items, each a number of at least 0 and "
            "less than 1, got [0.9] (a list).",
        ),
        (
            "train: {optimizer: {betas: [0.9, 1]}}",
            "train.optimizer.betas: must be a list of 2 items, each a number of at least 0 and "
            "less than 1, got 1 (a whole number) as item 2.",
        ),
        (
            "train: {max_steps: x}",
            "train.max_steps: must be a whole number greater than 0 or null, got 'x' (text).",
        ),
        (
            "compute: {num_threads: 0}",
            "compute.num_threads: must be 'auto' or a whole number greater than 0 and of at most "
            "1024, got 0 (a whole number).",
        ),
        (
            "loss: {class_weights: {zero: 1, one: -1}}",
            "loss.class_weights: must be 'none' or 'auto' or a section whose values are each "
            "a number greater than 0, got -1 (a whole number) for 'one'.",
        ),
        (
            f"seed: {'x' * 200}",
            f"seed: must be a whole number of at least 0, got '{'x' * 56}… (text).",
        ),
        (
            "run: {directory: 2e-5}",
            "run.directory: must be text, got 2e-05 (a number). Put it in quotes: '2e-05'.",
        ),
        (
            "trackers: jsonl",
            "trackers: must be a list, each item text, got 'jsonl' (text). Write a list: [jsonl].",
        ),
        (
            "train: [a]",
            'train: must be a section, got ["a"] (a list). Write its keys below it, '
            "or leave it out.",
        ),
        (
            "train:",
            "train: must be a section, got nothing (null). Write its keys below it, "
            "or leave it out.",
        ),
        (
            "loss: cross_entropy",
            "loss: must be a section, got 'cross_entropy' (text). "
            "Write loss: {name: cross_entropy}.",
        ),
    ],
)
def test_values_of_the_wrong_kind(line: str, problem: str) -> None:
    assert only(line) == problem


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("train: {engine: loops}", "train.engine: unknown engine 'loops'. Did you mean 'loop'?"),
        (
            "train: {eval_strategy: steps}",
            "train: eval_steps belongs to eval_strategy: steps; give both or neither.",
        ),
        (
            "train: {schedule: {name: step}}",
            "train.schedule: give every_epochs or every_steps, one of the two.",
        ),
        ("trackers: [jsonll]", "trackers: unknown tracker 'jsonll'. Did you mean 'jsonl'?"),
        (
            "trackers: [jsonl, jsonl]",
            "trackers: jsonl, jsonl names a tracker twice. Name each once.",
        ),
    ],
)
def test_validators_speak_for_themselves(line: str, problem: str) -> None:
    assert only(line) == problem


def test_missing_sections_and_names() -> None:
    first, second = problems("seed: 1\n")
    assert first.startswith("x.yaml: the section 'data' is missing. Its name can be ")
    assert second.startswith("x.yaml: the section 'model' is missing. Its name can be ")
    assert all(name in second for name in kind_names("models"))
    first, second = problems("data: {}\nmodel: {dropout: 0.1}\n")
    assert first.startswith("x.yaml:1: the key 'data.name' is missing. It can be ")
    assert second.startswith("x.yaml:2: the key 'model.name' is missing. It can be ")


def test_what_is_misspelt_is_not_called_missing_too() -> None:
    assert problems("dta: {name: corrupt_mnist}\nmodel: {nam: cnn}\n") == (
        "x.yaml:1: unknown key 'dta'. Did you mean 'data'?",
        "x.yaml:2: unknown key 'model.nam'. Did you mean 'model.name'?",
    )


def test_no_fault_is_told_that_only_follows_from_another() -> None:
    text = f"{LEAST}train: {{eval_strategy: steps, eval_stepss: 5}}\n"
    expected = "x.yaml:3: unknown key 'train.eval_stepss'. Did you mean 'train.eval_steps'?"
    assert problems(text) == (expected,)


def test_all_faults_at_once_in_the_order_of_the_file() -> None:
    told = problems("""\
name: my run
data:
  name: corrupt_mnist
  rooot: x
  split: {validation_fraction: 2}
model: {name: cnn, channels: [8, 0]}
loss: {label_smoothing: .nan}
train:
  lr: 1
  engine: loops
  learning_rate: x
  learning_rate: 1
  schedule: {name: cosin, warmup_steps: -1}
trackers: [zzz]
""")
    lines = [int(problem.split(":")[1]) for problem in told]
    assert lines == [1, 4, 5, 6, 7, 9, 10, 12, 13, 13, 14]
    text = "\n".join(told)
    for jargon in ("pydantic", "http", "Input should", "literal", "valid list", "NoneType"):
        assert jargon not in text


def test_a_kind_with_a_preset_reports_its_own_keys() -> None:
    told = problems("data: {name: corrupt_mnist}\nmodel: {name: cnn, preset: courze, norm: bach}\n")
    assert told == (
        "x.yaml:2: model.preset: must be 'default', 'residual' or 'course', got 'courze' (text). "
        "Did you mean 'course'?",
        "x.yaml:2: model.norm: must be 'batch', 'group' or 'none', got 'bach' (text). "
        "Did you mean 'batch'?",
    )


def test_unhashable_names() -> None:
    tree = {"data": {"name": ["corrupt_mnist"]}, "model": {"name": {"a": 1}}}
    with pytest.raises(ConfigError) as caught:
        config_from(tree)
    first, second = caught.value.problems
    assert first.startswith('data.name: unknown name ["corrupt_mnist"] (a list). Allowed: ')
    assert second.startswith("model.name: unknown name a section. Allowed: ")
