"""Data sets that are published: as a folder, and to a loopback Hub, and read back from there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import yaml
from pictures import draw, save, write_classes
from PIL import Image

from hf_finetune.cli import main
from hf_finetune.config import config_from
from hf_finetune.data import LoadedData, load_data, parquet_files
from hf_finetune.data.hub import Options
from hf_finetune.data.image_files import read_images
from hf_finetune.data.parquet_files import write_split
from hf_finetune.data.tables import RowReader, build_image_dataset, column_values
from hf_finetune.data_publishing import Publication, publish_data
from hf_finetune.errors import DataError, UserError
from hf_finetune.features.audio_decoding import read_audio


@pytest.fixture(autouse=True)
def _own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def publish(data: dict[str, Any], folder: Path) -> tuple[LoadedData, LoadedData]:
    """A data set before it is written to a folder, and as it is read back as the card says."""
    config = config_from({"data": data, "model": {"name": "cnn"}})
    publish_data(config, Publication(folder=folder))
    return load_data(config.data), load_data(Options(**read_section(folder)))


def read_section(folder: Path) -> dict[str, Any]:
    card = (folder / "README.md").read_text()
    section = yaml.safe_load(re.search(r"```yaml\n(.*?)```", card, re.DOTALL)[1])["data"]
    return {**section, "repo_id": str(folder)}


def contents(split: datasets.Dataset) -> list[np.ndarray]:
    """Every image or clip, decoded."""
    name = "audio" if "audio" in split.column_names else "image"
    cells = RowReader(split, [name]).read(np.arange(len(split)))[name]
    if name == "audio":
        return [read_audio(cell) for cell in cells]
    return read_images(cells, 1) if isinstance(cells, list) else list(cells)


def assert_same(before: LoadedData, after: LoadedData) -> None:
    assert after.label_names == before.label_names
    assert after.group_columns == before.group_columns
    assert after.image_shape == before.image_shape
    assert after.audio_shape == before.audio_shape
    for name, split in before.splits.items():
        for column in ("id", "label", *before.group_columns):
            assert column_values(after.splits[name], column) == column_values(split, column)
        pairs = zip(contents(split), contents(after.splits[name]), strict=True)
        assert all(one.dtype == other.dtype and np.array_equal(one, other) for one, other in pairs)


# Folders


def test_arrays_come_back(digits_root: Path, tmp_path: Path):
    before, after = publish({"name": "corrupt_mnist", "root": str(digits_root)}, tmp_path / "out")
    assert_same(before, after)
    assert after.group_columns == ("file",)
    assert after.warnings == ()


def test_floats_come_back(digits_root: Path, tmp_path: Path):
    for path in digits_root.glob("*images*.pt"):
        torch.save(torch.rand(len(torch.load(path)), 28, 28), path)
    before, after = publish({"name": "corrupt_mnist", "root": str(digits_root)}, tmp_path / "out")
    assert contents(after.splits["test"])[0].dtype == np.float32
    assert_same(before, after)


def test_files_come_back_byte_by_byte(tmp_path: Path):
    root = write_classes(tmp_path / "pets", per_class=6)
    for number in range(6):  # two of each person
        for kind in ("cat", "dog", "owl"):
            (root / kind / f"{number}.png").rename(root / kind / f"p{number // 2}_{number}.png")
    clear = np.dstack([draw(0, 70), np.full((12, 12), 90, np.uint8)])
    save(root / "cat/p1_see-through.png", clear)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.fromarray(draw(1, 71, 10, 14)).save(root / "dog/p2_turned.jpg", exif=exif)
    section = {
        "name": "image_folder",
        "root": str(root),
        "group_pattern": "{person}_*",
        "background": "black",
    }
    for color in ("auto", "grey"):
        before, after = publish({**section, "color": color}, tmp_path / color)
        assert_same(before, after)
        assert after.fingerprint == before.fingerprint
    table = pq.read_table(next((tmp_path / "auto/data").glob("train-*"))).to_pylist()
    for row in table:
        assert row["image"]["bytes"] == (root / row["id"]).read_bytes()
        assert row["image"]["path"] == Path(row["id"]).name


def test_sounds_come_back(tmp_path: Path):
    random = np.random.default_rng(0)
    for kind in ("low", "high"):
        (tmp_path / "clips" / kind).mkdir(parents=True)
        for number in range(8):
            path = tmp_path / f"clips/{kind}/{number}.{('wav', 'flac')[number % 2]}"
            soundfile.write(path, random.normal(0, 0.1, (500 + 9 * number, 1 + number % 2)), 8000)
    section = {"name": "audio_folder", "root": str(tmp_path / "clips")}
    before, after = publish(section, tmp_path / "out")
    assert_same(before, after)
    assert after.fingerprint == before.fingerprint


def test_nothing_tells_where_the_data_lay(tmp_path: Path):
    root = write_classes(tmp_path / "secret place", per_class=8)
    publish({"name": "image_folder", "root": str(root)}, tmp_path / "elsewhere/out")
    for path in (tmp_path / "elsewhere").rglob("*"):
        if path.is_file():
            content = pq.read_table(path) if path.suffix == ".parquet" else path.read_text()
            rows = str(content if isinstance(content, str) else content.to_pylist())
            assert str(tmp_path) not in rows
            assert "secret" not in rows


def test_the_same_data_makes_the_same_files_of_limited_size(
    digits_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(parquet_files, "_ARRAY_ROWS", 15)
    monkeypatch.setattr(parquet_files, "_FILE_BYTES", 4000)
    section = {"name": "corrupt_mnist", "root": str(digits_root)}
    before, after = publish(section, tmp_path / "one")
    assert_same(before, after)
    names = sorted(path.name for path in (tmp_path / "one/data").iterdir())
    files = [name for name in names if name.startswith("train")]
    assert len(files) > 2
    assert files[0] == f"train-00000-of-{len(files):05d}.parquet"
    publish(section, tmp_path / "two")
    for name in names:
        assert (tmp_path / "one/data" / name).read_bytes() == (
            tmp_path / "two/data" / name
        ).read_bytes()


@pytest.mark.parametrize(
    ("split", "expected"),
    [({}, {}), ({"group_by": "none"}, {"split": {"group_by": "none"}})],
)
def test_the_card_says_how_groups_were_held(
    split: dict[str, Any], expected: dict[str, Any], digits_root: Path, tmp_path: Path
):
    section = {"name": "corrupt_mnist", "root": str(digits_root), "split": split}
    before, after = publish(section, tmp_path / "out")
    assert_same(before, after)
    said = {"name": "hub", "repo_id": str(tmp_path / "out"), "group_columns": ["file"]}
    assert read_section(tmp_path / "out") == {**said, **expected}
    card = (tmp_path / "out/README.md").read_text()
    assert ("no value lies in two splits" in card) == (split == {})


def test_colours_in_floats_have_no_file_format(tmp_path: Path):
    split = build_image_dataset(
        [np.zeros((2, 4, 4, 3), np.float32)], [np.arange(2)], ("a", "b"), {"id": [["x/0", "x/1"]]}
    )
    with pytest.raises(DataError, match=r"x/0: it is of floats in colour.*uint8"):
        write_split(split, "train", tmp_path)


def test_a_file_that_has_gone_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = write_classes(tmp_path / "pets", per_class=8)
    config = config_from(
        {"data": {"name": "image_folder", "root": str(root)}, "model": {"name": "cnn"}}
    )
    data = load_data(config.data)
    gone = column_values(data.splits["test"], "id")[0]
    (root / gone).unlink()
    monkeypatch.setattr("hf_finetune.data_publishing.load_data", lambda _: data)
    with pytest.raises(DataError, match=f"{gone}: it can't be read any more"):
        publish_data(config, Publication(folder=tmp_path / "out/set"))
    assert list((tmp_path / "out").iterdir()) == []


def test_the_verb_says_what_it_did(
    digits_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = tmp_path / "x.yaml"
    config.write_text(yaml.safe_dump({"data": {"name": "corrupt_mnist"}, "model": {"name": "cnn"}}))
    words = ["push-data", str(config), "--to", str(tmp_path / "out")]
    assert main([*words, f"data.root={digits_root}", "data.max_train_examples=20"]) == 0
    said = capsys.readouterr().out
    assert "examples: train 20, validation 50, test 40" in said
    assert "left out: 80 rows that are in no split" in said
    assert "its card names no license" in said
    section = yaml.safe_load(said.splitlines()[-1].removeprefix("read it with: "))["data"]
    assert load_data(Options(**section)).group_columns == ("file",)
    assert main([*words, f"data.root={digits_root}"]) == 2
    assert "is there already, and nothing is overwritten" in capsys.readouterr().err


def test_the_configuration_may_stand_alone_or_after_its_flag(
    digits_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = tmp_path / "x.yaml"
    config.write_text(yaml.safe_dump({"data": {"name": "corrupt_mnist"}, "model": {"name": "cnn"}}))
    root = f"data.root={digits_root}"
    for number, words in enumerate(
        (["--config", str(config), root], [root, "--config", str(config)], [str(config), root])
    ):
        settings = [*words, "data.max_train_examples=20"]
        assert main(["push-data", *settings, "--to", str(tmp_path / str(number))]) == 0
        assert "train 20, validation 50" in capsys.readouterr().out
    assert main(["push-data", str(config), "--config", "y.yaml", "--to", "z"]) == 2
    assert "there are two configurations" in capsys.readouterr().err
    assert main(["push-data", root, "--to", "z"]) == 2
    assert "hf-finetune push-data CONFIG --repo-id OWNER/NAME" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("publication", "message"),
    [
        (Publication(), r"nowhere to publish to\. Name a repository of the Hub with --repo-id"),
        (Publication(repo_id="digits"), r"--repo-id: must be owner/name .*, got 'digits'"),
        (Publication(folder=Path("x"), private=True), r"--private: it is for a repository"),
        (Publication(folder=Path("x"), private=False), r"--no-private: it is for a repository"),
        (Publication(folder=Path("x"), revision="v"), r"--revision: it is for a repository"),
        (Publication(repo_id="a/b"), r"HF_HUB_OFFLINE forbids the network.*type again: hf-fine"),
    ],
)
def test_what_can_not_be_meant_is_said_before_the_data_is_read(
    publication: Publication, message: str
):
    tree = {"data": {"name": "image_folder", "root": "nowhere"}, "model": {"name": "cnn"}}
    with pytest.raises(UserError, match=message):
        publish_data(config_from(tree), publication)


# The Hub


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What happened between the real clients and a loopback Hub."""
    folder = tmp_path_factory.mktemp("session")
    root = write_classes(folder / "pets", per_class=8)
    tree = {"data": {"name": "image_folder", "root": str(root)}, "model": {"name": "cnn"}}
    (folder / "pets.yaml").write_text(yaml.safe_dump(tree))
    # The Hub's client uploads large files in a way that its HTTP library warns of.
    strict = ["-W", "error", "-W", "ignore:Use 'content=:DeprecationWarning"]
    script = Path(__file__).with_name("hub_session.py")
    done = subprocess.run(
        [sys.executable, *strict, str(script), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    steps: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return steps


def test_what_is_pushed_is_read_back(session: dict[str, Any]):
    code, said = session["push"]
    assert code == 0
    assert f"ann/pets: pushed, commit {session['first'][:7]} of http" in said
    assert "read it with: data: {name: hub, repo_id: ann/pets, color: rgb}" in said
    assert session["private"] is True  # unless asked otherwise
    assert (session["open"][0], session["open is private"]) == (0, False)
    parquet = [f"data/{name}-00000-of-00001.parquet" for name in ("test", "train", "validation")]
    assert session["files"] == [".gitattributes", "README.md", *parquet]
    assert session["read"][0] == session["here"]
    head = yaml.safe_load(session["card"].split("---")[1])
    assert (head["license"], head["language"]) == ("mit", ["en"])
    assert head["task_categories"] == ["image-classification"]
    assert head["size_categories"] == ["n<1K"]
    assert [one["split"] for one in head["configs"][0]["data_files"]] == [
        "train",
        "validation",
        "test",
    ]


def test_pushing_again_changes_what_has_changed(session: dict[str, Any]):
    assert session["again"][0] == 0
    assert session["commits"] == 2  # the Hub's own first one, and one push
    assert session["smaller"][0] == 0  # though the Hub said 503 once


def test_a_push_replaces_what_a_push_wrote_and_nothing_else(session: dict[str, Any]):
    said = session["smaller"][1].splitlines()
    earlier = [f"data/{name}-00001-of-00002.parquet" for name in ("test", "train", "validation")]
    assert f"taken out there, of an earlier push: {', '.join(earlier)}" in said
    by_hand = ["data/old-00000-of-00001.parquet", "data/train-mine.parquet"]
    assert f"left there, and no part of the data set: {', '.join(by_hand)}" in said
    assert session["files of smaller"] == sorted([*session["files"], *by_hand])
    assert session["read main"][0] == session["smaller here"] != session["here"]
    assert "there, " not in session["again"][1]


def test_a_card_of_ones_own_is_kept(session: dict[str, Any]):
    code, said = session["own"]
    assert code == 0
    assert "a text of your own, and was left as it is but for what its head says" in said
    assert "names no license" not in said
    _, head, body = session["own card"].split("---\n")
    assert body == "\n# My pets\n\nBy hand.\n"
    data = yaml.safe_load(head)
    assert data["license"] == "cc0-1.0"
    assert [one["config_name"] for one in data["configs"]] == ["default", "raw"]
    # Else nobody could read it: the datasets library compares the numbers.
    assert data["dataset_info"]["splits"][0]["num_examples"] == 9
    assert re.fullmatch("[0-9a-f]{16}", session["read own"][0])
    assert "a text of your own" not in session["again"][1]
    code, said = session["broken card"]
    assert (code, session["broken card stays"]) == (2, True)
    assert "has a card of your own whose head can't be read" in said


def test_revisions_are_told_apart(session: dict[str, Any]):
    assert session["read first"][0] == session["here"]
    assert 'load_dataset("ann/pets", revision="trial")' in session["card of branch"]
    assert 'load_dataset("ann/pets")' in session["card"]
    found = {session[name][0] for name in ("read first", "read branch", "read main")}
    assert len(found) == 3
    assert all(re.fullmatch("[0-9a-f]{16}", fingerprint) for fingerprint in found)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("no token", "needs a token of the Hub, and there is none here"),
        ("reader", "the token of ann may only read"),
        ("stranger", "the Hub doesn't accept the token"),
        ("foreign", "can't be written to by ann"),
        ("broken", "the Hub answers with status 500. Try again later;"),
        ("push offline", "HF_HUB_OFFLINE forbids the network"),
    ],
)
def test_a_push_that_fails_is_one_line_with_the_command(
    step: str, message: str, session: dict[str, Any]
):
    code, said = session[step]
    assert code == 2
    assert message in said
    repo = "bob/pets" if step == "foreign" else "ann/pets"
    settings = "data.max_train_examples=7 " if step == "broken" else ""
    flags = f"--repo-id {repo}" + (" --license mit" if step == "broken" else "")
    assert re.search(rf"type again: hf-finetune push-data --config \S+ {settings}{flags}$", said)
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("unknown", "data.repo_id: 'ann/nothing' is no data set of the Hub, or is private"),
        ("unknown revision", "data.revision: 'ann/pets' has no revision 'v9'"),
        ("gated", "data.repo_id: 'ann/closed' is gated: its owners give access on request"),
        ("offline other", "'ann/other' is not on this machine, and HF_HUB_OFFLINE forbids"),
        ("down other", "'ann/other' is not on this machine, and the Hub can't be reached"),
        ("offline first", "of 'ann/pets' this machine has another revision than"),
    ],
)
def test_what_can_not_be_read_says_why(step: str, message: str, session: dict[str, Any]):
    assert message in session[step][0]


def test_without_a_network_the_copy_on_this_machine_is_read(session: dict[str, Any]):
    assert session["offline main"] == [session["read main"][0], 0]
    assert session["down main"][0] == session["read main"][0]


def test_no_token_and_no_place_is_ever_told(session: dict[str, Any]):
    assert session["leaks"] == []
    assert session["tells where"] is False
