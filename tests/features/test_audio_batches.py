"""Training batches of sound: the widths they come in, and the clips that stay in memory."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from sounds import raw, tone, write
from test_audio_collator import PLAIN, SPECTROGRAMS, collate, options

from hf_finetune.features import FeatureOptions, collator_for


@pytest.fixture
def paths(tmp_path):
    lengths = (0.3, 0.9, 0.5, 1.4)
    return [write(tmp_path / f"{n}.wav", tone(s, seed=n)) for n, s in enumerate(lengths)]


# Widths of training batches


def test_what_is_padded_is_padded_to_a_common_width(paths):
    batch = collate(PLAIN, raw(paths), training=True)
    assert batch["input_values"].shape == (4, 22528)  # 22 times 1,024
    assert batch["attention_mask"].sum(1).tolist() == [4800, 14400, 8000, 22400]
    assert not batch["input_values"][3, 22400:].any()
    for how in ({"batches": "equal_length"}, {"max_seconds": 22401 / 16000}):
        width = collate(PLAIN, raw(paths), options(**how), training=True)["input_values"].shape[1]
        assert width == (22400 if "batches" in how else 22401)
    assert collate(PLAIN, raw(paths), options(batches="random"), training=True)[
        "input_values"
    ].shape == (4, 22528)
    cut = collate(PLAIN, raw(paths), options(max_seconds=0.8), training=True)
    assert cut["input_values"].shape == (4, 12800)


def test_clips_of_one_length_are_not_padded(tmp_path, paths):
    alike = [write(tmp_path / f"alike_{n}.wav", tone(1.4, seed=n)) for n in range(3)]
    for files in (alike, paths[3:]):
        assert collate(PLAIN, raw(files), training=True)["input_values"].shape[1] == 22400


def test_the_padding_is_told_as_it_is():
    assert collator_for(PLAIN, options(), 0, True).padded_seconds(1.4) == 22528 / 16000
    assert collator_for(PLAIN, options(), 0, False).padded_seconds(1.4) == 1.4
    assert collator_for(PLAIN, options(max_seconds=1.0), 0, True).padded_seconds(1.0) == 1.0
    assert collator_for(SPECTROGRAMS, options(), 0, True).padded_seconds(0.4) == 0.4


# Clips that stay in memory


def counted(monkeypatch) -> list[str]:
    from hf_finetune.features import audio

    read, plain = [], audio.read_audio

    def count(clip, *where):
        read.append(clip["path"][-5:])
        return plain(clip, *where)

    monkeypatch.setattr(audio, "read_audio", count)
    return read


def test_whole_clips_are_read_once_and_stay_as_they_are(paths, monkeypatch):
    changes = {"gain_db": 9.0, "speed_factors": (0.8, 1.2), "noise_snr_db": (5.0, 9.0)}
    for settings in (options(), options(changes), options(changes, max_seconds=1.0)):
        monkeypatch.undo()
        read = counted(monkeypatch)
        collator = collator_for(PLAIN, settings, 0, training=True)
        anew = replace(settings, waveform_cache_bytes=0)
        for epoch in range(3):
            expected = collate(PLAIN, raw(paths, epoch), anew, training=True)
            count = len(read)
            batch = collator(raw(paths, epoch))
            assert torch.equal(batch["input_values"], expected["input_values"])
            if settings.audio.max_seconds is None:
                assert len(read) == count + 4 * (epoch == 0)
            elif epoch:  # what is cut at random is read anew
                assert "3.wav" in read[count:]
                assert "0.wav" not in read[count:]


def replace(settings, **audio):
    return FeatureOptions(audio=settings.audio.model_copy(update=audio))


def test_no_more_stays_in_memory_than_there_is_room_for(paths, monkeypatch):
    read = counted(monkeypatch)
    room = 4 * 14400  # just 1.wav, but 0.wav comes first, and leaves room for 2.wav
    collator = collator_for(PLAIN, options(waveform_cache_bytes=room), 0, training=True)
    for _ in range(2):
        collator(raw(paths))
    assert read[4:] == ["1.wav", "3.wav"]
    evaluated = collator_for(PLAIN, options(), 0, training=False)
    for _ in range(2):
        evaluated(raw(paths))
    assert len(read) == 6 + 8


def test_a_loaders_worker_keeps_nothing(paths, monkeypatch):
    from hf_finetune.features import waveform_cache

    monkeypatch.setattr(waveform_cache, "get_worker_info", lambda: SimpleNamespace(id=0))
    read = counted(monkeypatch)
    collator = collator_for(PLAIN, options(), 0, training=True)
    for _ in range(2):
        collator(raw(paths))
    assert len(read) == 8
