"""A run is pushed whole or not at all, says nothing of this machine, and is never lost."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from safetensors.torch import load, load_file
from servers.writable_hub import TOKEN, Fault, WritableHub

from hf_finetune.cli import main
from hf_finetune.config import config_from, dump_config, parse_config
from hf_finetune.errors import UserError
from hf_finetune.finetuning import finetune
from hf_finetune.hub import HubError
from hf_finetune.hub.push import push_run
from hf_finetune.runs.run_dir import RunDir

# Of the Hub's client, which calls its HTTP library so when it uploads a large file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
Tree = Callable[..., dict[str, Any]]
PUSHED = {
    *(".gitattributes", "README.md", "training_config.yaml", "metrics.json"),
    *("model.safetensors", "config.json", "preprocessor_config.json"),
    *("modeling_cnn.py", "image_processing.py", "curves.png", "confusion_matrix.png"),
}


def find_traces(files: dict[str, bytes], *traces: str) -> list[str]:
    return [f"{t} in {name}" for name, c in files.items() for t in traces if t.encode() in c]


def test_everything_that_is_needed_and_nothing_else(hub: WritableHub, run: RunDir):
    (run.path / "training_args.bin").write_bytes(b"a pickle")
    (run.model / "training_args.bin").write_bytes(b"a pickle")
    pushed = push_run(run.path, "me/digits")
    files = hub.files("me/digits")
    assert set(files) == PUSHED
    assert hub.repositories["me/digits"].private
    assert pushed.url == f"{hub.address}/me/digits"
    assert run.status["hub"]["commit"] == pushed.commit
    assert run.status["status"] == "finished"
    own = load_file(run.model / "model.safetensors")
    theirs = load(files["model.safetensors"])
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[name], theirs[name]) for name in own)
    assert json.loads(files["metrics.json"]) == run.metrics
    assert not any(b"hf_finetune." in files[name] for name in files if name.endswith(".py"))


def test_nothing_of_this_machine_is_pushed(hub: WritableHub, run: RunDir, finished: RunDir):
    run.set_status("finished", limits=[f"{finished.path}/x.png is odd", "~/b.wav, too"])
    push_run(run.path, "me/digits")
    here = str(finished.path.parents[2])  # data and runs of the original
    traces = [TOKEN, here, str(run.path), str(Path.cwd()), str(Path.home()) + "/", "~/b.wav"]
    assert find_traces(hub.files("me/digits"), *traces) == []
    assert b"is odd" in hub.files("me/digits")["README.md"]
    # The search finds what is there: the run's own files are full of it.
    assert find_traces({"config.yaml": (run.path / "config.yaml").read_bytes()}, here)
    # The token travels in the header alone, and is written nowhere here.
    assert not any(TOKEN.encode() in body for body in hub.bodies)
    written = {str(p): p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    assert find_traces(written, TOKEN) == []


def test_the_pushed_settings_are_a_configuration(hub: WritableHub, run: RunDir):
    push_run(run.path, "me/digits")
    text = hub.files("me/digits")["training_config.yaml"].decode()
    config = parse_config(text, overrides=[f"data.root={run.config.data.root}"])
    assert config.train == run.config.train
    assert config.model == run.config.model
    assert config.hub.repo_id is None


def test_pushing_twice_changes_nothing(hub: WritableHub, run: RunDir):
    first = push_run(run.path, "me/digits")
    again = push_run(run.path.parent, "me/digits")
    assert first == again
    assert hub.repositories["me/digits"].messages == ["initial commit", "small/001, as it came out"]


def test_other_peoples_files_stay_and_stale_ones_go(hub: WritableHub, run: RunDir, capsys):
    push_run(run.path, "me/digits")
    repository = hub.repositories["me/digits"]
    stale = dict.fromkeys(("model-00001-of-00002.safetensors", "training_args.bin"), b"old")
    kept = dict.fromkeys(("photo.png", "handler.py", "data/notes.txt"), b"mine")
    repository.commit("main", {**hub.files("me/digits"), **stale, **kept}, "by hand")
    assert main(["push", str(run.path), "--repo-id", "me/digits"]) == 0
    assert set(hub.files("me/digits")) == PUSHED | kept.keys()
    told = "taken out       model-00001-of-00002.safetensors, training_args.bin: of older weights"
    assert told in capsys.readouterr().out
    assert main(["push", str(run.path), "--repo-id", "me/digits"]) == 0
    assert "taken out" not in capsys.readouterr().out


def test_a_card_of_ones_own_is_left_alone(hub: WritableHub, run: RunDir, capsys):
    push_run(run.path, "me/digits")
    repository = hub.repositories["me/digits"]
    for text, is_kept in (
        (b"---\nlicense: mit\n---\n# My digits\n", True),
        (b"# My digits\n", True),
        (b"---\nlicense: mit\n---\n", False),  # what the Hub writes into an empty repository
    ):
        repository.commit("main", {**hub.files("me/digits"), "README.md": text}, "by hand")
        assert main(["push", str(run.path), "--repo-id", "me/digits"]) == 0
        assert (hub.files("me/digits")["README.md"] == text) == is_kept
        assert ("text of your own" in capsys.readouterr().out) == is_kept


def test_options_that_another_version_wrote_stop_no_push(hub: WritableHub, run: RunDir):
    path = run.path / "config.yaml"
    tree = yaml.safe_load(path.read_text())
    tree["hub"] |= {"repo_id": "me/digits", "private": False, "of_another_version": 1}
    path.write_text(yaml.safe_dump(tree))
    assert push_run(run.path).repo_id == "me/digits"
    assert not hub.repositories["me/digits"].private


def test_a_branch(hub: WritableHub, run: RunDir):
    pushed = push_run(run.path, "me/digits", revision="trial", private=False)
    assert not hub.repositories["me/digits"].private
    assert set(hub.files("me/digits")) == {".gitattributes"}
    assert set(hub.files("me/digits", "trial")) == PUSHED
    assert pushed.revision == "trial"
    card = hub.files("me/digits", "trial")["README.md"].decode()
    assert 'revision="trial"' in card
    assert "hf-finetune predict me/digits FILE --revision trial" in card


@pytest.mark.parametrize(
    "fault",
    [
        Fault("POST", "/commit/", 503, 2),
        Fault("POST", "/commit/", 409, 1),
        Fault("POST", "/commit/", 0, 3),
        Fault("POST", "/commit/", 0, 1, after=True),
        Fault("PUT", "blobs/", 0, 1),
        Fault("POST", "validate-yaml", 500, 3),
    ],
    ids=lambda fault: f"{fault.path} {fault.status or 'cut'}{' after' * fault.after}",
)
def test_what_passes_is_tried_again(hub: WritableHub, run: RunDir, fault: Fault):
    hub.faults.append(fault)
    pushed = push_run(run.path, "me/digits")
    assert fault.times == 0
    assert set(hub.files("me/digits")) == PUSHED
    # Also where the answer was lost: one commit, not two.
    assert len(hub.repositories["me/digits"].messages) == 2
    assert hub.repositories["me/digits"].branches["main"] == pushed.commit


def test_of_two_pushes_at_once_each_ends_well(
    hub: WritableHub, run: RunDir, monkeypatch: pytest.MonkeyPatch
):
    push_run(run.path, "me/digits")
    repository = hub.repositories["me/digits"]
    files = hub.files("me/digits")
    repository.commit("main", {**files, "training_args.bin": b"old"}, "by hand")
    commit = huggingface_hub.HfApi.create_commit

    def be_slower(api: Any, *words: Any, **named: Any) -> Any:
        if repository.messages[-1] == "by hand":
            newer = dict.fromkeys(("training_args.bin", "model-00001-of-00002.safetensors"), b"new")
            repository.commit("main", {**files, **newer}, "the other push")
        return commit(api, *words, **named)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", be_slower)
    push_run(run.path, "me/digits")
    assert hub.files("me/digits") == files
    assert repository.messages[-2:] == ["the other push", "small/001, as it came out"]


def test_a_push_that_fails_ends_with_the_command(
    hub: WritableHub, run: RunDir, capsys: pytest.CaptureFixture[str]
):
    hub.faults.append(Fault("POST", "/commit/", 500, 4))
    words = ["--repo-id", "me/digits", "--revision", "trial", "--no-private"]
    assert main(["push", str(run.path), *words]) == 2
    told = capsys.readouterr().err
    assert "the Hub answers with status 500" in told
    command = told.rstrip().rpartition("Push it with: ")[2]
    assert shlex.split(command)[1:] == ["push", str(run.path), *words]
    assert main(shlex.split(command)[1:]) == 0
    assert set(hub.files("me/digits", "trial")) == PUSHED
    assert "pushed to" in capsys.readouterr().out


def test_a_large_file_that_is_refused_is_said(hub: WritableHub, run: RunDir):
    hub.faults.append(Fault("PUT", "blobs/", 403))
    with pytest.raises(HubError, match=r"status 403\)[\s\S]*Push it with: "):
        push_run(run.path, "me/digits")


def test_a_card_that_the_hub_refuses_is_said(
    hub: WritableHub, run: RunDir, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        "hf_finetune.hub.contents.write_card", lambda *_: "---\nlicense: [1]\n---\n"
    )
    with pytest.raises(HubError, match=r"is refused by the Hub: Invalid metadata"):
        push_run(run.path, "me/digits")


def test_what_cant_be_pushed(hub: WritableHub, run: RunDir):
    with pytest.raises(HubError, match="names no repository"):
        push_run(run.path)
    with pytest.raises(UserError, match=r"^--repo-id: must be owner/name"):
        push_run(run.path, "digits")
    run.set_status("stopped")
    with pytest.raises(HubError, match="its status is stopped"):
        push_run(run.path, "me/digits")
    with pytest.raises(UserError, match="there is no run here"):
        push_run(run.path / "nothing", "me/digits")
    assert hub.requests == []


def test_training_ends_with_a_push(hub: WritableHub, make_tree: Tree, capsys):
    result = finetune(config_from(make_tree()))
    assert result.run.status["hub"]["repo_id"] == "me/digits"
    assert set(hub.files("me/digits")) == PUSHED - {"curves.png", "confusion_matrix.png"}
    out = capsys.readouterr().out
    assert re.search(r"\nhub +me/digits, private if new, at the end\n", out)
    assert f"pushed to       {hub.address}/me/digits" in out
    assert TOKEN not in out


def test_a_run_survives_a_push_that_fails(hub: WritableHub, make_tree: Tree, capsys):
    hub.faults.append(Fault("POST", "/commit/", 403))
    result = finetune(config_from(make_tree()), quiet=True)
    assert result.run.status["status"] == "finished"
    assert (result.run.model / "model.safetensors").is_file()
    (warning,) = result.run.status["warnings"]
    assert "no right to write there (status 403)" in warning
    assert "Push it with:" in capsys.readouterr().err
    # The command of the message, without its repository: the configuration names it.
    push_run(result.run.path)
    card = hub.files("me/digits")["README.md"].decode()
    limits = card.partition("## Limits\n\n")[2].partition("\n\n## ")[0]
    assert limits.count("\n") == 1  # what the scores hold for, and rare classes
    for trace in ("pushed", "403", str(result.run.path), "runs/small"):
        assert trace not in card


def test_only_what_is_of_data_and_model_limits_it(hub: WritableHub, make_tree: Tree):
    tree = make_tree(features={"augmentation": {"horizontal_flip": 0.5}})
    result = finetune(config_from(tree), quiet=True)
    result.run.warn("the tracker is down; see runs/small/001")
    result.run.warn("answers change with padding", is_limit=True)
    push_run(result.run.path)
    card = hub.files("me/digits")["README.md"].decode()
    assert "mirrors the digits of corrupt" in card
    assert "\n- Answers change with padding.\n" in card
    assert "tracker" not in card
    assert len(result.run.status["warnings"]) == 3


def test_a_run_that_cant_be_written_to_is_pushed(hub: WritableHub, run: RunDir, capsys):
    (run.path / ".run.json.unfinished").mkdir()  # no right to write would not stop root
    assert main(["push", str(run.path), "--repo-id", "me/digits"]) == 0
    told = capsys.readouterr()
    assert "pushed to" in told.out
    assert f"warning: {run.path}: the run is pushed, but its run.json can't be" in told.err
    assert set(hub.files("me/digits")) == PUSHED
    assert "hub" not in run.status


def test_a_license_that_is_missing_is_said(hub: WritableHub, run: RunDir, capsys):
    words = ["push", str(run.path), "--repo-id", "me/digits"]
    assert main(words) == 0
    assert "the model card  names no license; say which with" in capsys.readouterr().out
    assert main([*words, "--license", "apache-2.0"]) == 0
    assert "names no license" not in capsys.readouterr().out
    assert b"\nlicense: apache-2.0\n" in hub.files("me/digits")["README.md"]
    hub.faults.append(Fault("POST", "/commit/", 403))
    assert main([*words, "--license", "mit"]) == 2
    assert capsys.readouterr().err.rstrip().endswith("--license mit")


def test_several_runs_are_not_pushed_over_each_other(hub: WritableHub, make_tree: Tree):
    from hf_finetune.cross_validation import cross_validate
    from hf_finetune.repetition import repeat_seeds

    config = config_from(make_tree())
    for repeat in (repeat_seeds, cross_validate):
        with pytest.raises(HubError, match="each would be pushed over the one before"):
            repeat(config, 2)
    assert hub.requests == []


def test_only_the_main_process_asks(
    hub: WritableHub, make_tree: Tree, monkeypatch: pytest.MonkeyPatch
):
    from hf_finetune.hub.push import check_hub

    monkeypatch.setenv("RANK", "1")
    check_hub(config_from(make_tree()))
    assert hub.requests == []


def test_the_clients_settings_are_put_back(hub: WritableHub, run: RunDir):
    from huggingface_hub.utils import are_progress_bars_disabled, logging

    before = (logging.get_verbosity(), are_progress_bars_disabled())
    push_run(run.path, "me/digits")
    assert (logging.get_verbosity(), are_progress_bars_disabled()) == before


def test_the_card_passes_the_hubs_own_reading(hub: WritableHub, run: RunDir):
    push_run(run.path, "me/digits")
    text = hub.files("me/digits")["README.md"].decode()
    data = huggingface_hub.ModelCard(text).data
    scores = {(r.dataset_split, r.metric_name): r.metric_value for r in data.eval_results}
    test = run.metrics["test"]
    assert scores["test", "Accuracy (test)"] == round(test["accuracy"], 4)
    assert yaml.safe_load(re.match(r"---\n(.*?)\n---", text, re.DOTALL)[1])["library_name"]


@pytest.mark.slow
def test_of_two_processes_one_pushes(hub: WritableHub, make_tree: Tree, tmp_path: Path):
    (tmp_path / "x.yaml").write_text(dump_config(config_from(make_tree())))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, str(Path("scripts/finetune.py").resolve()), "--config", "x.yaml"],
        cwd=tmp_path,
        env={
            **{k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"},
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("pushed to") == 1
    assert hub.repositories["me/digits"].messages == ["initial commit", "small/001, as it came out"]
    # Asked once before training, and once before the push.
    assert hub.requests.count(("GET", "api/whoami-v2")) == 2
