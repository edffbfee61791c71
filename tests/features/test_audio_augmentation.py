"""Augmentation of sound: each stage does what it says, by the example's own keys."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sounds import tone, write

from hf_finetune.errors import DataError
from hf_finetune.features.audio_augmentation import (
    WaveformAugmentation,
    add_noise,
    mask_spectrograms,
    shift_pitch,
    shift_time,
)
from hf_finetune.features.audio_options import AudioAugmentationOptions as Options
from hf_finetune.features.audio_options import (
    AudioOptions,
    check_audio,
    describe_audio_options,
)
from hf_finetune.features.draws import Keys

STAGES = {
    "speed": {"speed_factors": (0.9, 1.1)},
    "pitch": {"pitch_semitones": 4},
    "shift": {"shift_fraction": 0.3},
    "noise": {"noise_snr_db": (0.0, 20.0)},
    "gain": {"gain_db": 12.0},
}
EVERYTHING = {name: value for stage in STAGES.values() for name, value in stage.items()}


def keys(count: int, epoch: int = 0, seed: int = 0, first: int = 0) -> Keys:
    return Keys(seed, np.full(count, epoch), np.arange(first, first + count))


def clip(seconds: float = 0.3, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(tone(seconds, seed=seed))


def augment(clips: list[torch.Tensor], of: Keys, **options: object) -> list[torch.Tensor]:
    return WaveformAugmentation(Options(**options), 16000).apply(clips, of)


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> list[bool]:
    return [torch.equal(a, b) for a, b in zip(left, right, strict=True)]


# Keys


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_follows_from_the_keys_alone(stage):
    options = STAGES[stage]
    clips = [clip(0.1 + 0.05 * n, n) for n in range(6)]
    before = [one.clone() for one in clips]
    once = augment(clips, keys(6), **options)
    assert all(same(clips, before))  # left as they are
    assert all(same(augment(clips, keys(6), **options), once))
    assert all(same(augment(clips[2:4], keys(2, first=2), **options), once[2:4]))
    changed = [not equal for equal in same(once, clips)]
    assert sum(changed) >= 4
    for other in (keys(6, epoch=1), keys(6, seed=1), keys(6, first=100)):
        assert not all(same(augment(clips, other, **options), once))


def test_switching_stages_on_leaves_what_the_others_draw():
    clips = [torch.ones(4000)] * 8
    fast = augment(clips, keys(8), **STAGES["speed"])
    everything = augment(clips, keys(8), **EVERYTHING)
    assert [len(one) for one in everything] == [len(one) for one in fast]
    gain = augment(clips, keys(8), **STAGES["gain"])
    both = augment(clips, keys(8), **STAGES["gain"], **STAGES["shift"])
    assert [one.max() for one in both] == [one.max() for one in gain]


def test_nothing_is_on_by_default():
    off = Options()
    assert not off.waveform_augmented
    assert not off.masks_spectrograms
    clips = [clip(), torch.zeros(100)]
    assert all(same(augment(clips, keys(2)), clips))


@pytest.mark.parametrize("stage", STAGES)
def test_it_says_whether_waveforms_change(stage):
    assert Options(**STAGES[stage]).waveform_augmented
    assert not Options(time_masks=2, frequency_masks=1).waveform_augmented
    assert Options(time_masks=1).masks_spectrograms
    assert Options(frequency_masks=1).masks_spectrograms
    assert not Options(noise_snr_db=(1, 2), noise_probability=0).waveform_augmented


# Stages


def test_speeds_are_drawn_from_the_set_evenly():
    speeds = WaveformAugmentation(Options(speed_factors=(0.9, 1.0, 1.1)), 16000)
    drawn, counts = np.unique(speeds.draw_speeds(keys(3000)), return_counts=True)
    assert drawn.tolist() == [0.9, 1.0, 1.1]
    assert counts.min() > 850
    lengths = [len(one) for one in augment([clip(1)] * 20, keys(20), speed_factors=(0.9, 1.1))]
    assert set(lengths) == {math.ceil(16000 / 0.9), math.ceil(16000 / 1.1)}


@pytest.mark.parametrize("semitones", [-12, -7, -1, 1, 4, 12])
def test_pitch_moves_and_length_stays(semitones):
    times = torch.arange(16000) / 16000
    shifted = shift_pitch(torch.sin(2 * torch.pi * 440 * times), semitones)
    assert len(shifted) == 16000
    spectrum = torch.fft.rfft(shifted[2000:14000] * torch.hann_window(12000), 2**18).abs()
    peak_hz = float(spectrum.argmax()) * 16000 / 2**18
    assert abs(1200 * math.log2(peak_hz / 440 / 2 ** (semitones / 12))) < 5  # cents
    assert shifted.abs().max() < 1.3


@pytest.mark.parametrize("samples", [1, 511, 512, 700])
def test_pitch_of_short_clips(samples):
    for semitones in (-12, 3, 12):
        assert len(shift_pitch(torch.ones(samples), semitones)) == samples


def test_pitches_are_drawn_on_both_sides():
    clips = [clip()] * 30
    raised = [shift_pitch(clip(), semitones) for semitones in (-1, 0, 1)]
    found = augment(clips, keys(30), pitch_semitones=1)
    kinds = [next(n for n in range(3) if torch.equal(one, raised[n])) for one in found]
    assert set(kinds) == {0, 1, 2}


def test_time_shifts_bring_silence_in():
    assert shift_time(torch.arange(1.0, 6), 2).tolist() == [0, 0, 1, 2, 3]
    assert shift_time(torch.arange(1.0, 6), -2).tolist() == [3, 4, 5, 0, 0]
    shifted = augment([torch.ones(1000)] * 50, keys(50), shift_fraction=0.2)
    heads = [int((one[:500] == 0).sum()) for one in shifted]
    tails = [int((one[500:] == 0).sum()) for one in shifted]
    assert 150 < max(heads) <= 200
    assert 150 < max(tails) <= 200
    assert all(min(pair) == 0 for pair in zip(heads, tails, strict=True))


def decibels(sound: torch.Tensor, noise: torch.Tensor) -> float:
    return 10 * math.log10(float(sound.square().sum() / noise.square().sum()))


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 30.0])
def test_noise_lies_below_the_clip_as_asked(snr_db):
    sound, noise = clip(), clip(seed=3)
    added = add_noise(sound, noise, snr_db) - sound
    assert decibels(sound, added) == pytest.approx(snr_db, abs=0.01)
    assert torch.corrcoef(torch.stack([added, noise]))[0, 1] > 0.999
    for silent in ((torch.zeros(9), torch.ones(9)), (torch.ones(9), torch.zeros(9))):
        assert torch.equal(add_noise(*silent, snr_db), silent[0])


def test_white_noise_has_the_range_and_the_share_asked_for():
    sounds = [clip(0.1, n) for n in range(60)]
    noisy = augment(sounds, keys(60), noise_snr_db=(10.0, 20.0), noise_probability=0.5)
    ratios = [
        decibels(sound, one - sound)
        for sound, one in zip(sounds, noisy, strict=True)
        if not torch.equal(one, sound)
    ]
    assert 20 <= len(ratios) <= 40
    assert 9.9 < min(ratios) < 12
    assert 18 < max(ratios) < 20.1
    noise = noisy[-1] - sounds[-1]
    flat = torch.fft.rfft(noise).abs().square()
    assert 0.5 < flat[:400].mean() / flat[400:].mean() < 2


def test_noise_comes_from_a_folder(tmp_path):
    (tmp_path / "deep").mkdir()
    hum = np.sin(2 * np.pi * 1000 * np.arange(44100) / 22050).astype(np.float32)
    write(tmp_path / "deep" / "hum.wav", np.stack([hum, hum], 1), 22050)
    (tmp_path / "notes.txt").write_text("no noise")
    sound = clip(0.5)
    options = {"noise_snr_db": (0.0, 0.0), "noise_folder": str(tmp_path)}
    noises = [one - sound for one in augment([sound] * 3, keys(3), **options)]
    for noise in noises:
        assert decibels(sound, noise) == pytest.approx(0, abs=0.01)
        peak_hz = float(torch.fft.rfft(noise).abs().argmax()) * 16000 / len(noise)
        assert peak_hz == pytest.approx(1000, abs=3)
    assert not torch.equal(noises[0], noises[1])  # another stretch of the file
    long = clip(5)  # longer than the file: it is repeated
    (noisy,) = augment([long], keys(1), **options)
    assert (noisy - long)[-8000:].abs().max() > 0.01


def test_noise_that_is_not_there_is_said(tmp_path):
    for folder, message in ((tmp_path / "none", "is no folder"), (tmp_path, "no audio file")):
        with pytest.raises(DataError, match=f"noise_folder: .*{message}"):
            WaveformAugmentation(Options(noise_snr_db=(1, 2), noise_folder=str(folder)), 16000)
    (tmp_path / "a.wav").write_text("no sound")
    noisy = Options(noise_snr_db=(1.0, 2.0), noise_folder=str(tmp_path))
    with pytest.raises(DataError, match=r"a\.wav: it can't be read as audio"):
        WaveformAugmentation(noisy, 16000)  # not in the middle of the training
    write(tmp_path / "a.wav", np.ones(2000, np.float32), 22051)
    with pytest.raises(DataError, match=r"a\.wav: 22,051 Hz can't be resampled to 16,000 Hz"):
        WaveformAugmentation(noisy, 16000)


def test_gain_stays_within_its_decibels():
    found = [float(one[0]) for one in augment([torch.ones(1)] * 200, keys(200), gain_db=6.0)]
    levels = 20 * np.log10(found)
    assert -6 <= levels.min() < -5.7
    assert 5.7 < levels.max() <= 6


# SpecAugment


def masked(of: Keys, lengths: list[int], **options: object) -> torch.Tensor:
    frames = torch.randn(len(lengths), 50, 20, generator=torch.Generator().manual_seed(0))
    before = frames.clone()
    mask_spectrograms(frames, lengths, Options(**options), of)
    changed = frames != before
    for example, length in enumerate(lengths):
        mean = before[example, :length].mean()
        assert torch.allclose(frames[example][changed[example]], mean)
        assert not changed[example, length:].any()
    return changed


def test_masks_of_time_blot_out_every_band():
    changed = masked(keys(100), [50] * 100, time_masks=1, time_mask_fraction=0.2)
    assert torch.equal(changed.any(2), changed.all(2))
    widths = changed[:, :, 0].sum(1)
    assert set(widths.tolist()) == set(range(11))
    jumps = changed[:, :, 0].int().diff(dim=1).abs().sum(1)
    assert jumps.max() <= 2  # in one piece
    assert changed.any(0).all(0).all()  # wherever in the clip


def test_masks_of_frequency_blot_out_every_time():
    changed = masked(keys(60), [50] * 60, frequency_masks=2, frequency_mask_fraction=0.2)
    assert torch.equal(changed.any(1), changed.all(1))
    assert changed[:, 0].sum(1).max() > 4  # two of them
    assert changed[:, 0].sum(1).max() <= 8


def test_masks_leave_the_padding_alone_and_follow_the_keys():
    lengths = [5, 50, 20, 1]
    options = {"time_masks": 3, "time_mask_fraction": 1.0, "frequency_masks": 1}
    changed = masked(keys(4), lengths, **options)
    assert changed.any()
    assert torch.equal(masked(keys(4), lengths, **options), changed)
    assert torch.equal(masked(keys(2, first=1), lengths[1:3], **options), changed[1:3])
    assert not torch.equal(masked(keys(4, epoch=1), lengths, **options), changed)


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_snr_db": (9, 1)}, r"above the second, got \[9, 1\]\. Write \[1, 9\]"),
        ({"speed_factors": (0.1,)}, "greater than or equal to 0.5"),
        ({"pitch_semitones": 0.5}, "valid integer"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        Options(**options)


@pytest.mark.parametrize(
    ("augmentation", "audio", "doubt"),
    [
        ({"noise_folder": "x"}, {}, "noise_folder does nothing without noise_snr_db"),
        ({"noise_probability": 0.5}, {}, "noise_probability does nothing without noise_snr_db"),
        ({"time_mask_fraction": 0.5}, {}, "time_mask_fraction does nothing without time_masks"),
        ({"frequency_mask_fraction": 0.5}, {}, "does nothing without frequency_masks"),
        ({}, {"length_rounding_seconds": 0.5}, "does nothing without batches: equal_length"),
        ({}, {"length_window_batches": 5, "batches": "random"}, "without batches: by_length"),
        ({"speed_factors": (0.9,)}, {"batches": "equal_length"}, "speed_factors changes lengths"),
    ],
)
def test_settings_that_say_nothing_are_told_of(augmentation, audio, doubt):
    (warning,) = check_audio(AudioOptions(augmentation=Options(**augmentation), **audio))
    assert doubt in warning
    assert warning.startswith("features.audio.")


def test_the_plan_says_what_is_set():
    assert describe_audio_options(AudioOptions()) == "augmentation of training clips: none"
    augmentation = Options(speed_factors=(0.9, 1.1), noise_snr_db=(5, 20), gain_db=6.0)
    said = describe_audio_options(AudioOptions(max_seconds=2.5, augmentation=augmentation))
    assert said == (
        "max_seconds 2.5; augmentation of training clips: speed_factors [0.9, 1.1], "
        "noise_snr_db [5, 20], gain_db 6"
    )


def test_settings_that_do_something_are_not_told_of():
    augmentation = Options(**EVERYTHING, noise_probability=0.5, noise_folder="x", time_masks=1)
    assert check_audio(AudioOptions(augmentation=augmentation, length_window_batches=5)) == ()
    assert check_audio(AudioOptions(batches="equal_length", length_rounding_seconds=0.1)) == ()
