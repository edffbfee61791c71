"""Reads audio files as waveforms, whole or in part, or says what is wrong with a file.

The data room looks at files with it and the audio collator decodes its batches with it, so that
both see the same samples. What a file is follows from its content, never from its name.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, TypedDict, final

import numpy as np
import soundfile
from numpy.typing import NDArray

from hf_finetune.data.array_files import require_file
from hf_finetune.data.listing import shown
from hf_finetune.errors import DataError
from hf_finetune.features.audio_wholeness import Overlong, check_whole, tells_length

# What libsndfile can't read, by the bytes that its files begin with (after some others, for mp4).
_OTHER_FORMATS = (
    (4, b"ftyp", "MP4 audio (m4a, AAC)"),
    (0, b"\x1aE\xdf\xa3", "WebM or Matroska"),
    (0, b"\x30\x26\xb2\x75", "WMA"),
    (0, b"#!AMR", "AMR"),
    (0, b"\xff\xf1", "AAC"),
    (0, b"\xff\xf9", "AAC"),
)
_TORCHCODEC = (
    "Install torchcodec beside a system FFmpeg (pip install 'torchcodec==0.13.*'), or convert the "
    "file to wav or flac."
)
_BLOCK_FRAMES = 2**20


@final
class AudioFile(TypedDict):
    """A clip that is decoded when its batch is made; a cell of an undecoded `audio` column.

    Attributes:
        path: The file; or None.
        bytes: The file's content, where it was read already; or None.
        num_frames: Frames (samples of one channel), by the header.
        sampling_rate_hz: Frames a second, by the header.
    """

    path: str | None
    bytes: bytes | None
    num_frames: int
    sampling_rate_hz: int


@final
class AudioArray(TypedDict):
    """A clip that is decoded already.

    Attributes:
        array: float32 `[num_frames]`, about -1…1.
        sampling_rate_hz: Frames a second.
    """

    array: NDArray[np.float32]
    sampling_rate_hz: int


@dataclass(frozen=True)
class AudioHeader:
    """What a file says of itself.

    Attributes:
        num_frames: Samples of each channel, above 0.
        sampling_rate_hz: Frames a second.
        num_channels: 1 is mono.
    """

    num_frames: int
    sampling_rate_hz: int
    num_channels: int


def read_header(path: str | Path) -> AudioHeader:
    """What a file's header says, without decoding it; remembered while the file stays as it is.

    Args:
        path: wav, flac, ogg, mp3, aiff, au and the like; with torchcodec m4a and others.

    Raises:
        DataError: The file is missing, no audio, empty, cut short, or its header lies.
    """
    try:
        status = Path(path).stat()
    except OSError as error:
        raise _unreadable(shown(str(path)), error) from error
    return _read_header(str(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=2**16)
def _read_header(path: str, size: int, mtime_ns: int) -> AudioHeader:
    return describe_audio(path, None)[1]


def describe_audio(path: str | Path | None, content: bytes | None) -> tuple[AudioFile, AudioHeader]:
    """An undecoded clip as an `audio` column holds it, and its header.

    Args:
        path: The file, or None where only the content is known.
        content: The file's bytes, or None to read the file.

    Raises:
        DataError: As `read_header`.
    """
    path = None if path is None else str(path)
    name = _name(path)
    with _open(name, path, content) as sound:
        header = AudioHeader(sound.count_frames(), sound.sampling_rate_hz, sound.num_channels)
    if header.num_frames == 0:
        raise DataError(f"{name}: it holds no samples. Remove it, or record it again.")
    rate, frames = header.sampling_rate_hz, header.num_frames
    return AudioFile(path=path, bytes=content, num_frames=frames, sampling_rate_hz=rate), header


def read_audio(
    audio: AudioFile, start: int = 0, num_frames: int | None = None, name: str | None = None
) -> NDArray[Any]:
    """Samples of a file from one frame on; nothing else of it is decoded.

    Args:
        audio: The file and what its header says.
        start: The first frame.
        num_frames: How many frames; None: all that follow.
        name: What to call it in errors; None: by its path.

    Returns:
        float32 `[num_frames]`, about -1…1: whole numbers divided by the largest that their type
        holds, floats as they are; channels mixed by their mean.

    Raises:
        DataError: As `read_header`; or there is less than the header says, a sample is not a
            number or infinite, or the file isn't the one that was described.
    """
    name = name or _name(audio["path"])
    count = audio["num_frames"] - start if num_frames is None else num_frames
    with _open(name, audio["path"], audio["bytes"]) as sound:
        promised = audio["num_frames"] if sound.num_frames is None else sound.num_frames
        if (promised, sound.sampling_rate_hz) != (audio["num_frames"], audio["sampling_rate_hz"]):
            raise DataError(
                f"{name}: it has {promised:,} frames at {sound.sampling_rate_hz:,} Hz, and "
                f"had {audio['num_frames']:,} at {audio['sampling_rate_hz']:,} Hz when the data "
                "was listed. Start again."
            )
        samples = sound.read(start, count)
    if len(samples) < (count if sound.is_exact else 1):
        raise DataError(
            f"{name}: its header promises {audio['num_frames']:,} frames, but the file ends after "
            f"{start + len(samples):,}. It is truncated; copy it again."
        )
    # The mean of one channel is that channel; as a copy, so that nobody holds the others.
    mono: NDArray[Any] = np.ascontiguousarray(
        samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    )
    if not np.isfinite(mono).all():
        bad = start + int(np.flatnonzero(~np.isfinite(mono))[0])
        raise DataError(
            f"{name}: sample {bad:,} is {mono[bad - start]}. Allowed: finite numbers. "
            "Write the file again."
        )
    return mono


class _Sound:
    """An open file of libsndfile's formats.

    Attributes:
        num_frames: Frames that the header promises; None where it doesn't tell.
        sampling_rate_hz: Frames a second.
        num_channels: Channels.
        is_exact: Whether there are exactly as many frames as the header says.
    """

    is_exact = True

    def __init__(self, sound: soundfile.SoundFile) -> None:
        self._sound = sound
        self.num_frames: int | None = sound.frames
        self.sampling_rate_hz: int = sound.samplerate
        self.num_channels: int = sound.channels

    def count_frames(self) -> int:
        """How many frames there are, by the header; nothing can be read after it."""
        return self.num_frames or 0

    def read(self, start: int, count: int) -> NDArray[Any]:
        """float32 `[frames, channels]`."""
        if start:  # decoders of mp3 and ogg are exact from the start, and need not seek
            self._sound.seek(start)
        samples: NDArray[Any] = self._sound.read(count, dtype="float32", always_2d=True)
        return samples


class _UncountedSound(_Sound):
    """An mp3 file that doesn't tell its length: it is decoded to know it, and never sought in."""

    def __init__(self, sound: soundfile.SoundFile) -> None:
        super().__init__(sound)
        self.num_frames = None

    def count_frames(self) -> int:
        """As `_Sound`, but by decoding."""
        return self._pass(None)

    def read(self, start: int, count: int) -> NDArray[Any]:
        """As `_Sound`."""
        self._pass(start)
        samples: NDArray[Any] = self._sound.read(count, dtype="float32", always_2d=True)
        return samples

    def _pass(self, wanted: int | None) -> int:
        """Goes over some frames, or (None) over all; how many there were."""
        passed = 0
        while wanted is None or passed < wanted:
            size = _BLOCK_FRAMES if wanted is None else min(_BLOCK_FRAMES, wanted - passed)
            frames = len(self._sound.read(size, dtype="int16", always_2d=True))
            passed += frames
            if frames < size:
                break
        return passed


