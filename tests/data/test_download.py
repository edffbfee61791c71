"""Downloads against a loopback server with the faults of real ones; archives against attacks."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import stat
import subprocess
import sys
import tarfile
import time
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from servers.files import FileServer, serve_files

from hf_finetune.cli import main
from hf_finetune.data import download as module
from hf_finetune.data.download import Patience, default_root, download
from hf_finetune.data.sources import SOURCES, RemoteFile, Source
from hf_finetune.data.unpacking import unpack
from hf_finetune.errors import DataError
from hf_finetune.registry import kind_names

BODY = np.random.default_rng(0).bytes(300_000)
HASTE = Patience(attempts=3, wait_seconds=0.01, timeout_seconds=0.5)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve_files() as running:
        running.content = {"/a/one.bin": BODY, "/a/two.bin": BODY[::-1]}
        yield running


@pytest.fixture(params=[True, False], ids=["size known", "size unknown"])
def toy(request: pytest.FixtureRequest, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """A data set of two files on the server."""
    files = tuple(
        RemoteFile(
            Path(path).name,
            f"sha256:{hashlib.sha256(content).hexdigest()}",
            len(content) if request.param else None,
        )
        for path, content in server.content.items()
    )
    monkeypatch.setitem(SOURCES, "toy_set", Source((f"{server.address}/a/",), files))
    return "toy_set"


def assert_whole(folder: Path) -> None:
    assert (folder / "one.bin").read_bytes() == BODY
    assert (folder / "two.bin").read_bytes() == BODY[::-1]
    assert sorted(path.name for path in folder.iterdir()) == ["one.bin", "two.bin"]


def test_files_come_once(server: FileServer, toy: str, tmp_path: Path):
    assert download("Toy-Set", str(tmp_path), patience=HASTE) == (tmp_path, ["one.bin", "two.bin"])
    assert_whole(tmp_path)
    assert len(server.requests) == 2
    assert download(toy, str(tmp_path), patience=HASTE) == (tmp_path, [])
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "faults",
    [
        ["cut"],
        ["cut"] * 6,
        ["cut", "no_range"],
        ["cut", "no_range_cut", "cut"],
        ["503", "503"],
        ["cut", "503", "cut"],
        ["cut", "shifted"],
        ["cut", "wrong"],
        ["stall"],
        [">/b/one.bin"],
    ],
    ids=" ".join,
)
def test_faults_are_survived(faults: list[str], server: FileServer, toy: str, tmp_path: Path):
    server.content["/b/one.bin"] = BODY
    server.faults["/a/one.bin"] = list(faults)
    download(toy, str(tmp_path), patience=HASTE)
    assert_whole(tmp_path)
    assert not server.faults["/a/one.bin"]


def test_a_half_done_file_is_resumed_not_repeated(server: FileServer, toy: str, tmp_path: Path):
    (tmp_path / "one.bin.part").write_bytes(BODY[:200_000])
    (tmp_path / "two.bin.part").write_bytes(BODY[::-1])
    download(toy, str(tmp_path), patience=HASTE)
    assert_whole(tmp_path)
    assert server.requests[0] == ("/a/one.bin", "bytes=200000-")


@pytest.mark.parametrize("part", [BODY[::-1][:1000], BODY + b"more"], ids=["other", "longer"])
def test_a_bad_half_done_file_does_no_harm(
    part: bytes, server: FileServer, toy: str, tmp_path: Path
):
    (tmp_path / "one.bin.part").write_bytes(part)
    download(toy, str(tmp_path), patience=HASTE)
    assert_whole(tmp_path)


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        (["wrong"] * 9, "other bytes"),
        (["shorter"] * 9, "other bytes|has 299,990 bytes"),
        (["503"] * 9, r"answered 503 .*\(3 times\)"),
        (["404"], "answered 404"),
        ([">/a/one.bin"] * 20, "answered 302 .* infinite loop"),
        (["no_range_cut"] * 9, "ended after 150,000 of 300,000 bytes"),
        ([">file:///etc/passwd"], "leads away from http|not allowed|answered 302"),
        (["stall"] * 9, "timed out"),
    ],
)
def test_a_hopeless_server_is_given_up(
    faults: list[str], expected: str, server: FileServer, toy: str, tmp_path: Path
):
    server.faults["/a/one.bin"] = list(faults)
    with pytest.raises(DataError, match=expected) as caught:
        download(toy, str(tmp_path), patience=HASTE)
    assert "one.bin" in str(caught.value)
    assert "--mirror" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "one.bin").exists()
    assert ("is kept" in str(caught.value)) == (tmp_path / "one.bin.part").exists()


def test_a_dead_server_and_a_second_address(
    server: FileServer, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with serve_files() as dead:
        address = dead.address
    with pytest.raises(DataError, match="refused"):
        download(toy, str(tmp_path), address, HASTE)
    source = SOURCES[toy]
    both = Source((f"{address}/", f"{server.address}/lost/", *source.addresses), source.files)
    monkeypatch.setitem(SOURCES, toy, both)
    download(toy, str(tmp_path), patience=HASTE)
    assert_whole(tmp_path)


def test_a_mirror_takes_the_place_of_the_address(server: FileServer, toy: str, tmp_path: Path):
    server.content = {path.replace("/a/", "/m/x/"): body for path, body in server.content.items()}
    download(toy, str(tmp_path), f"{server.address}/m/x", HASTE)
    assert_whole(tmp_path)
    for address in ("ftp://x/", "file:///etc/", "x.org/mnist", "http://", "http://["):
        with pytest.raises(DataError, match="--mirror: must be an http"):
            download(toy, str(tmp_path), address)


def test_https_does_not_lead_to_http():
    import urllib.request

    handler = module._HttpsStaysHttps()
    request = urllib.request.Request("https://a.org/x")
    with pytest.raises(module._UnreachableError, match="leads away from https"):
        handler.redirect_request(request, None, 302, "", {}, "http://a.org/x")
    assert handler.redirect_request(request, None, 302, "", {}, "https://b.org/x") is not None


def test_a_strange_file_is_not_overwritten(server: FileServer, toy: str, tmp_path: Path):
    (tmp_path / "two.bin").write_bytes(b"my own")
    with pytest.raises(DataError, match=r"two.bin is there, but is not the published file"):
        download(toy, str(tmp_path), patience=HASTE)
    assert (tmp_path / "two.bin").read_bytes() == b"my own"
    assert not server.requests


def test_a_folder_that_can_not_be_is_said(toy: str, tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="can't write to"):
        download(toy, str(tmp_path / "file" / "below"), patience=HASTE)


def test_google_drive_is_the_last_resort(
    server: FileServer, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bodies = dict(server.content)
    server.content = {}
    source = SOURCES[toy]
    on_drive = Source(source.addresses, source.files, google_drive="folder-1")
    monkeypatch.setitem(SOURCES, toy, on_drive)
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(DataError, match="With the package gdown installed"):
        download(toy, str(tmp_path), patience=HASTE)

    def download_folder(**words: str) -> None:
        assert words["id"] == "folder-1"
        for path, body in bodies.items():
            (Path(words["output"]) / Path(path).name).write_bytes(body)

    stand_in = types.ModuleType("gdown")
    stand_in.download_folder = download_folder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "gdown", stand_in)
    download(toy, str(tmp_path), patience=HASTE)
    assert_whole(tmp_path)


# Archives


def pack_tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def tar_member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def test_a_data_set_in_an_archive(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    archive = pack_tar(
        tmp_path / "x.tgz",
        (tar_member("set", tarfile.DIRTYPE), b""),
        (tar_member("set/a.bin"), b"a" * 1000),
        (tar_member("set/deep/b.bin"), b"b"),
    )
    body = archive.read_bytes()
    server.content["/x.tgz"] = body
    file = RemoteFile("x.tgz", f"md5:{hashlib.md5(body).hexdigest()}")
    source = Source((f"{server.address}/",), (file,), unpacked_bytes=2000)
    monkeypatch.setitem(SOURCES, "packed", source)
    folder = tmp_path / "to"
    assert download("packed", str(folder), patience=HASTE)[1] == ["x.tgz"]
    assert (folder / "set" / "deep" / "b.bin").read_bytes() == b"b"
    assert sorted(p.name for p in folder.iterdir()) == ["set", "x.tgz.unpacked.json"]
    assert download("packed", str(folder), patience=HASTE)[1] == []
    (folder / "set" / "a.bin").write_bytes(b"spoilt")
    assert download("packed", str(folder), patience=HASTE)[1] == ["x.tgz"]
    assert (folder / "set" / "a.bin").read_bytes() == b"a" * 1000
    assert len(server.requests) == 2


ATTACKS = {
    "parent": ([(tar_member("../evil"), b"x")], "outside the folder"),
    "inner parent": ([(tar_member("a/../../evil"), b"x")], "outside the folder"),
    "absolute": ([(tar_member("/tmp/evil"), b"x")], "outside the folder"),
    "windows": ([(tar_member("..\\evil"), b"x")], "outside the folder"),
    "drive": ([(tar_member("C:evil"), b"x")], "outside the folder"),
    "symlink": ([(tar_member("l", tarfile.SYMTYPE, "/etc"), b"")], "link, a device"),
    "inner symlink": (
        [(tar_member("f"), b"x"), (tar_member("l", tarfile.SYMTYPE, "f"), b"")],
        "link, a device",
    ),
    "hard link": ([(tar_member("l", tarfile.LNKTYPE, "f"), b"")], "link, a device"),
    "device": ([(tar_member("d", tarfile.CHRTYPE), b"")], "link, a device"),
    "pipe": ([(tar_member("p", tarfile.FIFOTYPE), b"")], "link, a device"),
    "twice": ([(tar_member("f"), b"x"), (tar_member("f"), b"y")], "twice"),
    "file and folder": ([(tar_member("f"), b"x"), (tar_member("f/g"), b"y")], "can't be unpacked"),
    "bomb": ([(tar_member("f"), bytes(2001))], "more than 2,000 bytes"),
    "bombs": ([(tar_member(str(i)), bytes(700)) for i in range(3)], "more than 2,000 bytes"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_tar_is_refused(attack: str, tmp_path: Path):
    members, expected = ATTACKS[attack]
    archive = pack_tar(tmp_path / "x.tgz", *members)
    with pytest.raises(DataError, match=expected):
        unpack(archive, tmp_path / "to" / "inside", 2000)
    outside = [path for path in tmp_path.rglob("*") if "inside" not in path.parts]
    assert {path.name for path in outside} <= {"x.tgz", "to"}
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


def pack_zip(path: Path, name: str, content: bytes, mode: int = stat.S_IFREG) -> Path:
    member = zipfile.ZipInfo(name)
    member.external_attr = (mode | 0o644) << 16
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(member, content)
    return path


def test_zips_are_unpacked_as_carefully(tmp_path: Path):
    good = pack_zip(tmp_path / "good.zip", "a/b.txt", b"hello")
    digest = hashlib.sha256(b"hello").hexdigest()
    assert unpack(good, tmp_path / "good", 5) == {"a/b.txt": digest}
    assert (tmp_path / "good" / "a" / "b.txt").read_bytes() == b"hello"
    cases: list[tuple[str, bytes, int, str]] = [
        ("../evil", b"x", stat.S_IFREG, "outside the folder"),
        ("link", b"/etc/passwd", stat.S_IFLNK, "link, a device"),
        ("bomb", bytes(2001), stat.S_IFREG, "more than 2,000 bytes"),
    ]
    for number, (name, content, mode, expected) in enumerate(cases):
        archive = pack_zip(tmp_path / f"{number}.zip", name, content, mode)
        with pytest.raises(DataError, match=expected):
            unpack(archive, tmp_path / "bad" / str(number), 2000)
    assert not (tmp_path / "bad" / "evil").exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda body: body[: len(body) // 2],
        lambda body: b"no archive",
        lambda body: b"",
        lambda body: body[:100] + bytes(50) + body[150:],
    ],
)
def test_a_broken_archive_is_said(spoil: Callable[[bytes], bytes], tmp_path: Path):
    archive = pack_tar(tmp_path / "x.tgz", (tar_member("f"), BODY))
    archive.write_bytes(spoil(archive.read_bytes()))
    with pytest.raises(DataError, match=r"x.tgz: can't be unpacked"):
        unpack(archive, tmp_path / "to", 10**6)


# The command and the table


def test_the_command(
    server: FileServer, toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = ["download", toy, "--to", str(tmp_path), "--mirror", f"{server.address}/a/"]
    assert main(words) == 0
    assert "fetched one.bin, two.bin" in capsys.readouterr().out
    assert main(words) == 0
    assert "checksums verified (nothing to fetch)" in capsys.readouterr().out
    assert main(["download", "fashion-minst"]) == 2
    assert "Did you mean 'fashion_mnist'?" in capsys.readouterr().err


def test_ctrl_c_leaves_what_came(server: FileServer, tmp_path: Path):
    name = SOURCES["corrupt_mnist"].files[0].name
    size = SOURCES["corrupt_mnist"].files[0].size_bytes
    assert size is not None
    server.content[f"/{name}"] = bytes(size)
    # Half of the file, then silence.
    server.faults[f"/{name}"] = ["cut", "stall"]
    words = ["download", "corrupt_mnist", "--to", str(tmp_path), "--mirror", server.address]
    process = subprocess.Popen(
        [sys.executable, "-m", "hf_finetune.cli", *words],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 20
    while len(server.requests) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors
    assert errors.strip() == "stopped; the same command goes on from there"
    assert (tmp_path / f"{name}.part").stat().st_size == size // 2


def test_the_table_is_well_formed():
    assert set(SOURCES) >= {"corrupt_mnist", "mnist", "fashion_mnist", "cifar10"}
    lengths = {"md5": 32, "sha256": 64}
    for name, source in SOURCES.items():
        assert all(a.startswith("http") and a.endswith("/") for a in source.addresses), name
        assert len({file.name for file in source.files}) == len(source.files)
        for file in source.files:
            algorithm, digest = file.checksum.split(":")
            assert len(digest) == lengths[algorithm]
            int(digest, 16)
    assert len(SOURCES["corrupt_mnist"].files) == 14
    assert default_root("corrupt_mnist") == "data/corruptmnist"


@pytest.mark.parametrize("name", ["corrupt_mnist", "mnist", "fashion_mnist", "cifar10"])
def test_missing_data_names_the_command(name: str, tmp_path: Path):
    from hf_finetune.registry import kind

    assert name in kind_names("data")
    room = kind("data", name)
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=f"hf-finetune download {name}"):
            room.load(room.Options(root=str(root)))


@pytest.mark.parametrize(
    ("name", "folder"), [("corrupt_mnist", "corruptmnist"), ("mnist", "mnist")]
)
def test_real_files_have_the_checksums(name: str, folder: str, shared_data: Path):
    assert download(name, str(shared_data / folder)) == (shared_data / folder, [])
