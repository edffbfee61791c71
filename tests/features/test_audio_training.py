"""Training on sound, from files to weights: both engines alike, and resumed as if never stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from small_checkpoints import make_classifier_network, make_processor
from small_jobs import Interrupt, Weights, make_job, run
from sounds import tone, write

from hf_finetune.data.tables import build_file_dataset
from hf_finetune.engines.batches import make_loader
from hf_finetune.engines.job import TrainingJob
from hf_finetune.engines.length_batches import batches_by_length
from hf_finetune.engines.optimization import Length
from hf_finetune.features import AudioOptions, FeatureOptions, collator_for
from hf_finetune.features.audio_decoding import describe_audio
from hf_finetune.models import Classifier


@pytest.fixture
def split(tmp_path: Path) -> Dataset:
    """14 clips of unequal lengths."""
    seconds = np.random.default_rng(0).uniform(0.05, 0.4, 14)
    paths = [write(tmp_path / f"{n}.wav", tone(s, seed=n % 2)) for n, s in enumerate(seconds)]
    clips = [describe_audio(path, None)[0] for path in paths]
    labels = [n % 2 for n in range(14)]
    return build_file_dataset({"audio": clips}, [{}] * 14, labels, ("a", "b"), {"id": paths})


def job_of(split: Dataset, kind: str, heard: Weights | Interrupt, **how: Any) -> TrainingJob:
    """A job over the split; its model is always the same."""
    torch.manual_seed(0)
    network, processor = make_classifier_network(kind, classes=2), make_processor(kind)
    augmentation = {"speed_factors": (0.9, 1.1), "noise_snr_db": (5.0, 20.0), "gain_db": 3.0}
    features = FeatureOptions(audio=AudioOptions(max_seconds=0.3, augmentation=augmentation))
    collator = collator_for(processor, features, 7, True, network.config)
    batches = batches_by_length(split, features.audio, 3, 7, training=True)
    loader = make_loader(split, collator, 3, seed=7, shuffle=True, batches=batches)
    scored = collator_for(processor, FeatureOptions(), 7, False, network.config)
    rows = {"audio": split["audio"], "label": np.array(split["label"])}
    job = make_job(Classifier(network, processor, False), scored(rows), heard=heard, **how)
    steps = -(-len(loader) // job.train.gradient_accumulation_steps)
    return replace(job, train_loader=loader, length=Length(steps, 2 * steps))


@pytest.mark.parametrize("kind", ["wav2vec2", "ast"])
def test_both_engines_end_in_the_same_bits(kind, split):
    heard = {engine: Weights() for engine in ("loop", "trainer")}
    for engine, weights in heard.items():
        run(engine, job_of(split, kind, weights, gradient_accumulation_steps=2))
    loop, trainer = heard.values()
    assert len(loop.losses) == len(trainer.losses) == 6
    assert np.isfinite(loop.losses).all()
    assert loop.losses == trainer.losses
    for ours, theirs in zip(loop.states, trainer.states, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("engine", ["loop", "trainer"])
def test_a_resumed_run_ends_in_the_same_bits(engine, split, tmp_path):
    whole, rest = Weights(), Weights()
    how = {"eval_strategy": "steps", "eval_steps": 3}
    run(engine, job_of(split, "wav2vec2", whole, checkpoints=tmp_path / "whole", **how))
    folder = tmp_path / "cut off"
    with pytest.raises(KeyboardInterrupt):
        run(engine, job_of(split, "wav2vec2", Interrupt(8), checkpoints=folder, **how))
    # Within the second epoch: batches, cuts and augmentation go on where they were.
    last = folder / "step-6"
    run(engine, job_of(split, "wav2vec2", rest, checkpoints=folder, resume_from=last, **how))
    assert len(whole.losses) == 10
    assert whole.losses[6:] == rest.losses
    assert all(
        torch.equal(rest.states[-1][name], value) for name, value in whole.states[-1].items()
    )
