"""Low-rank adapters: only they and the head are trained, and what is saved needs no adapters."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import transformers
from small_checkpoints import make_batch, write_checkpoint
from small_jobs import Weights, make_job, run

from hf_finetune.engines.compute import seed_everything
from hf_finetune.errors import ModelError
from hf_finetune.models import (
    Classifier,
    DataDescription,
    auto_audio,
    auto_image,
    build_model,
    load_classifier,
    merge_adapters,
    save_classifier,
)

IMAGES = DataDescription(("a", "b", "c"), 32, 32, 3, (0.5,) * 3, (0.2,) * 3)
AUDIO = DataDescription(("a", "b"), None, None, 1, (), (), "audio", 16_000)
LORA = {"rank": 2, "alpha": 4.0}


def build(folder: Path, **lora: object) -> Classifier:
    seed_everything(5)
    options = auto_image.Options(checkpoint=str(folder), lora={**LORA, **lora})
    return build_model(options, IMAGES)


@pytest.fixture
def deit(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "deit", "deit")


def test_without_peft_it_says_what_to_install(deit: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        ModelError, match=r"peft is not installed.*pip install 'hf_finetune\[lora\]'"
    ):
        build(deit)


def test_adapters_and_head_move_alike_in_both_engines_and_are_merged(deit: Path, tmp_path: Path):
    pytest.importorskip("peft")
    heard = []
    for engine in ("trainer", "loop"):
        classifier = build(deit, dropout=0.1)
        model = classifier.model
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        before = {name: model.get_parameter(name).clone() for name, _ in model.named_parameters()}
        assert len(names) == 2 + 2 * 2 * 2  # the head; two layers of two adapters of two matrices
        batch = make_batch("deit", model, 8)
        run(engine, make_job(classifier, batch, heard=(listener := Weights()), max_steps=3))
        heard.append(listener)
        moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
        assert moved == set(names)
    assert heard[0].losses == heard[1].losses
    assert all(torch.equal(heard[0].states[-1][n], t) for n, t in heard[1].states[-1].items())
    with torch.inference_mode():
        apart = model.eval()(batch["pixel_values"]).logits
        merge_adapters(model)
        torch.testing.assert_close(model(batch["pixel_values"]).logits, apart)
    save_classifier(classifier, tmp_path / "saved")
    loaded = load_classifier(tmp_path / "saved").model
    plain = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "saved")
    for opened in (loaded, plain):
        assert type(opened) is transformers.DeiTForImageClassification
        torch.testing.assert_close(opened(batch["pixel_values"]).logits, apart)
    assert not any("lora" in name for name in loaded.state_dict())


def test_layers_that_are_not_there_are_named(deit: Path):
    pytest.importorskip("peft")
    with pytest.raises(ModelError, match=r"called 'query'\. It has: fc1, fc2, k_proj, o_proj, q_"):
        build(deit, target_modules=("query",))


def test_the_head_gets_no_adapters(tmp_path: Path):
    """It is new, and trained as a whole; beside frozen random weights it could learn little."""
    pytest.importorskip("peft")
    folder = write_checkpoint(tmp_path, "resnet")
    with pytest.raises(ModelError, match=r"no linear layer of .* is called '1'\. It has: none"):
        build(folder, target_modules=("1",))
    swin = build(write_checkpoint(tmp_path / "swin", "swin"), target_modules=("fc1", "q_proj"))
    trained = {name for name, p in swin.model.named_parameters() if p.requires_grad}
    assert {name for name in trained if "lora" not in name} == {
        "classifier.weight",
        "classifier.bias",
    }
    adapted = {name.partition(".lora_")[0].rpartition(".")[2] for name in trained if "lora" in name}
    assert adapted == {"fc1", "q_proj"}


def test_adapters_that_would_do_nothing_are_refused(tmp_path: Path):
    """WavLM multiplies with these layers' weights, and never calls the layers."""
    pytest.importorskip("peft")
    options = auto_audio.Options(checkpoint=str(write_checkpoint(tmp_path, "wavlm")), lora=LORA)
    with pytest.raises(ModelError, match=r"doesn't call .* so adapters there would do nothing"):
        build_model(options, AUDIO)
