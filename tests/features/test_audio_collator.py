"""The audio collator: raw rows in, model batches out; lengths, windows, keys, and bad clips."""

from __future__ import annotations

import pickle
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from sounds import raw, tone, write

from hf_finetune.errors import DataError, ModelError
from hf_finetune.features import AudioOptions, AugmentationOptions, FeatureOptions, collator_for
from hf_finetune.features.audio_decoding import describe_audio
from hf_finetune.features.audio_options import AudioAugmentationOptions
from hf_finetune.features.resampling import resample

WAVEFORMS = transformers.Wav2Vec2FeatureExtractor()
PLAIN = transformers.Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)
SPECTROGRAMS = transformers.ASTFeatureExtractor(max_length=60)
BASE = transformers.Wav2Vec2Config()


def options(augmentation=None, **audio):
    augmentation = AudioAugmentationOptions(**(augmentation or {}))
    return FeatureOptions(audio=AudioOptions(augmentation=augmentation, **audio))


def collate(processor, raw_batch, settings=None, seed=0, training=False, config=None):
    return collator_for(processor, settings or options(), seed, training, config)(raw_batch)


@pytest.fixture
def paths(tmp_path):
    lengths = (0.3, 0.9, 0.5, 1.4)
    return [write(tmp_path / f"{n}.wav", tone(s, seed=n)) for n, s in enumerate(lengths)]


def arrays(*clips, rate=16000):
    return [{"array": np.asarray(clip, np.float32), "sampling_rate_hz": rate} for clip in clips]


def test_a_batch_has_features_labels_and_index(paths):
    batch = collate(PLAIN, raw(paths, first=40))
    assert set(batch) == {"input_values", "attention_mask", "labels", "index"}
    assert batch["input_values"].shape == (4, 22400)
    assert batch["attention_mask"].sum(1).tolist() == [4800, 14400, 8000, 22400]
    assert batch["labels"].tolist() == [0, 1, 2, 3]
    assert batch["index"].tolist() == [40, 41, 42, 43]
    assert batch["labels"].dtype == batch["index"].dtype == torch.int64
    assert "attention_mask" not in collate(WAVEFORMS, raw(paths))
    assert set(collate(WAVEFORMS, {"audio": raw(paths)["audio"]})) == {"input_values"}


def test_files_bytes_and_arrays_give_the_same(paths, tmp_path):
    from_files = raw(paths)
    contents = [describe_audio(None, (tmp_path / f"{n}.wav").read_bytes())[0] for n in range(4)]
    samples = [one[mask == 1] for one, mask in zip(*_values_and_mask(from_files), strict=True)]
    expected = collate(WAVEFORMS, from_files)["input_values"]
    for audio in (contents, arrays(*samples)):
        assert torch.equal(collate(WAVEFORMS, {"audio": audio})["input_values"], expected)


def _values_and_mask(raw_batch):
    batch = collate(PLAIN, raw_batch)
    return batch["input_values"].numpy(), batch["attention_mask"].numpy()


def test_rates_may_differ_within_a_batch(tmp_path):
    clips = {rate: tone(0.5, rate) for rate in (16000, 8000, 22050)}
    files = [write(tmp_path / f"{r}.wav", c, r, subtype="FLOAT") for r, c in clips.items()]
    values = collate(PLAIN, raw(files))["input_values"]
    for row, (rate, clip) in zip(values, clips.items(), strict=True):
        expected = resample(torch.from_numpy(clip), rate, 16000)
        assert torch.equal(row[: len(expected)], expected)


def test_it_survives_pickling_and_leaves_the_raw_batch(paths):
    settings = options({"gain_db": 6.0, "noise_snr_db": (0.0, 9.0)}, max_seconds=0.4)
    collator = collator_for(WAVEFORMS, settings, 3, training=True, model_config=BASE)
    raw_batch = raw(paths)
    before = pickle.dumps(raw_batch)
    values = collator(raw_batch)["input_values"]
    assert pickle.dumps(raw_batch) == before
    assert torch.equal(pickle.loads(pickle.dumps(collator))(raw_batch)["input_values"], values)


# Lengths


def place_of(part: torch.Tensor, clip: np.ndarray) -> int:
    """Where a part of a clip begins."""
    windows = np.lib.stride_tricks.sliding_window_view(clip, len(part))
    (start,) = np.flatnonzero((windows[:, :3] == part[:3].numpy()).all(axis=1))
    assert np.array_equal(windows[start], part)
    return int(start)


