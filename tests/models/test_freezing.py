"""What is frozen stays, in both engines, through accumulation, evaluation, thaw and resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_checkpoints import IMAGE, make_batch, write_checkpoint
from small_jobs import Interrupt, Weights, make_job, run

from hf_finetune.engines.compute import seed_everything
from hf_finetune.errors import ModelError
from hf_finetune.models import Classifier, DataDescription, auto_audio, auto_image, build_model

ENGINES = ("trainer", "loop")
IMAGES = DataDescription(("a", "b", "c"), 32, 32, 3, (0.5,) * 3, (0.2,) * 3)
AUDIO = DataDescription(("a", "b", "c"), None, None, 1, (), (), "audio", 16_000)
Build = Callable[..., Classifier]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds a classifier of an architecture from its small checkpoint."""
    folders: dict[str, Path] = {}

    def make(name: str, **settings: Any) -> Classifier:
        if name not in folders:
            folders[name] = write_checkpoint(tmp_path_factory.mktemp(name), name)
        kind, data = (auto_image, IMAGES) if name in IMAGE else (auto_audio, AUDIO)
        seed_everything(5)
        return build_model(kind.Options(checkpoint=str(folders[name]), **settings), data)

    return make


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}


FREEZES: dict[str, tuple[str, Any, tuple[str, ...]]] = {
    "backbone": ("deit", "backbone", ("deit.",)),
    "first layers": (
        "deit",
        {"first_layers": 1},
        ("deit.embeddings.", "deit.layers.0."),
    ),
    "patterns": ("deit", {"patterns": ["*.q_proj.*", "*.layernorm_after.bias"]}, ()),
    "feature encoder": ("wav2vec2", "feature_encoder", ("wav2vec2.feature_extractor.",)),
    "batch norms": ("resnet", "backbone", ("resnet.",)),
    "half of the batch norms": ("resnet", {"first_layers": 2}, ()),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", FREEZES)
def test_frozen_tensors_stay_and_all_others_move(case: str, engine: str, build: Build):
    name, freeze, prefixes = FREEZES[case]
    classifier = build(name, freeze=freeze)
    model, before = classifier.model, state(classifier.model)
    run(engine, make_job(classifier, make_batch(name, model, 8), max_steps=3))
    moved = changed(before, state(model))
    frozen = classifier.freezing.names
    parameters = {parameter for parameter, _ in model.named_parameters()}
    assert frozen
    assert moved & parameters == parameters - frozen
    assert not any(parameter.startswith(prefixes) for parameter in moved if prefixes)
    # A batch norm keeps its statistics exactly where its weights are kept.
    for tensor in before.keys() - parameters:
        owner = tensor.rpartition(".")[0]
        assert (tensor in moved) is (f"{owner}.weight" not in frozen)
    assert all(model.get_parameter(parameter).grad is None for parameter in frozen)


def test_a_frozen_part_has_no_dropout_and_the_rest_has(build: Build):
    dropout = {"hidden": 0.5}

    def answers(**settings: Any) -> list[torch.Tensor]:
        model = build("deit", dropout=dropout, **settings).model.train()
        pixels = make_batch("deit", model, 2)["pixel_values"]
        return [model(pixels).logits for _ in range(2)]

    assert not torch.equal(*answers())
    assert torch.equal(*answers(freeze="backbone"))
    assert not torch.equal(*answers(freeze={"first_layers": 1}))


def test_a_frozen_front_end_is_left_out_of_the_backward_pass(build: Build):
    """Else wav2vec2 asks for the gradient of the sound itself, most of the step's work."""
    classifier = build("wav2vec2", freeze="feature_encoder")
    features: list[torch.Tensor] = []
    classifier.model.wav2vec2.feature_extractor.register_forward_hook(
        lambda *called: features.append(called[2])
    )
    classifier.model.train()(make_batch("wav2vec2", classifier.model, 2)["input_values"])
    assert not features[0].requires_grad


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        ("feature_encoder", "DeiTForImageClassification has no feature encoder. Allowed: none, ba"),
        ({"first_layers": 3}, r"{first_layers: 3}, and .* has 2 layers. Allowed: 1 to 2"),
        ({"patterns": ["*.nothing"]}, r"no trainable parameter is called like '\*\.nothing'"),
        ({"patterns": ["*"]}, "every parameter would be frozen"),
    ],
)
def test_what_can_not_be_frozen_is_told(freeze: Any, message: str, build: Build):
    with pytest.raises(ModelError, match=message):
        build("deit", freeze=freeze)


