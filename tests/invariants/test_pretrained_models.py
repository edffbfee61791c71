"""The promises, kept with pretrained models: small checkpoints of the true architectures.

Three architectures run always, the others with the slow tests: a transformer whose saved tensors
have other names than the model's (DeiT), one with batch norm (ResNet), and one for speech, which
draws random masks and skips layers (wav2vec2).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from small_checkpoints import (
    CONFIGS,
    IMAGE,
    make_batch,
    write_checkpoint,
    write_pretrained,
)
from small_jobs import CPU, Interrupt, Weights, make_job, run

from hf_finetune.assembly import assemble
from hf_finetune.cli import main
from hf_finetune.config import dump_config, load_config
from hf_finetune.engines.checkpoints import load_weights
from hf_finetune.engines.compute import seed_everything
from hf_finetune.engines.step import TrainingStep
from hf_finetune.losses.cross_entropy import Options, build
from hf_finetune.models import (
    Classifier,
    DataDescription,
    auto_audio,
    auto_image,
    build_model,
    load_classifier,
    save_classifier,
)

ENGINES = ("trainer", "loop")
QUICK = ("deit", "resnet", "wav2vec2")
ARCHITECTURES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CONFIGS
]
IMAGES = DataDescription(("a", "b", "c"), 32, 32, 3, (0.5,) * 3, (0.2,) * 3)
AUDIO = DataDescription(("a", "b", "c"), None, None, 1, (), (), "audio", 16_000)
TRAIN = {"num_train_epochs": 2, "gradient_accumulation_steps": 2, "learning_rate": 0.01}
Build = Callable[..., Classifier]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds a classifier of an architecture from its small pretrained checkpoint."""
    transformers.logging.disable_progress_bar()
    folders: dict[str, Path] = {}

    def build_one(name: str, seed: int = 5, **settings: Any) -> Classifier:
        if name not in folders:
            folders[name] = write_pretrained(tmp_path_factory.mktemp(name), name)
        kind, data = (auto_image, IMAGES) if name in IMAGE else (auto_audio, AUDIO)
        seed_everything(seed)
        return build_model(kind.Options(checkpoint=str(folders[name]), **settings), data)

    return build_one


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_engines_agree_and_every_trainable_parameter_moves(name: str, make: Build):
    """With each architecture's own dropout, masks and skipped layers."""
    heard = []
    for engine in ENGINES:
        classifier = make(name)
        before = state(classifier.model)
        heard.append(Weights())
        batch = make_batch(name, classifier.model, 8)
        run(engine, make_job(classifier, batch, heard=heard[-1], max_steps=3, **TRAIN))
        moved = changed(before, state(classifier.model))
        parameters = dict(classifier.model.named_parameters())
        trainable = {n for n, parameter in parameters.items() if parameter.requires_grad}
        assert moved & parameters.keys() == trainable
        told = " ".join(classifier.warnings) + " encoder.embed_positions.weight"  # Whisper's own
        assert all(n in told for n in parameters.keys() - trainable)
    assert heard[0].losses == heard[1].losses
    assert len(heard[0].losses) == 3
    for first, second in zip(heard[0].states, heard[1].states, strict=True):
        assert changed(first, second) == set()


