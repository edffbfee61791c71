"""The log-mel CNN: padding, normalisation, sizes, gradients, files, and what it refuses."""

from __future__ import annotations

import inspect
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from small_jobs import Weights, make_job, run
from torch import Tensor, nn

import hf_finetune
from hf_finetune.errors import ModelError
from hf_finetune.models import (
    Classifier,
    DataDescription,
    build_model,
    load_classifier,
    save_classifier,
)
from hf_finetune.models.log_mel_cnn import Options
from hf_finetune.models.modeling_log_mel_cnn import (
    LogMelCnnConfig,
    LogMelCnnForAudioClassification,
)
from hf_finetune.models.spectrogram_processing import LogMelFeatureExtractor

SPEECH = DataDescription(("no", "yes"), None, None, 1, (), (), "audio", 8000)
SMALL = {"channels": (4, 6, 8), "num_mel_bands": 13, "dropout": 0.0}
SAMPLES = (700, 3999, 12_345, 800, 5600)


def clips(samples: tuple[int, ...] = SAMPLES) -> list[Tensor]:
    """Tones over noise, each of its own pitch and length, at 8 kHz."""
    random = np.random.default_rng(0)
    made = []
    for number, count in enumerate(samples):
        times = np.arange(count) / 8000
        tone = 0.3 * np.sin(2 * np.pi * (300 + 500 * number) * times)
        made.append(torch.from_numpy(tone + 0.02 * random.standard_normal(count)).float())
    return made


def small(**settings: object) -> Classifier:
    """A small network whose norms have seen data, as after training."""
    torch.manual_seed(0)
    classifier = build_model(Options(**{**SMALL, **settings}), SPEECH)
    for module in classifier.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight.data, module.running_var):
                values.uniform_(0.5, 2)
            for values in (module.bias.data, module.running_mean):
                values.normal_()
    classifier.model.eval()
    return classifier


def answers(classifier: Classifier, batch: list[Tensor]) -> Tensor:
    """Logits of some clips, in one batch."""
    with torch.no_grad():
        logits: Tensor = classifier.model(**classifier.processor(batch, return_tensors="pt")).logits
    return logits


@pytest.mark.parametrize("normalization", ["bands", "clip", "none"])
@pytest.mark.parametrize("convolutions", [1, 3])
def test_a_clip_is_answered_alike_alone_and_in_any_batch(normalization, convolutions):
    classifier = small(normalization=normalization, convolutions_per_block=convolutions)
    alone = torch.cat([answers(classifier, [clip]) for clip in clips()])
    together = answers(classifier, clips())
    assert torch.allclose(alone, together, rtol=0, atol=1e-5)
    assert (alone - alone[0]).abs()[1:].amax(1).min() > 1e-2  # the clips do differ
    unmasked = classifier.processor(clips()[2], return_tensors="pt")["input_values"]
    with torch.no_grad():  # without a mask every frame counts
        assert torch.allclose(classifier.model(unmasked).logits, alone[2:3], rtol=0, atol=1e-5)


@pytest.mark.parametrize("normalization", ["bands", "clip", "none"])
def test_what_stands_in_the_padding_does_not_matter(normalization):
    classifier = small(normalization=normalization)
    batch = classifier.processor(clips(), return_tensors="pt")
    with torch.no_grad():
        clean = classifier.model(**batch).logits
        batch["input_values"] += 5.0 * (batch["attention_mask"][:, None, None] == 0)
        assert torch.equal(classifier.model(**batch).logits, clean)


def test_normalization_takes_out_the_microphone():
    loud = torch.full((1, 1, 13, 1), 2.0)
    coloured = torch.linspace(-2, 2, 13).reshape(1, 1, 13, 1)
    inputs = small().processor(clips()[1:2], return_tensors="pt")["input_values"]

    def change(normalization: str, added: Tensor) -> float:
        model = small(normalization=normalization).model
        with torch.no_grad():
            return float((model(inputs + added).logits - model(inputs).logits).abs().max())

    assert change("bands", loud) < 1e-4
    assert change("bands", coloured) < 1e-4
    assert change("clip", loud) < 1e-4
    assert change("clip", coloured) > 1e-3
    assert change("none", loud) > 1e-3


