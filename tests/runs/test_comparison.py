"""Runs beside each other: the right order, honest spreads, and nothing compared in silence."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
from runs.comparable_runs import SPLIT, Scored, write_run

from hf_finetune.errors import UserError
from hf_finetune.runs.comparison import Comparison, compare_runs


def labels(comparison: Comparison) -> list[str]:
    return [row.label for row in comparison.rows]


def test_validation_sorts_and_the_test_never_does(tmp_path: Path):
    write_run(tmp_path, Scored([0.6, 0.7], test=0.95, settings={"name": "lucky"}))
    write_run(tmp_path, Scored([0.9, 0.8], test=0.70, settings={"name": "sound"}))
    write_run(tmp_path, Scored([0.8], test=0.99, settings={"name": "middle"}))
    comparison = compare_runs([str(tmp_path)])
    assert labels(comparison) == ["sound/001", "middle/001", "lucky/001"]
    assert comparison.rows[0].spread("validation/accuracy").mean == 0.9
    assert comparison.rows[0].spread("test/accuracy").mean == 0.70
    by_loss = compare_runs([str(tmp_path)], metrics=["loss"])
    assert not by_loss.greater_is_better
    assert labels(by_loss) == labels(comparison)
    with pytest.raises(UserError, match="--metric accuracy"):
        compare_runs([str(tmp_path)], metrics=["test/accuracy"])


def test_what_chose_the_models_sorts_unless_told(tmp_path: Path):
    loss = {"train__metric_for_best_model": "macro_f1"}
    write_run(tmp_path, Scored([0.9], 0.9, {**loss, "name": "a"}, more={"macro_f1": 0.3}))
    write_run(tmp_path, Scored([0.8], 0.8, {**loss, "name": "b"}, more={"macro_f1": 0.4}))
    assert labels(compare_runs([str(tmp_path)])) == ["b/001", "a/001"]
    assert compare_runs([str(tmp_path)]).metrics == ("macro_f1", "accuracy")
    chosen = compare_runs([str(tmp_path)], metrics=["validation/accuracy"])
    assert labels(chosen) == ["a/001", "b/001"]
    assert chosen.metrics == ("accuracy",)
    with pytest.raises(UserError, match="Did you mean 'accuracy'"):
        compare_runs([str(tmp_path)], metrics=["acuracy"])


@pytest.mark.parametrize(("error_rates", "best"), [((0.4, 0.2), 0.2), ((0.2, 0.4), 0.4)])
def test_the_runs_tell_which_way_a_metric_of_ones_own_goes(
    error_rates: tuple[float, float], best: float, tmp_path: Path
):
    for number, value in enumerate((best, 0.3)):
        run = write_run(
            tmp_path, Scored([0.5], 0.5, {"name": f"run{number}"}, more={"mine": value})
        )
        config = (run.path / "config.yaml").read_text()
        config = config.replace("metric_for_best_model: accuracy", "metric_for_best_model: mine")
        (run.path / "config.yaml").write_text(config + "plugins: [mine.py]\n")
        history = [
            {"step": step, "validation/mine": rate, "is_best": rate == best}
            for step, rate in enumerate(error_rates)
        ]
        (run.path / "history.jsonl").write_text("\n".join(map(json.dumps, history)))
    comparison = compare_runs([str(tmp_path)])
    assert comparison.metrics[0] == "mine"
    assert comparison.greater_is_better == (best == 0.4)
    assert labels(comparison) == ["run0/001", "run1/001"]


def test_runs_that_differ_in_their_seed_are_one_row(tmp_path: Path):
    accuracies = [0.7, 0.8, 0.6]
    for seed, accuracy in enumerate(accuracies):
        write_run(tmp_path, Scored([accuracy], accuracy - 0.1, {"seed": seed}))
    write_run(tmp_path, Scored([0.75], 0.9, {"train__learning_rate": 0.5}))
    comparison = compare_runs([str(tmp_path)])
    assert labels(comparison) == ["small/004", "small/001-003"]
    row = comparison.rows[1]
    spread = row.spread("validation/accuracy")
    assert spread.mean == pytest.approx(statistics.fmean(accuracies))
    assert spread.std == pytest.approx(statistics.stdev(accuracies))
    assert row.spread("test/accuracy").values == pytest.approx((0.6, 0.7, 0.5))
    assert row.seeds == "0-2"
    assert comparison.rows[0].spread("validation/accuracy").std is None
    assert comparison.settings == ("train.learning_rate",)
    alone = compare_runs([str(tmp_path)], by_run=True)
    assert labels(alone) == ["small/002", "small/004", "small/001", "small/003"]


def test_a_seed_that_was_repeated_counts_once(tmp_path: Path):
    runs = [write_run(tmp_path, Scored([score], score, {"seed": 4})) for score in (0.5, 0.6)]
    runs.append(write_run(tmp_path, Scored([0.8], 0.8, {"seed": 5})))
    for number, run in enumerate(runs):
        run.set_status("finished", started=f"2026-01-0{number + 1}T00:00:00+00:00")
    comparison = compare_runs([str(tmp_path)])
    (row,) = comparison.rows
    assert row.spread("validation/accuracy").values == (0.6, 0.8)
    assert any(
        "small/001" in note and "only that one is counted" in note for note in comparison.notes
    )
    assert len(compare_runs([str(tmp_path)], by_run=True).rows) == 3


def test_only_what_differs_is_shown(tmp_path: Path):
    write_run(tmp_path, Scored([0.5], 0.5, {"model__dropout": 0.5, "name": "a"}))
    write_run(tmp_path, Scored([0.6], 0.6, {"model": {"name": "mlp"}, "name": "b", "seed": 3}))
    write_run(tmp_path, Scored([0.7], 0.7, {"trackers": ["jsonl", "comet"], "name": "c"}))
    comparison = compare_runs([str(tmp_path)])
    # Settings of another kind of model, the seed and the trackers aren't what makes the difference.
    assert comparison.settings == ("model.name", "model.dropout")


def test_losses_of_other_functions_are_not_compared_in_silence(tmp_path: Path):
    write_run(tmp_path, Scored([0.5], 0.5, {"name": "a"}))
    write_run(tmp_path, Scored([0.6], 0.6, {"name": "b", "loss": {"name": "focal"}}))
    comparison = compare_runs([str(tmp_path)])
    assert "loss.name" in comparison.settings
    assert any(note.startswith("The loss isn't the same function") for note in comparison.notes)


@pytest.mark.parametrize("status", ["failed", "stopped", "running"])
def test_unfinished_runs_are_shown_as_such(status: str, tmp_path: Path):
    write_run(tmp_path, Scored([0.5], 0.5))
    run = write_run(tmp_path, Scored([0.9, 0.7], None, {"seed": 1}, status=status))
    comparison = compare_runs([str(tmp_path)])
    assert labels(comparison) == ["small/002", "small/001"]
    unfinished = comparison.rows[0]
    shown = "killed" if status == "running" else status  # nobody is at work on it
    assert unfinished.status == f"{shown}, step 20"
    assert unfinished.spread("validation/accuracy").mean == 0.9
    assert unfinished.spread("test/accuracy") is None
    assert any(note.startswith("Not finished: 1.") for note in comparison.notes)
    if status == "running":
        with run.locked():
            (row, _) = compare_runs([str(tmp_path)]).rows
        assert row.status == "running, step 20"
        with run.locked():  # nor does looking at a run keep it from going on
            pass


def test_other_validation_or_test_examples_are_told(tmp_path: Path):
    write_run(tmp_path, Scored([0.5], 0.5, {"name": "a"}))
    more = {**SPLIT, "train": ["a"]}
    write_run(tmp_path, Scored([0.6], 0.6, {"name": "less"}, split=more, fingerprint="e" * 16))
    comparison = compare_runs([str(tmp_path)])
    assert set(comparison.data) == {"A"}  # only training has other examples
    assert comparison.notes == ()
    other = {**SPLIT, "validation": ["c"], "unused": ["d"]}
    write_run(tmp_path, Scored([0.7], 0.7, {"name": "c"}, split=other, fingerprint="d" * 16))
    other = {**SPLIT, "validation": ["e"], "test": ["c", "d"]}
    write_run(tmp_path, Scored([0.55], 0.5, {"name": "d"}, split=other, fingerprint="c" * 16))
    comparison = compare_runs([str(tmp_path)])
    assert comparison.data == ("A", "B", "C", "B")
    (note,) = comparison.notes
    assert note.startswith("Data A, B and C have other validation or test examples")


def test_runs_without_a_split_file_are_told_apart_by_their_fingerprint(tmp_path: Path):
    write_run(tmp_path, Scored([0.5], 0.5, {"name": "a"}))
    write_run(tmp_path, Scored([0.4], 0.5, {"name": "same"}, split=None))
    write_run(tmp_path, Scored([0.3], 0.5, {"name": "other"}, split=None, fingerprint="e" * 16))
    write_run(tmp_path, Scored([0.2], 0.5, {"name": "unknown"}, split=None, fingerprint=""))
    comparison = compare_runs([str(tmp_path)])
    assert comparison.data == ("A", "A", "B", "?")
    assert any("perhaps in training alone" in note for note in comparison.notes)
    assert any(note.startswith("Data ?") for note in comparison.notes)


@pytest.mark.parametrize("known_by", ["fingerprint", "split"])
def test_seeds_with_other_data_are_no_group(known_by: str, tmp_path: Path):
    other = {**SPLIT, "validation": ["c"]}
    for seed, split in enumerate((SPLIT, other)):
        fingerprint = f"{seed}" * 16 if known_by == "fingerprint" else ""
        kept = split if known_by == "split" else None
        run = Scored([0.5], 0.5, {"seed": seed}, split=kept, fingerprint=fingerprint)
        write_run(tmp_path, run)
    assert len(compare_runs([str(tmp_path)]).rows) == 2


def test_words_may_be_runs_folders_and_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("a", "b"):
        for seed in (0, 1):
            run = write_run(tmp_path / "runs", Scored([0.5], 0.5, {"name": name, "seed": seed}))
            status = {key: value for key, value in run.status.items() if key != "run_id"}
            run.write_json("run.json", status)  # as before runs had ids: their place must tell
    monkeypatch.chdir(tmp_path)

    def count(*words: str) -> int:
        return len(compare_runs(words, by_run=True).rows)

    assert count("runs/a/001") == 1
    assert count("runs") == 4
    assert count(str(tmp_path / "runs/*/00?")) == 4
    assert count("runs/*/001") == 2
    assert count("runs/a/001", "runs/a", "runs/../runs/a") == 2  # each once
    for word in ("nowhere", "runs/c*"):
        with pytest.raises(UserError, match="no such place"):
            compare_runs([word])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no run here"):
        compare_runs(["empty"])


def test_runs_of_one_title_are_told_apart_by_their_path(tmp_path: Path):
    for steps, folder in enumerate(("old", "new"), 5):
        for seed in (0, 1):
            settings = {"seed": seed, "train__max_steps": steps}
            write_run(tmp_path / folder, Scored([0.5], 0.5, settings))
    write_run(tmp_path / "old", Scored([0.4], 0.5, {"seed": 2, "train__max_steps": 5}))
    assert {*labels(compare_runs([str(tmp_path)], by_run=True))} == {
        "old/small/001",
        "old/small/002",
        "old/small/003",
        "new/small/001",
        "new/small/002",
    }
    assert {*labels(compare_runs([str(tmp_path)]))} == {"old/small/001-003", "new/small/001-002"}


def test_tags_choose_runs(tmp_path: Path):
    for name, accuracy, tags in (("a", 0.5, ["x", "y"]), ("b", 0.6, ["x"])):
        settings = {"name": name, "trackers": ["comet"], "tracking__comet__tags": tags}
        write_run(tmp_path, Scored([accuracy], 0.5, settings))
    write_run(tmp_path, Scored([0.7], 0.7, {"name": "c"}))
    assert labels(compare_runs([str(tmp_path)], tags=["x"])) == ["b/001", "a/001"]
    assert labels(compare_runs([str(tmp_path)], tags=["x", "y"])) == ["a/001"]
    with pytest.raises(UserError, match=r"none of 3 runs has 'z'. Tags there: x, y."):
        compare_runs([str(tmp_path)], tags=["z"])


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("run.json", '{"status": "fin', "damaged"),
        ("run.json", None, "missing"),
        ("run.json", "[]", "no JSON object"),
        ("config.yaml", "name: [small", "not valid YAML"),
        ("config.yaml", None, "no such file"),
        ("metrics.json", '{"validation": {"accur', "damaged"),
        ("metrics.json", '{"val_accuracy": 0.5}', "another version's layout"),
        ("history.jsonl", '{"step": 1\n{"step": 2}\n', "history.jsonl:1: damaged"),
        ("split.csv", "id,part\na,train\n", "damaged"),
        ("split.csv", b"\xff\xfe\x00", "damaged"),
    ],
)
def test_a_damaged_file_costs_a_warning_and_no_other_run(
    name: str, content: str | bytes | None, told: str, tmp_path: Path
):
    write_run(tmp_path, Scored([0.5], 0.5, {"name": "whole"}))
    run = write_run(tmp_path, Scored([0.6], 0.6, {"name": "hurt"}))
    if content is None:
        (run.path / name).unlink()
    else:
        (run.path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    comparison = compare_runs([str(tmp_path)])
    assert labels(comparison) == ["hurt/001", "whole/001"]
    assert comparison.rows[0].spread("validation/accuracy").mean == 0.6
    (warning,) = comparison.warnings
    assert f"hurt/001/{name}" in warning
    assert told in warning


def test_a_line_that_a_kill_cut_off_is_no_damage(tmp_path: Path):
    run = write_run(tmp_path, Scored([0.5, 0.6], None, status="stopped"))
    with (run.path / "history.jsonl").open("a") as file:
        file.write('{"step": 3')
    comparison = compare_runs([str(tmp_path)])
    assert comparison.warnings == ()
    assert comparison.rows[0].spread("validation/accuracy").mean == 0.6


def test_a_configuration_of_another_version_is_taken_as_written(tmp_path: Path):
    write_run(tmp_path, Scored([0.5], 0.5, {"name": "new", "train__learning_rate": 0.1}))
    run = write_run(tmp_path, Scored([0.6], 0.6, {"name": "old"}))
    config = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(config.replace("dropout:", "drop_out:"))
    comparison = compare_runs([str(tmp_path)])
    (warning,) = comparison.warnings
    assert "old/001/config.yaml" in warning
    assert "model.drop_out" in warning
    assert comparison.settings == ("train.learning_rate",)


def test_settings_that_an_older_version_did_not_have_are_filled_in(tmp_path: Path):
    write_run(tmp_path, Scored([0.5], 0.5, {"seed": 1}))
    run = write_run(tmp_path, Scored([0.6], 0.6))
    lines = (run.path / "config.yaml").read_text().splitlines(keepends=True)
    shorter = [line for line in lines if "early_stopping_patience" not in line]
    assert len(shorter) == len(lines) - 1
    (run.path / "config.yaml").write_text("".join(shorter))
    comparison = compare_runs([str(tmp_path)])
    assert comparison.warnings == ()
    assert labels(comparison) == ["small/001-002"]


def test_a_plugin_that_changed_makes_another_configuration(tmp_path: Path):
    for seed, sha256 in enumerate(("a" * 64, "b" * 64)):
        run = write_run(tmp_path, Scored([0.5], 0.5, {"seed": seed}))
        run.set_status("finished", plugins={"mine.py": sha256})
    comparison = compare_runs([str(tmp_path)])
    assert comparison.settings == ("plugin mine.py",)
    assert len(comparison.rows) == 2


def test_a_run_in_two_places_counts_once(tmp_path: Path):
    import shutil

    write_run(tmp_path / "runs", Scored([0.5], 0.5))
    shutil.copytree(tmp_path / "runs", tmp_path / "backup")
    (row,) = compare_runs([str(tmp_path)]).rows
    assert len(row.runs) == 1
    assert len(row.runs[0].sources) == 2
