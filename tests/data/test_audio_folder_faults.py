"""Bad clips and clips that don't suit the model: a clear error, or left out and written down."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import draw, save, write_classes
from small_checkpoints import write_pretrained

from hf_finetune.assembly import assemble
from hf_finetune.data import LoadedData, load_data
from hf_finetune.data.audio_folder import Options
from hf_finetune.data.split_files import write_split
from hf_finetune.data.tables import column_values
from hf_finetune.errors import DataError, ModelError

ONE = "buzz/1.wav"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))


def load(root: Path, **settings: Any) -> LoadedData:
    return load_data(Options(root=str(root), **settings))


def ids(data: LoadedData) -> set[str]:
    return {name for split in data.splits.values() for name in column_values(split, "id")}


@pytest.fixture
def noises(tmp_path: Path) -> Path:
    return write_classes(tmp_path / "noises")


def cut(root: Path) -> None:
    whole = (root / ONE).read_bytes()
    (root / ONE).write_bytes(whole[: len(whole) // 2])


def cut_flac(root: Path) -> None:
    whole = save(root / "x.flac", draw(0, 90, 2.0)).read_bytes()
    (root / "x.flac").unlink()
    (root / ONE).write_bytes(whole[: len(whole) // 2])


def lie(root: Path) -> None:
    """The header promises less than follows."""
    content = bytearray((root / ONE).read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = struct.pack("<I", 100)
    (root / ONE).write_bytes(content)


def lie_before_zeros(root: Path) -> None:
    """The same, and what follows begins with zeros, as where nobody speaks."""
    save(root / ONE, np.concatenate([draw(0, 1), np.zeros(50, np.float32), draw(0, 2)]))
    content = bytearray((root / ONE).read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = struct.pack("<I", 2 * len(draw(0, 1)))
    (root / ONE).write_bytes(content)


def cut_large(name: str) -> Callable[[Path], Any]:
    def write(root: Path) -> None:
        whole = save(root / name, draw(0, 90, 1.0), format=name[-4:].lstrip(".")).read_bytes()
        (root / name).write_bytes(whole[: len(whole) // 2])

    return write


def pierce(root: Path) -> None:
    path = save(root / "buzz/x.ogg", draw(0, 90, 2.0))
    content = bytearray(path.read_bytes())
    place = len(content) // 2
    content[place : place + 300] = bytes(300)
    path.write_bytes(content)


def spoil(value: float) -> Callable[[Path], Any]:
    def write(root: Path) -> None:
        samples = draw(0, 1)
        samples[7] = value
        save(root / ONE, samples, subtype="FLOAT")

    return write


def relabel(root: Path) -> None:
    (root / "tick/copy.wav").write_bytes((root / ONE).read_bytes())


def misname(root: Path) -> None:
    (root / ONE).rename(os.fsdecode(os.fsencode(root / "buzz") + b"/caf\xe9.wav"))


# What is done to the folder, the examples that are then bad, and what is said of the first.
BAD_FILES: dict[str, tuple[Callable[[Path], Any], list[str], str]] = {
    "empty file": (lambda r: (r / ONE).write_bytes(b""), [ONE], "the file is empty"),
    "no samples": (lambda r: save(r / ONE, draw(0, 1)[:0]), [ONE], "it holds no samples"),
    "truncated": (cut, [ONE], "its header promises 1,440 bytes of audio, but the file holds 698"),
    "truncated flac": (cut_flac, [ONE], "it can't be decoded to its end"),
    "lying header": (lie, [ONE], "its header promises 50 frames, but more follows"),
    "lying header before zeros": (
        lie_before_zeros,
        [ONE],
        "its header promises 1,200 frames, but more follows",
    ),
    "truncated w64": (cut_large("buzz/x.w64"), ["buzz/x.w64"], "its header promises 16,"),
    "truncated rf64": (
        cut_large("buzz/x.rf64"),
        ["buzz/x.rf64"],
        "its header promises 8,000 frames, but the file holds ",
    ),
    "pierced ogg": (pierce, ["buzz/x.ogg"], "a part of it is damaged and can't be heard"),
    "not a number": (spoil(np.nan), [ONE], "sample 7 is nan. Allowed: finite numbers"),
    "infinite": (spoil(-np.inf), [ONE], "sample 7 is -inf. Allowed: finite numbers"),
    "text": (lambda r: (r / ONE).write_text("<html>"), [ONE], "it can't be read as audio"),
    "broken link": (
        lambda r: (r / "buzz/x.wav").symlink_to("nowhere"),
        ["buzz/x.wav"],
        "the link leads nowhere",
    ),
    "name": (misname, [r"buzz/caf\udce9.wav"], "its name is not UTF-8; rename it"),
    "empty class": (lambda r: (r / "whir").mkdir(), ["whir"], "the class folder holds no clip"),
    "two classes": (
        relabel,
        [ONE, "tick/copy.wav"],
        "the same clip is buzz here and tick in tick/copy.wav, so one label is wrong",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_stop_the_run_or_are_left_out(name: str, noises: Path):
    harm, bad, reason = BAD_FILES[name]
    before = ids(load(noises))
    harm(noises)
    with pytest.raises(DataError) as caught:
        load(noises)
    message = str(caught.value)
    count = "1 bad example:" if len(bad) == 1 else f"{len(bad)} bad examples:"
    assert f"'{noises}' has {count} {bad[0]}: {reason}" in message
    assert "data.on_bad_example: skip" in message
    assert "\n" not in message
    data = load(noises, on_bad_example="skip")
    assert [text.split(": ")[0] for text in data.skipped] == bad
    assert data.skipped[0].startswith(f"{bad[0]}: {reason}")
    assert f"{len(bad)} bad example" in " ".join(data.warnings)
    assert ids(data) == before - ({ONE} if name == "name" else {*bad})


def test_silence_is_a_warning(noises: Path):
    save(noises / ONE, np.zeros(900, np.float32))
    data = load(noises)
    assert data.warnings == (f"1 clip is all silence: every sample is 0 ({ONE})",)
    for number in range(4):
        save(noises / f"buzz/{number}.wav", np.zeros(900 + number, np.float32))
    (warning,) = load(noises).warnings
    assert warning.startswith("4 clips are all silence: every sample is 0 (buzz/")
    assert warning.endswith(", …)")


def test_whole_numbers_written_as_floats_are_a_warning(noises: Path):
    save(noises / ONE, 2000 * draw(0, 1), subtype="FLOAT")
    save(noises / "buzz/2.wav", 4 * draw(0, 2), subtype="FLOAT")
    (warning,) = load(noises).warnings
    assert warning.startswith("1 clip lies beyond full scale, up to ")
    assert f"({ONE})" in warning


def test_litter_is_passed_over_and_strays_are_told(noises: Path):
    for name in ("buzz/.DS_Store", "buzz/._1.wav", "hum/Thumbs.db"):
        (noises / name).touch()
    (noises / "__pycache__").mkdir()
    assert load(noises).warnings == ()
    (noises / "labels.csv").touch()
    assert load(noises).warnings == ("1 file that is no clip was passed over (1 .csv)",)


def test_a_row_without_a_file(noises: Path):
    rows = [f"{k}/{n}.wav,{k}" for k in ("buzz", "hum") for n in range(9)]
    (noises / "t.csv").write_text("\n".join(["path,label", *rows]))
    with pytest.raises(DataError, match=r"2 bad examples: buzz/8\.wav: there is no such file"):
        load(noises, csv="t.csv")


@pytest.mark.skipif(find_spec("torchcodec") is not None, reason="torchcodec reads it")
def test_what_needs_torchcodec_says_so(noises: Path):
    (noises / "buzz/x.m4a").write_bytes(b"\0\0\0\x20ftypM4A \0\0\0\0")
    with pytest.raises(DataError, match=r"buzz/x\.m4a: it is MP4 audio .*Install torchcodec"):
        load(noises)


# Clips and models


@pytest.fixture
def make_noises(noises: Path, tmp_path: Path, make_config: Callable[..., Any]) -> Any:
    """Makes a configuration of the noises and a small wav2vec2, whose shortest clip is 19 ms."""
    write_pretrained(tmp_path / "wav2vec2", "wav2vec2")

    def make(**settings: Any) -> Any:
        data = {"name": "audio_folder", "root": str(noises), **settings.pop("data", {})}
        model = {"name": "auto_audio", "checkpoint": str(tmp_path / "wav2vec2")}
        return make_config(data=data, **{"model": model, **settings})

    return make


def test_clips_too_short_for_the_model(noises: Path, make_noises: Callable[..., Any]):
    assert sum(map(len, assemble(make_noises()).data.splits.values())) == 24
    save(noises / "buzz/one.wav", draw(0, 90)[:1])
    save(noises / "hum/short.wav", draw(1, 91)[:60])
    with pytest.raises(DataError) as caught:
        assemble(make_noises())
    message = str(caught.value)
    assert message.startswith("data (audio_folder) has 2 bad examples: ")
    assert "buzz/one.wav: 0.0001 seconds are too short for the model, which takes 0.0" in message
    data = assemble(make_noises(data={"on_bad_example": "skip"})).data
    assert ids(data) == ids(load(noises)) - {"buzz/one.wav", "hum/short.wav"}
    assert sorted(text.split(": ")[0] for text in data.skipped) == ["buzz/one.wav", "hum/short.wav"]
    assert "2 bad examples left out" in " ".join(data.warnings)
    assert sum(data.class_counts) == len(data.splits["train"])
    assert data.fingerprint != load(noises).fingerprint


def test_clips_of_a_rate_that_cannot_be_resampled(
    noises: Path, make_noises: Callable[..., Any], tmp_path: Path
):
    """Known before the run has a directory; as a bad example like any other."""
    save(noises / "buzz/odd.wav", draw(0, 90, 0.2, 22_051), 22_051)
    with pytest.raises(DataError, match=r"1 bad example: buzz/odd\.wav: 22,051 Hz can't be resamp"):
        assemble(make_noises())
    data = assemble(make_noises(data={"on_bad_example": "skip"})).data
    assert "buzz/odd.wav" not in ids(data)
    assert data.skipped[0].startswith("buzz/odd.wav: 22,051 Hz can't be resampled to 16,000 Hz")


def test_a_split_without_unfit_clips_is_given_back(
    noises: Path, make_noises: Callable[..., Any], tmp_path: Path
):
    save(noises / "buzz/one.wav", draw(0, 90)[:1])
    first = assemble(make_noises(data={"on_bad_example": "skip"})).data
    parts = {name: (rows,) for name, rows in first.splits.items()}
    write_split(tmp_path / "split.csv", {**parts, "unused": first.unused})
    again = assemble(make_noises(data={"split": {"file": str(tmp_path / "split.csv")}})).data
    assert again.fingerprint == first.fingerprint
    assert again.skipped == ()


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_clip_of_hours_that_is_evaluated_whole_is_a_warning(
    split: str, make_noises: Callable[..., Any], tmp_path: Path
):
    root = tmp_path / "parts"
    for number, name in enumerate(("train", "validation", "test")):
        write_classes(root / name, per_class=2, start=20 * number)
    save(root / split / "buzz/long.flac", np.tile(draw(0, 1, 1.0, 1000), 7200), 1000)
    audio = {"max_seconds": 0.1, "evaluation_windows": "whole"}

    def is_told(**settings: Any) -> bool:
        config = make_noises(data={"root": str(root)}, features__audio=audio, **settings)
        said = "test lasts 7,200 seconds and is evaluated whole"
        return any(said in text for text in assemble(config).warnings)

    assert is_told() == (split != "train")
    write_pretrained(tmp_path / "ast", "ast")  # which cuts by itself
    assert not is_told(model={"name": "auto_audio", "checkpoint": str(tmp_path / "ast")})
    audio["evaluation_windows"] = 3
    assert not is_told()


def test_a_clip_of_hours_is_a_warning(noises: Path, make_noises: Callable[..., Any]):
    save(noises / "buzz/long.flac", np.tile(draw(0, 1, 1.0, 1000), 7200), 1000)
    warnings = assemble(make_noises()).warnings
    assert any("lasts 7,200 seconds" in text and "max_seconds" in text for text in warnings)
    cut_short = make_noises(features__audio={"max_seconds": 0.1})
    assert not any("7,200" in text for text in assemble(cut_short).warnings)


def test_models_of_images_and_of_sound_are_told_apart(
    make_noises: Callable[..., Any], make_config: Callable[..., Any], tmp_path: Path
):
    for name in ("cnn", "mlp"):
        with pytest.raises(ModelError, match=r"model\.name: .*the data are audio\. Write .*audio"):
            assemble(make_noises(model={"name": name}))
    digits = make_config(model={"name": "auto_audio", "checkpoint": str(tmp_path / "wav2vec2")})
    with pytest.raises(ModelError, match=r"auto_audio takes audio, and the data are image"):
        assemble(digits)
    with pytest.raises(ModelError, match=r"features\.augmentation: it is for images"):
        assemble(make_noises(features__augmentation={"rotation_degrees": 10.0}))


def test_checkpoints_of_another_task_or_without_processor(
    make_noises: Callable[..., Any], tmp_path: Path
):
    write_pretrained(tmp_path / "vit", "vit")
    with pytest.raises(ModelError, match=r"image"):
        assemble(make_noises(model={"name": "auto_audio", "checkpoint": str(tmp_path / "vit")}))
    (tmp_path / "wav2vec2/preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match=r"has no preprocessor_config\.json"):
        assemble(make_noises())
