"""Overrides: typed as YAML, told in errors, and careful when they name another kind."""

from __future__ import annotations

import pytest

from hf_finetune.config import RunConfig, dump_config, parse_config
from hf_finetune.errors import ConfigError

LEAST = "data: {name: corrupt_mnist}\nmodel: {name: cnn}\n"
STEPS = f"{LEAST}train:\n  schedule:\n    name: step\n    every_epochs: 2\n    gamma: 0.1\n"


def overridden(*overrides: str, text: str = LEAST) -> RunConfig:
    return parse_config(text, "x.yaml", overrides)


def problems(*overrides: str, text: str = LEAST) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        overridden(*overrides, text=text)
    return caught.value.problems


def test_values_are_yaml() -> None:
    config = overridden(
        "train.learning_rate=2e-5",
        "data.root=/a=b/c",
        "model.channels=[8, 16]",
        "model.image_size=null",
        "train.schedule.name=cosine",
        "train.schedule.warmup_ratio=0.1",
        "loss.class_weights={no: 1, 'yes': 2}",
        "loss.class_weights.maybe=3",
        " seed = 1e3",
    )
    assert config.train.learning_rate == 2e-5
    assert config.data.root == "/a=b/c"  # type: ignore[attr-defined]
    assert config.model.channels == (8, 16)  # type: ignore[attr-defined]
    assert config.train.schedule.name == "cosine"
    assert config.loss.class_weights == {"no": 1, "yes": 2, "maybe": 3}  # type: ignore[attr-defined]
    assert config.seed == 1000


def test_the_last_of_two_wins() -> None:
    assert overridden("seed=1", "seed=2").seed == 2


def test_an_override_mends_a_faulty_line() -> None:
    assert overridden("seed=2", text=LEAST + "seed: -1\n").seed == 2


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("train.learning_rate", "must have the form section.key=value."),
        ("=1", "must have the form section.key=value."),
        ("train..seed=1", "must have the form section.key=value."),
        ("seed=", "has no value. Write null for nothing, '' for empty text."),
        (
            "train.learning_rat=1",
            "unknown key 'train.learning_rat'. Did you mean 'train.learning_rate'?",
        ),
        ("model={}", "the key 'model.name' is missing. It can be "),
        ("trian.seed=1", "unknown key 'trian'. Did you mean 'train'?"),
        ("model.name.x=1", "'model.name' is a value, not a section with keys."),
        ("seed=[1", "the value isn't valid YAML: "),
        ("data.root=@x", "the value isn't valid YAML: "),
        ("seed=.inf", "seed: '.inf' isn't a finite number. Write a finite one."),
        ("seed=1 # one", "'#' begins a comment here, and would be left out. Put the whole value "),
        ("name=a #b", "'#' begins a comment here"),
        ("name=#b", "'#' begins a comment here"),
        ("model.channels=[8, 16] #", "'#' begins a comment here"),
        ("seed=x", "seed: must be a whole number of at least 0, got 'x' (text)."),
        ("train={lr: 1}", "unknown key 'train.lr'. Write train.learning_rate."),
        (
            "train={max_steps: 1, max_steps: 2}",
            "'train.max_steps' is given twice, first in line 1. Keep one.",
        ),
    ],
)
def test_faults_cite_the_override(override: str, problem: str) -> None:
    (told,) = problems(override)
    assert told.startswith(f"override {override!r}: {problem}")


@pytest.mark.parametrize("value", ["a#b", "'a #b'", '"#"', "a#"])
def test_a_sign_that_begins_no_comment_is_kept(value: str) -> None:
    assert overridden(f"data.root={value}").data.root == value.strip("'\"")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("override", "limit"),
    [
        ("train.per_device_train_batch_size=100000000000000000000", "9,007,199,254,740,992"),
        ("model.channels=[8, 100000000000000000000]", "9,007,199,254,740,992"),
        ("loss.class_weights={a: 1, b: 100000000000000000000}", "9,007,199,254,740,992"),
        ("model.image_size=99999999999", "4096"),
        ("model={name: mlp, image_size: 4097}", "4096"),
        ("compute.num_threads=100000", "1024"),
    ],
)
def test_numbers_beyond_all_use_are_refused(override: str, limit: str) -> None:
    (told,) = problems(override)
    assert f"of at most {limit}" in told


def test_faults_of_the_file_and_of_overrides_come_together() -> None:
    told = problems("sed=1", "seed", text=f"{LEAST}train: {{lr: 1}}\n")
    assert [problem.split(": ")[0] for problem in told] == [
        "x.yaml:3",
        "override 'sed=1'",
        "override 'seed'",
    ]


def test_another_kind_keeps_what_both_know() -> None:
    text = f"{LEAST}train: {{schedule: {{name: linear, warmup_steps: 7}}}}\n"
    schedule = overridden("train.schedule.name=cosine", text=text).train.schedule
    assert (schedule.name, schedule.warmup_steps) == ("cosine", 7)  # type: ignore[union-attr]


def test_another_kind_refuses_what_only_the_old_one_knows() -> None:
    assert problems("train.schedule.name=cosine", text=STEPS) == (
        "override 'train.schedule.name=cosine': 'cosine' has no 'every_epochs' (x.yaml:6), given "
        "for 'step'. Drop it there, or override the section: 'train.schedule={name: cosine}'.",
    )


def test_a_section_given_whole_replaces_the_files() -> None:
    schedule = overridden("train.schedule={name: cosine}", text=STEPS).train.schedule
    assert schedule.name == "cosine"


def test_another_kind_drops_what_repeats_the_old_ones_defaults() -> None:
    text = f"{LEAST}train: {{schedule: {{name: reduce_on_plateau, factor: 0.1}}}}\n"
    assert overridden("train.schedule.name=linear", text=text).train.schedule.name == "linear"


def test_another_kind_applies_to_a_config_written_out_in_full() -> None:
    dumped = dump_config(overridden("model.preset=default"))
    config = overridden("model.hidden_sizes=[3]", "model.name=mlp", text=dumped)
    assert config.model.hidden_sizes == (3,)  # type: ignore[attr-defined]
    (problem,) = problems("model.name=mlp", text=dumped.replace("kernel_size: 3", "kernel_size: 5"))
    assert problem.startswith("override 'model.name=mlp': 'mlp' has no 'kernel_size' (x.yaml:")


def test_keys_overridden_for_the_wrong_kind_are_faults_of_their_own() -> None:
    told = problems("train.schedule.name=linear", "train.schedule.gamma=0.5")
    assert told == (
        "override 'train.schedule.gamma=0.5': unknown key 'train.schedule.gamma': 'linear' has "
        "none. It belongs to multi_step or step.",
    )