def test_training_cuts_at_random_by_the_keys(tmp_path):
    clip = tone(1.5)
    raw_batch = raw([write(tmp_path / "a.wav", clip, subtype="FLOAT")] * 12)
    settings = options(max_seconds=0.5)
    values = collate(PLAIN, raw_batch, settings, training=True)["input_values"]
    assert values.shape == (12, 8000)
    places = [place_of(row, clip) for row in values]
    assert len(set(places)) > 10
    assert min(places) < 4000
    assert max(places) > 12000
    again = collate(PLAIN, {**raw_batch, "audio": raw_batch["audio"]}, settings, training=True)
    assert torch.equal(again["input_values"], values)
    part = {name: column[3:5] for name, column in raw_batch.items()}
    assert torch.equal(collate(PLAIN, part, settings, training=True)["input_values"], values[3:5])
    for change in ({"epoch": raw_batch["epoch"] + 1}, {"index": raw_batch["index"] + 12}):
        other = collate(PLAIN, {**raw_batch, **change}, settings, training=True)["input_values"]
        assert [place_of(row, clip) for row in other] != places


def test_evaluation_takes_the_middle_or_all(tmp_path):
    clip = tone(1.5)
    raw_batch = raw([write(tmp_path / "a.wav", clip, subtype="FLOAT")])
    middle = collate(PLAIN, raw_batch, options(max_seconds=0.5))["input_values"]
    np.testing.assert_array_equal(middle[0], clip[8000:16000])
    whole = options(max_seconds=0.5, evaluation_windows="whole")
    np.testing.assert_array_equal(collate(PLAIN, raw_batch, whole)["input_values"][0], clip)
    cut = collate(PLAIN, raw_batch, whole, training=True)["input_values"]
    assert cut.shape == (1, 8000)  # training is cut all the same


def test_long_clips_are_evaluated_in_windows(tmp_path):
    clips = [tone(0.2, seed=1), tone(1.5), tone(0.6, seed=2)]
    files = [write(tmp_path / f"{n}.wav", c, subtype="FLOAT") for n, c in enumerate(clips)]
    settings = options(max_seconds=0.5, evaluation_windows=3)
    batch = collate(PLAIN, raw(files), settings)
    assert batch["example"].tolist() == [0, 1, 1, 1, 2, 2]
    assert batch["labels"].tolist() == batch["index"].tolist() == [0, 1, 2]
    assert batch["input_values"].shape == (6, 8000)
    np.testing.assert_array_equal(batch["input_values"][2], clips[1][8000:16000])
    np.testing.assert_array_equal(batch["input_values"][5], clips[2][1600:])
    short = collate(PLAIN, raw(files[:1]), settings)
    assert short["example"].tolist() == [0]  # there in every batch
    assert "example" not in collate(PLAIN, raw(files), settings, training=True)


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_cuts_have_one_length_at_any_rate(rate, tmp_path):
    file = write(tmp_path / "a.wav", tone(2, rate), rate)
    settings = options({"speed_factors": (0.9, 1.0, 1.1)}, max_seconds=0.7)
    for training in (True, False):
        batch = collate(PLAIN, raw([file] * 12), settings, training=training)
        assert batch["attention_mask"].sum(1).tolist() == [11200] * 12


