"""What was pushed opens anywhere: without this package, with it, by name, and without a network."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import soundfile
import transformers
from servers.writable_hub import TOKEN, WritableHub
from small_checkpoints import write_pretrained

import hf_finetune
from hf_finetune.cli import main
from hf_finetune.config import config_from
from hf_finetune.errors import ModelError
from hf_finetune.finetuning import finetune
from hf_finetune.hub.push import push_run
from hf_finetune.inference import predict_files
from hf_finetune.models import register
from hf_finetune.runs.run_dir import RunDir

# Of the Hub's client, which calls its HTTP library so when it uploads a large file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
DIGIT = "docs/images/digit.png"
PACKAGE = Path(hf_finetune.__file__).parent
# As on a machine without this package; what mends torchaudio's import is the one thing left of it.
ELSEWHERE = f"""
import importlib.util, pathlib, sys
spec = importlib.util.spec_from_file_location("repair", {str(PACKAGE / "torchaudio_repair.py")!r})
repair = importlib.util.module_from_spec(spec)
spec.loader.exec_module(repair)
repair.repair_torchaudio()
sys.path[:] = [p for p in sys.path if not (pathlib.Path(p) / "hf_finetune/__init__.py").is_file()]
"""
RUN_SNIPPETS = """
import importlib.util, sys
assert importlib.util.find_spec("hf_finetune") is None
for card in sys.argv[1:]:
    exec(open(card).read())
"""


def answers_of(model: str, file: str = DIGIT) -> list[tuple[str, float]]:
    (answer,) = predict_files(model, [file], top=10)
    return list(answer.classes)


def write_clips(root: Path) -> Path:
    """A folder of tones, high and low ones; one of them."""
    times = np.arange(4000) / 8000
    for label, hertz in (("high", 900), ("low", 300)):
        (root / label).mkdir(parents=True)
        for number in range(8):
            tone = 0.4 * np.sin(2 * np.pi * (hertz + 9 * number) * times)
            soundfile.write(root / label / f"{number}.wav", tone, 8000)
    return root / "low/3.wav"


@pytest.mark.slow
def test_the_snippets_run_where_this_package_is_not(
    hub: WritableHub, run: RunDir, make_tree: Any, tmp_path: Path
):
    tree = make_tree()
    checkpoint = write_pretrained(tmp_path / "checkpoint", "vit")
    tree["model"] = {"name": "auto_image", "checkpoint": str(checkpoint)}
    standard = finetune(config_from(tree), quiet=True).run
    clip = write_clips(tmp_path / "clips")
    tree = make_tree(hub={"repo_id": "me/sound"}, train={"max_steps": 2})
    tree["data"] = {"name": "audio_folder", "root": str(tmp_path / "clips")}
    tree["model"] = {"name": "log_mel_cnn", "channels": [4, 8]}
    sound = finetune(config_from(tree), quiet=True).run
    push_run(run.path, "me/own")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "sitecustomize.py").write_text(ELSEWHERE)
    (elsewhere / "image.png").write_bytes(Path(DIGIT).read_bytes())
    (elsewhere / "clip.wav").write_bytes(clip.read_bytes())
    for name in ("own", "digits", "sound"):
        card = hub.files(f"me/{name}")["README.md"].decode()
        assert ("trust_remote_code" in card) == (name != "digits")
        assert str(tmp_path) not in card
        (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        (elsewhere / f"{name}.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-c", RUN_SNIPPETS, "own.py", "digits.py", "sound.py"],
        cwd=elsewhere,
        env={
            **{k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"},
            "HF_ENDPOINT": hub.address,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(tmp_path / "home"),
            "PYTHONPATH": str(elsewhere),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = map(ast.literal_eval, done.stdout.strip().splitlines())
    cases = ((run, DIGIT), (standard, DIGIT), (sound, str(clip)))
    for answers, (pushed, file) in zip(said, cases, strict=True):
        expected = dict(answers_of(str(pushed.path), file))
        for answer in answers:
            assert answer["score"] == pytest.approx(expected[answer["label"]], abs=0.01)


def test_where_the_package_is_no_code_is_run(hub: WritableHub, run: RunDir, tmp_path: Path):
    push_run(run.path, "me/digits")
    register()
    where = {"pretrained_model_name_or_path": "me/digits", "cache_dir": tmp_path / "cache"}
    model = transformers.AutoModelForImageClassification.from_pretrained(**where)
    processor = transformers.AutoImageProcessor.from_pretrained(**where)
    assert type(model).__module__ == "hf_finetune.models.modeling_cnn"
    assert type(processor).__module__ == "hf_finetune.models.image_processing"


def test_prediction_by_name(hub: WritableHub, run: RunDir, capsys: pytest.CaptureFixture[str]):
    push_run(run.path, "me/digits", revision="trial")
    expected = answers_of(str(run.path))
    assert answers_of("me/digits@trial") == expected
    assert main(["predict", "me/digits", DIGIT, "--revision", "trial"]) == 0
    printed = capsys.readouterr()
    assert expected[0][0] in printed.out
    assert "Fetching" not in printed.err  # bars are for terminals
    # main holds nothing but what the Hub put there.
    assert main(["predict", "me/digits", DIGIT]) == 2
    assert "has no config.json" in capsys.readouterr().err


def test_prediction_without_a_network(
    hub: WritableHub, run: RunDir, monkeypatch: pytest.MonkeyPatch
):
    push_run(run.path, "me/digits")
    online = answers_of("me/digits")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    before = len(hub.requests)
    assert answers_of("me/digits") == online
    assert len(hub.requests) == before
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE forbids downloads"):
        answers_of("me/other")


def test_evaluation_by_name(hub: WritableHub, run: RunDir, capsys: pytest.CaptureFixture[str]):
    push_run(run.path, "me/digits")
    words = ["evaluate", "me/digits", f"data.root={run.config.data.root}", "--format", "json"]
    assert main(words) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["accuracy"] == run.metrics["test"]["accuracy"]
    assert scores["num_examples"] == 40


def test_settings_that_name_plugins_are_not_read(
    hub: WritableHub, run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    push_run(run.path, "me/digits")
    repository = hub.repositories["me/digits"]
    trap = tmp_path / "trap.py"
    trap.write_text("raise SystemExit('run by a stranger')")
    files = hub.files("me/digits")
    text = files["training_config.yaml"].replace(b"plugins: []", f"plugins: [{trap}]".encode())
    repository.commit("main", {**files, "training_config.yaml": text}, "a trap")
    assert answers_of("me/digits") == answers_of(str(run.path))
    assert main(["evaluate", "me/digits"]) == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["me/nothing"], "'me/nothing' is no checkpoint of the Hub, or is private"),
        (["me/digits", "--revision", "v9"], "--revision: 'me/digits' has no revision 'v9'"),
        (["tests/nothing"], "tests/nothing: there is no finished run"),
        (["me/weights.pt"], "me/weights.pt: there is no finished run"),
        (["tests/nothing", "--revision", "v9"], "is no model of the Hub"),
    ],
)
def test_what_cant_be_opened(hub: WritableHub, run: RunDir, capsys, words, told):
    push_run(run.path, "me/digits")
    capsys.readouterr()
    assert main(["predict", words[0], DIGIT, *words[1:]]) == 2
    assert told in capsys.readouterr().err
