"""Strict YAML: numbers as people write them, and what is refused, with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_finetune.config import load_config, parse_config
from hf_finetune.config.yaml_text import read_yaml
from hf_finetune.errors import ConfigError

LEAST = "data: {name: corrupt_mnist}\nmodel: {name: cnn}\n"


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "x.yaml")
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-5", 2e-5),
        ("1E5", 1e5),
        ("1e-3", 1e-3),
        ("-1.5E+3", -1500.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("60_000", 60000),
        ("1_000.5", 1000.5),
        ("+3", 3),
        ("0", 0),
        ("true", True),
        ("False", False),
        ("TRUE", True),
        ("~", None),
        ("", None),
        ("'2e-5'", "2e-5"),
        # What YAML 1.1 makes of these surprises people.
        ("no", "no"),
        ("yes", "yes"),
        ("off", "off"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_", "1_"),
        ("nan", "nan"),
        ("1e", "1e"),
        ("!!str 5", "5"),
    ],
)
def test_plain_values(text: str, value: object) -> None:
    read = read_yaml(f"a: {text}", "x.yaml").tree["a"]
    assert (read, type(read)) == (value, type(value))


def test_keys_are_text_as_written() -> None:
    tree = read_yaml("0: a\nyes: b\n1e3: c\n~: d\n", "x.yaml").tree
    assert tree == {"0": "a", "yes": "b", "1e3": "c", "~": "d"}


@pytest.mark.parametrize("number", ["1e3", "1000.0", "1_000", "1000"])
def test_whole_floats_do_for_whole_numbers(number: str) -> None:
    config = parse_config(LEAST + f"seed: {number}\ncompute: {{num_threads: 2.0}}\n")
    assert (config.seed, type(config.seed)) == (1000, int)
    assert (config.compute.num_threads, type(config.compute.num_threads)) == (2, int)


def test_whole_floats_in_lists_become_whole_numbers() -> None:
    config = parse_config("data: {name: corrupt_mnist}\nmodel: {name: cnn, channels: [8.0, 1e1]}")
    assert config.model.channels == (8, 10)  # type: ignore[attr-defined]


@pytest.mark.parametrize("number", ["1.5", "15e-1", "1e300"])
def test_other_floats_do_not(number: str) -> None:
    (problem,) = problems(LEAST + f"seed: {number}\n")
    assert problem.startswith("x.yaml:3: seed: must be a whole number of at least 0, got 1")


def test_every_key_given_twice_is_told_with_both_lines() -> None:
    text = (
        "seed: 1\ndata:\n  name: corrupt_mnist\n  root: a\n  root: b\nmodel: {name: cnn}\nseed: 2\n"
    )
    assert problems(text) == (
        "x.yaml:5: 'data.root' is given twice, first in line 4. Keep one.",
        "x.yaml:7: 'seed' is given twice, first in line 1. Keep one.",
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (".inf", "x.yaml:3: seed: '.inf' isn't a finite number. Write a finite one."),
        ("-.INF", "x.yaml:3: seed: '-.INF' isn't a finite number. Write a finite one."),
        (".nan", "x.yaml:3: seed: '.nan' isn't a finite number. Write a finite one."),
        ("1e999", "x.yaml:3: seed: '1e999' isn't a finite number. Write a finite one."),
        ("9" * 5000, f"x.yaml:3: seed: '{'9' * 20}' isn't a finite number. Write a finite one."),
        ("!!int x", "x.yaml:3: seed: 'x' can't have the tag '!!int'. Leave the tag out."),
        ("!!bool yes", "x.yaml:3: seed: 'yes' can't have the tag '!!bool'. Leave the tag out."),
        ("!!set {a}", "x.yaml:3: seed: the tag '!!set' isn't allowed. Leave it out."),
        (
            "!!python/name:os.getcwd ''",
            "x.yaml:3: seed: '' can't have the tag '!!python/name:os.getcwd'. Leave the tag out.",
        ),
        (
            "!!python/object:a.b {}",
            "x.yaml:3: seed: the tag '!!python/object:a.b' isn't allowed. Leave it out.",
        ),
    ],
)
def test_refused_values(text: str, problem: str) -> None:
    assert problems(LEAST + f"seed: {text}\n") == (problem,)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "x.yaml: is empty. It needs at least a 'data' and a 'model' section."),
        ("# nothing\n", "x.yaml: is empty. It needs at least a 'data' and a 'model' section."),
        ("- a\n", "x.yaml:1: must hold 'key: value' lines, got a list."),
        ("a\n", "x.yaml:1: must hold 'key: value' lines, got a single value."),
        ("a:\n\tb: 1\n", "x.yaml:2: not valid YAML: a tab stands where YAML takes spaces only."),
        ("a: 1\nb: 1: 2\n", "x.yaml:2: not valid YAML: mapping values are not allowed here."),
        ("a: 1\n---\nb: 1\n", "x.yaml:2: not valid YAML: a second document begins ('---'); "),
        ("a: *b\n", "x.yaml:1: not valid YAML: found undefined alias 'b'."),
        ("a: 1\nb: \x01\n", "x.yaml:2: not valid YAML: the character #x01 isn't text."),
        ("a: [\nb: 1\n", "x.yaml:"),
        (
            "a: &a [*a]\n",
            "x.yaml: not valid YAML: nested too deeply, or an anchor that holds itself.",
        ),
        ("a: &a {<<: *a}\n", "x.yaml: not valid YAML: nested too deeply, or an anchor that "),
        (f"a: {'[' * 3000}", "x.yaml: not valid YAML: nested too deeply"),
        (f"{LEAST}<<: 5\n", "x.yaml:3: '<<' takes a section or a list of sections."),
        (f"{LEAST}? [a]\n: 1\n", "x.yaml:3: a key must be plain text."),
    ],
)
def test_text_that_is_no_configuration(text: str, problem: str) -> None:
    first, *_ = problems(text)
    assert first.startswith(problem)
    assert "\n" not in first


def test_an_unclosed_quote_tells_where_it_began() -> None:
    (problem,) = problems("a: 'b\nc: 1\n")
    assert problem.endswith("begun in line 1).")


def test_anchors_that_multiply_are_refused() -> None:
    levels = "\n".join(f"l{n + 1}: &l{n + 1} [{', '.join([f'*l{n}'] * 10)}]" for n in range(8))
    (problem,) = problems(f"l0: &l0 [1, 2]\n{levels}\n")
    assert (
        problem == "x.yaml: not valid YAML: more than 100000 values once anchors are written out."
    )


def test_merged_keys_give_way_to_written_ones_and_to_earlier_merges() -> None:
    text = """
