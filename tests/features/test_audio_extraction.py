"""Features of whole batches equal those that transformers' extractors make clip by clip."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sounds import digits, tone
from torch import Tensor

from hf_finetune.features.extraction import (
    KaldiSpectrograms,
    LogMelSpectrograms,
    ProcessorCalls,
    Waveforms,
    WhisperSpectrograms,
    extractor_for,
)
from hf_finetune.models.spectrogram_processing import LogMelFeatureExtractor

WAV2VEC2, AST, WHISPER = (
    transformers.Wav2Vec2FeatureExtractor,
    transformers.ASTFeatureExtractor,
    transformers.WhisperFeatureExtractor,
)
PROCESSORS = {
    "wav2vec2": (Waveforms, WAV2VEC2),
    "wav2vec2 with mask": (Waveforms, lambda: WAV2VEC2(return_attention_mask=True)),
    "wav2vec2, padding 0.5": (Waveforms, lambda: WAV2VEC2(do_normalize=False, padding_value=0.5)),
    "ast": (KaldiSpectrograms, AST),
    "ast, other": (
        KaldiSpectrograms,
        lambda: AST(sampling_rate=8000, num_mel_bins=64, max_length=40, do_normalize=False),
    ),
    "whisper": (WhisperSpectrograms, lambda: WHISPER(chunk_length=4)),
    "whisper with mask": (
        WhisperSpectrograms,
        lambda: WHISPER(feature_size=128, chunk_length=1, return_attention_mask=True),
    ),
}


def make(name: str) -> Any:
    return PROCESSORS[name][1]()


def expected_of(processor: Any, clips: Sequence[Tensor]) -> dict[str, Tensor]:
    """The extractor's own answers, one clip at a time, padded by the extractor."""
    wants_mask = bool(processor.return_attention_mask)
    how = {"sampling_rate": processor.sampling_rate, "return_attention_mask": wants_mask}
    single = [processor(clip.numpy(), **how) for clip in clips]
    if not isinstance(processor, WAV2VEC2):
        return {n: torch.from_numpy(np.stack([one[n][0] for one in single])) for n in single[0]}
    columns = {"input_values": [one["input_values"][0] for one in single]}
    return dict(
        processor.pad(columns, padding=True, return_attention_mask=wants_mask, return_tensors="pt")
    )


def compare(processor: Any, clips: Sequence[Tensor]) -> None:
    extractor = extractor_for(processor)
    ours, theirs = extractor.extract(clips), expected_of(processor, clips)
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        assert ours[name].shape == values.shape
        assert ours[name].dtype == values.dtype
        assert (ours[name] - values).abs().max() < 1e-4


@pytest.mark.parametrize("name", PROCESSORS)
def test_known_extractors_take_the_quick_way(name):
    assert type(extractor_for(make(name))) is PROCESSORS[name][0]
    with_tokenizer = SimpleNamespace(feature_extractor=make(name))  # as Wav2Vec2Processor
    assert type(extractor_for(with_tokenizer)) is PROCESSORS[name][0]


