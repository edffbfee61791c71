"""Whole runs on a folder of mixed images: both engines, resume, prediction, and files gone bad."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pictures import draw, save, write_classes
from PIL import Image
from safetensors.torch import load_file

from hf_finetune.cli import main
from hf_finetune.config import dump_config
from hf_finetune.data import load_data
from hf_finetune.data.image_folder import Options
from hf_finetune.engines.batches import make_loader
from hf_finetune.errors import DataError
from hf_finetune.features import FeatureOptions, collator_for
from hf_finetune.finetuning import finetune
from hf_finetune.inference import predict_files
from hf_finetune.models.image_processing import ClassifierImageProcessor
from hf_finetune.verification import verify_engines


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Images of mixed sizes, formats and modes."""
    root = write_classes(tmp_path / "pets", per_class=16)
    for path in sorted(root.rglob("*.png")):
        with Image.open(path) as image:
            if int(path.stem) % 4 == 1:
                image.save(path.with_suffix(".jpg"), quality=90)
            elif int(path.stem) % 4 == 2:
                image.putalpha(image.convert("L"))
                image.save(path.with_suffix(".webp"), lossless=True)
            elif int(path.stem) % 4 == 3:
                image.quantize(64).save(path.with_suffix(".gif"))
        if int(path.stem) % 4:
            path.unlink()
    return root


@pytest.fixture
def pets_config(pets: Path, make_config: Callable[..., Any]) -> Callable[..., Any]:
    def make(**settings: Any) -> Any:
        data = {"name": "image_folder", "root": str(pets), **settings.pop("data", {})}
        model = {"name": "cnn", "channels": [4], "image_size": 16}
        return make_config(data=data, model=model, **settings)

    return make


AUGMENTED = {"features__augmentation": {"rotation_degrees": 20.0, "shift_fraction": 0.1}}


def test_both_engines_agree_bit_for_bit(pets_config: Callable[..., Any]):
    result = verify_engines(pets_config(**AUGMENTED), steps=3)
    assert result.difference is None
    assert (result.steps, result.evaluations) == (3, 1)


class Interrupt:
    """Stops a run at a step."""

    def on_step(self, step: int, loss: Any, model: Any) -> None:
        if step == 4:
            raise KeyboardInterrupt

    def on_record(self, record: Mapping[str, Any]) -> None:
        pass


