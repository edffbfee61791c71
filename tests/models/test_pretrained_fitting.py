"""A checkpoint beside its user's data and settings: the classes' order, attention, processor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from small_checkpoints import IMAGE, make_batch, make_classifier_network, write_checkpoint

from hf_finetune.errors import ModelError
from hf_finetune.models import DataDescription, auto_audio, auto_image, build_model

IMAGES = DataDescription(("cat", "dog", "cow"), 28, 28, 1, (0.3,), (0.2,))
AUDIO = DataDescription(("yes", "no"), None, None, 1, (), (), "audio", 16_000)


@pytest.fixture(autouse=True)
def _no_bars():
    transformers.logging.disable_progress_bar()


@pytest.mark.parametrize("name", ["deit", "resnet", "wav2vec2", "ast"])
def test_the_same_classes_in_another_order_are_sorted(name: str, tmp_path: Path):
    """A head that was trained for them says the same of the same example."""
    network = make_classifier_network(name, classes=3).eval()
    network.config.id2label = {0: "cow", 1: "cat", 2: "dog"}
    folder = write_checkpoint(tmp_path, name, network)
    kind, data = (auto_image, IMAGES) if name in IMAGE else (auto_audio, AUDIO)
    data = replace(data, label_names=("cat", "dog", "cow"))
    classifier = build_model(kind.Options(checkpoint=str(folder)), data)
    assert classifier.model.config.id2label == {0: "cat", 1: "dog", 2: "cow"}
    assert (
        "model: the head is the checkpoint's, its classes put into the data's order (they were "
        "cow, cat, dog)"
    ) in classifier.warnings
    inputs = make_batch(name, network, 4)[network.main_input_name]
    with torch.inference_mode():
        ours, theirs = classifier.model.eval()(inputs).logits, network(inputs).logits
    torch.testing.assert_close(ours, theirs[:, [1, 2, 0]])


def test_an_attention_that_the_network_lacks_is_said_in_a_line(tmp_path: Path):
    folder = write_checkpoint(tmp_path, "convnext")
    with pytest.raises(ModelError, match=r"model.attention: sdpa can't be used") as caught:
        build_model(auto_image.Options(checkpoint=str(folder), attention="sdpa"), IMAGES)
    assert str(caught.value).endswith(" yet. Write attention: auto.")
    assert "http" not in str(caught.value)


def test_a_processor_of_the_other_kind_is_not_filled_up(tmp_path: Path):
    """Transformers takes the settings of an image processor for speech, and the other way round."""
    images, sound = (write_checkpoint(tmp_path / name, name) for name in ("deit", "wav2vec2"))
    files = [folder / "preprocessor_config.json" for folder in (images, sound)]
    contents = [file.read_text() for file in files]
    for file, content in zip(files, reversed(contents), strict=True):
        file.write_text(content)
    with pytest.raises(ModelError, match=r"says how sound is to be prepared, .* takes image\."):
        build_model(auto_image.Options(checkpoint=str(images)), IMAGES)
    with pytest.raises(ModelError, match=r"says how images are to be prepared, .* takes audio\."):
        build_model(auto_audio.Options(checkpoint=str(sound)), AUDIO)
