"""Training on what a frozen part made: as without in every promise, and off where it must be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_jobs import Interrupt, Weights
from small_sounds import (
    LABELS,
    assemble_sounds,
    build_split,
    configure,
    describe_sounds,
    load_sounds,
)
from transformers import AutoModelForAudioClassification, WhisperConfig, WhisperFeatureExtractor

from hf_finetune import keeping
from hf_finetune.assembly import Workbench
from hf_finetune.data import LoadedData
from hf_finetune.models import build_model, load_classifier, save_classifier
from hf_finetune.models.frozen_part import (
    FrozenPart,
    as_frozen,
    find_frozen_part,
    find_part,
)
from hf_finetune.models.frozen_spectrograms import FrozenSpectrogramBackbone
from hf_finetune.models.processors import prepare_nothing
from hf_finetune.registry import kind


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> LoadedData:
    return load_sounds(tmp_path / "sounds", train=8)


def train(bench: Workbench, engine: str, heard: Any, **how: Any) -> None:
    kind("engines", engine).fit(bench.make_job(listeners=(heard,), **how))


def encoder_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if ".feature_extractor." in f".{name}"}


def is_kept(bench: Workbench) -> bool:
    return bench.keeping is not None and bench.keeping.frozen_part is not None


@pytest.mark.parametrize(
    ("name", "freeze"),
    [
        ("wav2vec2", "feature_encoder"),
        ("wav2vec2", "backbone"),
        pytest.param("wav2vec2_layer", "feature_encoder", marks=pytest.mark.slow),
        pytest.param("wav2vec2_layer", "backbone", marks=pytest.mark.slow),
        ("ast", "backbone"),
        ("whisper", "backbone"),
    ],
)
def test_both_engines_end_in_the_same_bits(name, freeze, tmp_path, data):
    heard = {engine: Weights() for engine in ("loop", "trainer")}
    masks = {"mask_time_prob": 0.3, "mask_time_length": 2} if name.startswith("wav") else {}
    for engine, weights in heard.items():
        config = configure(tmp_path, name, model__config=masks, model__freeze=freeze)
        bench = assemble_sounds(config, data)
        assert is_kept(bench)
        before = {k: v.clone() for k, v in bench.classifier.model.state_dict().items()}
        train(bench, engine, weights)
    loop, trainer = heard.values()
    assert loop.losses == trainer.losses
    assert len(loop.losses) == 4
    for ours, theirs in zip(loop.states, trainer.states, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    last = loop.states[-1]
    part = "encoder." if name == "whisper" else "audio_spectrogram_transformer."
    frozen = encoder_state(before) or {k: v for k, v in before.items() if k.startswith(part)}
    assert frozen
    assert all(torch.equal(last[name], value) for name, value in frozen.items())
    moved = [name for name, value in before.items() if not torch.equal(last[name], value)]
    trained = [n for n, p in bench.classifier.model.named_parameters() if p.requires_grad]
    assert sorted(moved) == sorted(trained)


@pytest.mark.parametrize("freeze", ["feature_encoder", "backbone"])
def test_it_trains_as_without_where_nothing_is_padded(freeze, tmp_path, data):
    data.splits["train"] = build_split(tmp_path / "equal", [0.2] * 8)
    heard = {keep: Weights() for keep in ("auto", "off")}
    for keep, weights in heard.items():
        config = configure(tmp_path, features__keep_frozen=keep, model__freeze=freeze)
        train(assemble_sounds(config, data), "loop", weights)
    kept, plain = heard.values()
    assert len(kept.losses) == 4
    assert kept.losses == pytest.approx(plain.losses, rel=1e-4)


EACH_KIND = pytest.mark.parametrize(
    ("name", "freeze"),
    [("wav2vec2", "feature_encoder"), ("ast", "backbone"), ("whisper", "backbone")],
)


@EACH_KIND
def test_a_resumed_run_ends_in_the_same_bits(name, freeze, tmp_path, data):
    how = {"train__eval_strategy": "steps", "train__eval_steps": 2, "model__freeze": freeze}
    whole, rest = Weights(), Weights()

    def bench() -> Workbench:
        return assemble_sounds(configure(tmp_path, name, **how), data)

    train(bench(), "loop", whole, checkpoints=tmp_path / "whole")
    folder = tmp_path / "cut off"
    with pytest.raises(KeyboardInterrupt):
        train(bench(), "loop", Interrupt(3), checkpoints=folder)
    resumed = bench()
    train(resumed, "trainer", rest, checkpoints=folder, resume_from=folder / "step-2")
    assert whole.losses[2:] == rest.losses
    assert all(torch.equal(rest.states[-1][n], v) for n, v in whole.states[-1].items())
    # What lies on disk is the ordinary, whole model.
    stored = load_file(folder / "step-4" / "model.safetensors")
    plain = assemble_sounds(
        configure(tmp_path, name, features__keep_frozen="off", model__freeze=freeze), data
    )
    assert stored.keys() == plain.classifier.model.state_dict().keys()


@EACH_KIND
def test_the_saved_model_is_an_ordinary_one(name, freeze, tmp_path, data):
    config = configure(tmp_path, name, model__freeze=freeze)
    bench = assemble_sounds(config, data)
    train(bench, "loop", Weights())
    save_classifier(bench.classifier, tmp_path / "model")
    loaded = load_classifier(tmp_path / "model")
    clip = prepare_nothing(loaded.processor, "audio") + 0.1
    with torch.inference_mode():
        ours, theirs = (one.model.eval()(clip).logits for one in (bench.classifier, loaded))
    assert torch.equal(ours, theirs)
    plain = assemble_sounds(
        configure(tmp_path, name, features__keep_frozen="off", model__freeze=freeze), data
    )
    assert (
        loaded.model.config.to_diff_dict().keys() <= plain.classifier.model.config.to_dict().keys()
    )
    # Whoever scores it later by the run's configuration computes as the run did.
    later = assemble_sounds(config, data, loaded)
    accelerator = bench.compute.make_accelerator()
    scores = [
        one.make_predictor("test").predict(one.classifier.model, accelerator).logits
        for one in (bench, later)
    ]
    assert is_kept(later)
    assert (scores[0] == scores[1]).all()


OFF = {
    "asked": {"features__keep_frozen": "off"},
    "trained": {"model__freeze": "none"},
    "partly": {"model__freeze": {"patterns": ["*.conv_layers.0.*"]}},
    "thaws": {"model__unfreeze_at_epoch": 1},
    "augmented": {"features__audio__augmentation": {"gain_db": 3.0}},
    "once": {"train__num_train_epochs": 1},
    "few steps": {"train__max_steps": 2},
    "mostly cut": {"features__audio__max_seconds": 0.1},
}
WHY = {
    "augmented": "augmentation changes",
    "once": "only once",
    "few steps": "only once",
    "mostly cut": "most training clips are cut",
}


def test_a_frozen_part_drops_nothing_out_and_is_left_as_it_was():
    part = torch.nn.Sequential(torch.nn.Linear(9, 9), torch.nn.Dropout(0.5))
    with as_frozen(part, "fp32"):
        answers = [part(torch.ones(1, 9)) for _ in range(2)]
    assert torch.equal(*answers)
    assert not answers[0].requires_grad
    with pytest.raises(ValueError, match="bad clip"), as_frozen(part, "fp32"):
        raise ValueError("bad clip")
    assert part.training


def test_spectrograms_that_look_like_features_are_not_taken_for_them(tmp_path, data):
    sizes = {"num_mel_bins": 50, "d_model": 100, "max_source_positions": 50}
    config = WhisperConfig(**sizes, encoder_layers=1, encoder_attention_heads=2, decoder_layers=1)
    config.num_labels = len(LABELS)
    checkpoint = tmp_path / "alike"
    AutoModelForAudioClassification.from_config(config).save_pretrained(checkpoint)
    WhisperFeatureExtractor(feature_size=50, chunk_length=1).save_pretrained(checkpoint)
    settings = {"model__checkpoint": str(checkpoint), "model__freeze": "backbone"}
    assert not is_kept(assemble_sounds(configure(tmp_path, "whisper", **settings), data))


@pytest.mark.parametrize("name", ["ast", "whisper"])
def test_where_spectrograms_thaw_nothing_is_kept(name: str, tmp_path: Path, data: LoadedData):
    for more in ({"unfreeze_at_epoch": 1}, {"freeze": "none"}):
        settings = {f"model__{key}": value for key, value in {"freeze": "backbone", **more}.items()}
        assert assemble_sounds(configure(tmp_path, name, **settings), data).keeping is None
    masked = {"features__audio__augmentation": {"time_masks": 1}}
    bench = assemble_sounds(configure(tmp_path, name, model__freeze="backbone", **masked), data)
    assert not is_kept(bench)
    assert "augmentation changes" in bench.keeping.describe()


def test_where_it_cannot_be_kept_the_plan_says_so(tmp_path: Path, data: LoadedData):
    heard = {"model__freeze": "backbone", "model__config": {"use_weighted_layer_sum": True}}
    bench = assemble_sounds(
        configure(tmp_path, "whisper", **heard, model__ignore_new_tensors=["layer_weights"]), data
    )
    assert not is_kept(bench)
    assert "backbone, computed in every step: that of Whisper" in bench.keeping.describe()


@pytest.mark.parametrize("name", ["ast", "whisper"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_spectrograms_are_answered_as_without(
    name: str, precision: str, tmp_path: Path, data: LoadedData
):
    how = {"model__freeze": "backbone", "compute__precision": precision}
    benches = {
        keep: assemble_sounds(configure(tmp_path, name, features__keep_frozen=keep, **how), data)
        for keep in ("auto", "off")
    }
    assert is_kept(benches["auto"])
    assert isinstance(benches["auto"].keeping.frozen_part, FrozenSpectrogramBackbone)
    heard = {}
    for keep, bench in benches.items():
        heard[keep] = Weights()
        train(bench, "loop", heard[keep])
    # One by one or in a batch, the last bits of 16 differ.
    near = {"rel": 1e-4} if precision == "fp32" else {"rel": 0.02}
    assert heard["auto"].losses == pytest.approx(heard["off"].losses, **near)
    scores = [
        bench.make_predictor("test").predict(
            bench.classifier.model, bench.compute.make_accelerator()
        )
        for bench in benches.values()
    ]
    assert scores[0].logits == pytest.approx(scores[1].logits, **near, abs=near["rel"])
    batch = next(iter(benches["auto"].make_loader("train", training=True)))
    part = benches["auto"].keeping.frozen_part
    assert batch[part.input_name].shape == (4, part.num_frames, part.num_channels)
    kept = benches["auto"].keeping.kept["train"]
    assert kept.num_bytes == part.count_bytes(keeping.clip_seconds(data.splits["train"]))


@pytest.mark.parametrize("case", OFF)
def test_it_is_off_where_it_must_be(case, tmp_path, data):
    bench = assemble_sounds(configure(tmp_path, **OFF[case]), data)
    assert not is_kept(bench)
    told = bench.keeping.describe() if bench.keeping is not None else ""
    assert WHY.get(case, "") in told
    assert (case in WHY) == bool(told)
    batch = next(iter(bench.make_loader("train", training=True)))
    assert batch["input_values"].dim() == 2


ON = {
    "feature_encoder": {},
    "backbone": {"model__freeze": "backbone"},
    "backbone without masks": {
        "model__freeze": "backbone",
        "model__config": {"mask_time_prob": 0.0},
    },
    "all layers heard": {
        "model__freeze": "backbone",
        "model__config": {"use_weighted_layer_sum": True},
    },
    "patterns": {"model__freeze": {"patterns": ["*.feature_extractor.*"]}},
    "first layers": {"model__freeze": {"first_layers": 1}},
    "enough steps": {"train__max_steps": 3},
    "masked": {"model__config": {"mask_time_prob": 0.3}},
}


@pytest.mark.parametrize("case", ON)
def test_it_is_on_where_the_encoder_stays_frozen(case, tmp_path, data):
    bench = assemble_sounds(configure(tmp_path, **ON[case]), data)
    assert is_kept(bench)
    part = "backbone" if case.startswith("backbone") else "front end"
    assert bench.keeping.frozen_part.name == part


def test_adapters_leave_the_encoder_as_it_is(tmp_path, data):
    pytest.importorskip("peft")
    lora = {"model__freeze": "none", "model__lora": {"rank": 2}}
    bench, weights = assemble_sounds(configure(tmp_path, **lora), data), Weights()
    assert is_kept(bench)
    train(bench, "loop", weights)
    first, last = weights.states[0], weights.states[-1]
    assert all(torch.equal(last[name], value) for name, value in encoder_state(first).items())


def test_what_adapters_have_trained_is_scored_with_the_encoder_as_it_was(tmp_path):
    trained, adapted = (
        configure(tmp_path, model__freeze="none", **lora).model
        for lora in ({}, {"model__lora": {"rank": 2}})
    )
    merged = build_model(trained, describe_sounds())
    assert find_frozen_part(merged, adapted) == "front end"
    assert find_frozen_part(merged, trained) is None


def test_a_small_disk_is_left_alone(tmp_path, data, monkeypatch):
    usage = keeping.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(keeping.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    bench = assemble_sounds(configure(tmp_path), data)
    assert not is_kept(bench)
    assert bench.keeping is not None
    assert "GB left in" in bench.keeping.describe()


def test_the_plan_says_what_is_kept_and_where(tmp_path, data):
    bench = assemble_sounds(configure(tmp_path), data)
    bench.make_job()
    assert bench.keeping is not None
    told = bench.keeping.describe()
    sizes = {name: clips.num_bytes for name, clips in bench.keeping.kept.items()}
    assert list(sizes) == ["train", "validation"]
    for name, size in sizes.items():
        assert f"{name} {size / 1e6:,.1f} MB" in told
    assert f"of float32 in {tmp_path / 'cache' / 'frozen_parts'}" in told
    frozen_part = bench.keeping.frozen_part
    assert isinstance(frozen_part, FrozenPart)
    seconds = keeping.clip_seconds(data.splits["train"])
    assert sizes["train"] == pytest.approx(frozen_part.count_bytes(seconds), rel=0.1)


def test_other_models_have_no_such_encoder(make_config):
    from hf_finetune.assembly import assemble

    bench = assemble(make_config())
    assert bench.keeping is None
    assert find_part(bench.classifier.model, "front end") is None
