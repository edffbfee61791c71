"""Folders of sound: layouts, names that tell everything, formats, and what is kept of the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from clips import CLASSES, draw, save, write_classes, write_named

from hf_finetune.config import config_from
from hf_finetune.data import AudioShape, LoadedData, audio_files, load_data
from hf_finetune.data.audio_folder import Options
from hf_finetune.data.tables import RowReader, column_values
from hf_finetune.errors import ConfigError, DataError
from hf_finetune.features import audio_decoding
from hf_finetune.features.audio_decoding import read_audio

SPOKEN = Path("samples/spoken_digits/recordings")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))


def load(root: Path, **settings: Any) -> LoadedData:
    return load_data(Options(root=str(root), **settings))


def sizes(data: LoadedData) -> dict[str, int]:
    return {name: len(split) for name, split in data.splits.items()}


def collect(data: LoadedData, column: str, field: str | None = None) -> list[Any]:
    return [v for split in data.splits.values() for v in column_values(split, column, field)]


# Layouts


def test_a_folder_for_each_class(tmp_path: Path):
    data = load(write_classes(tmp_path / "noises", per_class=20))
    assert data.label_names == CLASSES
    assert sizes(data) == {"train": 43, "validation": 8, "test": 9}
    assert len({*collect(data, "id")}) == 60  # equal stems in different classes
    assert data.image_shape is None
    assert data.audio_shape == AudioShape(8000, 0.08, 0.14)
    assert data.warnings == data.skipped == ()


def test_folders_of_splits(tmp_path: Path):
    for number, name in enumerate(("train", "dev", "test")):
        write_classes(tmp_path / "noises" / name, per_class=3, start=10 * number)
    data = load(tmp_path / "noises")
    assert sizes(data) == {"train": 9, "validation": 9, "test": 9}


def test_a_table_says_path_label_split_and_groups(tmp_path: Path):
    root = write_classes(tmp_path / "noises", per_class=9)
    parts = ("train", "val", "test")
    lines = ["path\tlabel\tsplit\tvoice"]
    lines += [f"{k}/{n}.wav\t{k}\t{parts[n % 3]}\tv{n}" for k in CLASSES for n in range(9)]
    (root / "clips.tsv").write_text("\n".join(lines))
    data = load(root, csv="clips.tsv", group_columns=["voice"])
    assert sizes(data) == {"train": 9, "validation": 9, "test": 9}
    assert {*column_values(data.splits["test"], "voice")} == {"v2", "v5", "v8"}


def test_columns_that_the_split_names_are_read(tmp_path: Path):
    root = write_classes(tmp_path / "noises", per_class=9)
    lines = [f"{k}/{n}.wav,{k},v{n}" for k in CLASSES for n in range(9)]
    (root / "clips.csv").write_text("\n".join(["path,label,voice", *lines]))
    data = load(root, csv="clips.csv", split={"group_by": ["voice"]})
    assert data.group_columns == ("voice",)
    sides = [{*column_values(split, "voice")} for split in data.splits.values()]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 9
    data = load(root, csv="clips.csv", split={"leave_out": {"voice": "v3"}})
    assert {*column_values(data.splits["test"], "voice")} == {"v3"}
    with pytest.raises(DataError, match=r"no column vioce\. The data set has no group columns;"):
        load(root, csv="clips.csv", split={"group_by": ["vioce"]})


def test_whole_paths_may_name_what_the_folder_is_a_link_to(tmp_path: Path):
    root = write_classes(tmp_path / "noises", per_class=8)
    (tmp_path / "link").symlink_to(root)
    rows = [f"{root}/{k}/{n}.wav,{k}" for k in CLASSES for n in range(8)]
    (root / "clips.csv").write_text("\n".join(["path,label", *rows]))
    data = load(tmp_path / "link", csv="clips.csv")
    assert "buzz/0.wav" in collect(data, "id")
    assert data.fingerprint == load(root, csv="clips.csv").fingerprint


def test_a_folder_around_the_class_folders_is_told(tmp_path: Path):
    root = write_classes(tmp_path / "download/noises-main/clips", per_class=3)
    with pytest.raises(DataError, match=rf"single class folder, 'noises-main', .*lie in: '{root}'"):
        load(tmp_path / "download")


# Names


def test_names_tell_class_and_groups(tmp_path: Path):
    root = write_named(tmp_path / "digits", ["anna", "ben", "cleo", "dora"], takes=3)
    for pattern in ("{label}_{speaker}_{take}", "{label}_{speaker}_{take}.wav"):
        data = load(root, name_pattern=pattern)
        assert data.label_names == ("0", "1", "2")
        assert data.group_columns == ("speaker",)
        sides = [{*column_values(split, "speaker")} for split in data.splits.values()]
        assert sorted(map(len, sides)) == [1, 1, 2]
        assert len(set.union(*sides)) == 4
        (warning,) = data.warnings
        assert "auto keeps speaker together, and take not" in warning
        ids, labels = collect(data, "id"), collect(data, "label")
        assert [name[0] for name in ids] == [data.label_names[label] for label in labels]


def test_the_user_chooses_the_groups(tmp_path: Path):
    root = write_named(tmp_path / "digits", ["anna", "ben", "cleo"], takes=4)
    pattern = {"name_pattern": "{label}_{speaker}_{take}"}
    data = load(root, **pattern, split={"group_by": ["take"]})
    assert data.group_columns == ("take",)
    assert data.warnings == ()
    assert "speaker" not in data.splits["train"].column_names
    data = load(root, **pattern, split={"leave_out": {"speaker": ["ben"]}})
    assert {*column_values(data.splits["test"], "speaker")} == {"ben"}
    assert sizes(data) == {"train": 12, "validation": 12, "test": 12}
    with pytest.raises(DataError, match=r"data\.split"):
        load(root, **pattern, split={"group_by": ["speaker", "take"]})


def test_more_folds_than_groups_are_refused(tmp_path: Path):
    """And not dealt out by another key, or row by row, of which no one would hear."""
    root = write_named(tmp_path / "digits", ["anna", "ben", "cleo"], takes=4)
    pattern = {"name_pattern": "{label}_{speaker}_{take}"}
    assert load(root, **pattern, split={"num_folds": 3}).group_columns == ("speaker",)
    with pytest.raises(DataError, match=r"4 folds need as many groups, .* belong to 3"):
        load(root, **pattern, split={"num_folds": 4})


def test_the_same_speakers_in_given_splits_are_found_to_leak(tmp_path: Path):
    """Though they are too few for three splits: two are given."""
    for name in ("train", "test"):
        write_named(tmp_path / "digits" / name, ["anna", "ben"], takes=4)
    with pytest.raises(DataError, match=r"test shares 1 of its speaker keys with train"):
        load(tmp_path / "digits", name_pattern="{label}_{speaker}_*")


def test_a_key_that_leaves_too_few_groups_for_the_folds_is_left(tmp_path: Path):
    for kind in range(3):
        for voice in range(4):
            save(tmp_path / f"{kind}_v{voice}_day{max(voice, 1)}.wav", draw(kind, voice))
    pattern = {"name_pattern": "{label}_{speaker}_{day}"}
    assert load(tmp_path, **pattern).group_columns == ("speaker", "day")
    assert load(tmp_path, **pattern, split={"num_folds": 4}).group_columns == ("speaker",)


def test_all_parts_of_a_pattern_are_told_where_one_is_misspelt(tmp_path: Path):
    root = write_named(tmp_path / "digits", ["anna", "ben", "cleo"], takes=4)
    with pytest.raises(DataError, match=r"no column tkae\. The data set has speaker, take"):
        load(root, name_pattern="{label}_{speaker}_{take}", split={"leave_out": {"tkae": "1"}})


def test_groups_that_can_all_be_kept_are_kept(tmp_path: Path):
    root = tmp_path / "digits"
    for kind in range(3):
        for day in range(8):
            save(root / f"{kind}_voice{day // 2}_day{day}.wav", draw(kind, day))
    data = load(root, name_pattern="{label}_{speaker}_{day}")
    assert data.group_columns == ("speaker", "day")
    assert data.warnings == ()


def test_one_speaker_is_no_group(tmp_path: Path):
    root = write_named(tmp_path / "digits", ["anna"], takes=6)
    data = load(root, name_pattern="{label}_{speaker}_*")
    assert data.group_columns == ()
    assert "auto keeps nothing together, and speaker not" in data.warnings[0]


def test_names_within_folders_of_splits(tmp_path: Path):
    for place, name in enumerate(("train", "val", "test")):
        write_named(tmp_path / "digits" / name, [f"voice{place}"], takes=2)
    data = load(tmp_path / "digits", name_pattern="{label}_{speaker}_{take}")
    assert sizes(data) == {"train": 6, "validation": 6, "test": 6}
    save(tmp_path / "digits/0_x_1.wav", draw(0, 900))
    save(tmp_path / "digits/train/odd.wav", draw(0, 901))
    data = load(tmp_path / "digits", name_pattern="{label}_{speaker}_{take}", on_bad_example="skip")
    assert data.skipped == (
        "0_x_1.wav: it lies in the folder of no split",
        "train/odd.wav: its name is not of the form '{label}_{speaker}_{take}' (data.name_pattern)",
    )


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"name_pattern": "{speaker}_*"}, "must say where the class stands"),
        ({"name_pattern": "{label}_{id}"}, "'id' can't name a part"),
        ({"name_pattern": "{label}_{label}"}, "must name parts, each once"),
        ({"name_pattern": "{label}_*", "csv": "x.csv"}, "leave out csv"),
        ({"name_pattern": "{label}_*", "group_pattern": "{a}_*"}, "leave out group_pattern"),
    ],
)
def test_patterns_that_say_nothing_are_refused(settings: dict[str, str], told: str):
    tree = {"name": "audio_folder", "root": "x", **settings}
    with pytest.raises(ConfigError, match=told):
        config_from({"data": tree, "model": {"name": "cnn"}})


def test_the_sample_is_split_by_speaker():
    data = load(SPOKEN, name_pattern="{label}_{speaker}_{take}", split={"group_by": ["speaker"]})
    assert sizes(data) == {"train": 320, "validation": 80, "test": 80}
    assert data.label_names == tuple("0123456789")
    assert data.class_counts == (32,) * 10
    assert data.audio_shape is not None
    assert data.audio_shape.sampling_rate_hz == 8000
    assert data.warnings == data.skipped == ()


# Formats


@pytest.mark.parametrize(
    ("ending", "rate", "channels", "how"),
    [
        ("wav", 8000, 1, {"subtype": "PCM_U8"}),
        ("wav", 44_100, 2, {"subtype": "PCM_24"}),
        ("wav", 16_000, 3, {"subtype": "FLOAT"}),
        ("flac", 22_050, 2, {}),
        ("ogg", 48_000, 1, {}),
        ("mp3", 32_000, 2, {}),
        ("aiff", 11_025, 1, {}),
    ],
)
def test_any_format_rate_and_number_of_channels(
    ending: str, rate: int, channels: int, how: dict[str, str], tmp_path: Path
):
    root = write_classes(tmp_path / "noises", per_class=8)
    clip = np.repeat(draw(0, 9, 0.2, rate)[:, None], channels, 1)
    clip[:, 0] *= 0.5
    path = save(root / f"buzz/x.{ending}", clip, rate, **how)
    data = load(root)
    row = collect(data, "id").index(f"buzz/x.{ending}")
    facts, cell = collect(data, "measured")[row], collect(data, "audio")[row]
    assert (facts["num_channels"], cell["sampling_rate_hz"]) == (channels, rate)
    assert cell["num_frames"] == facts["num_frames"] == soundfile.info(path).frames
    expected = soundfile.read(path, dtype="float32", always_2d=True)[0].mean(axis=1)
    np.testing.assert_allclose(read_audio(cell), expected, atol=1e-6)
    assert facts["peak"] == pytest.approx(np.abs(expected).max(), abs=1e-6)
    assert facts["energy"] == pytest.approx(np.square(expected).mean(), rel=1e-4)
    assert data.audio_shape is not None
    assert data.audio_shape.sampling_rate_hz == (rate if rate == 8000 else None)


@pytest.mark.parametrize("order", [1, -1])
def test_an_mp3_that_does_not_tell_its_length_is_read_whole(
    order: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """libsndfile guesses it from the first frame: four times what there is, or a quarter of it."""
    noise = np.random.default_rng(0).uniform(-0.8, 0.8, 32_000)
    clip = np.concatenate([noise, np.zeros(96_000)])[::order]
    path = save(tmp_path / "x.mp3", clip, 16_000, bitrate_mode="VARIABLE", compression_level=0.1)
    whole, content = audio_files.measure_file(path), path.read_bytes()
    (mark,) = (mark for mark in (b"Xing", b"Info") if mark in content)
    path.write_bytes(content.replace(mark, bytes(4), 1))
    facts = audio_files.measure_file(path)
    # What told the length is a frame of silence now, and nothing tells what the coder added.
    assert 0 < facts["num_frames"] - whole["num_frames"] < 4 * 1152
    assert facts["energy"] * facts["num_frames"] == pytest.approx(
        whole["energy"] * whole["num_frames"], rel=0.05
    )
    cell = audio_files.audio_cell(path, facts)
    samples = read_audio(cell)
    assert len(samples) == facts["num_frames"]
    np.testing.assert_allclose(read_audio(cell, 99_000, 500), samples[99_000:99_500], atol=1e-6)
    assert audio_files.measure_file(path, path.read_bytes()) == facts
    monkeypatch.setattr(audio_decoding, "_BLOCK_FRAMES", 30_000)  # as in a longer file
    assert audio_files.measure_file(path) == facts
    np.testing.assert_allclose(read_audio(cell, 99_000, 500), samples[99_000:99_500], atol=1e-6)


def test_the_ending_may_be_wrong(tmp_path: Path):
    root = write_classes(tmp_path / "noises", per_class=8)
    save(root / "buzz/real.flac", draw(0, 9)).rename(root / "buzz/x.mp3")
    data = load(root)
    assert "buzz/x.mp3" in collect(data, "id")


# What is kept


def test_rows_stay_undecoded(tmp_path: Path):
    train = load(write_classes(tmp_path / "noises", per_class=20)).splits["train"]
    chosen = train.shuffle(seed=1).select(range(5, 30))
    cells = RowReader(chosen, ["audio", "label"]).read(np.array([3, 0, 24]))
    assert [Path(cell["path"]).stem for cell in cells["audio"]] == [
        Path(chosen[row]["id"]).stem for row in (3, 0, 24)
    ]
    assert all(cell["bytes"] is None for cell in cells["audio"])
    assert train.data.table.nbytes < 600 * len(train)


def test_a_second_start_reads_only_what_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = write_classes(tmp_path / "noises")
    first = load(root)
    read, seen = audio_files.describe_audio, []

    def note(path: Path, content: Any) -> Any:
        seen.append(Path(path).name)
        return read(path, content)

    monkeypatch.setattr(audio_files, "describe_audio", note)
    assert load(root).fingerprint == first.fingerprint
    assert seen == []
    save(root / "hum/new.wav", draw(1, 50))
    save(root / "hum/2.wav", draw(1, 51))
    assert load(root).fingerprint != first.fingerprint
    assert sorted(seen) == ["2.wav", "new.wav"]


def test_the_fingerprint_follows_samples_and_rate(tmp_path: Path):
    root = write_classes(tmp_path / "noises", per_class=8)
    save(root / "hum/0.wav", draw(1, 0))
    prints = {load(root).fingerprint}
    save(root / "hum/0.wav", draw(1, 0), 16_000)
    prints.add(load(root).fingerprint)
    save(root / "hum/0.wav", -draw(1, 0))
    prints.add(load(root).fingerprint)
    assert len(prints) == 3
    root.rename(tmp_path / "moved")
    assert load(tmp_path / "moved").fingerprint in prints


def test_long_clips_are_read_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = save(tmp_path / "x.wav", draw(0, 1, seconds=1.3))
    whole = audio_files.measure_file(path)
    monkeypatch.setattr(audio_files, "_BLOCK_FRAMES", 1000)
    assert audio_files.measure_file(path) == pytest.approx(whole)


def test_equal_clips_stay_on_one_side(tmp_path: Path):
    root = write_classes(tmp_path / "noises", per_class=12)
    for path in sorted(root.rglob("*.wav")):
        samples, rate = soundfile.read(path, dtype="int16")
        save(path.with_name(f"copy{path.stem}.flac"), samples, rate, subtype="PCM_16")
    data = load(root)
    digests = [{*column_values(split, "measured", "digest")} for split in data.splits.values()]
    assert sum(map(len, digests)) == len(set.union(*digests)) == 36
    assert data.warnings == ()
