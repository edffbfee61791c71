"""What the frozen part of a model makes of clips is kept: the same answers, never stale or half."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_sounds import assemble_sounds, build_split, configure, load_sounds

from hf_finetune.assembly import Workbench
from hf_finetune.data import LoadedData
from hf_finetune.engines.batches import BatchView
from hf_finetune.engines.step import model_inputs
from hf_finetune.errors import DataError
from hf_finetune.evaluation.prediction import average_windows
from hf_finetune.features import kept_features
from hf_finetune.features.kept_features import KeptFeatures
from hf_finetune.models.frozen_part import FrozenPart, PartName, find_part
from hf_finetune.planning import plan_run

SPEECH = ("wav2vec2", "wav2vec2_layer", "hubert", "wavlm")
FROZEN: dict[str, PartName] = {"feature_encoder": "front end", "backbone": "backbone"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "frozen_parts"


@pytest.fixture
def data(tmp_path: Path) -> LoadedData:
    return load_sounds(tmp_path / "sounds")


def collate(bench: Workbench, split: str, rows: list[int], epoch: int = 0) -> dict[str, Any]:
    """The model batch that the run's loader would make of some rows."""
    loader = bench.make_loader(split, training=split == "train")
    raw = BatchView(bench.data.splits[split]).__getitems__([(epoch, row) for row in rows])
    return loader.collate_fn(raw)  # type: ignore[arg-type]


def answer(bench: Workbench, batch: dict[str, Any]) -> torch.Tensor:
    half = bench.compute.precision == "bf16"
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        logits = bench.classifier.model.eval()(**model_inputs(batch)).logits.float()
    return average_windows(logits, batch["example"], 2) if "example" in batch else logits


def encode(bench: Workbench, name: PartName, waveforms: torch.Tensor) -> torch.Tensor:
    """What a part makes of waveforms within the model: `[B, frames, channels]`."""
    part = find_part(bench.classifier.model, name)
    assert part is not None
    half = bench.compute.precision == "bf16"
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        output = part.eval()(waveforms)
    features = output.transpose(1, 2) if name == "front end" else output.last_hidden_state
    return features.to(torch.bfloat16) if half else features


def both(folder: Path, data: LoadedData, kind: str = "wav2vec2", **how: Any) -> list[Workbench]:
    """The same run with its front end kept, and without."""
    benches = [
        assemble_sounds(configure(folder, kind, features__keep_frozen=keep, **how), data)
        for keep in ("auto", "off")
    ]
    assert benches[0].keeping is not None
    assert benches[0].keeping.frozen_part is not None
    assert benches[1].keeping is None
    return benches


@pytest.mark.parametrize("freeze", FROZEN)
@pytest.mark.parametrize(
    ("kind", "precision"), [*((kind, "fp32") for kind in SPEECH), ("wav2vec2", "bf16")]
)
def test_a_clip_alone_is_answered_in_the_same_bits(kind, precision, freeze, tmp_path, data):
    how = {"compute__precision": precision, "model__freeze": freeze}
    kept, plain = both(tmp_path, data, kind, **how)
    assert kept.keeping is not None
    assert kept.keeping.frozen_part is not None
    assert kept.keeping.frozen_part.name == FROZEN[freeze]
    for row in range(3):
        ready, ordinary = (collate(bench, "validation", [row]) for bench in (kept, plain))
        assert ready["input_values"].dim() == 3
        assert ready["input_values"].dtype == torch.float32 or precision == "bf16"
        assert ("attention_mask" in ready) == (kind == "wav2vec2_layer")
        assert torch.equal(ready["labels"], ordinary["labels"])
        assert torch.equal(ready["index"], ordinary["index"])
        assert torch.equal(
            ready["input_values"], encode(plain, FROZEN[freeze], ordinary["input_values"])
        )
        assert torch.equal(answer(kept, ready), answer(plain, ordinary))


# WavLM's own: it adds a mask of truth values to a position bias of floats.
@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning")
@pytest.mark.parametrize("freeze", FROZEN)
@pytest.mark.parametrize("kind", SPEECH)
def test_a_batch_is_answered_as_each_clip_alone(kind, freeze, tmp_path, data):
    kept, plain = both(tmp_path, data, kind, model__freeze=freeze)
    rows = list(range(6))
    batch = collate(kept, "validation", rows)
    frames = batch["input_values"].shape[1]
    assert (batch["attention_mask"].sum(1) < batch["attention_mask"].shape[1]).sum() == 5
    together = answer(kept, batch)
    alone = torch.cat([answer(plain, collate(plain, "validation", [row])) for row in rows])
    assert frames > 1
    assert torch.allclose(together, alone, atol=1e-5)
    if kind == "wav2vec2_layer":  # exact with a mask anyway: the very batch agrees
        ordinary = collate(plain, "validation", rows)
        assert torch.equal(batch["attention_mask"], ordinary["attention_mask"])
        assert torch.allclose(together, answer(plain, ordinary), atol=1e-5)