class _CodecSound:
    """An open file of FFmpeg's formats, through torchcodec; as `_Sound`.

    Where these formats tell their length at all, they tell it as seconds, and not to the frame.
    """

    is_exact = False

    num_frames: int | None

    def __init__(self, source: str | bytes) -> None:
        decoders: Any = import_module("torchcodec.decoders")
        self._decoder = decoders.AudioDecoder(source)
        metadata = self._decoder.metadata
        self.sampling_rate_hz: int = metadata.sample_rate
        self.num_frames = round((metadata.duration_seconds or 0) * metadata.sample_rate)
        self.num_channels: int = metadata.num_channels

    def count_frames(self) -> int:
        """As `_Sound`."""
        return self.num_frames or 0

    def read(self, start: int, count: int) -> NDArray[Any]:
        """float32 `[frames, channels]`."""
        rate = self.sampling_rate_hz
        samples = self._decoder.get_samples_played_in_range(start / rate, (start + count) / rate)
        frames: NDArray[Any] = samples.data.T.numpy()
        return frames[:count]


@contextmanager
def _open(name: str, path: str | None, content: bytes | None) -> Iterator[_Sound | _CodecSound]:
    """The open file; what goes wrong while it is open becomes a DataError that names it."""

    def open_bytes() -> BinaryIO:
        return Path(path or "").open("rb") if content is None else io.BytesIO(content)

    try:
        with ExitStack() as stack:
            if content is not None:
                source: Any = io.BytesIO(content)
            else:
                # By descriptor: libsndfile would go by the name's ending, and take no odd names.
                source = stack.enter_context(Path(path or "").open("rb", buffering=0)).fileno()
            reader: _Sound | _CodecSound
            try:
                sound = stack.enter_context(soundfile.SoundFile(source, closefd=False))
                check_whole(name, sound, open_bytes)
                if sound.format != "MP3" or tells_length(open_bytes):
                    reader = _Sound(sound)
                else:
                    whole = Overlong(stack.enter_context(open_bytes()))
                    reader = _UncountedSound(stack.enter_context(soundfile.SoundFile(whole)))
            except soundfile.LibsndfileError as error:
                reader = _open_other(name, path, content, _first_line(error))
            yield reader
    except OSError as error:
        raise _unreadable(name, error) from error
    except RuntimeError as error:  # of libsndfile or torchcodec, in the midst of the samples
        raise DataError(
            f"{name}: it can't be decoded to its end ({_first_line(error)}). "
            "It is truncated or damaged; copy it again."
        ) from error