def quiet_settings(name: str) -> dict[str, Any]:
    """Settings that leave nothing random, and no batch norm that learns from its batch."""
    known = CONFIGS[name]().to_dict()
    names = ("layerdrop", "mask_time_prob", "mask_feature_prob", "drop_path_rate")
    drops = {key: 0.0 for key in known if "dropout" in key or key in names}
    settings: dict[str, Any] = {"config": drops}
    if name == "resnet":
        settings["freeze"] = {"patterns": ["*.normalization.*"]}
    return settings


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_accumulated_micro_batches_equal_one_batch(name: str, make: Build):
    """Four of two are one of eight, where half of the architectures' own losses are four times it.

    Source of the fault: transformers#47688.
    """
    classifier = make(name, **quiet_settings(name))
    model = classifier.model.train()
    batch = make_batch(name, model, 8)
    step = TrainingStep(build(Options(), ("a", "b", "c"), (1, 1, 1)), CPU.make_accelerator())

    def gradients(size: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        rows = range(0, 8, size)
        parts = [{key: value[i : i + size] for key, value in batch.items()} for i in rows]
        step.begin(parts)
        for part in parts:
            step.micro_batch_loss(model, part).backward()
        loss_sum, weight, _ = step.end()
        found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        return loss_sum / weight, found

    loss, whole = gradients(8)
    accumulated_loss, accumulated = gradients(2)
    torch.testing.assert_close(accumulated_loss, loss, rtol=1e-5, atol=0)
    assert accumulated.keys() == whole.keys()
    scale = torch.stack([gradient.norm() for gradient in whole.values()]).norm()
    for tensor, gradient in whole.items():
        assert (accumulated[tensor] - gradient).norm() <= 1e-5 * scale, tensor


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_best_weights_and_model_folders_come_back_whole(name: str, make: Build, tmp_path: Path):
    """Trainer's own reload leaves up to two thirds of a transformer's tensors as they were."""
    classifier, heard = make(name), Weights()
    batch = make_batch(name, classifier.model, 4)
    folder = tmp_path / "checkpoints"
    job = make_job(classifier, batch, heard=heard, checkpoints=folder, **TRAIN)
    progress = run("loop", job)
    other = make(name, seed=6)
    before = state(other.model)
    load_weights(other.model, progress.best_weights)
    best = heard.states[progress.best_step - 1]
    assert changed(best, state(other.model)) == set()
    assert changed(best, before)
    save_classifier(other, tmp_path / "own")
    other.model.save_pretrained(tmp_path / "original")  # the names of the Hub's files
    other.processor.save_pretrained(tmp_path / "original")
    for kind in ("own", "original"):
        loaded = load_classifier(tmp_path / kind)
        assert type(loaded.model) is type(classifier.model)
        assert changed(best, state(loaded.model)) == set()
        assert loaded.processor.to_dict() == classifier.processor.to_dict()
        assert loaded.model.config.label2id == {"a": 0, "b": 1, "c": 2}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_run_that_was_cut_off_ends_in_the_same_bits(name: str, make: Build, tmp_path: Path):
    def train(heard: Any, engine: str = "loop", **job: Any) -> Any:
        classifier = make(name)
        batch = make_batch(name, classifier.model, 6)
        run(engine, make_job(classifier, batch, heard=heard, **TRAIN, **job))
        return heard

    whole = train(Weights())
    with pytest.raises(KeyboardInterrupt):
        train(Interrupt(3), checkpoints=tmp_path)
    resumed = train(
        Weights(), engine="trainer", checkpoints=tmp_path, resume_from=tmp_path / "step-2"
    )
    assert resumed.losses == whole.losses[2:]
    assert changed(whole.states[-1], resumed.states[-1]) == set()


@pytest.mark.parametrize(("name", "is_exact"), [("wav2vec2", False), ("wav2vec2_layer", True)])
def test_padding_is_hidden_by_the_mask_where_the_processor_asks_for_one(
    name: str, is_exact: bool, make: Build
):
    """Models with group norm see the padding, mask or no mask: batch them by length."""
    classifier = make(name)
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randn(length, generator=generator).numpy() for length in (4000, 2400)]
    prepared = classifier.processor(clips, sampling_rate=16_000, padding=True, return_tensors="pt")
    assert ("attention_mask" in prepared) is is_exact
    alone = classifier.processor(clips[1], sampling_rate=16_000, return_tensors="pt")
    model = classifier.model.eval()
    with torch.inference_mode():
        apart = model(**prepared).logits[1] - model(**alone).logits[0]
    assert (apart.abs().max() < 1e-5).item() is is_exact


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_two_processes_thaw_as_one_does(
    engine: str, make_config: Callable[..., Any], tmp_path: Path
):
    """A part that thaws gets its gradients averaged, though it had none when training began."""
    model = {"name": "auto_image", "checkpoint": str(write_checkpoint(tmp_path / "deit", "deit"))}
    settings = {
        "model": {**model, "freeze": "backbone", "unfreeze_at_epoch": 1},
        "train__engine": engine,
        "train__optimizer": {"name": "sgd"},
        "train__metric_for_best_model": "loss",
        "compute__num_threads": 1,
    }
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    together = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port"]
    together.append(str(20000 + os.getpid() % 20000))
    weights = []
    for size, launcher in ((10, together), (20, [])):
        config = make_config(**settings, train__per_device_train_batch_size=size, name=f"b{size}")
        path = tmp_path / f"b{size}.yaml"
        path.write_text(dump_config(config))
        command = [sys.executable, *launcher, "scripts/finetune.py", "--config", str(path)]
        done = subprocess.run(
            [*command, "--quiet"], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        saved = load_classifier(tmp_path / f"runs/b{size}/001/model").model
        weights.append(state(saved))
    start = state(load_classifier(tmp_path / "deit").model)
    name = "deit.layers.0.mlp.fc1.weight"
    assert not torch.equal(weights[1][name], start[name])
    for tensor, value in weights[1].items():
        torch.testing.assert_close(weights[0][tensor], value, rtol=1e-4, atol=1e-6, msg=tensor)


CONFIGURATION = """
data:
  name: fashion_mnist
  root: samples/fashion_mnist
  max_train_examples: 48
model:
  name: auto_image
  checkpoint: {checkpoint}
  freeze: {{first_layers: 1}}
  unfreeze_at_epoch: 1
train:
  num_train_epochs: 2
  per_device_train_batch_size: 16
  learning_rate: 1e-3
  head_learning_rate: 1e-2
  layer_decay: 0.8
  logging_steps: 1
compute: {{device: cpu, precision: fp32}}
run: {{directory: {runs}, pictures: false}}
"""


def test_the_command_line_trains_scores_and_uses_a_pretrained_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The shipped sample of Fashion-MNIST, by both engines."""
    checkpoint = write_checkpoint(tmp_path / "deit", "deit")
    path = tmp_path / "deit.yaml"
    path.write_text(CONFIGURATION.format(checkpoint=checkpoint, runs=tmp_path / "runs"))
    metrics = []
    for number, engine in enumerate(ENGINES, start=1):
        assert main(["train", "--config", str(path), "--engine", engine]) == 0
        run_path = tmp_path / f"runs/deit/00{number}"
        metrics.append(json.loads((run_path / "metrics.json").read_text()))
    plan = capsys.readouterr().out
    assert "more after 1 epoch; DeiTForImageClassification from" in plan
    assert "sdpa attention" in plan
    assert "adamw at 0.000512 to 0.001 by layer (head 0.01)" in plan
    new = "model: new, drawn at random: classifier.bias, classifier.weight"
    assert new in plan
    assert json.loads((run_path / "run.json").read_text())["warnings"] == [new]
    history = (run_path / "history.jsonl").read_text()
    records = [json.loads(line) for line in history.splitlines()]
    first = next(record for record in records if "train/loss" in record)
    rates = [first[f"train/{part}learning_rate"] for part in ("", "head_", "lowest_")]
    assert rates == pytest.approx([1e-3, 1e-2, 1e-3 * 0.8**3])
    for result in metrics:
        result.pop("train_seconds")
    assert metrics[0] == metrics[1]

    late = assemble(load_config(path, ["model.unfreeze_at_epoch=2"]))
    assert late.warnings[-1] == (
        "model.unfreeze_at_epoch is 2, and the run has 2 epochs: what is frozen stays so"
    )
    short = assemble(load_config(path, ["model.unfreeze_at_epoch=1", "train.max_steps=1"]))
    assert "unfreeze_at_epoch is 1, and the run has 0." in short.warnings[-1]
    assert main(["evaluate", str(run_path), "--format", "json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["accuracy"] == metrics[1]["test"]["accuracy"]
    Image.new("L", (28, 28), 40).save(tmp_path / "shoe.png")
    assert main(["predict", str(run_path), str(tmp_path / "shoe.png"), "--format", "csv"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.startswith("file,rank,label,probability")
    assert row.split(",")[2] in load_classifier(run_path / "model").model.config.label2id
