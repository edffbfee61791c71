"""What lies in scripts/ is what the command line does, word for word."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from hf_finetune.cli import main

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
SAMPLE = "configs/corrupt_mnist_sample.yaml"
# The verb of each, and words that it refuses before anything is loaded.
VERBS = {
    "finetune": (["train"], ["--config", SAMPLE, "train.learning_rat=1"]),
    "cross_validate": (["cross-validate"], ["--config", SAMPLE]),
    "compare_runs": (["compare"], ["nowhere"]),
    "push_run": (["push"], ["nowhere"]),
    "push_data": (["push-data"], ["--config", SAMPLE]),
    "upload_comet": (["comet", "upload"], ["nowhere"]),
}


def run_script(name: str, words: list[str], patch: pytest.MonkeyPatch) -> object:
    """Runs a script as `python scripts/<name>.py` does; its exit status."""
    patch.setattr(sys, "argv", [str(SCRIPTS / f"{name}.py"), *words])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
    return left.value.code


def test_every_script_is_here():
    own = {path.stem for path in SCRIPTS.glob("*.py")}
    assert own - {"make_samples"} == VERBS.keys()  # it makes the samples, and is no verb


@pytest.mark.parametrize("name", VERBS)
def test_help_and_refusal_are_those_of_the_verb(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    verb, refused = VERBS[name]
    assert run_script(name, ["--help"], monkeypatch) == 0
    with pytest.raises(SystemExit):
        main([*verb, "--help"])
    own, its = capsys.readouterr().out.split("usage: ")[1:]
    assert own == its
    assert own.startswith(f"hf-finetune {' '.join(verb)} ")

    assert run_script(name, refused, monkeypatch) == 2
    told = capsys.readouterr()
    assert main([*verb, *refused]) == 2
    assert told == capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
