"""Classifiers from checkpoints: the right network, the right head, and a word on what is new."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from small_checkpoints import (
    CONFIGS,
    edit_json,
    make_batch,
    make_classifier_network,
    scatter,
    write_checkpoint,
    write_pretrained,
)

from hf_finetune.engines.compute import seed_everything
from hf_finetune.errors import ModelError
from hf_finetune.models import Classifier, DataDescription, auto_audio, auto_image, build_model

IMAGES = DataDescription(("cat", "dog", "cow"), 28, 28, 1, (0.3,), (0.2,))
AUDIO = DataDescription(("yes", "no"), None, None, 1, (), (), "audio", 16_000)


@pytest.fixture(scope="module", autouse=True)
def _no_bars():
    transformers.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def deit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of seven classes that are not the data's."""
    return write_checkpoint(tmp_path_factory.mktemp("deit"), "deit")


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pretrained(tmp_path_factory.mktemp("speech"), "wav2vec2")


def image_model(checkpoint: Path | str, **settings: Any) -> Classifier:
    seed_everything(5)
    return build_model(auto_image.Options(checkpoint=str(checkpoint), **settings), IMAGES)


def audio_model(checkpoint: Path | str, **settings: Any) -> Classifier:
    seed_everything(5)
    return build_model(auto_audio.Options(checkpoint=str(checkpoint), **settings), AUDIO)


def copy_of(checkpoint: Path, folder: Path) -> Path:
    folder.mkdir()
    for file in checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_head_of_another_size_is_new_and_alone(deit: Path):
    classifier = image_model(deit)
    assert classifier.model.classifier.weight.shape == (3, 16)
    assert classifier.model.config.id2label == {0: "cat", 1: "dog", 2: "cow"}
    assert classifier.model.config.label2id == {"cat": 0, "dog": 1, "cow": 2}
    assert classifier.warnings == (
        "model: new, drawn at random: classifier.bias, classifier.weight",
    )
    assert classifier.origin == str(deit)
    source = transformers.DeiTForImageClassification.from_pretrained(deit).state_dict()
    for name, tensor in classifier.model.state_dict().items():
        assert name.startswith("classifier.") or torch.equal(tensor, source[name])
    assert all(parameter.requires_grad for parameter in classifier.model.parameters())


def test_a_loaded_model_lies_in_memory_of_its_own(deit: Path):
    """In a mapped file tensors start at any byte, which changes the last bits of products."""
    tensors = image_model(deit).model.state_dict().values()
    assert all(tensor.data_ptr() % 64 == 0 for tensor in tensors)


def test_what_the_checkpoint_was_trained_for_is_forgotten(deit: Path, tmp_path: Path):
    """A pipeline would take a sigmoid instead of a softmax."""
    other = copy_of(deit, tmp_path / "other")
    edit_json(other / "config.json", problem_type="multi_label_classification")
    config = image_model(other).model.config
    assert config.problem_type == "single_label_classification"
    assert config.name_or_path == str(other)


def test_the_new_head_follows_from_the_seed(deit: Path):
    first, second = (image_model(deit).model.classifier.weight for _ in range(2))
    assert torch.equal(first, second)
    seed_everything(6)
    other = build_model(auto_image.Options(checkpoint=str(deit)), IMAGES)
    assert not torch.equal(other.model.classifier.weight, first)


def test_a_head_of_the_same_size_stays_and_other_classes_are_mentioned(tmp_path: Path):
    network = make_classifier_network("deit", classes=3)
    network.config.id2label = {0: "red", 1: "green", 2: "blue"}
    classifier = image_model(write_checkpoint(tmp_path, "deit", network))
    assert torch.equal(classifier.model.classifier.weight, network.classifier.weight)
    assert classifier.warnings == (
        "model: the head is the checkpoint's, trained for other classes (red, green, blue)",
    )
    edit_json(tmp_path / "config.json", id2label={"0": "cat", "1": "dog", "2": "cow"})
    assert image_model(tmp_path).warnings == ()


