"""Whether a file of sound holds what its header promises, or more than it tells of.

`audio_decoding` asks it of every file that it opens. libsndfile mends most such headers silently;
it tells of it in its log alone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import BinaryIO

import soundfile

from hf_finetune.errors import DataError

# Bytes of audio, or of a whole file of Sony's, that were promised, and those that are there.
_PROMISE = re.compile(r"^ *(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_WHOLE_PROMISE = re.compile(r"^ *riff *: (\d+) \(should be (\d+)\)", re.MULTILINE)
# Frames that are there, and those that the broadcasters' large files promise.
_FRAME_PROMISE = re.compile(r"frame count (\d+) does not match value from 'ds64' chunk of (\d+)")
_STREAM_BYTES = 0x7FFFF000  # from here on a length means "unknown": what recorders write to a pipe
_CUT_SHORT, _HOLE = "Junk after the last page", "Corrupted bitstream"
_UNKNOWN_REST = "*** Unknown chunk marker"
# Zeros where the next chunk should begin; the place that is named lies behind their 8 bytes.
_ZERO_CHUNK = re.compile(r"Have 0 marker at position (\d+)")
# The first frame of an mp3 file may tell its length under one of these names.
_MP3_LENGTHS = (b"Xing", b"Info", b"VBRI")
_MP3_HEAD_BYTES, _BLOCK_BYTES = 2048, 2**20
_OVERLONG = 64  # the largest bit rate of an mp3 file is 40 times the smallest

OpenBytes = Callable[[], BinaryIO]


def check_whole(name: str, sound: soundfile.SoundFile, open_bytes: OpenBytes) -> None:
    """Stops at a file that is shorter than its header says, or longer in a way that hides audio.

    Args:
        name: What to call the file.
        sound: The open file.
        open_bytes: Opens its bytes anew.

    Raises:
        DataError: It is truncated or damaged, or its header lies.
    """
    log: str = sound.extra_info
    promise = (_WHOLE_PROMISE if sound.format == "W64" else _PROMISE).search(log)
    if promise and int(promise[2]) < int(promise[1]) < _STREAM_BYTES:
        raise _truncated(name, int(promise[1]), int(promise[2]), "bytes of audio")
    frames = _FRAME_PROMISE.search(log)
    if frames and int(frames[1]) < int(frames[2]):
        raise _truncated(name, int(frames[2]), int(frames[1]), "frames")
    if _HOLE in log:
        raise DataError(f"{name}: a part of it is damaged and can't be heard. Copy it again.")
    if _CUT_SHORT in log:
        raise DataError(
            f"{name}: its last page is cut off, or something else follows. It is truncated; copy "
            "it again."
        )
    if sound.format == "WAV" and _hides_audio(log, open_bytes):
        raise DataError(
            f"{name}: its header promises {sound.frames:,} frames, but more follows that isn't "
            "told of. The header lies about the length; write the file again."
        )


def _truncated(name: str, promised: int, found: int, unit: str) -> DataError:
    return DataError(
        f"{name}: its header promises {promised:,} {unit}, but the file holds {found:,}. It is "
        "truncated; copy it again."
    )


def _hides_audio(log: str, open_bytes: OpenBytes) -> bool:
    """Whether a wav file goes on where its header says that it ends; zeros are no audio."""
    zeros = _ZERO_CHUNK.search(log)
    if zeros is None:
        return _UNKNOWN_REST in log
    with open_bytes() as file:
        file.seek(int(zeros[1]) - 8)
        return any(block.strip(b"\0") for block in iter(lambda: file.read(_BLOCK_BYTES), b""))


def tells_length(open_bytes: OpenBytes) -> bool:
    """Whether an mp3 file tells its length, as far as can be seen at its start.

    Source:
        id3.org, "ID3 tag version 2.4.0 - Main Structure", §3.1: 10 bytes, of which each of the last
        four holds 7 bits of how many follow before the sound.
    """
    with open_bytes() as file:
        start = file.read(10)
        if start.startswith(b"ID3"):
            size = sum(byte << 7 * place for place, byte in enumerate(reversed(start[6:])))
            file.seek(size, io.SEEK_CUR)
        head = start + file.read(_MP3_HEAD_BYTES)
    return any(mark in head for mark in _MP3_LENGTHS)


class Overlong:
    """A file that seems far longer than it is.

    Of an mp3 file that doesn't tell its length, libsndfile guesses it from its size and from the
    first frame's bit rate, and then reads no further, though later frames may be much smaller.

    Args:
        file: The file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._is_asked = False

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any file."""
        self._is_asked = (offset, whence) == (0, io.SEEK_END)
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As of any file; but after a seek to the end, which asks for the length, too far."""
        return self._file.tell() * (_OVERLONG if self._is_asked else 1)

    def read(self, size: int = -1) -> bytes:
        """As of any file."""
        return self._file.read(size)
