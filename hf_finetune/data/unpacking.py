"""Unpacks archives from elsewhere: plain files only, inside one folder only, up to a size.

Used by `download`, which has compared the archive's checksum before.
"""

from __future__ import annotations

import hashlib
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import IO

from hf_finetune.errors import DataError

MAX_MEMBERS = 100_000
_BLOCK_BYTES = 1 << 20
_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,  # zipfile's word for a member that needs a password
    NotImplementedError,  # and for a compression that it doesn't know
)
_Member = tuple[str, int, Callable[[], AbstractContextManager[IO[bytes]]]]


def unpack(archive: Path, folder: Path, max_bytes: int) -> dict[str, str]:
    """Unpacks a tar (compressed or not) or zip archive.

    Args:
        archive: The archive.
        folder: Where to; it should be empty, since what was unpacked before a fault is left there.
        max_bytes: The most that all members may hold together.

    Returns:
        The sha256 of each file, by its path in the folder (with `/`).

    Raises:
        DataError: The archive is unreadable, holds anything but plain files and folders, names a
            place outside the folder, names a file twice, or holds too much.
    """
    digests: dict[str, str] = {}
    room = max_bytes
    try:
        for name, size, open_member in _members(archive, folder):
            if name in digests:
                raise DataError(f"{archive}: holds {name!r} twice. Nothing of it was used.")
            if size > room or len(digests) >= MAX_MEMBERS:
                raise _too_much(archive, max_bytes)
            target = folder.joinpath(*PurePosixPath(name).parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with open_member() as source, target.open("xb") as sink:
                written, digests[name] = _copy(source, sink, room)
            if written > room:  # more than the archive said
                raise _too_much(archive, max_bytes)
            room -= written
    except _BROKEN as fault:
        raise DataError(
            f"{archive}: can't be unpacked into {str(folder)!r} ({fault or type(fault).__name__})."
        ) from fault
    return digests


def _members(archive: Path, folder: Path) -> Iterator[_Member]:
    if zipfile.is_zipfile(archive):
        yield from _zip_members(archive)
    else:
        yield from _tar_members(archive, folder)


def _tar_members(archive: Path, folder: Path) -> Iterator[_Member]:
    with tarfile.open(archive) as tar:
        for member in tar:
            _check_name(archive, member.name)
            if not (member.isreg() or member.isdir()) or member.issparse():
                raise _not_plain(archive, member.name)
            tarfile.data_filter(member, str(folder))  # Python's own opinion, beside ours
            if member.isdir():
                continue

            def open_member(member: tarfile.TarInfo = member) -> IO[bytes]:
                source = tar.extractfile(member)
                if source is None:
                    raise _not_plain(archive, member.name)
                return source

            yield member.name, member.size, open_member


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            _check_name(archive, member.filename)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _not_plain(archive, member.filename)
            if member.is_dir():
                continue

            def open_member(member: zipfile.ZipInfo = member) -> IO[bytes]:
                return packed.open(member)

            yield member.filename, member.file_size, open_member


def _check_name(archive: Path, name: str) -> None:
    """Refuses what could lie outside the folder, on any system."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or any(sign in name for sign in "\\:\0"):
        raise DataError(
            f"{archive}: holds {name!r}, which could lie outside the folder. "
            "Nothing of it was used."
        )


def _copy(source: IO[bytes], sink: IO[bytes], room: int) -> tuple[int, str]:
    """Copies up to one block more than there is room for; the bytes written, and their sha256."""
    digest, written = hashlib.sha256(), 0
    while written <= room and (block := source.read(_BLOCK_BYTES)):
        sink.write(block)
        digest.update(block)
        written += len(block)
    return written, digest.hexdigest()


def _not_plain(archive: Path, name: str) -> DataError:
    return DataError(
        f"{archive}: holds {name!r}, which is a link, a device or the like. Only plain files and "
        "folders are unpacked. Nothing of it was used."
    )


def _too_much(archive: Path, max_bytes: int) -> DataError:
    return DataError(
        f"{archive}: holds more than {max_bytes:,} bytes or {MAX_MEMBERS:,} files, which is more "
        "than the data set has. Nothing of it was used."
    )
