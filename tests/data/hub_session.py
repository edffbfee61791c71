"""Pushes and reads data sets with the real clients against a loopback Hub; run by test_push_data.

In a process of its own, since the clients read HF_ENDPOINT when they are imported. Prints what
happened as JSON. Argument: an empty folder.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from servers.dataset_hub import DatasetHub, serve_data_sets
from servers.writable_hub import Fault, User

TOKENS = {"hf_ann_may_write": User("ann"), "hf_ann_may_read": User("ann", "read")}
WRITE, READ = TOKENS


class Session:
    """Runs the verb and reads data sets, and keeps everything that is said."""

    def __init__(self, hub: DatasetHub, folder: Path) -> None:
        self.hub = hub
        self.config = str(folder / "pets.yaml")
        self.said = ""
        self.steps: dict[str, Any] = {}

    def push(self, name: str, *words: str, token: str | None = WRITE) -> None:
        from hf_finetune.cli import main

        os.environ.pop("HF_TOKEN", None)
        if token is not None:
            os.environ["HF_TOKEN"] = token
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = main(["push-data", "--config", self.config, *words])
        os.environ["HF_TOKEN"] = WRITE
        self.said += out.getvalue()
        self.steps[name] = [code, out.getvalue()]

    def read(self, name: str, **settings: Any) -> None:
        from hf_finetune.data import load_data
        from hf_finetune.data.hub import Options
        from hf_finetune.errors import DataError

        self.hub.requests.clear()
        try:
            found: Any = load_data(Options(**settings)).fingerprint
        except DataError as error:
            found = str(error)
        self.steps[name] = [found, len(self.hub.requests)]

    def see(self, name: str, value: Any) -> None:
        self.steps[name] = value


def write_and_read(session: Session) -> None:
    """Everything that goes well."""
    from hf_finetune.config import load_config
    from hf_finetune.data import load_data

    hub, repo = session.hub, "ann/pets"
    session.see("here", load_data(load_config(session.config).data).fingerprint)
    session.push("push", "--repo-id", repo, "--license", "mit", "--language", "en")
    pushed = hub.repositories[repo]
    session.see("private", pushed.private)
    session.see("files", sorted(hub.files(repo)))
    first = pushed.branches["main"]
    session.see("first", first)
    session.read("read", repo_id=repo)
    session.push("again", "--repo-id", repo, "--license", "mit", "--language", "en")
    session.see("commits", len(pushed.commits))
    by_hand = dict.fromkeys(("data/old-00000-of-00001.parquet", "data/train-mine.parquet"), b"own")
    names = (f"data/{name}-00001-of-00002.parquet" for name in ("test", "train", "validation"))
    earlier = dict.fromkeys(names, b"of an earlier push")
    pushed.commit("main", {**hub.files(repo), **by_hand, **earlier}, "by hand")
    hub.faults.append(Fault("POST", "/commit/main$", 503))
    session.push("smaller", "--repo-id", repo, "data.max_train_examples=9")
    session.see("files of smaller", sorted(hub.files(repo)))
    smaller = load_config(session.config, ["data.max_train_examples=9"])
    session.see("smaller here", load_data(smaller.data).fingerprint)
    session.push("branch", "--repo-id", repo, "--revision", "trial", "data.max_train_examples=6")
    session.see("card of branch", hub.files(repo, "trial")["README.md"].decode())
    session.read("read first", repo_id=repo, revision=first)
    session.read("read branch", repo_id=repo, revision="trial")
    session.read("read main", repo_id=repo)
    session.push("open", "--repo-id", "ann/open", "--no-private")
    session.see("open is private", hub.repositories["ann/open"].private)


def meet_a_card_of_ones_own(session: Session) -> None:
    """A repository whose card was rewritten by hand, and whose data change."""
    hub, repo = session.hub, "ann/own"
    session.push("first of own", "--repo-id", repo, "--license", "mit")
    files = hub.files(repo)
    written = files["README.md"].decode()
    head = written.split("---\n")[1].replace("license: mit", "license: cc0-1.0")
    raw = "configs:\n- config_name: raw\n  data_files: raw/*.png\n"
    card = f"---\n{head.replace('configs:' + chr(10), raw)}---\n\n# My pets\n\nBy hand.\n"
    hub.repositories[repo].commit("main", {**files, "README.md": card.encode()}, "by hand")
    session.push("own", "--repo-id", repo, "data.max_train_examples=9")
    session.see("own card", hub.files(repo)["README.md"].decode())
    session.read("read own", repo_id=repo)
    broken = b"---\nconfigs: none\n---\nBy hand.\n"
    hub.repositories[repo].commit("main", {**hub.files(repo), "README.md": broken}, "by hand")
    session.push("broken card", "--repo-id", repo)
    session.see("broken card stays", hub.files(repo)["README.md"] == broken)


def be_refused(session: Session) -> None:
    """What the Hub says no to."""
    hub = session.hub
    session.push("no token", "--repo-id", "ann/pets", token=None)
    session.push("reader", "--repo-id", "ann/pets", token=READ)
    session.push("stranger", "--repo-id", "ann/pets", token="hf_nobody_knows_it")
    session.push("foreign", "--repo-id", "bob/pets")
    hub.faults.append(Fault("POST", "/commit/main$", 500, times=100))
    session.push("broken", "--repo-id", "ann/pets", "data.max_train_examples=7", "--license", "mit")
    hub.faults.clear()
    session.read("unknown", repo_id="ann/nothing")
    session.read("unknown revision", repo_id="ann/pets", revision="v9")
    hub.gated.add("ann/closed")
    session.read("gated", repo_id="ann/closed")


def go_offline(session: Session) -> None:
    """What is left without a network, forbidden or down."""
    import datasets
    import huggingface_hub

    first = session.steps["first"]
    for name in ("offline", "down"):
        if name == "offline":
            huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
        else:
            huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = False
            session.hub.shutdown()
            session.hub.server_close()
        session.read(f"{name} main", repo_id="ann/pets")
        session.read(f"{name} first", repo_id="ann/pets", revision=first)
        session.read(f"{name} other", repo_id="ann/other")
        if name == "offline":
            session.push("push offline", "--repo-id", "ann/pets")


def main() -> None:
    """Runs the session."""
    folder = Path(sys.argv[1])
    with serve_data_sets() as hub:
        hub.users.update(TOKENS)
        for name in [name for name in os.environ if name.startswith("HF_")]:
            del os.environ[name]
        os.environ.update(
            HF_ENDPOINT=hub.address,
            HF_HOME=str(folder / "home"),
            HF_TOKEN=WRITE,
            HF_HUB_DISABLE_XET="1",  # large files go by plain HTTP; Xet needs its own server
            HF_FINETUNE_CACHE=str(folder / "cache"),
        )
        from hf_finetune.hub import access

        access.WAITS_SECONDS = (0.0, 0.0, 0.0)
        time.sleep = lambda seconds: None  # the clients' own waits between their tries
        session = Session(hub, folder)
        write_and_read(session)
        meet_a_card_of_ones_own(session)
        be_refused(session)
        session.see("card", hub.files("ann/pets", session.steps["first"])["README.md"].decode())
        sent = b"".join(hub.bodies).decode("latin-1")
        session.see("leaks", [token for token in TOKENS if token in sent + session.said])
        session.see("tells where", str(folder) in sent)
        go_offline(session)
    print(json.dumps(session.steps))


if __name__ == "__main__":
    main()