def weights(run: Any) -> dict[str, bytes]:
    tensors = load_file(run.path / "model/model.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def test_a_stopped_run_goes_on_to_the_same_bits(pets: Path, pets_config: Callable[..., Any]):
    config = pets_config(**AUGMENTED, train__num_train_epochs=2)
    whole = finetune(config, quiet=True)
    with pytest.raises(KeyboardInterrupt):
        finetune(config, quiet=True, listeners=(Interrupt(),))
    stopped = whole.run.path.parent / "002"
    resumed = finetune(config, resume_from=stopped, quiet=True)
    assert weights(resumed.run) == weights(whole.run)
    assert resumed.metrics["test"] == whole.metrics["test"]
    predictions = pq.read_table(whole.run.path / "predictions/test.parquet")
    assert all((pets / name).is_file() for name in predictions["id"].to_pylist())
    _check_predict(pets, str(whole.run.path), predictions)


def _check_predict(pets: Path, run: str, predictions: Any) -> None:
    """`predict` says of the very files what the test said, transparent ones among them."""
    names = predictions["id"].to_pylist()
    assert any(name.endswith(".webp") for name in names)
    answers = predict_files(run, [str(pets / name) for name in names], top=3)
    logits = torch.tensor(predictions["logits"].to_pylist())
    likeliest = logits.softmax(-1).sort(descending=True).values
    found = [[part for _, part in answer.classes] for answer in answers]
    np.testing.assert_allclose(found, likeliest.numpy(), atol=2e-6)


def test_the_command_line_trains_evaluates_and_predicts(
    pets: Path, pets_config: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (pets / "cat/0.png").write_bytes(b"")
    (pets / "notes.txt").touch()
    config = pets_config(train__num_train_epochs=1, train__engine="loop", run__pictures=True)
    path = tmp_path / "pets.yaml"
    path.write_text(dump_config(config))
    assert main(["train", "--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "1 bad example: cat/0.png: the file is empty" in error
    assert not (tmp_path / "runs").exists()

    assert main(["train", "--config", str(path), "data.on_bad_example=skip"]) == 0
    plan = capsys.readouterr().out
    assert "image_folder: train 33, validation 6, test 8 examples of 3 classes; test is 8" in plan
    assert "1 file that is no image was passed over (1 .txt)" in plan
    assert "1 bad example left out (data.on_bad_example: skip); run.json lists them all" in plan
    run = tmp_path / "runs/small/001"
    record = json.loads((run / "run.json").read_text())
    assert record["skipped_examples"] == ["cat/0.png: the file is empty. Copy it again"]
    assert len(record["warnings"]) == 2
    assert (run / "examples.png").is_file()

    assert main(["evaluate", str(run), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_examples"] == 8
    assert main(["predict", str(run), str(pets / "dog/1.jpg"), "--format", "csv"]) == 0
    assert f"{pets}/dog/1.jpg,1," in capsys.readouterr().out

    save(pets / "emu/1.png", draw(0, 90))
    for number in range(2, 8):
        save(pets / f"emu/{number}.png", draw(0, 90 + number))
    assert main(["evaluate", str(run)]) == 2
    error = capsys.readouterr().err
    assert "the model knows the classes cat, dog, owl; the data has cat, dog, emu, owl" in error


def test_images_of_unlike_size_need_a_size(pets_config: Callable[..., Any]):
    config = pets_config()
    config = config.model_copy(
        update={"model": config.model.model_copy(update={"image_size": None})}
    )
    with pytest.raises(Exception, match=r"differ in size.*Set model.image_size"):
        finetune(config, quiet=True)


@pytest.mark.parametrize("fault", ["deleted", "truncated"])
def test_a_file_that_goes_bad_stops_the_run_with_its_name(
    fault: str, pets: Path, pets_config: Callable[..., Any]
):
    class Spoil(Interrupt):
        def on_step(self, step: int, loss: Any, model: Any) -> None:
            for path in pets.rglob("*.png"):
                if path.stat().st_size > 50:
                    os.truncate(path, 50) if fault == "truncated" else path.unlink()

    with pytest.raises(DataError, match=rf"{pets}/\w+/\d+\.png: "):
        finetune(pets_config(), quiet=True, listeners=(Spoil(),))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_decoded_where_they_are_made(num_workers: int, pets: Path):
    split = load_data(Options(root=str(pets))).splits["train"]
    processor = ClassifierImageProcessor(
        size={"height": 8, "width": 8}, num_channels=3, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    collator = collator_for(processor, FeatureOptions(), 0, training=False)
    loader = make_loader(split, collator, 16, seed=0, shuffle=True, num_workers=num_workers)
    seen = 0
    for batch in loader:
        seen += len(batch["index"])
        assert batch["pixel_values"].shape[1:] == (3, 8, 8)
        row = int(batch["index"][0])
        with Image.open(pets / split[row]["id"]) as image:
            if image.mode == "RGB":
                theirs = processor(image, return_tensors="pt")["pixel_values"][0]
                assert torch.allclose(batch["pixel_values"][0], theirs, atol=1e-6)
    assert seen == len(split)


def test_images_that_end_up_unequal_are_named(pets: Path):
    split = load_data(Options(root=str(pets))).splits["train"]
    processor = ClassifierImageProcessor(do_resize=False, num_channels=3)
    loader = make_loader(
        split, collator_for(processor, FeatureOptions(), 0, False), 4, seed=0, shuffle=False
    )
    with pytest.raises(DataError, match=rf"image of {pets}/cat/.*after processing, but"):
        next(iter(loader))
