"""The model card: what it says, what it must never say, and how the Hub reads it."""

from __future__ import annotations

import copy
import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from hf_finetune.hub import HubError
from hf_finetune.hub.card import MARKER, ModelFacts, write_card
from hf_finetune.hub.record import YOUR_PATH, RunRecord, read_record, without_paths
from hf_finetune.runs.run_dir import RunDir

MODEL = ModelFacts(
    repo_id="me/digits",
    revision="main",
    architecture="ViTForImageClassification",
    num_parameters=1234567,
    label_names=tuple("0123456789"),
    modality="image",
)


@pytest.fixture
def record(finished: RunDir) -> RunRecord:
    return read_record(finished)


def data_of(card: str) -> Any:
    return huggingface_hub.ModelCard(card).data


def test_what_a_person_finds(record: RunRecord):
    assert record.metrics is not None
    card = write_card(record, MODEL)
    test = record.metrics["test"]
    low, high = test["accuracy_interval"]
    assert (
        f"**Test accuracy {test['accuracy']:.2%}** (95 % interval {low:.2%} to {high:.2%}" in card
    )
    for heading in ("Use", "Intended use", "Data and split", "Results", "Limits", "Training"):
        assert f"\n## {heading}\n" in card
    assert "| train | 80 | training |" in card
    assert "Group overlap between the splits: none (no file lies in two splits)." in card
    assert (
        "| validation | 40 | choosing the weights |\n| test | 40 | scored once, at the end |"
        in card
    )
    metric, step, steps = (
        record.metrics[key] for key in ("metric_for_best_model", "best_step", "steps")
    )
    best = f"best {metric}, step {step} of {steps}"
    chosen = f"validation chose the weights ({best}), so its score can be too good"
    assert f"The test split chose nothing; {chosen}." in card
    assert "1,234,567 parameters, trained from scratch" in card
    assert "torch 2." in card
    assert "cores of" in card
    assert "![Learning curves" in card
    row = test["per_class"]["3"]
    cells = (row["precision"], row["recall"], row["f1"])
    assert f"| 3 | {' | '.join(f'{cell:.3f}' for cell in cells)} | {row['support']} |" in card
    assert "Few test examples (under 30) of 0, 1, 2" in card
    assert "train_0" not in card  # groups may be people


def test_the_metadata(record: RunRecord):
    model = replace(MODEL, license="apache-2.0", languages=("en",))
    data = data_of(write_card(replace(record, base_model="facebook/deit-tiny"), model))
    assert (data.license, data.language, data.base_model) == (
        "apache-2.0",
        ["en"],
        "facebook/deit-tiny",
    )
    assert (data.pipeline_tag, data.library_name) == ("image-classification", "transformers")
    assert data.metrics == ["accuracy", "f1"]
    assert data.tags == ["hf_finetune"]  # the Hub takes the task from pipeline_tag
    assert {result.dataset_split for result in data.eval_results} == {"test", "validation"}
    assert {result.dataset_type for result in data.eval_results} == {"corrupt_mnist"}
    plain = data_of(write_card(record, MODEL)).to_dict()
    assert not plain.keys() & {"license", "language", "base_model", "datasets"}


@pytest.mark.parametrize(
    ("data", "datasets", "languages"),
    [
        ({"name": "fashion_mnist"}, ["zalando-datasets/fashion_mnist"], None),
        ({"name": "hub", "repo_id": "me/cats"}, ["me/cats"], None),
        ({"name": "hub", "repo_id": YOUR_PATH}, None, None),
        ({"name": "thorsten_emotional"}, None, ["de"]),
    ],
)
def test_what_is_known_of_the_data(record: RunRecord, data, datasets, languages):
    settings = {**record.settings, "data": data}
    read = data_of(write_card(replace(record, settings=settings), MODEL))
    assert (read.datasets, read.language) == (datasets, languages)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mnist", "For pictures like those of MNIST: study"),
        ("image_folder", "For pictures like those it was trained on: study"),
    ],
)
def test_what_it_is_for(record: RunRecord, name: str, told: str):
    settings = {**record.settings, "data": {"name": name}}
    assert told in write_card(replace(record, settings=settings), MODEL)