def _open_other(name: str, path: str | None, content: bytes | None, told: str) -> _CodecSound:
    """A file that libsndfile doesn't know (for the reason `told`), opened by torchcodec.

    Raises:
        DataError: It is no audio; torchcodec is not installed, or doesn't read it either.
    """
    start = (content or b"")[:16]
    if path is not None and content is None:
        require_file(Path(path))  # knows better where the file is empty or a Git LFS pointer
        with Path(path).open("rb") as file:
            start = file.read(16)
    kind = next((k for at, mark, k in _OTHER_FORMATS if start[at : at + len(mark)] == mark), None)
    if kind is None:
        raise DataError(
            f"{name}: it can't be read as audio ({told}). Allowed: wav, flac, ogg, mp3 and what "
            "else libsndfile reads. Convert it, or remove it."
        )
    if find_spec("torchcodec") is None:
        raise DataError(f"{name}: it is {kind}, which needs torchcodec. {_TORCHCODEC}")
    try:
        return _CodecSound(content or path or "")
    except Exception as error:  # a missing FFmpeg, or whatever a broken file leads its readers to
        told = _first_line(error)
        raise DataError(
            f"{name}: torchcodec can't read this {kind} ({told}). {_TORCHCODEC}"
        ) from error


def _name(path: str | None) -> str:
    return "audio" if path is None else shown(path)


def _first_line(error: Exception) -> str:
    text = getattr(error, "error_string", str(error))
    return str(text).strip().partition("\n")[0].rstrip(".")


def _unreadable(name: str, error: OSError) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{name}: there is no such file.")
    return DataError(f"{name}: it can't be opened ({error.strerror}).")
