"""Group keys that file names or tables carry, and nobody has named, are noticed."""

from __future__ import annotations

from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
from pictures import save

from hf_finetune.data import load_data
from hf_finetune.data.image_folder import Options
from hf_finetune.data.name_keys import find_name_key, warn_of_columns

SPEAKERS = ("jackson", "theo", "george")


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ("{label}_{who}_{take}.wav", "*_{group}_*"),
        ("{label}/{who}-{take}.wav", "{group}-*"),
        ("{label}/patient_{number}_img{take}.png", "*_{group}_*"),
        ("{label}/speaker{number}_{take}.wav", "{group}_*"),
        ("{label}/{take}_{who}.wav", "*_{group}"),
        ("{label}/{who}/{take}.wav", "{group}/*"),
        ("train/{label}/{who}/clip_{take}.wav", "{group}/*"),
        ("{label}/{number}/{take}.wav", None),
        ("{label}_{take}.wav", None),
        ("class{label}_{take}.wav", None),
        ("{label}/img_{take}.png", None),
        ("{label}/{take}.png", None),
        ("{label}/{who}_{colour}_{take}.png", None),
    ],
)
def test_a_part_that_recurs_is_found(form: str, pattern: str | None):
    rows = [(label, who, take) for label in range(4) for who in range(3) for take in range(5)]
    ids = [
        form.format(
            label=label, who=SPEAKERS[who], number=who, take=take, colour=("red", "blue")[take % 2]
        )
        for label, who, take in rows
    ]
    key = find_name_key(ids, [label for label, _, _ in rows])
    if pattern is None:
        assert key is None
    else:
        assert key is not None
        assert key.pattern == pattern
        groups = {}
        for value, (_, who, _) in zip(key.values, rows, strict=True):
            assert groups.setdefault(value, who) == who
        assert len(groups) == 3


def test_whole_names_that_recur_in_each_class_are_a_key():
    """As in the Emotional-TTS set, where the name is a hash of the sentence."""
    names = [md5(str(number).encode()).hexdigest() for number in range(12)]
    rows = [(label, name) for label in range(2) for name in names]
    key = find_name_key([f"mood{label}/{name}.wav" for label, name in rows], [r[0] for r in rows])
    assert key is not None
    assert key.pattern == "{group}"
    assert key.values == tuple(name for _, name in rows)
    for form in ("take{}", "{}", "scene{}"):
        ids = [f"mood{label}/{form.format(n)}.wav" for label in range(2) for n in range(12)]
        assert find_name_key(ids, [row // 12 for row in range(24)]) is None


def test_a_hash_that_looks_like_a_number_hides_no_key():
    """As in Speech Commands: 8 hexadecimal digits a speaker, of some of whom none is a letter."""
    names = [md5(str(number).encode()).hexdigest()[:8] for number in range(30)]
    names[4] = "12345678"
    rows = [(label, name, take) for label in range(3) for name in names for take in range(2)]
    ids = [f"word{label}/{name}_nohash_{take}.wav" for label, name, take in rows]
    key = find_name_key(ids, [label for label, _, _ in rows])
    assert key is not None
    assert key.pattern == "{group}_*_*"


def test_a_folder_within_one_class_is_no_key():
    ids = [f"{kind}/{number}.png" for kind in "ab" for number in range(3)]
    ids += [f"c/{folder}{number}.png" for folder in ("", "deep/") for number in range(9)]
    assert find_name_key(ids, [0] * 3 + [1] * 3 + [2] * 18) is None


def test_names_of_unequal_form_tell_nothing():
    assert find_name_key(["a_theo_1.wav", "b_1.wav"] * 6, [0, 1] * 6) is None
    assert find_name_key([], []) is None


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for kind in ("cat", "dog"):
        for number, who in enumerate(SPEAKERS * 4):
            generator = np.random.default_rng([number, kind == "cat"])
            pixels = generator.integers(0, 256, (8, 8)).astype(np.uint8)
            save(tmp_path / f"scans/{kind}/{who}_{number}{kind}.png", pixels)
    return tmp_path / "scans"


def test_names_with_a_key_are_warned_of_until_it_is_settled(scans: Path):
    warning = load_data(Options(root=str(scans))).warnings[-1]
    assert "the file names seem to carry a group key" in warning
    assert "data.group_pattern: '{group}_*'" in warning
    assert load_data(Options(root=str(scans), group_pattern="{group}_*")).warnings == ()
    assert load_data(Options(root=str(scans), split={"group_by": "none"})).warnings == ()


def test_a_column_with_a_key_is_warned_of_until_it_is_settled(scans: Path):
    files = sorted(path.relative_to(scans) for path in scans.glob("*/*.png"))
    for number, file in enumerate(files):
        (scans / file).rename(scans / f"{number}.png")
    rows = [f"{n}.png,{f.parent},{f.name[:4]}\n" for n, f in enumerate(files)]
    (scans / "labels.csv").write_text(f"path,label,patient_id\n{''.join(rows)}")
    table = {"root": str(scans), "csv": "labels.csv"}
    assert "column patient_id looks like a group key" in load_data(Options(**table)).warnings[0]
    assert load_data(Options(**table, group_columns=["patient_id"])).warnings == ()
    assert load_data(Options(**table, split={"group_by": "none"})).warnings == ()


def test_columns_that_are_used_are_not_warned_of():
    assert warn_of_columns(["path", "label", "speaker"], ["path", "label"])
    assert not warn_of_columns(["path", "speaker"], ["path", "speaker", None])
    assert not warn_of_columns(["path", "label", "width"], ["path", "label"])
