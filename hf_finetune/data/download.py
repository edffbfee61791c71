"""Fetches published data sets: resumes, retries, and compares the checksum before a file counts.

What lies where stands in `sources`; archives go through `unpacking`. Uses Python's own urllib.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from hf_finetune.data.sources import SOURCES, RemoteFile, Source
from hf_finetune.data.unpacking import unpack
from hf_finetune.errors import DataError
from hf_finetune.registry import kind, kind_names, nearest, usual_name

_BLOCK_BYTES = 1 << 18
# More than any published file here: a server that never ends must not fill the disk.
_MAX_FILE_BYTES = 2_000_000_000
_RECEIPT = ".unpacked.json"


@dataclass(frozen=True)
class Patience:
    """How long to try.

    Attributes:
        attempts: Tries in a row without a single new byte before an address is given up.
        wait_seconds: Wait after the first such failure; doubled after each, up to 30.
        timeout_seconds: Silence after which a connection counts as dead.
    """

    attempts: int = 5
    wait_seconds: float = 1.0
    timeout_seconds: float = 30.0


def default_root(name: str) -> str:
    """The folder where a data set is looked for when nothing else is said."""
    if name not in kind_names("data"):
        return f"data/{name}"
    root: str = kind("data", name).Options().root
    return root


def download(
    name: str,
    to: str | None = None,
    mirror: str | None = None,
    patience: Patience | None = None,
) -> tuple[Path, list[str]]:
    """Brings a published data set into a folder; what is there already is only checked.

    Args:
        name: A key of `SOURCES`, in any usual spelling.
        to: The folder; by default the data set's own `root`.
        mirror: An http(s) address under which the same file names lie, instead of the published.
        patience: How long to try.

    Returns:
        The folder, and the names of the files that had to be fetched.

    Raises:
        DataError: The name is unknown, a file can't be had from any address or isn't the
            published one, a different file stands in its place, or the disk refuses.
    """
    name = usual_name(name, SOURCES)
    if name not in SOURCES:
        raise DataError(f"download: unknown data set {name!r}. {nearest(name, list(SOURCES))}")
    source = SOURCES[name]
    folder = Path(default_root(name) if to is None else to)
    addresses = source.addresses if mirror is None else (_check_mirror(mirror),)
    try:
        missing = [file for file in source.files if not _is_there(folder, file, source)]
        folder.mkdir(parents=True, exist_ok=True)
        for file in missing:
            try:
                _fetch(addresses, folder, file, patience or Patience())
            except _UnreachableError as fault:
                if mirror is not None or not _fetch_from_drive(source, folder, file):
                    raise DataError(_say_unreachable(name, folder, file, fault)) from fault
            if source.unpacked_bytes is not None:
                _unpack_beside(folder, file, source.unpacked_bytes)
    except OSError as fault:
        raise DataError(
            f"download: can't write to {str(folder)!r} ({fault.strerror or fault}). Free room "
            "there or name another folder with --to"
        ) from fault
    return folder, [file.name for file in missing]


class _UnreachableError(Exception):
    """A file can't be had from an address (or from any); says why."""