@pytest.mark.parametrize("name", PROCESSORS)
def test_made_clips_give_the_extractors_numbers(name):
    processor = make(name)
    rate = processor.sampling_rate
    clips = [torch.from_numpy(tone(s, rate, n)) for n, s in enumerate((0.3, 1.2, 0.05, 4.3, 0.9))]
    clips += [torch.zeros(rate // 2), torch.full((rate // 3,), 0.25), clips[1] * 1e-4]
    compare(processor, clips)
    compare(processor, clips[:1])


@pytest.mark.parametrize("name", ["whisper", "whisper with mask"])
def test_clips_that_nearly_fill_whispers_window(name):
    processor = make(name)
    for samples in (
        1,
        159,
        160,
        161,
        *(processor.n_samples - less for less in (401, 200, 1, 0, -9)),
    ):
        compare(processor, [torch.from_numpy(tone(5))[:samples]])


@pytest.mark.parametrize("name", ["ast", "ast, other"])
def test_clips_that_end_at_a_frame_of_ast(name):
    processor = make(name)
    least = extractor_for(processor).least_samples
    for samples in (least, least + 1, least + processor.sampling_rate // 100):
        compare(processor, [torch.from_numpy(tone(1, processor.sampling_rate))[:samples]])


@pytest.mark.parametrize("name", PROCESSORS)
def test_spoken_digits_give_the_extractors_numbers(name, shared_data):
    processor = make(name)
    compare(processor, digits(shared_data, 250, processor.sampling_rate))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PROCESSORS, "whisper of 30 seconds"])
def test_many_spoken_digits_give_the_extractors_numbers(name, shared_data):
    processor = WHISPER() if name.endswith("seconds") else make(name)
    clips = digits(shared_data, 50, processor.sampling_rate)
    for start in range(0, len(clips), 16):
        compare(processor, clips[start : start + 16])


@pytest.mark.parametrize("name", [*PROCESSORS, "log-mel"])
def test_a_clips_features_do_not_depend_on_its_batch(name):
    processor = LogMelFeatureExtractor() if name == "log-mel" else make(name)
    extractor = extractor_for(processor)
    clips = [torch.from_numpy(tone(s, seed=n)) for n, s in enumerate((0.4, 0.9, 0.2))]
    together = extractor.extract(clips)
    for number, clip in enumerate(clips):
        for key, alone in extractor.extract([clip]).items():
            own = together[key][number][tuple(map(slice, alone.shape[1:]))]
            assert torch.allclose(own.float(), alone[0].float(), atol=2e-6, rtol=0)


def test_without_a_mask_transformers_counts_the_padding_in():
    """The trap that `Waveforms` avoids: the extractor's own batch is not its clips' answers."""
    clips = [tone(0.2), tone(1.0)]
    processor = WAV2VEC2(return_attention_mask=False)
    batch = processor(clips, sampling_rate=16000, padding=True)["input_values"]
    alone = processor(clips[0], sampling_rate=16000)["input_values"][0]
    assert np.abs(batch[0][: len(alone)] - alone).max() > 0.1


def test_waveforms_can_be_padded_further():
    extractor = extractor_for(WAV2VEC2(return_attention_mask=True))
    clip = torch.from_numpy(tone(0.1))
    batch = extractor.extract([clip], least_width=4000)
    assert batch["input_values"].shape == (1, 4000)
    assert batch["attention_mask"].sum() == 1600
    assert torch.equal(batch["input_values"][:, :1600], extractor.extract([clip])["input_values"])


@pytest.mark.parametrize("name", ["ast", "whisper", "log-mel"])
def test_views_have_time_before_frequency(name):
    processor = LogMelFeatureExtractor() if name == "log-mel" else make(name)
    extractor = extractor_for(processor)
    clip = torch.from_numpy(tone(0.5))
    clip[4000:] = 0
    batch = extractor.extract([clip])
    frames = extractor.frames(batch)
    assert frames.shape[2] == getattr(processor, "num_mel_bins", processor.feature_size)
    filled = extractor.count_frames(len(clip))
    assert 48 <= filled <= 51
    loud, quiet = frames[0, : filled // 2 - 2].mean(), frames[0, filled // 2 + 2 : filled].mean()
    assert loud > quiet + 0.3
    frames[:] = 7
    assert all(
        (batch[key] == 7).all() for key in ("input_values", "input_features") if key in batch
    )


# Extractors that are called themselves


class Doubling(transformers.Wav2Vec2FeatureExtractor):
    """A user's own: more than its settings say."""

    def __call__(self, *args, **settings):
        answer = super().__call__(*args, **settings)
        answer["input_values"] = 2 * np.stack(answer["input_values"])
        return answer


@pytest.mark.parametrize(
    "processor",
    [
        Doubling(),
        WAV2VEC2(padding_side="left", return_attention_mask=True),
        transformers.SeamlessM4TFeatureExtractor(),
    ],
)
def test_what_is_not_known_is_called_itself(processor):
    extractor = extractor_for(processor)
    assert type(extractor) is ProcessorCalls
    clips = [torch.from_numpy(tone(s)) for s in (0.3, 0.5)]
    batch = extractor.extract(clips)
    for number, clip in enumerate(clips):
        for key, values in processor(clip.numpy(), sampling_rate=16000).items():
            own, length = batch[key][number], len(values[0])
            own = own[-length:] if processor.padding_side == "left" else own[:length]
            np.testing.assert_allclose(own, values[0], atol=1e-6)


def test_the_toolkits_own_takes_batches():
    assert type(extractor_for(LogMelFeatureExtractor())) is LogMelSpectrograms