@pytest.mark.parametrize("batches", ["by_length", "equal_length"])
def test_training_batches_are_padded_to_a_common_width(batches, tmp_path, data, monkeypatch):
    monkeypatch.setattr(kept_features, "common_width", lambda frames: frames + 3)
    kept, plain = both(tmp_path, data, features__audio__batches=batches)
    assert kept.keeping is not None
    batch = collate(kept, "train", [0, 1, 2])
    clips = kept.keeping.kept["train"]
    longest = max(len(features) for row in range(3) for features, _ in clips.read(row))
    wider = 3 * (batches == "by_length")
    assert batch["input_values"].shape[1] == longest + wider
    alone = torch.cat([answer(plain, collate(plain, "train", [row])) for row in range(3)])
    assert torch.allclose(answer(kept, batch), alone, atol=1e-5)
    assert collate(kept, "train", [0])["input_values"].shape[1] == len(clips.read(0)[0][0])


def test_the_plan_tells_the_padding_that_batches_have(tmp_path):
    sounds = load_sounds(tmp_path / "sounds", train=60, longest=2.0)
    how = {"train__per_device_train_batch_size": 4, "features__audio__length_window_batches": 2}
    for bench in both(tmp_path, sounds, **how):
        job = bench.make_job()
        told = plan_run(bench, job, tmp_path)["features"]
        given = filled = 0
        for raw_keys in job.train_loader.batch_sampler:
            rows = [row for _, row in raw_keys]
            values = collate(bench, "train", rows)["input_values"]
            alone = [collate(bench, "train", [row])["input_values"].shape[1] for row in rows]
            given, filled = given + len(rows) * values.shape[1], filled + sum(alone)
        assert abs(1 - filled / given - int(told.split("% padding")[0].split()[-1]) / 100) < 0.007