def test_weights_of_sixteen_bits_are_trained_in_thirty_two(deit: Path, tmp_path: Path):
    network = make_classifier_network("deit").to(torch.bfloat16)
    classifier = image_model(write_checkpoint(tmp_path, "deit", network))
    assert {p.dtype for p in classifier.model.parameters()} == {torch.float32}
    assert str(classifier.model.config.dtype).endswith("float32")
    assert torch.equal(classifier.model.deit.layernorm.bias, network.deit.layernorm.bias.float())


def test_a_distilled_checkpoint_is_trained_with_one_head(tmp_path: Path):
    distilled = transformers.DeiTForImageClassificationWithTeacher(CONFIGS["deit"]())
    classifier = image_model(write_checkpoint(tmp_path, "deit", scatter(distilled)))
    assert type(classifier.model) is transformers.DeiTForImageClassification
    assert classifier.model.config.architectures == ["DeiTForImageClassification"]
    assert classifier.warnings == (
        "model: the checkpoint is a DeiTForImageClassificationWithTeacher, whose two heads "
        "transformers has for prediction only; it is trained as DeiTForImageClassification, with "
        "one new head",
        "model: new, drawn at random: classifier.bias, classifier.weight",
        "model: left out of the checkpoint: cls_classifier.bias, cls_classifier.weight, "
        "distillation_classifier.bias, distillation_classifier.weight",
    )
    logits = classifier.model(make_batch("deit", classifier.model, 2)["pixel_values"]).logits
    assert logits.shape == (2, 3)


def test_a_pretrained_speech_model_gets_a_head(speech: Path):
    classifier = audio_model(speech)
    assert type(classifier.model) is transformers.Wav2Vec2ForSequenceClassification
    assert type(classifier.processor) is transformers.Wav2Vec2FeatureExtractor
    new, left_out = classifier.warnings
    assert new == (
        "model: new, drawn at random: projector.weight, projector.bias, classifier.weight, "
        "classifier.bias"
    )
    assert left_out.startswith("model: left out of the checkpoint: project_hid.bias, ")


def test_what_whisper_never_trains_stays_untrained(tmp_path: Path):
    """from_pretrained makes its fixed position embeddings trainable."""
    write_pretrained(tmp_path, "whisper")
    plain = transformers.WhisperForAudioClassification.from_pretrained(tmp_path)
    assert plain.encoder.embed_positions.weight.requires_grad  # the fault that is cured
    model = audio_model(tmp_path).model
    untrained = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert untrained == ["encoder.embed_positions.weight"]


def test_more_than_the_head_must_not_be_new(deit: Path, tmp_path: Path):
    with pytest.raises(
        ModelError, match=r"nothing that fits deit\.embeddings\.position_embeddings"
    ):
        image_model(
            deit, config={"image_size": 64}, processor={"size": {"height": 64, "width": 64}}
        )
    classifier = image_model(
        deit,
        config={"image_size": 64},
        processor={"size": {"height": 64, "width": 64}},
        ignore_new_tensors=["*.position_embeddings"],
    )
    assert "deit.embeddings.position_embeddings" in classifier.warnings[0]
    with pytest.raises(ModelError, match=r"and \d+ more tensors, which are not the head"):
        image_model(deit, config={"num_hidden_layers": 4})


def test_fewer_layers_than_the_checkpoint_has_are_said(deit: Path):
    classifier = image_model(deit, config={"num_hidden_layers": 1})
    assert "left out of the checkpoint: deit.encoder.layer.1." in classifier.warnings[1]
    assert "and 8 more tensors" in classifier.warnings[1]


