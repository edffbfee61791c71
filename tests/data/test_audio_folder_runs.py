"""Whole runs on a folder of sound: both engines, resume, the verbs, and what they say of clips."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from clips import draw, save, write_named
from safetensors.torch import load_file
from small_checkpoints import write_pretrained

from hf_finetune.assembly import assemble
from hf_finetune.cli import main
from hf_finetune.config import dump_config, load_config
from hf_finetune.evaluation.uncertainty import sample_dropout
from hf_finetune.finetuning import finetune
from hf_finetune.inference import predict_files
from hf_finetune.verification import verify_engines

AUGMENTED = {
    "max_seconds": 0.15,
    "augmentation": {"speed_factors": [0.9, 1.1], "noise_snr_db": [5, 20], "shift_fraction": 0.1},
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """36 clips of unequal lengths, formats and rates, by four speakers."""
    root = write_named(tmp_path / "spoken", ["anna", "ben", "cleo", "dora"], takes=3)
    (root / "0_anna_0.wav").unlink()
    save(root / "0_anna_0.flac", draw(0, 70, 0.2, 16_000), 16_000)
    return root


@pytest.fixture
def digits_config(
    digits: Path, tmp_path: Path, make_config: Callable[..., Any]
) -> Callable[..., Any]:
    """Makes a configuration of the digits and a small wav2vec2."""
    write_pretrained(tmp_path / "wav2vec2", "wav2vec2")
    data = {
        "name": "audio_folder",
        "root": str(digits),
        "name_pattern": "{label}_{speaker}_{take}",
        "split": {"group_by": ["speaker"]},
    }
    model = {"name": "auto_audio", "checkpoint": str(tmp_path / "wav2vec2")}

    def make(**settings: Any) -> Any:
        small = {"train__per_device_train_batch_size": 4, "train__learning_rate": 1e-3}
        return make_config(data=data, **{"model": model, **small, **settings})

    return make


@pytest.mark.parametrize(
    "batches", ["by_length", "equal_length", pytest.param("random", marks=pytest.mark.slow)]
)
def test_both_engines_agree_bit_for_bit(batches: str, digits_config: Callable[..., Any]):
    audio = {**AUGMENTED, "batches": batches}
    settings = {"features__audio": audio, "train__gradient_accumulation_steps": 2}
    if batches == "equal_length":
        audio["augmentation"] = {"noise_snr_db": [5, 20]}
    result = verify_engines(digits_config(**settings), steps=4)
    assert result.difference is None
    assert result.steps == 4
    assert result.evaluations >= 1


def test_the_sample_is_learned_alike_by_both_engines():
    config = load_config("configs/spoken_digits_sample.yaml", ["compute.num_threads=1"])
    result = verify_engines(config, steps=3)
    assert result.difference is None
    assert (result.steps, result.evaluations) == (3, 1)


def test_what_can_be_learned_is_learned(digits_config: Callable[..., Any]):
    """Three pitches by voices that training has not heard: every clip has its own label."""
    model = {"name": "log_mel_cnn", "channels": [8, 16], "sampling_rate_hz": 8000}
    result = finetune(digits_config(model=model, train__num_train_epochs=12), quiet=True)
    assert result.metrics["test"]["accuracy"] == 1.0
    assert result.metrics["test"]["num_examples"] == 9


class Interrupt:
    """Stops a run at a step."""

    def on_step(self, step: int, loss: Any, model: Any) -> None:
        if step == 8:
            raise KeyboardInterrupt

    def on_record(self, record: Mapping[str, Any]) -> None:
        pass


def weights(run: Any) -> dict[str, bytes]:
    tensors = load_file(run.path / "model/model.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


@pytest.mark.parametrize("engine", ["trainer", pytest.param("loop", marks=pytest.mark.slow)])
def test_a_stopped_run_goes_on_to_the_same_bits(
    engine: str, digits: Path, digits_config: Callable[..., Any]
):
    config = digits_config(
        features__audio=AUGMENTED,
        train__engine=engine,
        train__eval_strategy="steps",
        train__eval_steps=3,
    )
    whole = finetune(config, quiet=True)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, quiet=True, listeners=(Interrupt(),))
    resumed = finetune(config, resume_from=whole.run.path.parent / "002", quiet=True)
    assert weights(resumed.run) == weights(whole.run)
    assert resumed.metrics["test"] == whole.metrics["test"]
    assert resumed.metrics["steps"] == 10


def test_predict_says_of_files_what_the_test_said(digits: Path, digits_config: Callable[..., Any]):
    """Clip by clip and in windows, as the run's configuration cuts them."""
    audio = {"max_seconds": 0.06, "evaluation_windows": 3}
    config = digits_config(
        features__audio=audio, train__per_device_eval_batch_size=1, train__max_steps=2
    )
    run = finetune(config, quiet=True).run
    predictions = pq.read_table(run.path / "predictions/test.parquet")
    files = [str(digits / name) for name in predictions["id"].to_pylist()]
    answers = predict_files(str(run.path), files, top=3)
    logits = torch.tensor(predictions["logits"].to_pylist())
    expected = logits.softmax(-1).sort(descending=True).values.numpy()
    found = [[part for _, part in answer.classes] for answer in answers]
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.ptp(expected[:, 0]) > 0


