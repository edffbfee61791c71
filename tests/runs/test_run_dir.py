"""A run's directory: never overwritten, never finished before its time, and true to its numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from hf_finetune import finetune, load_config, load_run
from hf_finetune.errors import DataError, TrainingError, UserError
from hf_finetune.models import load_classifier
from hf_finetune.runs.run_dir import create_run_dir, find_run, format_json
from hf_finetune.trackers.jsonl import HISTORY, JsonlTracker, read_history


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run on part of the sample, with everything that a run can write."""
    folder = tmp_path_factory.mktemp("finished")
    config = load_config(
        Path(__file__).parents[2] / "configs/corrupt_mnist_sample.yaml",
        [
            f"run.directory={folder}",
            "run.save_state_dict=true",
            "run.keep_checkpoints=true",
            "data.max_train_examples=300",
            "train.num_train_epochs=2",
            "model.channels=[8,16]",
            "compute.precision=fp32",
        ],
    )
    finetune(config, quiet=True)
    return folder / "corrupt_mnist_sample/001"


@pytest.fixture
def run(finished: Path) -> Any:
    return load_run(finished)


def test_everything_promised_is_there(run: Any):
    names = {str(p.relative_to(run.path)) for p in run.path.rglob("*") if p.is_file()}
    assert {
        "run.json",
        "config.yaml",
        "environment.json",
        "history.jsonl",
        "metrics.json",
        "predictions/validation.parquet",
        "predictions/test.parquet",
        "model/config.json",
        "model/model.safetensors",
        "model/preprocessor_config.json",
        "state_dict.pt",
        "curves.png",
        "examples.png",
        "confusion_matrix.png",
    } <= names
    assert not [name for name in names if "unfinished" in name]
    assert not list(run.path.rglob("*.bin"))
    assert run.status["status"] == "finished"


def test_pictures_are_pictures(run: Any):
    from PIL import Image

    for name in ("curves", "examples", "confusion_matrix"):
        with Image.open(run.path / f"{name}.png") as picture:
            assert min(picture.size) > 300
            assert len(picture.convert("L").getcolors(1 << 24)) > 20


def test_its_configuration_is_a_configuration(run: Any):
    assert load_config(run.path / "config.yaml") == run.config
    assert run.config.train.num_train_epochs == 2


def test_metrics_follow_from_the_predictions(run: Any):
    for split in ("validation", "test"):
        table = pq.read_table(run.path / f"predictions/{split}.parquet").to_pydict()
        scores = run.metrics[split]
        logits = np.array(table["logits"], np.float32)
        assert logits.argmax(1).tolist() == table["prediction"]
        assert len(set(table["id"])) == len(table["id"]) == scores["num_examples"]
        assert set(table["file"]) == ({"test_images.pt"} if split == "test" else set(table["file"]))
        truth, answer = table["label"], table["prediction"]
        assert scores["accuracy"] == sklearn_metrics.accuracy_score(truth, answer)
        assert scores["macro_f1"] == pytest.approx(
            sklearn_metrics.f1_score(truth, answer, average="macro", zero_division=0)
        )
        loss = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(truth))
        assert scores["loss"] == pytest.approx(float(loss), rel=1e-5)


def test_a_matrix_is_written_a_line_a_row(run: Any):
    lines = [line.strip(" ,") for line in (run.path / "metrics.json").read_text().splitlines()]
    rows = run.metrics["test"]["confusion_matrix"]
    assert len(rows) == 10
    assert all(json.dumps(row) in lines for row in rows)
    text = format_json({"rows": [[1, None], [], [-2.5e-7]], "names": ["[\n 1,\n 2\n]", "[ 3 ]"]})
    assert json.loads(text)["names"] == ["[\n 1,\n 2\n]", "[ 3 ]"]
    assert text.splitlines()[2:5] == ["  [1, null],", "  [],", "  [-2.5e-07]"]


def test_the_history_holds_every_evaluation(run: Any):
    history = read_history(run.path)
    evaluations = [record for record in history if "validation/loss" in record]
    assert [record["epoch"] for record in evaluations] == [1.0, 2.0]
    best = max(evaluations, key=lambda record: record["validation/accuracy"])
    assert run.metrics["validation"]["accuracy"] == best["validation/accuracy"]
    training = [record for record in history if "train/loss" in record]
    assert all(
        {"train/learning_rate", "train/grad_norm", "train/examples_per_second"} <= set(record)
        for record in training
    )


