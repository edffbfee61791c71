"""transformers finds the networks: Auto classes, pipeline, and code that goes with the weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

import hf_finetune
from hf_finetune.models import (
    Classifier,
    DataDescription,
    build_model,
    load_classifier,
    register,
    save_classifier,
)
from hf_finetune.models.cnn import Options as CnnOptions
from hf_finetune.models.image_processing import ClassifierImageProcessor
from hf_finetune.models.mlp import Options as MlpOptions
from hf_finetune.models.modeling_cnn import CnnConfig, CnnForImageClassification

RNG = np.random.default_rng(0)
PACKAGE_HOME = Path(hf_finetune.__file__).parents[1]


def classifier_for(channels: int, options: CnnOptions | MlpOptions | None = None) -> Classifier:
    data = DataDescription(("a", "b", "c"), 12, 16, channels, (0.4,) * channels, (0.2,) * channels)
    options = options or CnnOptions(channels=(4, 8), convolutions_per_block=1, head="flatten")
    return build_model(options, data)


def scores(classifier: Classifier, image: object) -> dict[str, float]:
    pixel_values = classifier.processor(image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits = classifier.model.eval()(pixel_values).logits[0]
    return dict(zip("abc", logits.softmax(0).tolist(), strict=True))


def run_python(code: str, *arguments: object, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE_HOME), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_registering_twice_is_the_same_as_once():
    register()
    register()
    config = transformers.AutoConfig.for_model("hf_finetune_cnn")
    assert type(config) is CnnConfig
    model = transformers.AutoModelForImageClassification.from_config(config)
    assert type(model) is CnnForImageClassification


@pytest.mark.parametrize("channels", [1, 3])
def test_pipeline_takes_pictures_of_any_mode_and_size(tmp_path, channels):
    save_classifier(classifier_for(channels), tmp_path)
    classifier = load_classifier(tmp_path)
    classify = transformers.pipeline(
        "image-classification", model=classifier.model, image_processor=classifier.processor
    )
    colour = Image.fromarray(RNG.integers(0, 256, (33, 21, 3), dtype=np.uint8))
    for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16"):
        answers = classify(colour.convert("L" if mode in ("LA", "I;16") else "RGB").convert(mode))
        assert {answer["label"] for answer in answers} == {"a", "b", "c"}
        assert sum(answer["score"] for answer in answers) == pytest.approx(1)
    for image in (colour, colour.convert("L").resize((5, 4)), np.asarray(colour)):
        given = {answer["label"]: answer["score"] for answer in classify(image)}
        assert given == pytest.approx(scores(classifier, image), abs=1e-6)


def test_pipeline_opens_a_saved_folder(tmp_path):
    classifier = classifier_for(1, MlpOptions(hidden_sizes=(8,)))
    save_classifier(classifier, tmp_path)
    classify = transformers.pipeline("image-classification", model=str(tmp_path))
    assert type(classify.image_processor) is ClassifierImageProcessor
    image = Image.fromarray(RNG.integers(0, 256, (12, 16), dtype=np.uint8))
    given = {answer["label"]: answer["score"] for answer in classify(image)}
    assert given == pytest.approx(scores(classifier, image), abs=1e-6)


REMOTE = """
import sys
import hf_finetune  # only for its repair of torchaudio
sys.modules["hf_finetune.models"] = None  # as where the package is not installed
import numpy as np
from safetensors.numpy import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification
for folder in sys.argv[1:]:
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    case = load_file(folder + "/case.safetensors")
    logits = model(processor(case["image"], return_tensors="pt")["pixel_values"]).logits
    np.testing.assert_allclose(logits.detach().numpy(), case["logits"], atol=1e-6)
    print(type(model).__name__)
"""


def save_with_code(classifier: Classifier, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, auto_class in (
        (type(classifier.model.config), "AutoConfig"),
        (type(classifier.model), "AutoModelForImageClassification"),
        (type(classifier.processor), "AutoImageProcessor"),
    ):
        monkeypatch.setattr(owner, "_auto_class", None)  # forgotten again after the test
        owner.register_for_auto_class(auto_class)
    save_classifier(classifier, folder)
    image = torch.from_numpy(RNG.integers(0, 256, (30, 30), dtype=np.uint8))
    pixel_values = classifier.processor(image, return_tensors="pt")["pixel_values"]
    logits = classifier.model.eval()(pixel_values).logits.detach()
    save_file({"image": image, "logits": logits}, folder / "case.safetensors")


def test_the_code_can_go_with_the_weights(tmp_path, monkeypatch):
    folders = [tmp_path / "cnn", tmp_path / "mlp"]
    save_with_code(classifier_for(1), folders[0], monkeypatch)
    save_with_code(classifier_for(1, MlpOptions(hidden_sizes=(8,))), folders[1], monkeypatch)
    environment = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    names = run_python(REMOTE, *folders, **environment).split()
    assert names == ["CnnForImageClassification", "MlpForImageClassification"]
    # Where the package is installed, its own code is used.
    assert type(load_classifier(folders[0]).model) is CnnForImageClassification


def test_checking_a_configuration_imports_no_torch():
    code = (
        "import sys\n"
        "from hf_finetune.models import build_model, cnn, mlp\n"
        "cnn.Options(); mlp.Options()\n"
        "print([name for name in ('torch', 'transformers', 'PIL') if name in sys.modules])"
    )
    assert run_python(code).strip() == "[]"