def test_the_command_line_knows_sound(
    digits: Path,
    digits_config: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    config = digits_config(train__max_steps=2, train__engine="loop", run__pictures=True)
    path = tmp_path / "digits.yaml"
    path.write_text(dump_config(config))
    assert main(["inspect", "--config", str(path), "--save", str(tmp_path / "look")]) == 0
    told = capsys.readouterr().out
    assert "audio_folder: 36 clips of 3 classes" in told
    assert "0.1 to 0.2 seconds" in told
    assert "8,000 Hz (35), 16,000 Hz (1); mono" in told
    assert "no clip is all silence" in told
    assert {file.name for file in (tmp_path / "look").iterdir()} == {"examples.png", "lengths.png"}
    assert main(["summary", "--config", str(path)]) == 0
    assert "Wav2Vec2" in capsys.readouterr().out
    assert main(["train", "--config", str(path)]) == 0
    told = capsys.readouterr().out
    assert "CLIP.wav" in told
    assert "leaks      none: no speaker lies in two splits" in told
    run = tmp_path / "runs/small/001"
    assert (run / "examples.png").stat().st_size > 10_000
    clip = str(digits / "1_ben_0.wav")
    assert main(["predict", str(run), clip, str(digits / "0_anna_0.flac")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    picture = str(tmp_path / "votes.png")
    assert main(["predict", str(run), clip, "--mc-dropout", "5", "--histogram", picture]) == 0
    assert Path(picture).stat().st_size > 5_000
    capsys.readouterr()
    (tmp_path / "x.png").write_text("no sound")
    assert main(["predict", str(run), str(tmp_path / "x.png")]) == 2
    assert "it can't be read as audio" in capsys.readouterr().err


def test_inspect_finds_silence_copies_and_full_scale(
    digits: Path,
    digits_config: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    save(digits / "0_anna_7.wav", np.zeros(900, np.float32))
    save(digits / "1_ben_7.wav", 1e-4 * draw(1, 70), subtype="FLOAT")
    save(digits / "2_dora_7.wav", np.sign(draw(2, 70)), subtype="FLOAT")
    (digits / "0_cleo_7.wav").write_bytes((digits / "0_cleo_0.wav").read_bytes())
    path = tmp_path / "digits.yaml"
    path.write_text(dump_config(digits_config()))
    assert main(["inspect", "--config", str(path)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "1 is all silence (0_anna_7.wav)" in told
    assert "1 is below -60 dB (1_ben_7.wav)" in told
    assert "1 reach full scale" in told
    assert "1 clips occur more than once; all labels agree" in told
    assert "all silence: every sample is 0 (0_anna_7.wav)" in told


def test_dropout_is_sampled_over_a_whole_split(digits_config: Callable[..., Any]):
    """Windows of one clip are one example."""
    audio = {"max_seconds": 0.11, "evaluation_windows": 2}
    bench = assemble(digits_config(features__audio=audio, train__per_device_eval_batch_size=2))
    loader = bench.make_loader("train")
    order = torch.cat([batch["index"] for batch in loader]).tolist()
    assert order != sorted(order)
    model = bench.classifier.model
    found = sample_dropout(model, loader, num_samples=40, seed=0)
    assert found.votes.shape == (len(order), 3)
    assert (found.votes.sum(1) == 40).all()