def test_a_tensor_that_was_not_loaded_stops(deit: Path, monkeypatch: pytest.MonkeyPatch):
    """A renamed tensor left at its random value, whatever transformers reports."""
    network = transformers.DeiTForImageClassification
    load = network.from_pretrained

    def forgetful(*args: Any, **settings: Any) -> Any:
        model = load(*args, **settings)
        torch.nn.init.normal_(model.deit.layers[1].attention.q_proj.weight)
        return model

    monkeypatch.setattr(network, "from_pretrained", forgetful)
    with pytest.raises(ModelError, match=r"layer\.1\.attention\.attention\.query\.weight should"):
        image_model(deit)


def test_from_scratch_takes_the_settings_alone(deit: Path):
    classifier = image_model(deit, pretrained=False, config={"hidden_size": 32})
    assert classifier.model.classifier.weight.shape == (3, 32)
    assert classifier.warnings == ()
    first, second = (image_model(deit, pretrained=False).model.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_from_scratch_takes_a_kind_of_model():
    """DeiT has two classes of classifiers, which transformers' from_config trips over."""
    tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32}
    size = {"height": 32, "width": 32}
    with pytest.raises(ModelError, match=r"no preprocessor_config.json.*processor: {} for the"):
        image_model("deit", pretrained=False, config=tiny)
    classifier = image_model(
        "deit", pretrained=False, config=tiny, processor={"size": size, "do_center_crop": False}
    )
    assert type(classifier.model) is transformers.DeiTForImageClassification
    assert classifier.processor.size == size
    with pytest.raises(ModelError, match="'deit' is a kind of model, which has no weights"):
        image_model("deit", config=tiny)


@pytest.mark.parametrize(
    ("build", "name", "message"),
    [
        (
            image_model,
            "wav2vec2",
            r"is a wav2vec2 model \(Wav2Vec2ForPreTraining\), which takes "
            r"audio\. Write model.name: auto_audio",
        ),
        (
            audio_model,
            "vit",
            r"is a vit model \(ViTModel\), which takes images\. "
            r"Write model.name: auto_image",
        ),
    ],
)
def test_another_modality_names_the_right_kind(
    build: Callable[..., Any], name: str, message: str, tmp_path: Path
):
    with pytest.raises(ModelError, match=message):
        build(write_pretrained(tmp_path, name))


def test_a_checkpoint_for_something_else_is_named(tmp_path: Path, deit: Path):
    bert = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
    (tmp_path / "config.json").write_text(json.dumps(bert))
    with pytest.raises(ModelError, match=r"a bert model \(BertForMaskedLM\), of which transf"):
        image_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "my_net"}))
    with pytest.raises(ModelError, match=r"model_type 'my_net'.*its own code is never run"):
        image_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config.json of .* can't be read"):
        image_model(tmp_path)
    with pytest.raises(ModelError, match="auto_image takes image, and the data are audio"):
        build_model(auto_image.Options(checkpoint=str(deit)), AUDIO)


def test_settings_of_the_network_can_be_changed(speech: Path):
    config = audio_model(speech, config={"mask_time_prob": 0.2, "layerdrop": 0.0}).model.config
    assert (config.mask_time_prob, config.layerdrop) == (0.2, 0.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"config": {"hidden_dropout": 0.1}},
            "no setting 'hidden_dropout'. Did you mean 'hidden_dropout_prob'",
        ),
        ({"config": {"num_labels": 4}}, r"model.config.num_labels: it follows from the data"),
        ({"config": {"hidden_size": "big"}}, r"model.config: .*hidden_size.* expected int"),
        ({"config": {"patch_size": 0}}, "can't be loaded with these settings"),
        ({"dropout": {"layer": 0.1}}, r"model.dropout.layer: a deit model has none. It has: hid"),
        ({"attention": "flash_attention_2"}, r"model.attention: flash_attention_2 can't be used"),
        ({"processor": {"sizes": 3}}, r"no setting 'sizes'. Did you mean 'size'"),
        ({"processor": {"size": {"height": 48, "width": 48}}}, r"makes \[1, 3, 48, 48\] of an exa"),
        ({"revision": "main"}, "is a folder, which has no revisions"),
        ({"config": {"num_channels": 1}, "ignore_new_tensors": ["*"]}, r"makes \[1, 3, 32, 32\]"),
    ],
)
def test_what_can_not_be_is_told_before_training(
    settings: dict[str, Any], message: str, deit: Path
):
    with pytest.raises(ModelError, match=message):
        image_model(deit, **settings)


