"""Audio files: every format's samples, parts of long files, and what is wrong with a bad file."""

from __future__ import annotations

import os
import struct
import sys
from dataclasses import astuple
from importlib.util import find_spec

import numpy as np
import pytest
from sounds import tone, write

from hf_finetune.errors import DataError
from hf_finetune.features import audio_decoding, audio_wholeness
from hf_finetune.features.audio_decoding import describe_audio, read_audio, read_header

KINDS = {  # file name: (how to write it, how far decoded samples may be off)
    "a.wav": ({"subtype": "PCM_16"}, 2**-15),
    "24.wav": ({"subtype": "PCM_24"}, 2**-23),
    "8.wav": ({"subtype": "PCM_U8"}, 2**-7),
    "float.wav": ({"subtype": "FLOAT"}, 0),
    "double.wav": ({"subtype": "DOUBLE"}, 0),
    "a.flac": ({}, 2**-15),
    "a.ogg": ({}, 0.1),
    "opus.ogg": ({"subtype": "OPUS"}, 0.1),
    "a.mp3": ({}, 0.1),
    "a.aiff": ({}, 2**-15),
}


def read(path, *args):
    return read_audio(describe_audio(path, None)[0], *args)


def said(path, content=None) -> str:
    with pytest.raises(DataError) as caught:
        read_audio(describe_audio(path, content)[0])
    return str(caught.value)


@pytest.mark.parametrize("name", KINDS)
def test_every_format_gives_the_samples_that_were_written(name, tmp_path):
    how, tolerance = KINDS[name]
    samples = tone(0.5)
    path = write(tmp_path / name, samples, **how)
    assert astuple(read_header(path)) == (8000, 16000, 1)
    decoded = read(path)
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, samples, atol=tolerance)
    content = (tmp_path / name).read_bytes()
    audio, header = describe_audio(None, content)
    assert header == read_header(path)
    assert np.array_equal(read_audio(audio), decoded)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "opus.ogg", "a.mp3"])
def test_a_part_is_that_part_of_the_whole(name, tmp_path):
    path = write(tmp_path / name, tone(3), **KINDS[name][0])
    whole = read(path)
    for start, count in ((1, 50), (7777, 8000), (40001, 7999)):
        part = read(path, start, count)
        np.testing.assert_allclose(part, whole[start : start + count], atol=2e-7)
    assert len(read(path, 47000)) == 1000


def test_channels_are_mixed_by_their_mean(tmp_path):
    channels = np.stack([tone(0.1), tone(0.1, seed=1), tone(0.1, seed=2)], axis=1)
    path = write(tmp_path / "a.wav", channels, subtype="FLOAT")
    assert read_header(path).num_channels == 3
    np.testing.assert_allclose(read(path), channels.mean(axis=1), atol=1e-7)


def test_of_a_two_hour_file_only_the_part_is_read(tmp_path):
    path, frames, start = tmp_path / "long.wav", 2 * 3600 * 8000, 57_000_007
    header = bytearray((tmp_path / write(path, tone(0.1), 8000)).read_bytes()[:44])
    header[4:8], header[40:44] = (struct.pack("<I", 2 * frames + n) for n in (36, 0))
    loud = np.arange(16000, dtype="<i2")
    with path.open("wb") as file:
        file.write(header)
        file.seek(44 + 2 * start)
        file.write(loud.tobytes())
        file.truncate(44 + 2 * frames)  # holes: no disk is filled
    audio, _ = describe_audio(path, None)
    assert audio["num_frames"] == frames
    before = _bytes_read()
    part = read_audio(audio, start, 16000)
    assert _bytes_read() - before < 500_000  # of 115 MB
    assert np.array_equal(part, loud / np.float32(2**15))


def _bytes_read() -> int:
    if not sys.platform.startswith("linux"):
        pytest.skip("counts what the process reads, which Linux tells")
    with open("/proc/self/io") as file:  # noqa: PTH123
        return int(file.readline().split()[1])