@pytest.mark.parametrize("normalization", ["bands", "clip", "none"])
def test_silence_has_an_answer(normalization):
    assert answers(small(normalization=normalization), [torch.zeros(2000)]).isfinite().all()


def test_the_spectrogram_follows_the_rate_and_the_options():
    classifier = build_model(Options(window_seconds=0.025, hop_seconds=0.01, lowest_hz=80), SPEECH)
    extractor = classifier.processor
    assert isinstance(extractor, LogMelFeatureExtractor)
    assert (extractor.sampling_rate, extractor.n_fft, extractor.hop_length) == (8000, 200, 80)
    assert (extractor.n_mels, extractor.f_min, extractor.f_max) == (24, 80, 4000)
    assert extractor.return_attention_mask
    other = build_model(Options(sampling_rate_hz=16000, highest_hz=7000), SPEECH).processor
    assert (other.sampling_rate, other.n_fft, other.f_max) == (16000, 400, 7000)


def test_labels_and_network_follow_data_and_options():
    classifier = small(normalization="clip", convolutions_per_block=1)
    config = classifier.model.config
    assert (config.id2label, config.label2id) == ({0: "no", 1: "yes"}, {"no": 0, "yes": 1})
    assert (config.num_mel_bands, config.channels) == (13, [4, 6, 8])
    assert (config.normalization, config.convolutions_per_block) == ("clip", 1)
    convolutions = [m for m in classifier.model.modules() if isinstance(m, nn.Conv2d)]
    assert [m.stride for m in convolutions] == [(2, 2)] * 3
    assert all(m.bias is None for m in convolutions)
    assert classifier.model.classifier.in_features == 2 * 8 * 2  # 13 bands become 7, 4 and 2
    assert classifier.channels_last is True


def test_what_others_make_is_added_to_the_first_answer():
    block = small(convolutions_per_block=2).model.blocks[0]
    hidden, mask = torch.randn(2, 1, 13, 20), torch.ones(2, 1, 1, 10)
    halved = block.halve(hidden, mask)
    assert halved.shape == (2, 4, 7, 10)
    assert torch.equal(block(hidden, mask), halved + block.others[0](halved, mask))
    alone = small(convolutions_per_block=1).model.blocks[0]
    assert torch.equal(alone(hidden, mask), alone.halve(hidden, mask))


def test_loss_and_gradients():
    model = small().model.train()
    batch = small().processor(clips(), return_tensors="pt")
    labels = torch.tensor([0, 1, 1, 0, 1])
    output = model(**batch, labels=labels)
    output.loss.backward()
    expected = nn.functional.cross_entropy(output.logits, labels)
    assert output.loss.item() == pytest.approx(expected.item())
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    assert model(**batch).loss is None
    # Trainer would multiply loss and gradient by the accumulated steps otherwise.
    assert model.accepts_loss_kwargs is False
    names = list(inspect.signature(model.forward).parameters)
    assert names == ["input_values", "attention_mask", "labels"]


def test_first_weights_are_spread_as_torch_spreads_them():
    torch.manual_seed(0)
    model = LogMelCnnForAudioClassification(LogMelCnnConfig())
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            spread = 1 / math.sqrt(3 * fan_in)
            assert module.weight.std().item() == pytest.approx(spread, rel=0.1)
    assert model.blocks[0].halve.norm.weight.tolist() == [1.0] * 24
    torch.manual_seed(0)
    again = LogMelCnnForAudioClassification(LogMelCnnConfig())
    assert torch.equal(again.classifier.weight, model.classifier.weight)


def test_both_engines_learn_and_end_in_the_same_bits():
    heard = {}
    for engine in ("loop", "trainer"):
        torch.manual_seed(0)
        classifier = build_model(Options(**{**SMALL, "dropout": 0.1}), SPEECH)
        batch = dict(classifier.processor(clips((900, 4000, 1500, 3000)), return_tensors="pt"))
        batch["labels"] = torch.tensor([0, 1, 0, 1])
        heard[engine] = Weights()
        how = {"num_train_epochs": 8, "learning_rate": 1e-2}
        run(engine, make_job(classifier, batch, heard=heard[engine], **how))
    loop, trainer = heard.values()
    assert loop.losses == trainer.losses
    assert all(
        torch.equal(loop.states[-1][name], value) for name, value in trainer.states[-1].items()
    )
    assert sum(loop.losses[-4:]) < 0.3 * sum(loop.losses[:4])


