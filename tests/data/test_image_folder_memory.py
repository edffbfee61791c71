"""Folders of images: what is remembered of their files, so that they aren't read again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import draw, save, write_classes

from hf_finetune.data import LoadedData, file_scan, image_files, load_data
from hf_finetune.data.image_folder import Options


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))


def load(root: Path, **settings: Any) -> LoadedData:
    return load_data(Options(root=str(root), **settings))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read from now on."""
    read, seen = image_files.read_image, []

    def note(path: Path, *settings: Any) -> np.ndarray:
        seen.append(Path(path).name)
        return read(path, *settings)

    monkeypatch.setattr(image_files, "read_image", note)
    return seen


def test_a_second_start_reads_only_what_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = write_classes(tmp_path / "pets")
    seen = counted(monkeypatch)
    first = load(root)
    assert len(seen) == 24
    seen.clear()
    assert load(root).fingerprint == first.fingerprint
    assert load(root, color="rgb").fingerprint == first.fingerprint
    assert seen == []
    save(root / "cat/new.png", draw(0, 99))
    os.utime(root / "dog/3.png", ns=(1, 1))
    load(root)
    assert sorted(seen) == ["3.png", "new.png"]
    seen.clear()
    load(root, background="black")
    load(root, color="grey")
    assert len(seen) == 50


def test_the_memory_lies_outside_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = write_classes(tmp_path / "pets")
    before = sorted(root.rglob("*"))
    load(root)
    assert sorted(root.rglob("*")) == before
    memory = list((tmp_path / "cache").rglob("*.parquet"))
    assert len(memory) == 1
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == memory
    seen = counted(monkeypatch)
    memory[0].write_bytes(b"spoilt")
    assert load(root).warnings == ()
    assert len(seen) == 24


def test_a_memory_that_cannot_be_written_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "file"))
    data = load(write_classes(tmp_path / "pets"))
    assert "every run reads all files again" in data.warnings[0]
    assert "HF_FINETUNE_CACHE" in data.warnings[0]


def test_a_scan_that_was_stopped_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = write_classes(tmp_path / "pets")
    seen = counted(monkeypatch)
    monkeypatch.setattr(file_scan, "_BLOCK_FILES", 4)
    count, read = iter(range(100)), image_files.read_image

    def stop(path: Path, *settings: Any) -> np.ndarray:
        if next(count) == 15:
            raise KeyboardInterrupt
        return read(path, *settings)

    monkeypatch.setattr(image_files, "read_image", stop)
    with pytest.raises(KeyboardInterrupt):
        load(root)
    assert len(seen) == 15
    seen.clear()
    monkeypatch.setattr(image_files, "read_image", read)
    load(root)
    assert len(seen) == 12  # the last three of fifteen belong to a block that was cut off