def test_the_content_counts_and_not_the_name(tmp_path):
    flac = write(tmp_path / "a.flac", tone(0.1))
    for name in ("a.wav", "a.txt", "a.raw", "a", "b.mp3"):
        os.replace(flac, tmp_path / name)  # noqa: PTH105
        flac = str(tmp_path / name)
        assert len(read(flac)) == 1600


def test_a_name_that_is_no_utf8_can_be_read_and_said(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"\xff\xe4.wav")  # noqa: PTH118
    odd = os.fsdecode(path)
    os.replace(write(tmp_path / "a.wav", tone(0.1)), odd)  # noqa: PTH105
    assert len(read(odd)) == read_header(odd).num_frames == 1600
    with open(odd, "wb") as file:  # noqa: PTH123
        file.write(b"nothing")
    message = said(odd)
    assert r"\udcff\udce4.wav: it can't be read as audio" in message
    message.encode()  # can be printed


def test_headers_are_remembered_until_the_file_changes(tmp_path, monkeypatch):
    path = write(tmp_path / "a.wav", tone(0.1))
    first = read_header(path)
    opened = []
    monkeypatch.setattr(audio_decoding, "describe_audio", lambda *args: opened.append(args))
    assert read_header(path) is first
    assert opened == []
    monkeypatch.undo()
    write(tmp_path / "a.wav", tone(0.2))
    assert read_header(path).num_frames == 3200
    write(tmp_path / "a.wav", tone(0.4, 8000), 8000)  # of the same size
    os.utime(path, ns=(1, 1))
    assert read_header(path).sampling_rate_hz == 8000


# What is wrong with a file


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("kept", [0.6, -1])
def test_a_truncated_file_is_named(name, kept, tmp_path):
    write(tmp_path / name, tone(2), **KINDS[name][0])
    content = (tmp_path / name).read_bytes()
    short = content[: int(len(content) * kept) if kept > 0 else kept]
    path = tmp_path / f"cut_{name}"
    path.write_bytes(short)
    for message in (said(path), said(path, short)):
        assert message.startswith(f"{path}: ")
        assert "truncated" in message