def test_dropout_has_one_name_for_every_architecture(deit: Path, speech: Path):
    wanted = {"hidden": 0.3, "attention": 0.2}
    image = image_model(deit, dropout=wanted).model.config
    assert (image.hidden_dropout_prob, image.attention_probs_dropout_prob) == (0.3, 0.2)
    wanted |= {"layer": 0.25, "activation": 0.15}
    config = audio_model(speech, dropout=wanted).model.config
    found = config.hidden_dropout, config.attention_dropout, config.layerdrop
    assert (*found, config.activation_dropout) == (0.3, 0.2, 0.25, 0.15)


def test_attention_is_chosen_and_known(deit: Path):
    pixels = make_batch("deit", image_model(deit).model, 2)["pixel_values"]
    answers = {}
    for attention in ("eager", "sdpa"):
        model = image_model(deit, attention=attention).model
        assert model.config._attn_implementation == attention
        answers[attention] = model(pixels).logits
    torch.testing.assert_close(answers["eager"], answers["sdpa"])


def test_checkpointed_activations_give_the_same_gradients(deit: Path, tmp_path: Path):
    passes: list[str] = []

    def gradients(**settings: Any) -> list[torch.Tensor]:
        model = image_model(deit, dropout={"hidden": 0.2}, **settings).model.train()
        batch = make_batch("deit", model, 4)
        model.deit.layers[0].mlp.register_forward_hook(lambda *_: passes.append("layer 0"))
        seed_everything(1)
        model(batch["pixel_values"]).logits.square().sum().backward()
        return [parameter.grad for parameter in model.parameters()]

    plain, saving = gradients(), gradients(gradient_checkpointing=True)
    assert all(torch.equal(left, right) for left, right in zip(plain, saving, strict=True))
    assert len(passes) == 1 + 2  # once, and with checkpoints once more in the backward pass
    with pytest.raises(ModelError, match="ResNetForImageClassification has none"):
        image_model(write_checkpoint(tmp_path, "resnet"), gradient_checkpointing=True)


def test_a_processor_is_never_guessed(deit: Path, tmp_path: Path):
    bare = copy_of(deit, tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match=r"has no preprocessor_config.json.*Write model.processor"):
        image_model(bare)
    size = {"height": 32, "width": 32}
    own = image_model(bare, processor={"size": size, "do_center_crop": False}).processor
    assert type(own).__name__.startswith("DeiTImageProcessor")
    assert own.size == size
    assert own.do_center_crop is False
    changed = image_model(deit, processor={"image_mean": [0.1, 0.2, 0.3]}).processor
    assert list(changed.image_mean) == [0.1, 0.2, 0.3]
    assert changed.size == size


def test_broken_weights_are_one_line(deit: Path, tmp_path: Path):
    broken = copy_of(deit, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="can't be loaded with these settings"):
        image_model(broken)
    (broken / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"can't be loaded.*model\.safetensors"):
        image_model(broken)


def test_a_run_of_our_own_networks_is_a_checkpoint_too(tmp_path: Path):
    from hf_finetune.models import save_classifier
    from hf_finetune.models.mlp import Options

    save_classifier(build_model(Options(hidden_sizes=(8,)), IMAGES), tmp_path / "mlp")
    other = DataDescription(("a", "b"), 28, 28, 1, (0.3,), (0.2,))
    classifier = build_model(auto_image.Options(checkpoint=str(tmp_path / "mlp")), other)
    assert classifier.warnings == (
        "model: new, drawn at random: classifier.weight, classifier.bias",
    )
