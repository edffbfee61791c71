"""The German Emotional-TTS set, in a generated stand-in with its layout and names."""

from __future__ import annotations

from hashlib import md5
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import save
from small_checkpoints import write_pretrained

from hf_finetune.config import load_config
from hf_finetune.data import LoadedData, load_data
from hf_finetune.data.tables import column_values
from hf_finetune.data.thorsten_emotional import EMOTIONS, Options
from hf_finetune.errors import DataError
from hf_finetune.finetuning import finetune
from hf_finetune.trackers.jsonl import read_history

CONFIG = "configs/thorsten_emotional_wav2vec2.yaml"
NEVER_RECORDED = "2cc2cc4a34b961ef1657cc82dbd18875"
SENTENCES = 12


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))


def write_stand_in(folder: Path, sentences: int = SENTENCES) -> Path:
    """Eight folders of 22,050 Hz clips, one a sentence, but for the one never published."""
    root = folder / "thorsten-emotional_v02"
    stems = [md5(str(number).encode()).hexdigest() for number in range(sentences - 1)]
    stems.append(NEVER_RECORDED)
    for kind, emotion in enumerate(EMOTIONS):
        for number, stem in enumerate(stems):
            if (emotion, stem) == ("whisper", NEVER_RECORDED):
                continue
            times = np.arange(2000 + 150 * number) / 22_050
            noise = np.random.default_rng([kind, number]).normal(0, 0.01, len(times))
            tone = 0.1 * np.sin(2 * np.pi * 220 * (1 + kind) * times)
            save(root / emotion / f"{stem}.wav", tone + noise, 22_050)
    lines = [f"{stem}|Satz {number}, größer als zuvor." for number, stem in enumerate(stems)]
    (root / "thorsten-emotional-metadata.csv").write_text("\n".join(lines) + "\n", "utf-8")
    (root / "README.md").touch()
    return folder


def load(root: Path, **settings: Any) -> LoadedData:
    return load_data(Options(root=str(root), **settings))


def test_sentences_stay_on_one_side(tmp_path: Path):
    data = load(write_stand_in(tmp_path))
    assert data.label_names == EMOTIONS
    assert data.group_columns == ("sentence",)
    assert sum(map(len, data.splits.values())) == 8 * SENTENCES - 1
    sides = [{*column_values(split, "sentence")} for split in data.splits.values()]
    assert sum(map(len, sides)) == len(set.union(*sides)) == SENTENCES
    assert "Satz 3, größer als zuvor." in set.union(*sides)
    assert data.audio_shape is not None
    assert data.audio_shape.sampling_rate_hz == 22_050
    assert data.warnings == (
        f"whisper/{NEVER_RECORDED}.wav is not there: the published set lacks it, too",
    )
    ids = {name for split in data.splits.values() for name in column_values(split, "id")}
    assert f"neutral/{NEVER_RECORDED}.wav" in ids
    assert load(tmp_path / "thorsten-emotional_v02").fingerprint == data.fingerprint


def test_what_else_is_missing_is_told(tmp_path: Path):
    root = write_stand_in(tmp_path) / "thorsten-emotional_v02"
    gone = next((root / "angry").iterdir())
    gone.rename(root / "angry" / f"{'a' * 32}.wav")
    with pytest.raises(DataError, match=f"2 bad examples: angry/.*{gone.stem}.wav: the recording"):
        load(tmp_path)
    data = load(tmp_path, on_bad_example="skip")
    assert sorted(text.partition(": ")[2] for text in data.skipped) == [
        "the recording is not there",
        "thorsten-emotional-metadata.csv has no sentence for it, and so it has no group",
    ]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("ab,cd", r"csv:13: this line is not of the form id\|text, got 'ab,cd'"),
        (f"{NEVER_RECORDED}|x", "csv:13: this line names a recording again"),
    ],
)
def test_faulty_metadata_are_told(line: str, told: str, tmp_path: Path):
    table = write_stand_in(tmp_path) / "thorsten-emotional_v02/thorsten-emotional-metadata.csv"
    with table.open("a") as file:
        file.write(line)
    with pytest.raises(DataError, match=told):
        load(tmp_path)
    table.unlink()
    with pytest.raises(DataError, match=r"there is no file .*hf-finetune download thorsten"):
        load(tmp_path)


def test_metadata_may_begin_with_a_mark(tmp_path: Path):
    table = write_stand_in(tmp_path) / "thorsten-emotional_v02/thorsten-emotional-metadata.csv"
    before = load(tmp_path).fingerprint
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\n", b"\r\n"))
    assert load(tmp_path).fingerprint == before


def test_missing_data_names_the_command(tmp_path: Path):
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match="hf-finetune download thorsten_emotional"):
            load(root)


def test_the_exercise_runs(tmp_path: Path):
    """The shipped configuration on the stand-in, with a small network of the true architecture."""
    write_stand_in(tmp_path)
    write_pretrained(tmp_path / "wav2vec2", "wav2vec2")
    overrides = {
        "data.root": tmp_path,
        "model.checkpoint": tmp_path / "wav2vec2",
        "run.directory": tmp_path / "runs",
        "run.pictures": "false",
        "train.num_train_epochs": 6,
        "train.early_stopping_patience": 1,
        "train.early_stopping_threshold": 2,
        "compute.precision": "fp32",
        "compute.device": "cpu",
    }
    config = load_config(CONFIG, [f"{key}={value}" for key, value in overrides.items()])
    result = finetune(config, quiet=True)
    assert result.metrics["metric_for_best_model"] == "macro_f1"
    assert result.metrics["test"]["num_examples"] > 0
    history = read_history(result.run.path)
    evaluations = [record for record in history if "validation/macro_f1" in record]
    assert len(evaluations) == 2  # nothing is better by 2, and patience is 1
    assert any("the published set lacks it" in text for text in result.run.status["warnings"])
