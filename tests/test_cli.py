"""The command line: what it does, and one clear line for what the user can mend."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from hf_finetune.cli import main
from hf_finetune.config import dump_config, parse_config

SAMPLE = "configs/corrupt_mnist_sample.yaml"


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train"], "--config is missing"),
        (["train", "--config", "configs/none.yaml"], "configs/none.yaml"),
        (["train", "--config", SAMPLE, "train.lr=1"], "train.lr"),
        (["train", "--config", SAMPLE, "--batch-size", "0"], "per_device_train_batch_size"),
        (["train", "--config", SAMPLE, "--epochs", "two"], "num_train_epochs"),
        (["train", "--config", SAMPLE, "--repeat-seeds", "0"], "--repeat-seeds: must be"),
        (["train", "--config", SAMPLE, "data.root=nowhere"], "there is no folder 'nowhere'"),
        (["train", "--resume", "nowhere"], "nowhere: there is no unfinished run here"),
        (["train", "--resume", "x", "--config", SAMPLE], "with its own configuration"),
        (["evaluate", "nowhere"], "nowhere: there is no finished run"),
        (["evaluate", "pyproject.toml"], "--config"),
        (["predict", "nowhere", "x.png"], "nowhere: there is no finished run"),
        (["verify-engines", "--config", SAMPLE, "--steps", "0"], "--steps: must be"),
    ],
)
def test_what_the_user_can_mend_is_one_line(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
):
    assert main(words) == 2
    lines = said(capsys)
    assert len(lines) == 1
    assert expected in lines[0]


def test_all_faults_of_a_configuration_come_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "x.yaml"
    path.write_text("data: {name: corupt_mnist}\nmodel: {name: cnn}\ntrain: {engine: traner}\n")
    assert main(["train", "--config", str(path), "sed=1"]) == 2
    lines = said(capsys)
    assert len(lines) == 3
    assert any("Did you mean 'corrupt_mnist'" in line for line in lines)
    assert any("'trainer'" in line for line in lines)
    assert any("'seed'" in line for line in lines)


@pytest.mark.parametrize(
    "words", [["train", "--lerning-rate", "1"], ["train", "--config"], ["fly"]]
)
def test_unknown_words_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "hf-finetune" in capsys.readouterr().err


def test_settings_may_stand_anywhere(capsys: pytest.CaptureFixture[str]):
    words = [
        "seed=4",
        "--lr",
        "1e-4",
        "--config",
        SAMPLE,
        "model.dropout=0.25",
        "--batch-size",
        "8",
    ]
    assert main(["train", *words, "--epochs", "2", "--print-config"]) == 0
    config = parse_config(capsys.readouterr().out)
    assert config.seed == 4
    assert config.train.learning_rate == 1e-4
    assert config.train.per_device_train_batch_size == 8
    assert config.train.num_train_epochs == 2
    assert config.model.dropout == 0.25


def test_the_printed_configuration_is_one(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert main(["train", "--config", SAMPLE, "--print-config"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "again.yaml").write_text(text)
    assert main(["train", "--config", str(tmp_path / "again.yaml"), "--print-config"]) == 0
    assert capsys.readouterr().out == text


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]):
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert "train" in schema["properties"]


def test_summary_counts_the_course_network(capsys: pytest.CaptureFixture[str]):
    settings = [
        "model.channels=[32,64]",
        "model.convolutions_per_block=1",
        "model.padding=valid",
        "model.norm=none",
        "model.pool=none",
        "model.head=flatten",
        "model.dropout=0",
    ]
    assert main(["summary", "--config", SAMPLE, *settings]) == 0
    table = capsys.readouterr().out
    assert "36864" in table.replace(",", "")
    assert "387,466 parameters" in table


def test_verify_engines_says_that_they_agree(
    make_config: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "x.yaml").write_text(dump_config(make_config()))
    assert main(["verify-engines", "--config", str(tmp_path / "x.yaml"), "--steps", "9"]) == 0
    assert "trainer and loop agree bit for bit: 9 steps" in capsys.readouterr().out


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on part of the sample."""
    folder = tmp_path_factory.mktemp("trained")
    root = Path(__file__).resolve().parent.parent
    os.chdir(root)
    settings = ["data.max_train_examples=500", "model.channels=[8,16]", "--epochs", "3"]
    settings += [f"run.directory={folder}", "run.save_state_dict=true", "compute.precision=fp32"]
    assert main(["train", "--config", SAMPLE, "--quiet", *settings]) == 0
    return folder / "corrupt_mnist_sample/001"