def wav_that_promises(num_bytes: int, tmp_path) -> str:
    path = tmp_path / "liar.wav"
    content = bytearray((path.parent / write(path, tone(1), subtype="PCM_16")).read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = struct.pack("<I", num_bytes)
    path.write_bytes(content)
    return str(path)


def test_a_header_that_lies_is_told_of(tmp_path):
    assert "promises 64,000 bytes of audio, but the file holds 32,000" in said(
        wav_that_promises(64000, tmp_path)
    )
    assert "promises 5,000 frames, but more follows" in said(wav_that_promises(10000, tmp_path))


@pytest.mark.parametrize("num_bytes", [0xFFFFFFFF, 0x7FFFF000])
def test_a_length_that_a_pipe_did_not_know_is_no_lie(num_bytes, tmp_path):
    assert len(read(wav_that_promises(num_bytes, tmp_path))) == 16000


def test_what_follows_the_samples_is_left_alone(tmp_path):
    path = tmp_path / "a.wav"
    content = (path.parent / write(path, tone(0.1))).read_bytes()
    path.write_bytes(
        content + b"LIST" + struct.pack("<I", 26) + b"INFOISFT\x0e\0\0\0somewriter\0\0\0\0"
    )
    assert len(read(path)) == 1600
    path.write_bytes(content + bytes(5000))  # as some recorders fill files up
    assert len(read(path)) == 1600


def test_a_tag_before_an_mp3_is_no_part_of_it(tmp_path, monkeypatch):
    """The length stands behind it; and what looks like one in a title or a picture is none."""
    path, title = tmp_path / "a.mp3", b"\3Info, an instrumental"
    plain = (path.parent / write(path, tone(1))).read_bytes()
    whole = read(path)
    frame = b"TIT2" + struct.pack(">IH", len(title), 0) + title
    tag = b"ID3\4\0\0\0\0\x27\x08" + frame.ljust(5000, b"\0")
    path.write_bytes(tag + plain)
    monkeypatch.setattr(audio_decoding, "_UncountedSound", None)  # would decode all to know it
    assert np.array_equal(read(path), whole)
    assert audio_wholeness.tells_length(lambda: path.open("rb"))
    path.write_bytes(tag + plain.replace(b"Info", bytes(4)).replace(b"Xing", bytes(4)))
    assert not audio_wholeness.tells_length(lambda: path.open("rb"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"some text, renamed to wav\n" * 9, "it can't be read as audio (Format not recognised)"),
        (b"", "the file is empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "this is a Git LFS pointer",
        ),
        (b"RIFF\x24\0\0\0WAVE", "it can't be read as audio"),
        (np.random.default_rng(0).bytes(5000), "it can't be read as audio"),
    ],
)
def test_what_is_no_audio_is_said(content, message, tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    assert said(path).startswith(f"{path}: {message}")
    with pytest.raises(DataError, match=r"a\.wav: "):
        read_header(path)


def test_missing_and_unopenable_files_are_said(tmp_path):
    assert said(tmp_path / "a.wav") == f"{tmp_path}/a.wav: there is no such file."
    assert said(tmp_path) == f"{tmp_path}: it can't be opened (Is a directory)."
    with pytest.raises(DataError, match="there is no such file"):
        read_header(tmp_path / "a.wav")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_said(bad, tmp_path):
    samples = tone(0.1)
    samples[100] = bad
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    assert f"sample 100 is {bad}" in said(path)
    with pytest.raises(DataError, match=f"sample 100 is {bad}"):
        read(path, 90, 20)  # counted in the file
    assert len(read(path, 101)) == 1499
    stereo = write(tmp_path / "b.wav", np.stack([samples, tone(0.1)], 1), subtype="DOUBLE")
    assert "sample 100 is" in said(stereo)


def test_a_file_without_samples_is_said(tmp_path):
    assert said(write(tmp_path / "a.wav", np.zeros(0))).endswith(
        "a.wav: it holds no samples. Remove it, or record it again."
    )


def test_one_sample_is_enough_to_be_read(tmp_path):
    assert read(write(tmp_path / "a.wav", np.array([0.5]))).tolist() == [0.5]


def test_a_file_that_changed_since_it_was_listed_is_said(tmp_path):
    path = write(tmp_path / "a.wav", tone(0.1))
    audio, _ = describe_audio(path, None)
    write(tmp_path / "a.wav", tone(0.2))
    with pytest.raises(DataError, match=r"has 3,200 frames .* had 1,600 .* Start again"):
        read_audio(audio)


# Formats of FFmpeg


def test_what_needs_torchcodec_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(audio_decoding, "find_spec", lambda name: None)
    path = tmp_path / "a.wav"
    path.write_bytes(b"\0\0\0\x20ftypM4A \0\0\0\0" + bytes(200))
    message = said(path)
    assert f"{path}: it is MP4 audio (m4a, AAC), which needs torchcodec" in message
    assert "pip install 'torchcodec==0.13.*'" in message
    assert "it is MP4 audio" in said(None, path.read_bytes())


@pytest.mark.skipif(find_spec("torchcodec") is None, reason="torchcodec is not installed")
def test_m4a_is_read_with_torchcodec(tmp_path):
    import torch
    from torchcodec.encoders import AudioEncoder

    samples = tone(2)
    path = tmp_path / "a.m4a"
    AudioEncoder(torch.from_numpy(samples)[None], sample_rate=16000).to_file(path)
    assert read_header(path).sampling_rate_hz == 16000
    decoded = read(path)
    assert np.corrcoef(decoded[:30000], samples[:30000])[0, 1] > 0.95
    assert np.array_equal(read(path, 8000, 4000), decoded[8000:12000])
    path.write_bytes(path.read_bytes()[:2000])
    assert "torchcodec can't read this MP4 audio" in said(path)
