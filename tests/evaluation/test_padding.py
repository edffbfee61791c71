"""Whether padding changes answers is measured, told and, with equal lengths, no longer so."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_sounds import assemble_sounds, build_split, configure, load_sounds

from hf_finetune.assembly import Workbench
from hf_finetune.engines.length_batches import clip_seconds
from hf_finetune.evaluation.padding import describe_padding, measure_padding

LENGTHS = np.random.default_rng(5).permutation(np.linspace(0.08, 0.7, 16))


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))


def assemble(folder: Path, kind: str = "wav2vec2", **settings: Any) -> Workbench:
    data = load_sounds(folder / "sounds")
    data.splits["validation"] = build_split(folder / "longer", LENGTHS)
    return assemble_sounds(configure(folder, kind, model__freeze="none", **settings), data)


def measure(bench: Workbench, model: Any = None, **how: Any) -> dict[str, Any]:
    seconds = clip_seconds(bench.data.splits["validation"])
    accelerator = bench.compute.make_accelerator()
    model = bench.classifier.model if model is None else model
    return measure_padding(model, bench.make_loader("validation"), accelerator, seconds, **how)


class Shortest(torch.nn.Module):
    """Says 1 of a clip that is padded by a tenth of a second or more, 0 of any other."""

    def forward(self, input_values: torch.Tensor) -> Any:
        padding = (input_values == 0).flip(1).long().cumprod(1).sum(1)
        return SimpleNamespace(logits=torch.stack([padding * 0 + 1600.0, padding.float()], 1))


def test_classes_that_change_are_counted_by_length(tmp_path):
    bench = assemble(tmp_path, features__audio__batches="random")
    found = measure(bench, Shortest())
    batches = [list(range(first, first + 4)) for first in range(0, 16, 4)]
    padded = [row for b in batches for row in b if max(LENGTHS[b]) - LENGTHS[row] > 0.1]
    assert 2 < len(padded) < 14
    assert (found["clips"], found["of"], found["batch_size"]) == (16, 16, 4)
    assert found["changed"] == len(padded)
    assert found["agreement"] == pytest.approx(1 - len(padded) / 16)
    widest = max(max(LENGTHS[b]) - min(LENGTHS[b]) for b in batches)
    assert found["max_logit_difference"] == pytest.approx(16000 * widest, abs=2)
    order = np.argsort(LENGTHS)
    for number, quartile in enumerate(found["quartiles"]):
        own = order[4 * number : 4 * number + 4]
        assert quartile["changed"] == len(set(own) & set(padded))
        assert quartile["clips"] == 4
        assert quartile["least_seconds"] == pytest.approx(min(LENGTHS[own]), abs=1e-4)
        assert quartile["most_seconds"] == pytest.approx(max(LENGTHS[own]), abs=1e-4)
    told = describe_padding(found, "validation")
    assert told is not None
    assert told.startswith(f"{len(padded)} of 16 validation clips are of another class alone")


def test_a_group_norm_counts_padding_in(tmp_path):
    bench = assemble(tmp_path, features__audio__batches="random")
    assert measure(bench)["max_logit_difference"] > 1e-3


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (
            "wav2vec2",
            {"features__audio": {"batches": "equal_length", "length_rounding_seconds": 0}},
        ),
        ("wav2vec2", {"train__per_device_eval_batch_size": 1}),
        ("wav2vec2_layer", {}),
        ("ast", {}),
    ],
)
def test_where_nothing_is_padded_in_answers_agree(kind, settings, tmp_path):
    found = measure(assemble(tmp_path, kind, **settings))
    assert found["agreement"] == 1.0
    assert found["max_logit_difference"] < 1e-4
    assert describe_padding(found, "validation") is None


def test_a_kept_front_end_answers_each_clip_as_alone(tmp_path):
    data = load_sounds(tmp_path / "sounds")
    data.splits["validation"] = build_split(tmp_path / "longer", LENGTHS)
    config = configure(tmp_path, features__audio__batches="random")
    found = measure(assemble_sounds(config, data))
    assert found["agreement"] == 1.0
    assert found["max_logit_difference"] < 1e-4


def test_a_part_of_the_clips_is_looked_at_from_short_to_long(tmp_path):
    bench = assemble(tmp_path, train__per_device_eval_batch_size=2)
    model = bench.classifier.model.train()
    found = measure(bench, most_clips=8)
    assert model.training
    assert (found["clips"], found["of"], found["batch_size"]) == (8, 16, 2)
    assert found["quartiles"][0]["least_seconds"] == pytest.approx(0.08, abs=1e-3)
    assert found["quartiles"][-1]["most_seconds"] == pytest.approx(0.7, abs=1e-3)
    assert sum(quartile["clips"] for quartile in found["quartiles"]) == 8


def test_one_large_batch_is_looked_at_in_part(tmp_path):
    bench = assemble(tmp_path, train__per_device_eval_batch_size=64)
    found = measure(bench, most_clips=8)
    assert (found["clips"], found["batch_size"]) == (8, 16)
