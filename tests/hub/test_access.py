"""Whether this machine may write to the Hub is found out first, and refusals are explained."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
from servers.writable_hub import Fault, User, WritableHub

from hf_finetune.cli import main
from hf_finetune.config import dump_config
from hf_finetune.hub import HubError, access
from hf_finetune.hub.access import check_access


def refusal(repo_id: str = "me/digits", revision: str | None = None) -> str:
    with pytest.raises(HubError) as caught:
        check_access(repo_id, revision=revision)
    return str(caught.value)


def test_the_repository_is_made_and_kept(hub: WritableHub):
    assert check_access("me/digits") == "me"
    assert hub.repositories["me/digits"].private
    before = hub.repositories["me/digits"]
    assert check_access("me/digits", private=False) == "me"
    assert hub.repositories["me/digits"] is before
    check_access("me/open", private=False, revision="trial")
    assert not hub.repositories["me/open"].private
    assert set(hub.repositories["me/open"].branches) == {"main", "trial"}
    check_access("me/open", revision="trial")


def test_no_token(hub: WritableHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HF_TOKEN")
    assert refusal() == (
        "hub.repo_id: 'me/digits' needs a token of the Hub, and there is none here. "
        "Log in with: hf auth login"
    )
    assert hub.requests == []


def test_a_token_that_is_not_valid(hub: WritableHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_stale")
    assert "doesn't accept the token (status 401)" in refusal()
    assert "hf_stale" not in refusal()


def test_a_token_that_may_only_read(hub: WritableHub):
    (user,) = hub.users.values()
    user.role = "read"
    assert "the token of me may only read" in refusal()
    assert hub.repositories == {}


def test_a_token_without_the_right(hub: WritableHub, monkeypatch: pytest.MonkeyPatch):
    assert "can't be written to by me (status 403)" in refusal("other/digits")
    assert "such as me/digits" in refusal("other/digits")
    # One that others may write to is there already: asking to make it tells nothing.
    hub.users["hf_other"] = User("other")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    check_access("other/digits", private=False)
    monkeypatch.setenv("HF_TOKEN", next(iter(hub.users)))
    assert "can't be written to by me (status 403)" in refusal("other/digits")


def test_a_hub_that_doesnt_know_the_question(hub: WritableHub):
    hub.faults.append(Fault("GET", "auth-check", 404))
    assert check_access("me/digits") == "me"


def test_what_passes_is_tried_again(hub: WritableHub):
    hub.faults += [Fault("GET", "whoami", 503, 2), Fault("POST", "repos/create", 0, 3)]
    assert check_access("me/digits") == "me"
    assert sum(path == "api/repos/create" for _, path in hub.requests) == 4


def test_what_doesnt_pass_is_said(hub: WritableHub):
    hub.faults.append(Fault("GET", "whoami", 500, 4))
    assert "can't be had now: the Hub answers with status 500" in refusal()
    hub.faults.append(Fault("GET", "whoami", 0, 4))
    assert "can't be reached" in refusal()


def test_the_hubs_own_wish_to_wait_is_heard(hub: WritableHub, monkeypatch: pytest.MonkeyPatch):
    waits: list[float] = []
    monkeypatch.setattr(access.time, "sleep", waits.append)
    hub.faults.append(Fault("GET", "whoami", 429, headers={"Retry-After": "7"}))
    hub.faults.append(Fault("GET", "whoami", 429, headers={"Retry-After": "86400"}))
    check_access("me/digits")
    assert waits == [7, 60]


def test_offline(hub: WritableHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids the network" in refusal()
    assert hub.requests == []


def test_training_doesnt_start_without_access(
    hub: WritableHub, make_tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from hf_finetune.config import config_from

    file = tmp_path / "x.yaml"
    file.write_text(dump_config(config_from(make_tree(hub={"repo_id": "other/digits"}))))
    assert main(["train", "--config", str(file)]) == 2
    assert "hub.repo_id: 'other/digits' can't be written to" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
