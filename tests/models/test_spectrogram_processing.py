"""The log-mel extractor: right bands, right scale, padding, statistics, and its way to the Hub."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers

from hf_finetune.models.spectrogram_processing import FLOOR, LogMelFeatureExtractor

RATE = 16000


def sine(hz: float, seconds: float = 0.5, loudness: float = 0.5) -> np.ndarray:
    times = np.arange(round(seconds * RATE)) / RATE
    return (loudness * np.sin(2 * np.pi * hz * times)).astype(np.float32)


def test_a_tone_lies_in_its_band():
    extractor = LogMelFeatureExtractor(n_mels=40, f_min=50.0, f_max=7000.0)
    filters = extractor.mel_filters
    for hz in (200, 1000, 4000):
        values = extractor(sine(hz), sampling_rate=RATE, return_tensors="pt")["input_values"]
        assert values.shape == (1, 1, 40, 51)
        assert values.dtype == torch.float32
        loudest = int(values[0, 0, :, 25].argmax())
        heard = filters[round(hz / RATE * extractor.n_fft)]
        assert loudest == int(heard.argmax())


def test_the_numbers_are_log_power():
    """Against the definition, frame by frame, in float64."""
    extractor = LogMelFeatureExtractor(n_fft=512, hop_length=128, n_mels=30)
    clip = np.random.default_rng(0).standard_normal(3000).astype(np.float32) * 0.1
    padded = np.pad(clip.astype(np.float64), 256)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    frames = [padded[at : at + 512] * window for at in range(0, 3000 + 1, 128)]
    power = np.abs(np.fft.rfft(frames)) ** 2
    expected = np.log(power @ extractor.mel_filters.double().numpy() + FLOOR).T
    np.testing.assert_allclose(extractor(clip)["input_values"][0, 0], expected, atol=2e-4)


def test_lengths_are_padded_with_a_mask_and_change_no_answer():
    extractor = LogMelFeatureExtractor(mean=-3.0, std=2.0)
    clips = [sine(440, seconds) for seconds in (0.1, 0.5, 1 / RATE)]
    batch = extractor(clips, sampling_rate=RATE, return_tensors="pt")
    assert batch["input_values"].shape == (3, 1, 64, 51)
    assert batch["attention_mask"].sum(1).tolist() == [11, 51, 1]
    assert batch["attention_mask"].dtype == torch.int32
    for number, clip in enumerate(clips):
        alone = extractor(clip, return_tensors="pt")["input_values"][0]
        own = batch["input_values"][number]
        assert torch.allclose(own[..., : alone.shape[-1]], alone, atol=1e-5)
        assert not own[..., alone.shape[-1] :].any()  # the mean


def test_a_fixed_length_cuts_and_pads_without_a_mask():
    extractor = LogMelFeatureExtractor(num_frames=30)
    free = LogMelFeatureExtractor()
    clips = [sine(440, 0.2), sine(440, 1.0)]
    batch = extractor(clips)
    assert set(batch) == {"input_values"}
    assert batch["input_values"].shape == (2, 1, 64, 30)
    expected = [free(clip)["input_values"][0] for clip in clips]
    np.testing.assert_allclose(batch["input_values"][0][..., :21], expected[0], atol=1e-5)
    np.testing.assert_allclose(batch["input_values"][1], expected[1][..., :30], atol=1e-5)
    assert extractor(clips, return_attention_mask=True)["attention_mask"].sum() == 21 + 30


def test_training_statistics_normalise():
    random = np.random.default_rng(0)
    clips = [
        torch.from_numpy(random.standard_normal(n).astype(np.float32) * 0.2)
        for n in (9000, 4000, 16000)
    ]
    plain = LogMelFeatureExtractor()
    mean, std = plain.measure([clips[:2], clips[2:]])
    values = torch.cat([plain.extract_batch([c])["input_values"].flatten() for c in clips])
    assert mean == pytest.approx(float(values.mean()), abs=1e-4)
    assert std == pytest.approx(float(values.std()), abs=1e-3)
    batch = LogMelFeatureExtractor(mean=mean, std=std).extract_batch(clips)
    filled = batch["input_values"].transpose(2, 3)[batch["attention_mask"][:, None] == 1]
    assert float(filled.mean()) == pytest.approx(0, abs=1e-3)
    assert float(filled.std()) == pytest.approx(1, abs=1e-3)
    bands = LogMelFeatureExtractor(n_mels=4, f_max=4000.0, mean=[1.0, 2, 3, 4], std=[1.0, 2, 4, 8])
    same = LogMelFeatureExtractor(n_mels=4, f_max=4000.0).extract_batch(clips[:1])["input_values"]
    scaled = bands.extract_batch(clips[:1])["input_values"]
    assert torch.allclose(scaled[0, 0, 3], (same[0, 0, 3] - 4) / 8, atol=1e-5)


def test_silence_is_finite():
    values = LogMelFeatureExtractor()(np.zeros(5000, np.float32))["input_values"]
    assert np.allclose(values, np.log(FLOOR))


def test_what_one_may_pass():
    extractor = LogMelFeatureExtractor()
    clip = sine(440)
    expected = extractor(clip)["input_values"]
    for same in (
        torch.from_numpy(clip),
        clip.tolist(),
        [clip],
        clip[None],
        clip.astype(np.float64),
    ):
        np.testing.assert_array_equal(extractor(same)["input_values"], expected)
    assert extractor([clip, clip])["input_values"].shape[0] == 2
    with pytest.raises(ValueError, match="got 8000, the network was built for 16000"):
        extractor(clip, sampling_rate=8000)
    with pytest.raises(ValueError, match=r"shape \[2, 8000\]. Allowed: \[samples\]"):
        extractor([np.stack([clip, clip])])
    with pytest.raises(ValueError, match=r"shape \[0\]"):
        extractor([clip, clip[:0]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_mels": 400}, "n_mels: 400 bands from 20 to 8000 Hz are more than n_fft 400"),
        ({"f_max": 9000.0}, "half the sampling rate, 8000 Hz"),
        ({"f_min": 500.0, "f_max": 400.0}, "f_min below f_max"),
        ({"hop_length": 0}, "hop_length: got 0"),
        ({"num_frames": 0}, "num_frames: got 0"),
        ({"std": 0.0}, "std: got 0.0.*above 0"),
        ({"mean": [1.0, 2.0]}, r"mean: got \[1.0, 2.0\].*each of 64 bands"),
        ({"mean": float("nan")}, "mean: got nan"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LogMelFeatureExtractor(**settings)


def test_it_is_saved_and_loaded(tmp_path):
    extractor = LogMelFeatureExtractor(
        sampling_rate=8000, n_fft=256, hop_length=80, n_mels=32, num_frames=40, mean=-2.5, std=3.0
    )
    extractor.save_pretrained(tmp_path)
    again = LogMelFeatureExtractor.from_pretrained(tmp_path)
    assert again.to_dict() == extractor.to_dict()
    clip = sine(300)
    np.testing.assert_array_equal(again(clip)["input_values"], extractor(clip)["input_values"])


REMOTE = """
import sys
import hf_finetune  # mends the import of torchaudio, which is broken beside a CPU build of torch
for name in [name for name in sys.modules if name.startswith("hf_finetune")]:
    sys.modules[name] = None  # from here on as for somebody who has not installed it
