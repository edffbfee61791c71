"""An audit finds every kind of leak that was planted, and nothing in clean data."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from rows import load, make_rows
from scipy.signal import resample_poly

import hf_finetune.data.audit
from hf_finetune.audit_report import format_audit, list_audit
from hf_finetune.cli import main
from hf_finetune.data.audit import Audit, audit_data
from hf_finetune.data.near_duplicates import (
    LARGEST_DISTANCE,
    describe_clip,
    describe_images,
    find_near,
)
from hf_finetune.data.tables import build_image_dataset

RATE_HZ = 8000


def draw_picture(seed: int, size: int = 64) -> np.ndarray:
    """A soft random picture, uint8 `[size, size]`: blobs, as photographs have."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def say(seed: int) -> np.ndarray:
    """A random sequence of tones, float64 `[samples]`: half a second, loud and soft."""
    generator = np.random.default_rng(seed)
    time = np.arange(RATE_HZ // 10) / RATE_HZ
    parts = [
        generator.uniform(0.05, 0.5) * np.sin(2 * np.pi * hertz * time + 3 * np.sin(60 * time))
        for hertz in generator.uniform(200, 3000, 5)
    ]
    return np.concatenate(parts)


def as_jpeg(pixels: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=75)
    return np.asarray(Image.open(stream))


def enlarge(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((97, 131), Image.Resampling.BILINEAR))


def words_of(text: str) -> str:
    """A table without its padding."""
    return " ".join(text.split())


def distance(first: np.ndarray, second: np.ndarray) -> float:
    vectors = [describe_images(pixels[None, ..., None])[0] for pixels in (first, second)]
    return float(np.linalg.norm(vectors[0] - vectors[1]))


@pytest.mark.parametrize(
    "change",
    [
        as_jpeg,
        enlarge,
        lambda pixels: (pixels * 0.6 + 20).astype(np.uint8),
        lambda pixels: pixels / np.float32(255),
        lambda pixels: np.uint8(
            np.clip(pixels + np.random.default_rng(0).normal(0, 5, pixels.shape), 0, 255)
        ),
    ],
)
def test_an_image_saved_again_stays_near(change: Callable[[np.ndarray], np.ndarray]):
    for seed in range(20):
        picture = draw_picture(seed)
        assert distance(picture, change(picture)) < LARGEST_DISTANCE
        assert distance(change(picture), draw_picture(seed + 1)) > 5 * LARGEST_DISTANCE


@pytest.mark.parametrize(
    "change",
    [
        lambda sound: (0.2 * sound, RATE_HZ),
        lambda sound: (np.concatenate([np.zeros(700), sound, np.zeros(300)]), RATE_HZ),
        lambda sound: (resample_poly(sound, 2, 1), 2 * RATE_HZ),
        lambda sound: (np.round(sound * 2000) / 2000, RATE_HZ),
    ],
)
def test_a_clip_at_another_loudness_or_rate_stays_near(change: Any):
    for seed in range(10):
        vector = describe_clip(say(seed), RATE_HZ)
        other = describe_clip(say(seed + 1), RATE_HZ)
        changed = describe_clip(*change(say(seed)))
        assert np.linalg.norm(vector - changed) < LARGEST_DISTANCE
        assert np.linalg.norm(other - changed) > 5 * LARGEST_DISTANCE


def test_what_shows_nothing_is_like_nothing():
    plain = describe_images(np.full((4, 9, 9, 3), 7, np.uint8))
    assert not plain.any()
    assert not describe_clip(np.zeros(4000), RATE_HZ).any()
    assert not describe_clip(np.ones(3), RATE_HZ).any()
    assert find_near(plain) == find_near(plain[:0]) == []


def test_sets_hang_together_through_their_members():
    turn = 0.9 * LARGEST_DISTANCE * np.array([0, 1, 2, 30, 31, 60, -30])
    vectors = np.zeros((7, 63), np.float32)
    vectors[:, 0], vectors[:, 40] = np.cos(turn), np.sin(turn)
    assert find_near(vectors) == [[0, 1, 2], [3, 4]]


@pytest.fixture
def found() -> Audit:
    """Pictures with each kind of leak planted once."""
    pictures = [draw_picture(seed) for seed in range(60)]
    pictures[41] = pictures[2]  # a copy across splits
    pictures[4] = pictures[5]  # a copy with another label
    pictures[42] = as_jpeg(pictures[10])  # a near copy across splits
    speakers = [f"s{row // 4}" for row in range(60)]
    speakers[43] = speakers[0]

    def part(start: int, stop: int) -> Any:
        rows = range(start, stop)
        return build_image_dataset(
            [np.stack([pictures[row] for row in rows])],
            [np.asarray([row % 3 if row < 59 else 0 for row in rows])],
            ["cat", "dog", "cow"],
            {"id": [[str(row) for row in rows]], "speaker": [[speakers[row] for row in rows]]},
        )

    given = {"train": part(0, 40), "test": part(40, 52), "validation": part(52, 60)}
    return audit_data(load(given, allow_overlap=True))


def test_every_planted_leak_is_found(found: Audit):
    assert [(one.ids, one.splits) for one in found.copies] == [
        (("4", "5"), ("train", "train")),
        (("2", "41"), ("train", "test")),
    ]
    assert [one.labels_agree for one in found.copies] == [False, True]
    assert [one.ids for one in found.near_copies] == [("10", "42")]
    assert [(one.column, one.splits, one.keys) for one in found.overlaps] == [
        ("speaker", ("test", "train"), ("s0",))
    ]
    assert found.class_counts["validation"] == (3, 3, 2)
    assert not found.is_sound


def test_what_is_found_is_told(found: Audit):
    text = words_of(format_audit(found, "rows"))
    for told in (
        "verdict leaks",
        "1 of the 4 speaker keys in test are in train, too (s0)",
        "copies 2 sets of 4 examples; 1 of them across splits, 1 with several labels",
        "2 (train, cow) = 41 (test, cow)",
        "10 (train, dog) = 42 (test, cat)",
    ):
        assert told in text, told
    listed = json.loads(json.dumps(list_audit(found)))
    assert listed["is_sound"] is False
    assert listed["overlaps"][0]["keys"] == ["s0"]
    assert listed["copies"][1]["ids"] == ["2", "41"]
    assert listed["near_copies"][0]["splits"] == ["train", "test"]
    assert listed["classes"]["train"]["cat"] == 14


def test_clean_data_are_sound():
    found = audit_data(load(make_rows([row % 3 for row in range(60)])))
    assert found.is_sound
    assert found.copies == found.near_copies == found.overlaps == ()
    assert "verdict sound: no copy lies in two splits" in words_of(format_audit(found, "rows"))


def test_one_picture_with_two_labels_is_not_sound():
    pictures = np.stack([draw_picture(seed) for seed in [*range(30), 0]])
    labels = np.asarray([row % 3 for row in range(30)] + [1])
    names = [str(row) for row in range(31)]
    speakers = [f"s{row // 3 % 8}" for row in range(30)] + ["s0"]
    columns = {"id": [names], "speaker": [speakers]}
    rows = build_image_dataset([pictures], [labels], ["cat", "dog", "cow"], columns)
    found = audit_data(load(rows))
    assert [(one.ids, one.is_across_splits) for one in found.copies] == [(("0", "30"), False)]
    assert not found.is_sound


def test_what_training_refuses_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lines = []
    for row in range(24):
        name, split = f"{row}.png", ("train", "validation", "test")[row // 8]
        Image.fromarray(draw_picture(row)).save(tmp_path / name)
        lines.append(f"{name},{('cat', 'dog')[row % 2]},{split},p{row // 2 % 11}\n")
    (tmp_path / "labels.csv").write_text("path,label,split,patient\n" + "".join(lines))
    config = tmp_path / "x.yaml"
    config.write_text(
        f"data: {{name: image_folder, root: {tmp_path}, csv: labels.csv, group_columns: [patient]}}"
        f"\nmodel: {{name: cnn}}\nrun: {{directory: {tmp_path}/runs}}\n"
    )
    assert main(["train", "--config", str(config)]) == 2
    assert "test shares 1 of its patient keys with train (p0)" in capsys.readouterr().err
    assert main(["audit", "--config", str(config)]) == 1
    text = words_of(capsys.readouterr().out)
    assert "1 of the 4 patient keys in test are in train, too (p0)" in text


def test_only_what_is_to_stay_together_counts_as_a_leak():
    rows = make_rows([row % 3 for row in range(60)], speaker=[f"s{row // 6}" for row in range(60)])
    found = audit_data(load(rows, group_by="none"))
    assert found.is_sound
    assert len(found.overlaps) == 3
    assert "the split doesn't hold it together" in format_audit(found, "rows")


def test_the_command_line_says_it_and_answers_scripts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    for split in ("train", "test"):
        for kind, name in enumerate(("low", "high")):
            (tmp_path / f"clips/{split}/{name}").mkdir(parents=True)
            for number in range(6):
                clip = say(100 * kind + 10 * number + (split == "test"))
                path = tmp_path / f"clips/{split}/{name}/{number}.wav"
                soundfile.write(path, clip, RATE_HZ)
    soundfile.write(tmp_path / "clips/test/low/0.wav", 0.3 * say(0), RATE_HZ)
    (tmp_path / "clips/train/low/1.wav").write_text("no sound")
    config = tmp_path / "x.yaml"
    root = tmp_path / "clips"
    config.write_text(f"data: {{name: audio_folder, root: {root}}}\nmodel: {{name: cnn}}\n")
    assert main(["audit", "--config", str(config)]) == 0
    text = words_of(capsys.readouterr().out)
    assert "look at the 1 near copies across splits" in text
    assert "bad examples 1 left out: train/low/1.wav" in text
    soundfile.write(root / "test/low/5.wav", say(50), RATE_HZ)
    assert main(["audit", "--config", str(config), "--json"]) == 1
    listed = json.loads(capsys.readouterr().out)
    assert listed["copies"][0]["ids"] == ["train/low/5.wav", "test/low/5.wav"]
    assert {"train/low/0.wav", "test/low/0.wav"} in [{*one["ids"]} for one in listed["near_copies"]]


def write_voices(root: Path) -> Path:
    """Clips of two classes by six voices, and the configuration that reads them."""
    root.mkdir()
    for number in range(24):
        name = f"{('low', 'high')[number % 2]}_v{number // 4}_t{number // 2 % 2}.wav"
        soundfile.write(root / name, say(number), RATE_HZ)
    config = root.with_suffix(".yaml")
    config.write_text(
        f"data:\n  name: audio_folder\n  root: {root}\n  split: {{group_by: [voice]}}\n"
        "  name_pattern: '{label}_{voice}_{take}.wav'\nmodel: {name: cnn}\n"
    )
    return config


def test_keys_that_the_split_does_not_hold_together_are_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = write_voices(tmp_path / "clips")
    assert main(["audit", "--config", str(config)]) == 0
    told = "2 of the 2 take keys in test are in train, too (t0, t1); the split doesn't hold"
    text = words_of(capsys.readouterr().out)
    assert told in text
    assert "voice keys" not in text
    for path in sorted((tmp_path / "clips").glob("*.wav")):
        kind, _, name = path.name.partition("_")
        path.parent.joinpath(kind).mkdir(exist_ok=True)
        path.rename(path.parent / kind / name)
    pattern = "name_pattern: '{label}_", "group_pattern: '"
    config.write_text(config.read_text().replace(*pattern))
    assert main(["audit", "--config", str(config)]) == 0
    assert told in words_of(capsys.readouterr().out)


def test_a_clip_with_two_labels_is_not_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = write_voices(tmp_path / "clips")
    soundfile.write(tmp_path / "clips/high_v0_t7.wav", say(0), RATE_HZ)
    assert main(["audit", "--config", str(config)]) == 1
    text = words_of(capsys.readouterr().out)
    assert "verdict wrong labels: the same content stands under several classes" in text
    assert "wrong label 1 high_v0_t7.wav (high) = low_v0_t0.wav (low)" in text
    assert main(["audit", "--config", str(config), "--json"]) == 1
    listed = json.loads(capsys.readouterr().out)
    ids = ["high_v0_t7.wav", "low_v0_t0.wav"]
    assert listed["contradictions"] == [{"ids": ids, "labels": ["high", "low"]}]
    assert listed["is_sound"] is False


def test_of_long_clips_the_beginning_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Whole they may not fit into memory; their hash is of all samples."""
    config = write_voices(tmp_path / "clips")
    for number, name in enumerate(("low_v0_t8", "low_v0_t9")):
        clip = np.concatenate([say(50), say(51), *(say(60 + 9 * number + n) for n in range(8))])
        soundfile.write(tmp_path / f"clips/{name}.wav", clip, RATE_HZ)
    pair = {"low_v0_t8.wav", "low_v0_t9.wav"}

    def look() -> tuple[list[set[str]], list[Any]]:
        main(["audit", "--config", str(config), "--json"])
        listed = json.loads(capsys.readouterr().out)
        return [{*one["ids"]} for one in listed["near_copies"]], listed["copies"]

    assert pair not in look()[0]
    monkeypatch.setattr(hf_finetune.data.audit, "_MOST_SECONDS", 1)
    near, copies = look()
    assert pair in near
    assert copies == []


def test_clips_are_looked_through_block_by_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    config = write_voices(tmp_path / "clips")
    for number in range(2):
        copy = tmp_path / f"clips/{('low', 'high')[number]}_v{5 - number}_t7.wav"
        soundfile.write(copy, say(number), RATE_HZ)
    answers = []
    for rows in (256, 5):
        monkeypatch.setattr(hf_finetune.data.audit, "_BLOCK_ROWS", rows)
        main(["audit", "--config", str(config), "--json"])
        answers.append(json.loads(capsys.readouterr().out))
    assert {tuple(sorted(one["ids"])) for one in answers[0]["copies"]} == {
        ("low_v0_t0.wav", "low_v5_t7.wav"),
        ("high_v0_t0.wav", "high_v4_t7.wav"),
    }
    assert answers[0] == answers[1]


@pytest.mark.slow
def test_the_full_digits_are_looked_through(shared_data: Path):
    from hf_finetune.data import load_data
    from hf_finetune.data.mnist import Options

    found = audit_data(load_data(Options(root=str(shared_data / "mnist"))))
    assert sum(map(sum, found.class_counts.values())) == 70_000
    assert len(found.near_copies) < 100
