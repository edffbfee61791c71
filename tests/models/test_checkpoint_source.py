"""Where checkpoints come from: folders, and the Hub with all its ways of saying no."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from servers.model_hub import COMMIT, ModelHub, serve_models

from hf_finetune.errors import ModelError
from hf_finetune.models.checkpoint_source import find_checkpoint

FILES = {
    "config.json": b'{"model_type": "vit"}',
    "preprocessor_config.json": b"{}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"the same once more",
    "training_args.bin": b"a pickle that nobody wants",
    "README.md": b"a card",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModelHub]:
    """A Hub in place of the real one, and an empty cache."""
    constants = huggingface_hub.constants
    with serve_models() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        huggingface_hub.close_session()  # the next one hears of the changes
        server.repositories["owner/net"] = dict(FILES)
        yield server
    huggingface_hub.close_session()


def test_the_hub_gives_settings_and_safe_weights_alone(hub: ModelHub):
    found = find_checkpoint("owner/net", None)
    assert found.origin == "owner/net at commit 0123456"
    assert found.path.name == COMMIT
    names = {file.name for file in found.path.iterdir()}
    assert names == {"config.json", "preprocessor_config.json", "model.safetensors"}
    assert (found.path / "model.safetensors").read_bytes() == b"weights"
    assert find_checkpoint("owner/net", COMMIT) == found


def test_older_checkpoints_have_pickled_weights(hub: ModelHub):
    del hub.repositories["owner/net"]["model.safetensors"]
    found = find_checkpoint("owner/net", "main")
    assert (found.path / "pytorch_model.bin").is_file()
    assert not (found.path / "training_args.bin").exists()


def test_what_is_in_the_cache_needs_no_network(hub: ModelHub, monkeypatch: pytest.MonkeyPatch):
    found = find_checkpoint("owner/net", None)
    hub.requests.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert find_checkpoint("owner/net", None) == found
    assert hub.requests == []


@pytest.mark.parametrize(
    ("name", "refusal", "message"),
    [
        ("owner/nothing", None, r"is no checkpoint of the Hub, or is private.*hf auth login"),
        ("owner/net", (403, "GatedRepo"), r"is gated: .*Ask for it.*hf auth login"),
        ("owner/net", (401, ""), r"(refused by the Hub \(status 401\)|or is private)"),
        ("owner/net", (503, ""), r"is not on this machine, and the Hub can't be reached"),
    ],
)
def test_a_refusal_says_what_to_do(
    hub: ModelHub, name: str, refusal: tuple[int, str] | None, message: str
):
    if refusal is not None:
        hub.refusals[name] = refusal
    with pytest.raises(ModelError, match=f"model.checkpoint: '{name}' .*{message}"):
        find_checkpoint(name, None)


def test_an_unknown_revision_is_named(hub: ModelHub):
    with pytest.raises(ModelError, match=r"model.revision: 'owner/net' has no revision 'v9'"):
        find_checkpoint("owner/net", "v9")


def test_no_network_and_offline_are_told_apart(hub: ModelHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"HF_HUB_OFFLINE forbids downloads. Unset HF_HUB_OFFLINE"):
        find_checkpoint("owner/net", None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"the Hub can't be reached. Try again with a network"):
        find_checkpoint("owner/net", None)


def test_a_repository_without_settings_is_no_checkpoint(hub: ModelHub):
    hub.repositories["owner/data"] = {"model.safetensors": b"x"}
    with pytest.raises(ModelError, match=r"'owner/data' has no config.json.* model.safetensors"):
        find_checkpoint("owner/data", None)


def test_folders_are_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net").mkdir()
    with pytest.raises(ModelError, match=r"'./net' has no config.json.*it has nothing"):
        find_checkpoint("./net", None)
    (tmp_path / "net/config.json").write_text("{}")
    found = find_checkpoint("net", None)
    assert (found.path, found.origin) == (Path("net"), "net")
    with pytest.raises(ModelError, match="is a folder, which has no revisions"):
        find_checkpoint("net", "main")
    for name in ("./nowhere", "a/b/c", "/nowhere"):
        with pytest.raises(ModelError, match=f"there is no folder '{name}'"):
            find_checkpoint(name, None)
    with pytest.raises(ModelError, match="is neither a folder nor a name of the Hub"):
        find_checkpoint("no name at all", None)