def test_training_prints_plan_epochs_and_result(
    make_config: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "x.yaml").write_text(dump_config(make_config(train__num_train_epochs=3)))
    assert main(["train", "--config", str(tmp_path / "x.yaml")]) == 0
    text = capsys.readouterr().out
    for word in ("leaks", "threads", "fp32", "21 steps of 16 examples", "small/001  (seed 0)"):
        assert word in text
    assert len([line for line in text.splitlines() if line.startswith("epoch")]) == 3
    assert "about" in text
    assert "95 % Wilson interval" in text
    assert "nan" not in text
    assert "predict" in text.splitlines()[-1]


def test_evaluate_gives_the_run_s_own_numbers(trained: Path, capsys: pytest.CaptureFixture[str]):
    metrics = json.loads((trained / "metrics.json").read_text())
    for split in ("test", "validation"):
        words = ["evaluate", str(trained), "--split", split, "--format", "json"]
        assert main(words) == 0
        assert json.loads(capsys.readouterr().out) == metrics[split]
    assert main(["evaluate", str(trained.parent)]) == 0
    assert f"{metrics['test']['accuracy']:.2%}" in capsys.readouterr().out


def test_evaluate_takes_a_folder_and_a_state_dict(
    trained: Path, capsys: pytest.CaptureFixture[str]
):
    expected = json.loads((trained / "metrics.json").read_text())["test"]
    config = ["--config", str(trained / "config.yaml"), "--format", "json"]
    for model in (trained / "model", trained / "state_dict.pt"):
        assert main(["evaluate", str(model), *config]) == 0
        assert json.loads(capsys.readouterr().out) == expected