def test_nothing_is_computed_twice(tmp_path, data, monkeypatch, cache):
    config = configure(tmp_path)
    first = collate(assemble_sounds(config, data), "train", [3, 0, 1])
    assert len(list(cache.iterdir())) == 1

    def compute(*_: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(FrozenPart, "compute", compute)
    again = collate(assemble_sounds(config, data), "train", [3, 0, 1])
    assert all(torch.equal(again[name], first[name]) for name in first)


def test_what_another_process_has_written_meanwhile_is_taken(tmp_path, data, monkeypatch):
    config, alone = configure(tmp_path), kept_features._only_writer

    def compute(*_: Any) -> None:
        raise AssertionError("computed again")

    @contextmanager
    def wait_for_another(folder: Path) -> Iterator[None]:
        monkeypatch.setattr(kept_features, "_only_writer", alone)
        assemble_sounds(config, data).make_loader("validation")
        monkeypatch.setattr(FrozenPart, "compute", compute)
        with alone(folder):
            yield

    monkeypatch.setattr(kept_features, "_only_writer", wait_for_another)
    batch = collate(assemble_sounds(config, data), "validation", [0])
    assert batch["input_values"].dim() == 3


def test_what_no_run_has_used_for_a_month_is_removed(tmp_path, data, cache):
    def keep(**settings: Any) -> set[str]:
        assemble_sounds(configure(tmp_path, **settings), data).make_loader("validation")
        return {path.name for path in cache.iterdir()}

    [old] = keep(features__audio__max_seconds=0.3)
    [used] = keep(features__audio__max_seconds=0.35) - {old}
    for name in (old, used):
        os.utime(cache / name / "index.npz", (0, 0))
    assert keep(features__audio__max_seconds=0.35) == {old, used}
    [new] = keep(features__audio__max_seconds=0.4) - {used}
    assert {path.name for path in cache.iterdir()} == {used, new}


def test_what_decides_about_features_names_them(tmp_path, data, cache):
    def count(config: Any, rows: LoadedData = data) -> int:
        assemble_sounds(config, rows).make_loader("train", training=True)
        return len(list(cache.iterdir()))

    assert count(configure(tmp_path)) == 1
    assert count(configure(tmp_path, seed=5, train__learning_rate=1e-4)) == 1
    assert count(configure(tmp_path, compute__precision="bf16")) == 2
    assert count(configure(tmp_path, features__audio__max_seconds=0.3)) == 3
    assert count(configure(tmp_path, model__processor={"do_normalize": False})) == 4
    bench = assemble_sounds(configure(tmp_path), data)
    encoder = bench.classifier.model.wav2vec2.feature_extractor
    with torch.no_grad():
        encoder.conv_layers[1].conv.weight[0, 0, 0] += 1e-6
    bench.make_loader("train", training=True)
    assert len(list(cache.iterdir())) == 5
    whole = {"model__freeze": "backbone"}
    assert count(configure(tmp_path, **whole)) == 6
    assert count(configure(tmp_path, **whole, model__config={"num_attention_heads": 1})) == 7
    path = Path(data.splits["train"][0]["audio"]["path"])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert count(configure(tmp_path)) == 8


def test_the_same_clips_are_cut_otherwise_for_evaluation(tmp_path, cache):
    sounds = load_sounds(tmp_path / "sounds")
    sounds.splits["validation"] = sounds.splits["train"]
    bench = assemble_sounds(configure(tmp_path, features__audio__max_seconds=0.3), sounds)
    missing = []
    for split in ("train", "validation"):
        bench.make_loader(split, training=split == "train")
        assert bench.keeping is not None
        missing.append(bench.keeping.kept[split].num_missing)
    assert missing[0] > missing[1] == 0
    assert len(list(cache.iterdir())) == 2
    windows = {"features__audio__max_seconds": 0.3, "features__audio__evaluation_windows": 2}
    assemble_sounds(configure(tmp_path, **windows), sounds).make_loader("validation")
    assert len(list(cache.iterdir())) == 3


def test_a_digest_of_the_data_names_the_content(tmp_path, cache):
    sounds = load_sounds(tmp_path / "sounds")
    split = sounds.splits["train"]

    def key(last: str) -> str:
        digests = [*map(str, range(len(split) - 1)), last]
        measured = split.remove_columns("measured").add_column(
            "measured", [{"digest": digest} for digest in digests]
        )
        sounds.splits["train"] = measured
        bench = assemble_sounds(configure(tmp_path), sounds)
        bench.make_loader("train", training=True)
        assert bench.keeping is not None
        return bench.keeping.kept["train"].folder.name

    assert key("a") == key("a") != key("b")


@pytest.mark.parametrize("broken", ["interrupted", "truncated", "no index", "bad index"])
def test_half_a_file_is_never_used(broken, tmp_path, data, monkeypatch):
    config = configure(tmp_path)
    plain = assemble_sounds(configure(tmp_path, features__keep_frozen="off"), data)
    compute = FrozenPart.compute
    calls = []

    def interrupt(*arguments: Any) -> torch.Tensor:
        calls.append(arguments)
        if broken == "interrupted" and len(calls) == 5:
            raise KeyboardInterrupt
        return compute(*arguments)

    monkeypatch.setattr(FrozenPart, "compute", interrupt)
    if broken == "interrupted":
        with pytest.raises(KeyboardInterrupt):
            assemble_sounds(config, data).make_loader("train", training=True)
    else:
        bench = assemble_sounds(config, data)
        bench.make_loader("train", training=True)
        assert bench.keeping is not None
        folder = bench.keeping.kept["train"].folder
        if broken == "truncated":
            content = (folder / "features.bin").read_bytes()
            (folder / "features.bin").write_bytes(content[:-4])
        elif broken == "bad index":
            (folder / "index.npz").write_bytes(b"PK\3\4")
        else:
            (folder / "index.npz").unlink()
    monkeypatch.setattr(FrozenPart, "compute", compute)
    bench = assemble_sounds(config, data)
    [kept], [alone] = (answer(one, collate(one, "train", [11])) for one in (bench, plain))
    assert torch.equal(kept, alone)


def test_random_cuts_are_computed_each_time(tmp_path):
    sounds = load_sounds(tmp_path / "sounds")
    sounds.splits["train"] = build_split(tmp_path / "mixed", [0.2, 0.9, 0.1, 0.25, 0.8, 0.15])
    kept, plain = both(tmp_path, sounds, features__audio__max_seconds=0.3)
    assert kept.keeping is not None
    loader = kept.make_loader("train", training=True)
    assert kept.keeping.kept["train"].num_missing == 2
    assert "2 longer clips are cut at random" in kept.keeping.describe()
    answers = []
    for epoch in (0, 1):
        batch = collate(kept, "train", [0, 1, 2, 3, 4, 5], epoch)
        rows = [collate(plain, "train", [row], epoch) for row in range(6)]
        answers.append(answer(kept, batch))
        alone = torch.cat([answer(plain, row) for row in rows])
        assert torch.allclose(answers[-1], alone, atol=1e-5)
    assert torch.allclose(answers[0][0], answers[1][0], atol=1e-6)
    assert not torch.allclose(answers[0][1], answers[1][1], atol=1e-6)
    # The order by length is that of the headers, as without.
    assert (
        loader.batch_sampler.describe() == plain.make_loader("train", True).batch_sampler.describe()
    )


def test_windows_of_a_long_clip_are_averaged(tmp_path):
    sounds = load_sounds(tmp_path / "sounds")
    sounds.splits["validation"] = build_split(tmp_path / "long", [0.9, 0.2])
    how = {"features__audio__max_seconds": 0.3, "features__audio__evaluation_windows": 3}
    kept, plain = both(tmp_path, sounds, **how)
    batch = collate(kept, "validation", [0, 1])
    assert batch["example"].tolist() == [0, 0, 0, 1]
    parts = [collate(plain, "validation", [row]) for row in (0, 1)]
    alone = [average_windows(answer_rows(plain, part), part["example"], 1) for part in parts]
    assert torch.allclose(answer(kept, batch), torch.cat(alone), atol=1e-5)


def answer_rows(bench: Workbench, batch: dict[str, Any]) -> torch.Tensor:
    with torch.inference_mode():
        return bench.classifier.model.eval()(**model_inputs(batch)).logits


def test_workers_read_the_same_features(tmp_path, data):
    batches = []
    for workers in (0, 2):
        bench = assemble_sounds(configure(tmp_path, train__dataloader_num_workers=workers), data)
        batches.append(list(bench.make_loader("validation")))
    assert len(batches[0]) == len(batches[1]) == 2
    for ours, theirs in zip(*batches, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_collator_that_was_pickled_makes_the_same_batch(tmp_path):
    sounds = load_sounds(tmp_path / "sounds")
    bench = assemble_sounds(configure(tmp_path, features__audio__max_seconds=0.3), sounds)
    loader = bench.make_loader("train", training=True)
    raw = BatchView(sounds.splits["train"]).__getitems__([(0, row) for row in range(12)])
    assert bench.keeping is not None
    assert bench.keeping.kept["train"].num_missing > 0
    ours, theirs = loader.collate_fn(raw), pickle.loads(pickle.dumps(loader.collate_fn))(raw)  # type: ignore[arg-type]
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_short_clips_are_wide_enough_to_mask(tmp_path):
    sounds = load_sounds(tmp_path / "sounds")
    sounds.splits["train"] = build_split(tmp_path / "short", [0.03] * 6)
    masks = {"model__config": {"mask_time_prob": 0.5, "mask_time_length": 10}}
    kept, _ = both(tmp_path, sounds, **masks)
    batch = collate(kept, "train", [0, 1])
    assert batch["input_values"].shape[1] == 10
    logits = kept.classifier.model.train()(**model_inputs(batch)).logits
    assert torch.isfinite(logits).all()


def test_a_folder_that_cannot_be_written_is_named(tmp_path, data, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(kept_features, "cache_folder", lambda: tmp_path / "file")
    bench = assemble_sounds(configure(tmp_path), data)
    with pytest.raises(DataError, match=r"HF_FINETUNE_CACHE.*keep_frozen: off"):
        bench.make_loader("train", training=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_bit_comes_back(dtype, tmp_path):
    random = torch.Generator().manual_seed(0)
    parts = [torch.randn(frames, 5, generator=random).to(dtype) for frames in (3, 1, 4)]
    clips = KeptFeatures(tmp_path, dtype, 5)
    assert not clips.is_whole()
    clips.write(iter([[(parts[0], 30)], [], [(parts[1], 10), (parts[2], 40)]]))
    assert clips.is_whole()
    assert clips.num_missing == 1
    assert clips.num_bytes == 8 * 5 * dtype.itemsize
    assert clips.read(1) == []
    for row, number, samples in ((0, 0, 30), (2, 1, 10)):
        features, count = clips.read(row)[0]
        assert torch.equal(features, parts[number])
        assert count == samples
    np.testing.assert_array_equal(clips.read(2)[1][0].float(), parts[2].float())