data: {name: corrupt_mnist, split: &split {seed: 1, momentum: 2, weight_decay: 3}}
model: {name: cnn}
train: {optimizer: &o {weight_decay: 0.5, momentum: 0.1}}
"""
    tree = read_yaml(text + "copy: {<<: [*o, *split], momentum: 0.9}\nagain: *o\n", "x.yaml").tree
    assert tree["copy"] == {
        "weight_decay": 0.5,
        "momentum": 0.9,
        "seed": 1,
    }
    assert tree["again"] == tree["train"]["optimizer"]
    assert tree["again"] is not tree["train"]["optimizer"]  # an override of one leaves the other


def test_lines_of_keys_and_items() -> None:
    source = read_yaml("a:\n  b: 1\n  c:\n    - 1\n    - 2\n", "x.yaml")
    where = [("a", "b"), ("a", "c"), ("a", "c", 1), ("a", "none")]
    assert [source.place(path).text for path in where] == [
        "x.yaml:2",
        "x.yaml:3",
        "x.yaml:5",
        "x.yaml:1",
    ]


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + LEAST.replace("\n", "\r\n").encode())
    assert load_config(path).name == "x"


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"seed: 1\nname: caf\xe9\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    expected = f"{path}:2: byte 0xe9 isn't UTF-8. Save the file as UTF-8."
    assert caught.value.problems == (expected,)


def test_a_missing_file_names_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "corrupt_mnist.yaml").write_text(LEAST)
    told = {
        "configs/corupt_mnist.yaml": "Did you mean 'configs/corrupt_mnist.yaml'?",
        "configs/corrupt_mnist": "Did you mean 'configs/corrupt_mnist.yaml'?",
        "corrupt_mnist.yaml": "Did you mean 'configs/corrupt_mnist.yaml'?",
        "zzz.yaml": "There is: configs/corrupt_mnist.yaml.",
        "nowhere/x.yaml": "There is no folder 'nowhere' either.",
    }
    for path, advice in told.items():
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert caught.value.problems == (f"{path}: no such file. {advice}",)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read: Is a directory"):
        load_config(tmp_path)