def test_evaluate_needs_to_know_the_data(trained: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", str(trained / "model")]) == 2
    assert "what data to score it on" in said(capsys)[0]


def test_evaluate_refuses_data_of_other_classes(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(trained / "model", tmp_path / "model")
    path = tmp_path / "model/config.json"
    config = json.loads(path.read_text())
    for number in range(10):
        config["id2label"][str(number)] = f"digit {number}"
    path.write_text(json.dumps(config))
    words = ["evaluate", str(tmp_path / "model"), "--config", str(trained / "config.yaml")]
    assert main(words) == 2
    assert "knows the classes digit 0, digit 1" in said(capsys)[0]


def test_a_state_dict_of_another_network_is_refused(
    trained: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["evaluate", str(trained / "state_dict.pt"), "--config", SAMPLE]
    assert main(words) == 2
    assert "state_dict.pt" in said(capsys)[0]


@pytest.fixture
def digit_files(tmp_path: Path) -> list[str]:
    """The first test digits as image files: grey, colour, transparent, and four times as large."""
    images = torch.load("samples/corruptmnist/test_images.pt", weights_only=True)[:12]
    files = []
    for number, image in enumerate(images):
        picture = Image.fromarray((image.numpy() * 255).astype(np.uint8))
        picture = picture.convert(["L", "RGB", "RGBA", "L"][number % 4])
        if number % 4 == 3:
            picture = picture.resize((112, 112))
        files.append(str(tmp_path / f"digit {number}.png"))
        picture.save(files[-1])
    return files


def test_predict_names_digits(trained: Path, digit_files: Any, capsys: pytest.CaptureFixture[str]):
    files = digit_files
    assert main(["predict", str(trained), *files, "--format", "csv"]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["file"] for row in rows] == files
    # The run scored these very digits: whatever the file's mode, the answer is the same.
    scored = pq.read_table(trained / "predictions/test.parquet").to_pydict()
    for number, row in enumerate(rows):
        logits = torch.tensor(scored["logits"][number])
        assert float(row["probability"]) > 0.1
        if number % 4 != 3:  # the enlarged ones come back a little blurred
            assert row["label"] == str(scored["prediction"][number])
            assert float(row["probability"]) == pytest.approx(
                float(logits.softmax(0).max()), abs=1e-3
            )
    assert main(["predict", str(trained), files[0], "--top", "3"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 4
    assert table[0].split() == ["file", "rank", "label", "probability"]


def test_predict_takes_a_state_dict(
    trained: Path, digit_files: Any, capsys: pytest.CaptureFixture[str]
):
    answers = []
    for model in (trained, trained / "state_dict.pt"):
        words = ["predict", str(model), *digit_files, "--format", "csv"]
        assert main([*words, "--config", str(trained / "config.yaml")]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]


def test_predict_says_which_file_is_no_image(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "notes.png").write_text("no picture")
    assert main(["predict", str(trained), str(tmp_path / "notes.png")]) == 2
    assert "notes.png: it is no image of a known format" in said(capsys)[0]
    assert main(["predict", str(trained), "missing.png"]) == 2
    assert "missing.png: there is no such file" in said(capsys)[0]
    assert main(["predict", str(trained), str(tmp_path)]) == 2
    assert "this is a folder" in said(capsys)[0]


def test_a_stopped_run_is_resumed(
    make_config: Callable[..., Any], capsys: pytest.CaptureFixture[str]
):
    from hf_finetune.finetuning import finetune

    class Stop:
        def on_step(self, step: int, loss: Any, model: Any) -> None:
            if step == 9:
                raise KeyboardInterrupt

        def on_record(self, record: Any) -> None:
            pass

    config = make_config(train__num_train_epochs=3)
    with pytest.raises(KeyboardInterrupt, match=r"train --resume .*small/001"):
        finetune(config, quiet=True, listeners=(Stop(),))
    run = Path(config.run.directory) / "small/001"
    assert main(["train", "--resume", str(run)]) == 0
    assert (run / "metrics.json").exists()
    text = capsys.readouterr().out
    assert "test accuracy" in text
    assert "nan" not in text
    assert "error" not in json.loads((run / "run.json").read_text())
    assert main(["train", "--resume", str(run)]) == 2
    assert "has finished" in said(capsys)[0]


def test_resume_takes_the_newest_unfinished_run(make_config: Callable[..., Any]):
    from hf_finetune.errors import UserError
    from hf_finetune.finetuning import finetune
    from hf_finetune.runs.run_dir import create_run_dir, load_unfinished_run

    config = make_config(train__num_train_epochs=1)
    folder = Path(config.run.directory) / "small"
    finetune(config, quiet=True)
    with pytest.raises(UserError, match="no unfinished run"):
        load_unfinished_run(folder)
    create_run_dir(config)
    finetune(config, quiet=True)
    assert load_unfinished_run(folder).path.name == "002"
    resumed = finetune(config, resume_from=folder, quiet=True).run
    assert resumed.path.name == "002"
    assert resumed.status["status"] == "finished"


def test_settings_that_change_nothing_are_refused(
    trained: Path, capsys: pytest.CaptureFixture[str]
):
    for text in ("model.dropout=0.5", "train.learning_rate=3"):
        assert main(["evaluate", str(trained), text]) == 2
        assert "changes nothing about a model that is trained already" in said(capsys)[0]
    assert main(["evaluate", str(trained), "train.per_device_eval_batch_size=64"]) == 0
    assert str(trained / "model") in capsys.readouterr().out


def test_the_likeliest_slip_is_understood(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["train", SAMPLE])
    assert f"--config {SAMPLE}" in capsys.readouterr().err


def test_waiting_threads_spin_briefly_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    assert main(["schema"]) == 0
    assert os.environ["GOMP_SPINCOUNT"] == "10000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "5")
    assert main(["schema"]) == 0
    assert os.environ["GOMP_SPINCOUNT"] == "5"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert main(["schema"]) == 0
    assert "GOMP_SPINCOUNT" not in os.environ


def test_version(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("hf-finetune 0.")


def test_ctrl_c_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
    make_config: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    from hf_finetune.engines.progress import Progress

    def press(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "epoch_end", press)
    (tmp_path / "x.yaml").write_text(dump_config(make_config()))
    assert main(["train", "--config", str(tmp_path / "x.yaml"), "--quiet"]) == 130
    assert "stopped; go on with:" in said(capsys)[-1]