def test_it_is_saved_and_found_by_the_auto_classes(tmp_path):
    classifier = small(normalization="clip")
    save_classifier(classifier, tmp_path)
    loaded = load_classifier(tmp_path)
    assert type(loaded.model) is LogMelCnnForAudioClassification
    assert type(loaded.processor) is LogMelFeatureExtractor
    assert torch.equal(answers(loaded, clips()), answers(classifier, clips()))
    classify = transformers.pipeline("audio-classification", model=str(tmp_path))
    given = {answer["label"]: answer["score"] for answer in classify(clips()[2].numpy())}
    expected = answers(classifier, clips()[2:3]).softmax(1)[0].tolist()
    assert given == pytest.approx(dict(zip(("no", "yes"), expected, strict=True)), abs=1e-6)


REMOTE = """
import sys
import hf_finetune  # only for its repair of torchaudio
sys.modules["hf_finetune.models"] = None  # as where the package is not installed
import numpy as np
from safetensors.numpy import load_file
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification
folder = sys.argv[1]
model = AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=True)
extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
case = load_file(folder + "/case.safetensors")
logits = model(**extractor(case["clip"], return_tensors="pt")).logits
np.testing.assert_allclose(logits.detach().numpy(), case["logits"], atol=1e-6)
print("alike")
"""


def run_python(code: str, *arguments: object, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(Path(hf_finetune.__file__).parents[1]), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_the_code_can_go_with_the_weights(tmp_path, monkeypatch):
    classifier = small()
    for owner, auto_class in (
        (LogMelCnnConfig, "AutoConfig"),
        (LogMelCnnForAudioClassification, "AutoModelForAudioClassification"),
        (LogMelFeatureExtractor, "AutoFeatureExtractor"),
    ):
        monkeypatch.setattr(owner, "_auto_class", None)  # forgotten again after the test
        owner.register_for_auto_class(auto_class)
    folder = tmp_path / "model"
    save_classifier(classifier, folder)
    case = {"clip": clips()[1], "logits": answers(classifier, clips()[1:2])}
    save_file(case, folder / "case.safetensors")
    environment = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    assert run_python(REMOTE, folder, **environment) == "alike"


def test_checking_a_configuration_imports_no_torch():
    code = (
        "import sys\n"
        "from hf_finetune.models import log_mel_cnn\n"
        "log_mel_cnn.Options()\n"
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    assert run_python(code) == "[]"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"num_mel_bands": 200},
            r"^model: at 8,000 Hz: num_mel_bands: 200 bands .* window_seconds",
        ),
        ({"lowest_hz": 5000}, r"^model: at 8,000 Hz: lowest_hz, highest_hz: got 5000 and 4000 Hz"),
        ({"hop_seconds": 1e-5}, r"^model: at 8,000 Hz: hop_seconds .*got 0\."),
    ],
)
def test_spectrograms_that_cannot_be_made_are_refused_in_the_options_words(options, message):
    with pytest.raises(ModelError, match=message):
        build_model(Options(**options), SPEECH)


def test_data_that_do_not_fit_are_refused():
    images = DataDescription(("a", "b"), 28, 28, 1, (0.1,), (0.3,))
    with pytest.raises(ModelError, match="takes sound, and the data are images"):
        build_model(Options(), images)
    rates_differ = DataDescription(("a", "b"), None, None, 1, (), (), "audio", None)
    with pytest.raises(ModelError, match=r"^model\.sampling_rate_hz: .*for example 16000"):
        build_model(Options(), rates_differ)
    assert build_model(Options(sampling_rate_hz=8000), rates_differ).processor.n_fft == 200


def test_inputs_and_settings_that_do_not_fit_are_refused():
    model = small().model
    for shape in ((2, 13, 9), (2, 1, 12, 9), (2, 3, 13, 9)):
        with pytest.raises(ValueError, match=r"The network was built for \[batch, 1, 13, frames\]"):
            model(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"^normalization: unknown value 'x'\. Allowed: clip"):
        LogMelCnnConfig(normalization="x")