def test_the_learning_rate_is_recorded_from_the_first_step(run: Any):
    first, second, *_ = read_history(run.path)
    rates = [record["train/learning_rate"] for record in (first, second)]
    assert [first["step"], second["step"]] == [1, 3]  # an epoch has 3
    assert rates[0] == pytest.approx(3e-3 / 25)  # where the rise begins
    assert rates[0] < rates[1]
    assert "train/loss" not in first


def test_the_model_opens_again_and_answers_the_same(run: Any):
    classifier = load_classifier(run.model)
    table = pq.read_table(run.path / "predictions/test.parquet").to_pydict()
    from hf_finetune.data import load_data

    images = load_data(run.config.data).splits["test"][:50]["image"]
    pixels = [np.array(image, np.uint8) for image in images]
    inputs = classifier.processor(pixels, return_tensors="pt")
    with torch.inference_mode():
        logits = classifier.model(inputs["pixel_values"]).logits
    assert np.abs(logits.numpy() - np.array(table["logits"][:50])).max() < 1e-4
    state = torch.load(run.path / "state_dict.pt", weights_only=True)
    assert all(torch.equal(state[k], v) for k, v in classifier.model.state_dict().items())


def test_the_record_says_what_was_used(run: Any):
    environment = run.read_json("environment.json")
    assert environment["compute"]["precision"] == "fp32"
    assert "no file lies in two splits" in environment["plan"]["leaks"]
    assert run.status["data_fingerprint"]
    assert run.status["warnings"] == []


def test_a_second_run_never_overwrites_the_first(make_config: Callable[..., Any]):
    config = make_config(train__num_train_epochs=1)
    paths = [finetune(config, quiet=True).run.path for _ in range(2)]
    assert [path.name for path in paths] == ["001", "002"]
    weights = [(path / "model/model.safetensors").read_bytes() for path in paths]
    assert weights[0] == weights[1]
    (paths[0].parent / "007").mkdir()
    assert create_run_dir(config).path.name == "008"


def test_faulty_data_leaves_no_run_behind(make_config: Callable[..., Any]):
    config = make_config()
    (Path(config.data.root) / "test_images.pt").unlink()
    with pytest.raises(DataError):
        finetune(config, quiet=True)
    assert not Path(config.run.directory).exists()


def test_a_failed_run_does_not_look_finished(make_config: Callable[..., Any]):
    config = make_config(train__learning_rate=1e30, train__optimizer={"name": "sgd"})
    with pytest.raises(TrainingError):
        finetune(config, quiet=True)
    folder = Path(config.run.directory) / "small"
    run = load_run(folder / "001")
    assert run.status["status"] == "failed"
    assert "TrainingError" in run.status["error"]
    assert not (run.path / "metrics.json").exists()
    assert find_run(folder) is None


def test_a_name_stands_for_its_newest_finished_run(make_config: Callable[..., Any]):
    config = make_config(train__num_train_epochs=1)
    first = finetune(config, quiet=True).run.path
    assert load_run(first.parent).path == first
    create_run_dir(config)  # running, not finished
    assert load_run(first.parent).path == first
    with pytest.raises(UserError, match="no run here"):
        load_run(first.parent / "nowhere")


def test_an_unwritable_place_is_named(make_config: Callable[..., Any], tmp_path: Path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match=r"run.directory: can't write to"):
        finetune(make_config(run__directory=str(tmp_path / "taken")), quiet=True)


def test_history_goes_on_where_the_checkpoint_stood(tmp_path: Path):
    tracker = JsonlTracker(tmp_path / HISTORY, 0)
    for step in range(4):
        tracker.on_record({"step": step})
    tracker.finish("finished")
    tracker = JsonlTracker(tmp_path / HISTORY, 2)
    tracker.on_record({"step": 20})
    tracker.finish("finished")
    assert [record["step"] for record in read_history(tmp_path)] == [0, 1, 20]
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"step": 2')  # a kill in mid-line
    assert len(read_history(tmp_path)) == 3


def test_seeds_are_repeated_and_summed_up(make_config: Callable[..., Any]):
    from hf_finetune.repetition import repeat_seeds

    summary = repeat_seeds(make_config(train__num_train_epochs=1, seed=3), 2, quiet=True)
    assert summary["seeds"] == [3, 4]
    accuracies = [load_run(path).metrics["test"]["accuracy"] for path in summary["runs"]]
    assert summary["test/accuracy"]["values"] == accuracies
    assert summary["test/accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    assert summary["test/loss"]["std"] == pytest.approx(
        np.std(summary["test/loss"]["values"], ddof=1)
    )
    assert summary["test/loss"]["std"] > 0
    written = Path(summary["runs"][0]).parent / "seeds-001-002.json"
    assert json.loads(written.read_text()) == summary
