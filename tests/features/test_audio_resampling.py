"""Resampling: torchaudio's numbers to the last bit, its filter kept, and speeds."""

from __future__ import annotations

import pytest
import torch
from sounds import digits, tone
from torchaudio.functional import resample as resample_with_torchaudio

from hf_finetune.features import resampling
from hf_finetune.features.resampling import change_speed, resample

RATES = [(8000, 16000), (16000, 8000), (44100, 16000), (22050, 16000), (48000, 16000)]


@pytest.mark.parametrize(("from_hz", "to_hz"), RATES)
def test_every_bit_is_torchaudios(from_hz, to_hz):
    for seconds in (0.5, 0.13, 1 / from_hz):
        clip = torch.from_numpy(tone(seconds, from_hz))
        expected = resample_with_torchaudio(clip, from_hz, to_hz)
        assert torch.equal(resample(clip, from_hz, to_hz), expected)


@pytest.mark.parametrize("num_samples", [24575, 24576, 24577, 32768, 99000])
def test_every_bit_is_torchaudios_where_a_clip_is_filled_up(num_samples):
    """As long clips are, lest the convolution is compiled for every length."""
    clip = torch.from_numpy(tone(num_samples / 16000))
    assert len(clip) == num_samples
    for from_hz, to_hz in [*RATES, (107, 100)]:
        expected = resample_with_torchaudio(clip, from_hz, to_hz)
        assert torch.equal(resample(clip, from_hz, to_hz), expected)


def test_long_clips_of_many_lengths_are_resampled_at_few(monkeypatch):
    lengths = set()
    resample_as_ever = resampling._filter(441, 320)

    def spy(waveform):
        lengths.add(len(waveform))
        return resample_as_ever(waveform)

    monkeypatch.setattr(resampling, "_filter", lambda *_: spy)
    for num_samples in range(60_000, 70_000, 100):
        resample(torch.zeros(num_samples), 22050, 16000)
    assert len(lengths) == 2


def test_equal_rates_change_nothing():
    clip = torch.from_numpy(tone(0.1))
    assert resample(clip, 16000, 16000) is clip


def test_the_filter_is_made_once():
    clip = torch.from_numpy(tone(0.1))
    resampling._filter.cache_clear()
    for rates in ((16000, 8000), (32000, 16000), (16000, 8000)):
        resample(clip, *rates)
    assert resampling._filter.cache_info().misses == 1


@pytest.mark.parametrize("from_hz", [22051, 1_999_999_973])
def test_rates_without_a_common_factor_are_refused(from_hz):
    with pytest.raises(ValueError, match=r"can't be resampled to 16,000 Hz.*Convert the file"):
        resample(torch.zeros(10), from_hz, 16000)


@pytest.mark.parametrize("factor", [0.8, 0.95, 1.0, 1.07, 1.5])
def test_speed_changes_length_and_pitch(factor):
    times = torch.arange(16000) / 16000
    faster = change_speed(torch.sin(2 * torch.pi * 440 * times), factor)
    assert len(faster) == -(-16000 * 100 // round(100 * factor))
    middle = faster[2000:10000] * torch.hann_window(8000)
    peak_hz = torch.fft.rfft(middle, 2**17).abs().argmax() * 16000 / 2**17
    assert peak_hz == pytest.approx(440 * factor, abs=0.5)


@pytest.mark.slow
def test_every_bit_is_torchaudios_on_spoken_digits(shared_data):
    for clip in digits(shared_data, 50, 8000):
        for to_hz in (16000, 22050, 11025):
            expected = resample_with_torchaudio(clip, 8000, to_hz)
            assert torch.equal(resample(clip, 8000, to_hz), expected)