class _HttpsStaysHttps(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to anything less."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        allowed = ("https",) if req.type == "https" else ("http", "https")
        if urlsplit(newurl).scheme not in allowed:
            raise _UnreachableError(f"{req.full_url} leads away from {req.type}, to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_mirror(address: str) -> str:
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise DataError(
            f"--mirror: must be an http or https address, got {address!r}. Name the folder that "
            "holds the files, such as https://example.org/data/mnist/"
        )
    return address.rstrip("/") + "/"


def _is_there(folder: Path, file: RemoteFile, source: Source) -> bool:
    """Whether a file (of an archive: what it holds) is there whole; refuses a stranger there."""
    if source.unpacked_bytes is not None:
        return _is_unpacked(folder, file)
    path = folder / file.name
    if not path.exists():
        return False
    if _has_checksum(path, file):
        return True
    raise DataError(
        f"download: {path} is there, but is not the published file (its checksum differs). "
        "Nothing is overwritten: move it away, or name another folder with --to"
    )


def _has_checksum(path: Path, file: RemoteFile) -> bool:
    if not path.is_file():
        return False
    algorithm, wanted = file.checksum.split(":")
    with path.open("rb") as content:
        return hashlib.file_digest(content, algorithm).hexdigest() == wanted


def _fetch(addresses: Sequence[str], folder: Path, file: RemoteFile, patience: Patience) -> None:
    """Gets one file from the first address that gives the right bytes.

    Raises:
        _UnreachableError: No address does; says why of each.
    """
    if _has_checksum(folder / file.name, file):  # came with another, or was not unpacked to the end
        return
    faults = []
    for address in addresses:
        try:
            _fetch_from(address + file.name, folder, file, patience)
            return
        except _UnreachableError as fault:
            faults.append(str(fault))
    raise _UnreachableError("; ".join(faults))


def _fetch_from(url: str, folder: Path, file: RemoteFile, patience: Patience) -> None:
    """Gets one file from one address: on while bytes come, and once over if they are wrong."""
    part = folder / f"{file.name}.part"
    failures, wrong = 0, 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _transfer(url, part, file, patience.timeout_seconds)
        except _InterruptedError as fault:
            grown = part.exists() and part.stat().st_size > before
            failures = 0 if grown else failures + 1
            if failures >= patience.attempts:
                raise _UnreachableError(f"{url}: {fault} ({failures} times)") from fault
            time.sleep(min(patience.wait_seconds * 2 ** max(failures - 1, 0), 30.0))
            continue
        if _has_checksum(part, file):
            part.replace(folder / file.name)
            return
        part.unlink()
        wrong += 1
        # Once may be the fault of an old .part; from an empty one it is the server's.
        if wrong == 2 or before == 0:
            raise _UnreachableError(
                f"{url}: sends other bytes than the published file's (checksum)"
            )


class _InterruptedError(Exception):
    """A transfer that is worth another try."""


def _transfer(url: str, part: Path, file: RemoteFile, timeout_seconds: float) -> None:
    """One request: appends to the .part what is missing.

    Raises:
        _InterruptedError: It ended early, or the server asks to come back later.
        _UnreachableError: The server says that it won't.
        OSError: The .part can't be written.
    """
    offset = part.stat().st_size if part.exists() else 0
    if file.size_bytes is not None and offset == file.size_bytes:
        return
    headers = {"User-Agent": "hf-finetune", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    response = _open(url, headers, part, timeout_seconds)
    if response is None:
        return
    with response:
        resumed = response.status == 206
        said = response.headers.get("Content-Range", "")
        if resumed and not said.startswith(f"bytes {offset}-"):
            part.unlink(missing_ok=True)
            raise _InterruptedError(f"the server answered with another range ({said!r})")
        start = offset if resumed else 0
        length = response.headers.get("Content-Length", "")
        announced = start + int(length) if length.isdecimal() else None
        total = file.size_bytes or announced
        if announced not in (None, total):
            raise _UnreachableError(f"{url}: has {announced:,} bytes, the published file {total:,}")
        with part.open("ab" if resumed else "wb", buffering=0) as sink:
            received = _receive(response, sink, _Bar(file.name, start, total), total)
    if received + start < (total or 0):
        raise _InterruptedError(
            f"the connection ended after {received + start:,} of {total:,} bytes"
        )


def _open(url: str, headers: dict[str, str], part: Path, timeout_seconds: float) -> Any:
    """The response; None where the .part proves to be whole already."""
    opener = urllib.request.build_opener(_HttpsStaysHttps)
    try:
        return opener.open(urllib.request.Request(url, headers=headers), timeout=timeout_seconds)
    except urllib.error.HTTPError as fault:
        fault.close()
        if (
            fault.code == 416 and part.exists()
        ):  # the range begins at the end: whole, or longer than the file
            if fault.headers.get("Content-Range") == f"bytes */{part.stat().st_size}":
                return None
            part.unlink()
            raise _InterruptedError("the half-done file was longer than the server's") from fault
        if fault.code in (408, 429) or fault.code >= 500:
            raise _InterruptedError(_say_answer(fault)) from fault
        raise _UnreachableError(f"{url}: {_say_answer(fault)}") from fault
    except (OSError, http.client.HTTPException) as fault:
        raise _InterruptedError(str(fault) or type(fault).__name__) from fault


def _say_answer(fault: urllib.error.HTTPError) -> str:
    """What the server said, in one line: a circle of redirects is told in several."""
    return f"the server answered {fault.code} {' '.join(str(fault.reason).split())}"


class _Bar:
    """A progress bar on a terminal, nothing elsewhere."""

    def __init__(self, name: str, start: int, total: int | None) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            desc=name, initial=start, total=total, unit="B", unit_scale=True, disable=None
        )
        self.received = start

    def move(self, count: int) -> None:
        self.received += count
        self._bar.update(count)

    def close(self) -> None:
        self._bar.close()


def _receive(response: Any, sink: IO[bytes], bar: _Bar, total: int | None) -> int:
    """Writes what comes until it ends; returns the bytes written in this transfer."""
    limit, written = (total or _MAX_FILE_BYTES) - bar.received, 0
    try:
        while True:
            try:
                block = response.read1(_BLOCK_BYTES)
            except (OSError, http.client.HTTPException) as fault:
                raise _InterruptedError(str(fault) or type(fault).__name__) from fault
            if not block:
                return written
            sink.write(block)
            written += len(block)
            bar.move(len(block))
            if written > limit:  # too long is wrong; the checksum will say so
                return written
    finally:
        bar.close()


def _fetch_from_drive(source: Source, folder: Path, file: RemoteFile) -> bool:
    """Gets one file out of a shared Google Drive folder, where the package gdown is installed."""
    fetch_folder = _find_gdown()
    if source.google_drive is None or fetch_folder is None:
        return False
    with tempfile.TemporaryDirectory(dir=folder, prefix=".drive-") as scratch:
        try:
            fetch_folder(id=source.google_drive, output=scratch, quiet=True)
        except Exception as fault:  # its own kinds, and those of the packages below it
            raise DataError(f"download: Google Drive refuses {file.name}: {fault}") from fault
        for candidate in source.files:
            for path in Path(scratch).rglob(candidate.name):
                if _has_checksum(path, candidate) and not (folder / candidate.name).exists():
                    path.replace(folder / candidate.name)
    return (folder / file.name).exists()


def _find_gdown() -> Callable[..., Any] | None:
    import importlib

    try:
        fetch: Callable[..., Any] = importlib.import_module("gdown").download_folder
    except ImportError:
        return None
    return fetch


def _unpack_beside(folder: Path, file: RemoteFile, max_bytes: int) -> None:
    """Unpacks an archive into its folder, notes each file's checksum, and drops the archive."""
    archive = folder / file.name
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as scratch:
        digests = unpack(archive, Path(scratch), max_bytes)
        for name in digests:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(scratch) / name).replace(folder / name)
    receipt = {"archive": file.checksum, "sha256": digests}
    (folder / (file.name + _RECEIPT)).write_text(json.dumps(receipt, indent=0), encoding="utf-8")
    archive.unlink()


def _is_unpacked(folder: Path, file: RemoteFile) -> bool:
    try:
        receipt = json.loads((folder / (file.name + _RECEIPT)).read_text(encoding="utf-8"))
        if receipt["archive"] != file.checksum:
            return False
        files = [RemoteFile(name, f"sha256:{digest}") for name, digest in receipt["sha256"].items()]
        return all(_has_checksum(folder / member.name, member) for member in files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _say_unreachable(name: str, folder: Path, file: RemoteFile, fault: Exception) -> str:
    text = f"download {name}: can't get {file.name}: {fault}."
    if (folder / f"{file.name}.part").exists():
        text += " What came so far is kept: the same command goes on from there."
    if SOURCES[name].google_drive is not None and _find_gdown() is None:
        text += " With the package gdown installed, Google Drive is tried as well."
    return text + " A copy elsewhere can be named with --mirror"