def test_models_of_fixed_length_cut_by_themselves(tmp_path):
    clip = tone(2)
    raw_batch = raw([write(tmp_path / "a.wav", clip, subtype="FLOAT")] * 8)
    most = 59 * 160 + 400
    start = (len(clip) - most) // 2
    middle = collate(SPECTROGRAMS, raw_batch)["input_values"]
    expected = SPECTROGRAMS(clip[start : start + most], 16000, return_tensors="pt")["input_values"]
    assert torch.allclose(middle[:1], expected, atol=1e-5)
    random = collate(SPECTROGRAMS, raw_batch, training=True)["input_values"]
    assert len({float(row.sum()) for row in random}) > 6
    windows = collate(SPECTROGRAMS, raw_batch, options(evaluation_windows=2))
    assert windows["example"].tolist() == [n // 2 for n in range(16)]


def test_of_a_long_file_only_the_cut_is_decoded(tmp_path, monkeypatch):
    from hf_finetune.features import audio

    read = []
    real = audio.read_audio

    def count(*args):
        read.append(len(samples := real(*args)))
        return samples

    monkeypatch.setattr(audio, "read_audio", count)
    file = write(tmp_path / "a.wav", np.tile(tone(10, 8000), 30), 8000)
    collate(PLAIN, raw([file]), options(max_seconds=1.0, evaluation_windows=3))
    collate(PLAIN, raw([file]), options(max_seconds=1.0), training=True)
    assert read == [8000] * 4


# Augmentation


def test_evaluation_is_never_augmented(paths):
    changes = {"gain_db": 9.0, "speed_factors": (0.8, 1.2), "shift_fraction": 0.2}
    plain, changed = options(), options(changes)
    expected = collate(PLAIN, raw(paths), plain)["input_values"]
    assert torch.equal(collate(PLAIN, raw(paths), changed)["input_values"], expected)
    trained = collate(PLAIN, raw(paths), plain, training=True)["input_values"]
    assert torch.equal(trained[:, : expected.shape[1]], expected)
    assert not trained[:, expected.shape[1] :].any()
    nowhere = options({"noise_snr_db": (1.0, 2.0), "noise_folder": "nowhere"})
    assert torch.equal(collate(PLAIN, raw(paths), nowhere)["input_values"], expected)
    assert not torch.equal(
        collate(PLAIN, raw(paths), changed, training=True)["input_values"], expected
    )


def test_an_augmented_example_depends_on_its_keys_alone(paths):
    changes = {
        "speed_factors": (0.9, 1.1),
        "pitch_semitones": 2,
        "noise_snr_db": (5.0, 20.0),
        "gain_db": 6.0,
        "time_masks": 2,
        "frequency_masks": 2,
    }
    settings = options(changes, max_seconds=0.4)
    together = collate(SPECTROGRAMS, raw(paths), settings, training=True)["input_values"]
    part = {name: column[1:3] for name, column in raw(paths).items()}
    alone = collate(SPECTROGRAMS, part, settings, training=True)["input_values"]
    assert torch.allclose(alone, together[1:3], atol=1e-5)
    later = collate(SPECTROGRAMS, raw(paths, epoch=1), settings, training=True)["input_values"]
    assert (later != together).flatten(1).any(1).all()


def test_spectrograms_are_masked_where_the_clip_is(paths):
    settings = options({"time_masks": 5, "time_mask_fraction": 0.5})
    plain = collate(SPECTROGRAMS, raw(paths))["input_values"]
    changed = collate(SPECTROGRAMS, raw(paths), settings, training=True)["input_values"] != plain
    for row, seconds in zip(changed, (0.3, 0.9), strict=False):
        frames = min(1 + (round(16000 * seconds) - 400) // 160, 60)
        assert row[:frames].any()
        assert not row[frames:].any()


def test_waveform_models_refuse_masks_of_spectrograms():
    with pytest.raises(ModelError, match=r"time_masks .* mask_time_prob"):
        collator_for(WAVEFORMS, options({"time_masks": 1}), 0, training=True)
    collator_for(WAVEFORMS, options({"time_masks": 1}), 0, training=False)


def test_it_says_whether_waveforms_differ_from_epoch_to_epoch():
    def differs(settings, training=True, processor=WAVEFORMS):
        return collator_for(processor, settings, 0, training).waveform_augmented

    assert not differs(options())
    assert differs(options({"gain_db": 1.0}))
    assert not differs(options({"gain_db": 1.0}), training=False)
    assert differs(options(max_seconds=1.0))  # cut at random
    assert not differs(options(max_seconds=1.0), training=False)
    assert differs(options(), processor=SPECTROGRAMS)


def test_options_of_the_other_kind_are_refused():
    of_images = FeatureOptions(augmentation=AugmentationOptions(rotation_degrees=5.0))
    with pytest.raises(ModelError, match=r"features\.augmentation: it is for images"):
        collator_for(WAVEFORMS, of_images, 0, training=False)
    for_images = SimpleNamespace(do_resize=False, do_rescale=False, do_normalize=False)
    collator_for(for_images, of_images, 0, training=False)
    with pytest.raises(ModelError, match=r"features\.audio: it is for sound"):
        collator_for(for_images, options(max_seconds=1.0), 0, training=False)


# Bad clips


def test_silence_is_told_of_once_and_stays_silence(tmp_path):
    silent = [write(tmp_path / f"{n}.wav", np.zeros(4000)) for n in range(3)]
    loud = write(tmp_path / "loud.wav", tone(0.25))
    collator = collator_for(WAVEFORMS, options(), 0, training=False)
    with pytest.warns(UserWarning, match=r"0\.wav: it is all silence") as told:
        batch = collator(raw([loud, *silent]))
    assert len(told) == 1
    assert torch.equal(batch["input_values"][1:], torch.zeros(3, 4000))
    assert batch["input_values"][0].abs().max() > 1
    collator(raw(silent))  # warnings are errors here
    changes = {"noise_snr_db": (0.0, 9.0), "gain_db": 3.0, "pitch_semitones": 1}
    with pytest.warns(UserWarning, match="all silence"):
        values = collate(WAVEFORMS, raw(silent), options(changes), training=True)["input_values"]
    assert torch.equal(values, torch.zeros(3, 4000))


def test_a_silent_cut_of_a_clip_is_no_fault(tmp_path):
    clip = np.concatenate([tone(0.5), np.zeros(16000, np.float32), tone(0.5)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batch = collate(PLAIN, raw([write(tmp_path / "a.wav", clip)]), options(max_seconds=0.1))
    assert not batch["input_values"].any()


def test_a_clip_shorter_than_the_receptive_field_is_named(tmp_path):
    file = write(tmp_path / "a.wav", tone(199 / 8000, 8000), 8000)
    least = write(tmp_path / "b.wav", tone(200 / 8000, 8000), 8000)
    long = write(tmp_path / "c.wav", tone(0.5))
    for training in (True, False):
        with pytest.raises(DataError) as caught:
            collate(WAVEFORMS, raw([long, file]), training=training, config=BASE)
        assert str(caught.value) == (
            f"{file}: 0.0249 seconds are too short for the model. Allowed: 0.0250 seconds (400 "
            "samples at 16,000 Hz) or more. Remove the clip, or add silence to it."
        )
        collate(WAVEFORMS, raw([long, least]), training=training, config=BASE)
    with pytest.raises(DataError, match=r"a\.wav: 0\.0249 seconds .* 0\.0250"):
        collate(SPECTROGRAMS, raw([file]))  # its own window is the least


def test_one_sample_is_taken_where_the_model_takes_it(tmp_path):
    file = write(tmp_path / "a.wav", np.array([0.5]))
    assert collate(WAVEFORMS, raw([file]))["input_values"].tolist() == [[0.0]]
    whisper = transformers.WhisperFeatureExtractor(chunk_length=1)
    assert collate(whisper, raw([file]))["input_features"].isfinite().all()
    with pytest.raises(DataError, match=r"a\.wav: 0\.0001 seconds are too short"):
        collate(WAVEFORMS, raw([file]), config=BASE)


def test_what_augmentation_made_too_short_is_padded(tmp_path):
    file = write(tmp_path / "a.wav", tone(0.026))
    fast = options({"speed_factors": (2.0,)})
    batch = collate(PLAIN, raw([file]), fast, training=True, config=BASE)
    assert batch["attention_mask"].sum() == 400


def test_a_training_batch_of_short_clips_is_wide_enough_to_be_masked(tmp_path):
    config = transformers.Wav2Vec2Config(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        conv_dim=(4,) * 7,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    model = transformers.Wav2Vec2ForSequenceClassification(config).train()
    raw_batch = raw([write(tmp_path / "a.wav", tone(0.14))] * 2)
    batch = collate(WAVEFORMS, raw_batch, training=True, config=config)
    assert model(input_values=batch["input_values"]).logits.isfinite().all()
    evaluated = collate(WAVEFORMS, raw_batch, config=config)
    assert evaluated["input_values"].shape == (2, 2240)


def test_a_cut_that_the_model_can_not_take_is_refused():
    with pytest.raises(ModelError, match=r"max_seconds: 0\.01 seconds .* Allowed: 0\.0250"):
        collator_for(WAVEFORMS, options(max_seconds=0.01), 0, True, BASE)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 100), np.float32),
        np.zeros(100),
        np.zeros(100, np.int16),
        np.array([0, np.nan], np.float32),
    ],
)
def test_odd_arrays_are_refused(array):
    audio = [{"array": array, "sampling_rate_hz": 16000}]
    with pytest.raises(DataError, match=r"audio of index 7: got an array .* Convert it"):
        collate(WAVEFORMS, {"audio": audio, "index": np.array([7])})


def test_rates_that_can_not_be_resampled_name_the_clip(tmp_path):
    file = write(tmp_path / "a.wav", tone(0.1, 22051), 22051)
    with pytest.raises(DataError, match=r"a\.wav: 22,051 Hz can't be resampled to 16,000 Hz"):
        collate(WAVEFORMS, raw([file]))


def test_bad_files_are_named_from_the_batch(paths, tmp_path):
    raw_batch = raw(paths)
    (tmp_path / "2.wav").write_bytes((tmp_path / "2.wav").read_bytes()[:-100])
    with pytest.raises(DataError, match=r"2\.wav: its header promises 16,000 bytes"):
        collate(WAVEFORMS, raw_batch)
    content = dict(raw_batch["audio"][1], path=None, bytes=b"nothing")
    with pytest.raises(DataError, match="audio of index 0: it can't be read as audio"):
        collate(WAVEFORMS, {"audio": [content], "index": np.array([0])})