import numpy as np
import transformers
extractor = transformers.AutoFeatureExtractor.from_pretrained(sys.argv[1], trust_remote_code=True)
clip = np.load(sys.argv[1] + "/clip.npy")
assert np.array_equal(extractor(clip)["input_values"], np.load(sys.argv[1] + "/values.npy"))
print(type(extractor).__name__, type(extractor).__module__.split(".")[0])
"""


@pytest.mark.slow
def test_its_code_can_go_with_the_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(LogMelFeatureExtractor, "_auto_class", None)  # forgotten after the test
    LogMelFeatureExtractor.register_for_auto_class("AutoFeatureExtractor")
    extractor = LogMelFeatureExtractor(num_frames=20)
    extractor.save_pretrained(tmp_path / "model")
    np.save(tmp_path / "model" / "clip.npy", sine(500))
    np.save(tmp_path / "model" / "values.npy", extractor(sine(500))["input_values"])
    done = subprocess.run(
        [sys.executable, "-c", REMOTE, str(tmp_path / "model")],
        env={**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["LogMelFeatureExtractor", "transformers_modules"]


def test_the_pipeline_can_call_it():
    """As transformers' audio pipeline does, and its batches."""
    extractor = LogMelFeatureExtractor(num_frames=20)
    made = extractor(sine(500), sampling_rate=RATE, return_tensors="pt")
    assert isinstance(made, transformers.BatchFeature)
    assert made["input_values"].shape == (1, 1, 64, 20)