def test_a_test_split_that_chose_is_no_test(record: RunRecord):
    assert record.metrics is not None
    card = write_card(replace(record, shared_examples=7), MODEL)
    assert "Test accuracy" not in card
    assert f"**Validation accuracy {record.metrics['validation']['accuracy']:.2%}**" in card
    assert "| held out (no test, see below) |" in card
    assert "| held out | 40 | scored at the end; 7 of them stand in validation too |" in card
    assert "7 of the examples held out stand in validation too: they helped to choose" in card
    assert "scored once, at the end" not in card
    assert "test split" not in write_card(replace(record, shared_examples=7, pictures=()), MODEL)
    assert "### By class (validation split)" in card
    assert {result.dataset_split for result in data_of(card).eval_results} == {"validation"}


@pytest.mark.parametrize("column", ["id", "content"])
def test_shared_examples_are_counted(run: RunDir, column: str):
    shutil.rmtree(run.path / "predictions")  # as with run.predictions: false
    assert read_record(run).shared_examples == 0
    with (run.path / "split.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows_of = {
        name: [row for row in rows if row["split"] == name] for name in ("validation", "test")
    }
    for twin, row in zip(rows_of["validation"][:3], rows_of["test"], strict=False):
        row[column] = twin[column]
    with (run.path / "split.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    record = read_record(run)
    assert record.shared_examples == 3
    assert [path.name for path in record.pictures] == ["curves.png"]
    (run.path / "split.csv").unlink()
    with pytest.raises(HubError, match=r"split\.csv: the file is missing.* Copy it from where"):
        read_record(run)


def test_one_evaluation_leaves_nothing_to_choose(run: RunDir):
    assert read_record(run).num_evaluations == 2
    history = run.path / "history.jsonl"
    lines = history.read_text().splitlines(keepends=True)
    first = next(line for line in lines if "validation/loss" in line)
    history.write_text("".join(line for line in lines if line != first))
    record = read_record(run)
    card = write_card(record, MODEL)
    assert record.metrics is not None
    step = f"step {record.metrics['best_step']} of {record.metrics['steps']}"
    nothing = f"there was one evaluation (at {step}), so validation had nothing to choose"
    assert f"The test split chose nothing; {nothing}." in card
    assert "| validation | 40 | scored once: there was nothing to choose |" in card
    assert "can be too good" not in card
    assert "helped" not in write_card(replace(record, shared_examples=7), MODEL)
    history.unlink()
    assert "validation chose the weights" in write_card(read_record(run), MODEL)


def test_the_commit_stands_with_the_versions(record: RunRecord):
    for is_dirty, told in ((False, ""), (True, ", which had uncommitted changes")):
        git = {"commit": "0a1b2c", "is_dirty": is_dirty}
        card = write_card(replace(record, environment={**record.environment, "git": git}), MODEL)
        assert f"| commit | 0a1b2c of the folder it ran in{told} |" in card
    card = write_card(replace(record, environment={**record.environment, "git": None}), MODEL)
    assert "| commit |" not in card


def test_leaks_and_limits(record: RunRecord):
    plan = {**record.plan, "leaks": "2 found, see the warnings"}
    limits = ("test shares 3 of its <files>", "model.lora is odd.")
    card = write_card(replace(record, plan=plan, limits=limits), MODEL)
    assert "Group overlap between the splits: 2 found, see the limits." in card
    assert "\n- Test shares 3 of its \\<files\\>.\n- model.lora is odd.\n" in card


def test_while_training_goes_on(record: RunRecord):
    progress = {"step": 7, "epoch": 1.0, "validation/accuracy": 0.5, "validation/macro_f1": 0.25}
    card = write_card(replace(record, metrics=None, pictures=()), MODEL, progress)
    assert "the weights after step 7 (epoch 1): accuracy 50.00% and macro F1 0.2500" in card
    assert "## Results" not in card
    assert "metrics.json" not in card
    assert ".png)" not in card
    assert data_of(card).eval_results is None


def test_names_that_would_break_the_card(record: RunRecord):
    assert record.metrics is not None
    metrics: dict[str, Any] = copy.deepcopy(record.metrics)
    row = next(iter(metrics["test"]["per_class"].values()))
    metrics["test"]["per_class"] = {"a|b": row, "<i>\nx": row, "no: 'yes'": row}
    model = replace(MODEL, label_names=tuple(metrics["test"]["per_class"]))
    card = write_card(replace(record, metrics=metrics), model)
    assert "into 3 classes: a\\|b, \\<i\\> x, no: 'yes'." in card
    assert "\n| a\\|b | " in card
    data_of(card)


def test_many_classes_are_cut_short(record: RunRecord):
    assert record.metrics is not None
    metrics: dict[str, Any] = copy.deepcopy(record.metrics)
    row = next(iter(metrics["test"]["per_class"].values()))
    classes = {f"class {i:03d}": {**row, "f1": i / 100} for i in range(100)}
    metrics["test"]["per_class"] = classes
    card = write_card(replace(record, metrics=metrics), replace(MODEL, label_names=tuple(classes)))
    assert "The 40 of 100 classes with the lowest F1" in card
    assert "| class 039 |" in card
    assert "| class 040 |" not in card
    assert "class 019, …." in card


def test_the_snippet_of_each_kind(record: RunRecord):
    assert 'pipeline("image-classification", model="me/digits")' in write_card(record, MODEL)
    own = replace(MODEL, code_files=("modeling_cnn.py", "image_processing.py"))
    card = write_card(record, own)
    assert 'model="me/digits", trust_remote_code=True)' in card
    assert "`modeling_cnn.py` and `image_processing.py`" in card
    sound = replace(MODEL, modality="audio", sampling_rate_hz=16000)
    assert "of one channel at 16,000 Hz" in write_card(record, sound)


def test_intervals_of_other_metrics_are_shown_where_there_are_any(record: RunRecord):
    assert record.metrics is not None
    metrics: dict[str, Any] = copy.deepcopy(record.metrics)
    metrics["test"]["macro_f1_interval"] = [0.25, 0.75]
    card = write_card(replace(record, metrics=metrics), MODEL)
    assert "95 % interval of the test macro F1: 0.2500 to 0.7500." in card


def test_the_marker_stands_below_the_metadata(record: RunRecord):
    assert write_card(record, MODEL).partition("\n---\n")[2].startswith(MARKER)


def test_settings_without_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("models/deit").mkdir(parents=True)
    settings = {
        "data": {
            "name": "image_folder",
            "root": "photos",
            "csv": "tables/labels.csv",
            "x": "{a}/b",
        },
        "model": {"checkpoint": "models/deit", "revision": None},
        "features": {"audio": {"noise_folder": "C:\\noise", "files": ["/x/y", "fine"]}},
        "run": {"directory": "runs", "pictures": True},
        "trackers": ["jsonl"],
        "hub": {"repo_id": "me/x"},
        "plugins": ["./deep/mine.py"],
    }
    assert without_paths(settings) == {
        "data": {"name": "image_folder", "root": YOUR_PATH, "csv": YOUR_PATH, "x": "{a}/b"},
        "model": {"checkpoint": YOUR_PATH, "revision": None},
        "features": {"audio": {"noise_folder": YOUR_PATH, "files": [YOUR_PATH, "fine"]}},
        "run": {"pictures": True},
        "plugins": ["mine.py"],
    }
    hub = {"model": {"checkpoint": "facebook/deit-tiny", "pretrained": True}}
    assert without_paths(hub)["model"]["checkpoint"] == "facebook/deit-tiny"


def test_a_run_that_stopped_early_says_so(run: RunDir):
    assert "stopped early" not in write_card(read_record(run), MODEL)
    reason = "validation/macro_f1 was no better in 2 evaluations"
    early = {"step": 7, "epoch": 1.0, "reason": reason}
    told = f"| stopped early | at epoch 1 (step 7): {reason} |"
    run.set_status("finished", stopped_early=early)
    assert told in write_card(read_record(run), MODEL).replace("\\", "")
    status = run.status
    del status["stopped_early"]
    run.write_json("run.json", status)
    run.write_json("metrics.json", {**run.metrics, "stopped_early": early})
    assert told in write_card(read_record(run), MODEL).replace("\\", "")


def test_a_run_that_was_interrupted_says_so(run: RunDir):
    assert "| interrupted |" not in write_card(read_record(run), MODEL)
    sessions = [{"at": "", "step": step, "changed": {}} for step in (0, 5, 99)]
    run.set_status("finished", resumed=sessions)
    places = "from the start, then after step 5 (epoch 1), then after step 99"
    told = f"| interrupted | and went on {places} |"
    assert told in write_card(read_record(run), MODEL)


def test_a_run_from_before_limits_were_kept_has_those_of_its_warnings(run: RunDir):
    kept = ["test shares 3 of its patient keys with train", "answers change with padding"]
    outside = [
        "trackers: comet failed and hears no more of this run (OSError)",
        "tracking.comet: Comet doesn't answer",
        "COMET_MODE=offline is a setting of older tutorials",
        "not pushed: 'me/digits' is refused",
        "step 7 is not pushed: 'me/digits' is refused",
    ]
    status = {name: value for name, value in run.status.items() if name != "limits"}
    run.write_json("run.json", {**status, "warnings": [kept[0], *outside, kept[1]]})
    assert read_record(run).limits == tuple(kept)
    run.write_json("run.json", {**status, "warnings": kept, "limits": []})
    assert read_record(run).limits == ()
    run.write_json("run.json", {k: v for k, v in status.items() if k != "warnings"})
    assert read_record(run).limits == ()


def test_no_example_is_named(run: RunDir):
    with (run.path / "split.csv").open("a", newline="") as file:
        writer = csv.writer(file)
        for name in ("cats/anna (1).png", "dogs/anna_2.png", "anna_3.wav", "anna", "5"):
            writer.writerow((name, "train", name))
    shared = "test shares 5 of its files with train{}, so its score may flatter the model"
    seem = "the file names seem to carry a group key{}, and test shares 5 of them with train"
    assert read_limits(
        run,
        shared.format(" (cats/anna (1).png is dogs/anna_2.png)"),
        seem.format(" (cats/anna (1).png: anna)"),
        "2 clips are all silence: every sample is 0 (anna_3.wav, …)",
        "anna_3.wav and its like (two) are odd",
        "3 rows are odd (anna)",
        "test lacks annas and 5 (5)",
    ) == (
        shared.format(""),
        seem.format(""),
        "2 clips are all silence: every sample is 0",
        "… and its like (two) are odd",
        "3 rows are odd",
        "test lacks annas and 5 (5)",
    )


def test_names_within_names_and_words_within_words_are_told_apart(run: RunDir):
    with (run.path / "split.csv").open("a", newline="") as file:
        for name in ("b-1", "b-1-anna", "it"):
            csv.writer(file).writerow((name, "train", name))
    assert read_limits(run, "b-1-anna is odd", "a sub-b-12 split (a with of 3)") == (
        "… is odd",
        "a sub-b-12 split (a with of 3)",
    )


def read_limits(run: RunDir, *texts: str) -> tuple[str, ...]:
    run.set_status("finished", limits=texts)
    return read_record(run).limits


def test_paths_in_texts(run: RunDir):
    text = "it runs on; see runs/small/x.csv, ../y and C:\\z"
    tree = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(tree.replace(run.config.run.directory, "runs"))
    assert read_limits(run, text) == ("it runs on; see …, … and …",)


def test_the_run_directory_is_hidden_and_addresses_stay_whole(run: RunDir):
    places = (str(run.path), "mine/runs/small/001", "small/001/comet", "../small/001/x.csv")
    assert read_limits(run, *(f"see {place}. So" for place in places)) == (
        ("see …. So",) * 2 + ("see … So",) * 2
    )
    whole = (
        "it lies at https://example.org/a/small/001, http://127.0.0.1:9/x/ and (hf://me/digits)",
        "small/0012.png is odd, and small/001b too",
    )
    assert read_limits(run, *whole) == whole
    assert read_limits(run, "file:///home/me/x and sqlite:////home/me/y.db") == (
        "file://… and sqlite:///…",
    )