THAW = {"freeze": "backbone", "unfreeze_at_epoch": 2, "dropout": {"hidden": 0.2}}
TRAIN = {"num_train_epochs": 4, "schedule": {"name": "linear"}, "learning_rate": 0.01}


@pytest.mark.parametrize("engine", ENGINES)
def test_the_backbone_thaws_when_its_epoch_begins(engine: str, build: Build):
    classifier = build("resnet", freeze="backbone", unfreeze_at_epoch=2)
    before = state(classifier.model)
    heard = Weights()
    job = make_job(classifier, make_batch("resnet", classifier.model, 6), heard=heard, **TRAIN)
    held = {id(p) for group in job.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in classifier.model.parameters()}  # from the start
    run(engine, job)
    assert len(heard.states) == 4 * 3
    for step, after in enumerate(heard.states, start=1):
        moved = {name.split(".")[0] for name in changed(before, after)}
        assert moved == ({"classifier"} if step <= 2 * 3 else {"classifier", "resnet"}), step
    last = changed(before, heard.states[-1])
    assert last == set(before)  # running statistics, too


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "muon", "adafactor"])
def test_both_engines_thaw_to_the_same_bits(optimizer: str, build: Build):
    heard = []
    for engine in ENGINES:
        classifier = build("deit", **THAW)
        heard.append(Weights())
        batch = make_batch("deit", classifier.model, 6)
        train = {**TRAIN, "optimizer": {"name": optimizer}}
        run(engine, make_job(classifier, batch, heard=heard[-1], **train))
    assert len(heard[0].losses) == 12
    assert heard[0].losses == heard[1].losses
    for first, second in zip(heard[0].states, heard[1].states, strict=True):
        assert changed(first, second) == set()


@pytest.mark.parametrize(
    ("engine", "last_checkpoint"), [("trainer", 4), ("loop", 6), ("trainer", 8), ("loop", 10)]
)
def test_a_resume_before_at_and_after_the_thaw_ends_in_the_same_bits(
    engine: str, last_checkpoint: int, build: Build, tmp_path: Path
):
    """Three steps an epoch, a checkpoint every two: 4 and 8 lie within an epoch, 6 at the thaw."""
    evaluate = {"eval_strategy": "steps", "eval_steps": 2}

    def train(heard: Any, **job: Any) -> None:
        classifier = build("deit", **THAW)
        batch = make_batch("deit", classifier.model, 6)
        run(engine, make_job(classifier, batch, heard=heard, **TRAIN, **evaluate, **job))

    whole, resumed = Weights(), Weights()
    train(whole)
    with pytest.raises(KeyboardInterrupt):
        train(Interrupt(last_checkpoint + 1), checkpoints=tmp_path)
    checkpoint = tmp_path / f"step-{last_checkpoint}"
    train(resumed, checkpoints=tmp_path, resume_from=checkpoint)
    assert resumed.losses == whole.losses[last_checkpoint:]
    assert changed(whole.states[-1], resumed.states[-1]) == set()


def test_the_mask_of_speech_is_trained_only_where_it_is_used(build: Build):
    used = build("wav2vec2", config={"mask_time_prob": 0.3})
    assert used.model.wav2vec2.masked_spec_embed.requires_grad
    assert not any("not trained" in warning for warning in used.warnings)
    unused = build("wav2vec2", config={"apply_spec_augment": False})
    assert not unused.model.wav2vec2.masked_spec_embed.requires_grad
    assert unused.warnings[-1] == (
        "model: not trained, since classification doesn't use them: wav2vec2.masked_spec_embed"
    )
