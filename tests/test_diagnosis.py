"""The doctor: what it says of this machine, and that it names what is known to break."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_finetune import matrix_products
from hf_finetune.diagnosis import Diagnosis, Finding, format_diagnosis
from hf_finetune.engines.compute import settle_compute
from hf_finetune.engines.options import ComputeOptions
from hf_finetune.matrix_products import ProductTiming, list_devices, time_products

COMET_KEY, HUB_TOKEN = "k3yk3yk3yk3y", "hf_t0kent0kent0kent0ken"


def run_doctor(
    *words: str, home: Path, path: Path | None = None, **settings: str
) -> subprocess.CompletedProcess[str]:
    """A fresh process, in a home without credentials."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("COMET", "HF_", "HUGGING_FACE", "OMP", "XDG"))
    }
    environment = {**kept, "HOME": str(home), "OMP_NUM_THREADS": "1", **settings}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, "-m", "hf_finetune.cli", "doctor", *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


def plant_package(folder: Path, name: str, version: str, code: str | None) -> None:
    """A package that is found before the installed one: its version, and perhaps its code."""
    metadata = folder / f"{name}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if code is not None:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(code)


def test_this_machine_is_described_and_sound(tmp_path: Path):
    done = run_doctor("--format", "json", home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    facts = told["facts"]
    assert told["is_sound"]
    assert not [finding for finding in told["findings"] if finding["breaks"]]
    assert told["matrix_products"] == []
    assert facts["packages"]["torch"] == torch.__version__
    assert {"transformers", "accelerate", "comet-ml"} <= facts["packages"].keys()
    compute = settle_compute(ComputeOptions())
    assert facts["a_run_takes"] == compute.describe()
    assert facts["fast_at_bf16"].keys() >= {"cpu"}
    cpu = settle_compute(ComputeOptions(device="cpu"))
    assert facts["fast_at_bf16"]["cpu"] == (cpu.precision == "bf16")
    assert facts["torch_num_threads"] == 1
    assert facts["settings"]["OMP_NUM_THREADS"] == "1"
    assert 0 < facts["available_memory_bytes"] <= facts["cpu"]["memory_bytes"]
    assert facts["free_disk_bytes"] == pytest.approx(shutil.disk_usage(Path.cwd()).free, rel=0.2)
    assert not facts["has_comet_key"]
    assert not facts["has_hub_token"]
    stand_in = sys.modules.get("torchaudio._extension")
    repaired = stand_in is not None and stand_in.__spec__ is None
    assert (facts["torchaudio_repair"] == "applied") == repaired


def test_what_breaks_is_named_with_its_cure(tmp_path: Path):
    path = tmp_path / "packages"
    plant_package(path, "torch", "99.1.0", None)
    plant_package(
        path, "torchvision", "0.28.0", "raise RuntimeError('operator nms does not exist')"
    )
    plant_package(path, "torchcodec", "0.14.0", "raise OSError('libcudart.so.13: no such file')")
    done = run_doctor(
        home=tmp_path,
        path=path,
        COMET_MODE="offline",
        COMET_API_KEY=COMET_KEY,
        HF_TOKEN=HUB_TOKEN,
    )
    assert done.returncode == 1, done.stderr
    told = done.stdout
    bad = [line for line in told.splitlines() if line.startswith("will break: ")]
    for expected in (
        ("torch 99.1.0", 'pip install "torch<2.14'),
        ("torchvision can't be imported (operator nms does not exist)", "pip uninstall"),
        ("torchcodec can't be imported (libcudart.so.13: no such file)", '"torchcodec<0.14"'),
        ("COMET_MODE is set to offline", "COMET_START_ONLINE=0"),
        # The real transformers fails by the torchvision that is there.
        ("transformers.trainer can't be imported (operator nms does not exist)", "mend"),
    ):
        assert any(all(part in line for part in expected) for line in bad), expected
    assert told.splitlines()[-1] == f"{len(bad)} things will break: see above"
    assert "Comet yes, Hugging Face Hub yes" in told
    assert COMET_KEY not in told + done.stderr
    assert HUB_TOKEN not in told + done.stderr


def test_a_key_in_comet_s_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from hf_finetune.diagnosis import _has_comet_key

    for name in ("COMET_API_KEY", "COMET_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not _has_comet_key()
    (tmp_path / ".comet.config").write_text("[comet]\nworkspace=me\n")
    assert not _has_comet_key()
    (tmp_path / ".comet.config").write_text(f"[comet]\napi_key={COMET_KEY}\n")
    assert _has_comet_key()


def test_a_comet_mode_that_works_is_only_a_note(monkeypatch: pytest.MonkeyPatch):
    from hf_finetune.diagnosis import _check_comet_mode

    monkeypatch.setenv("COMET_MODE", "get_or_create")
    assert [finding.breaks for finding in _check_comet_mode()] == [False]
    monkeypatch.setenv("COMET_MODE", "s3cret")
    (finding,) = _check_comet_mode()
    assert finding.breaks
    assert "s3cret" not in finding.problem
    monkeypatch.delenv("COMET_MODE")
    assert not list(_check_comet_mode())


def test_notes_leave_a_machine_sound():
    assert Diagnosis({}, (Finding("a", "b", breaks=False),)).is_sound
    assert not Diagnosis({}, (Finding("a", "b", breaks=False), Finding("c", "d"))).is_sound


def test_products_are_timed_at_a_size_that_fits(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(matrix_products, "_BUDGET_SECONDS", 0.0)
    found = time_products("cpu", torch.float32)
    assert (found.device, found.dtype, found.size) == ("cpu", "float32", 500)
    assert found.seconds is not None
    assert found.seconds > 0
    sizes = []
    monkeypatch.setattr(matrix_products, "_BUDGET_SECONDS", 1.0)

    def take(device: str, dtype: torch.dtype, size: int, repeats: int) -> list[float]:
        sizes.append((size, repeats))
        return [(size / 5000) ** 3 * factor for factor in (1, 2, 1, 1, 9, 1, 1, 1, 1, 1)][:repeats]

    monkeypatch.setattr(matrix_products, "_time_each", take)
    found = time_products("cpu", torch.bfloat16)
    # Twelve products at 2,000 would take 0.77 s, at 3,000 2.6 s.
    assert sizes == [(500, 3), (2000, 10)]
    assert found.seconds == pytest.approx(10 * 0.4**3)
    assert found.scaled_seconds == pytest.approx(10 * 2.0**3)


def test_a_device_that_can_t_is_said_to(monkeypatch: pytest.MonkeyPatch):
    found = time_products("cpu", torch.bool)
    assert found.seconds is None
    assert found.scaled_seconds is None
    assert found.failure
    assert "\n" not in found.failure


def test_each_product_is_timed_after_one_to_warm_up(monkeypatch: pytest.MonkeyPatch):
    calls = []
    product = torch.matmul

    def count(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        calls.append((left.shape, left.dtype))
        return product(left, right)

    monkeypatch.setattr(torch, "matmul", count)
    times = matrix_products._time_each("cpu", torch.float32, 30, 4)
    assert len(times) == 4
    assert calls == [(torch.Size([30, 30]), torch.float32)] * 5


def test_the_benchmark_says_what_it_scaled():
    facts: dict[str, Any] = {
        "python": "3.11",
        "platform": "x",
        "hf_finetune": "0",
        "packages": {},
        "cpu": {"model": None, "usable_cores": 2, "memory_bytes": None},
        "gpus": [],
        "torchaudio_repair": "applied",
        "fast_at_bf16": {"cpu": True},
        "a_run_takes": {
            "device": "cpu",
            "precision": "bf16",
            "num_threads": 2,
            "keeps_freed_memory": True,
        },
        "torch_num_threads": 1,
        "settings": {},
        "available_memory_bytes": 0,
        "free_disk_bytes": 0,
        "has_comet_key": False,
        "has_hub_token": False,
    }
    timings = (
        ProductTiming("cpu", "float32", 2000, 1.5),
        ProductTiming("cuda:0", "float32", 10000, 0.4),
        ProductTiming("cuda:0", "bfloat16", 500, None, "out of memory"),
    )
    lines = format_diagnosis(Diagnosis(facts, (), timings), "text").splitlines()
    table = [line.split() for line in lines if line.startswith(("cpu ", "cuda:0"))]
    assert table[0] == ["cpu", "float32", "2,000", "x", "2,000", "1.500", "187.50"]
    assert table[1][-2:] == ["0.400", "0.40"]
    assert table[2][-3:] == ["out", "of", "memory"]
    assert any("scaled by N³" in line for line in lines)
    assert lines[-1] == "sound"
    told = json.loads(format_diagnosis(Diagnosis(facts, (), timings), "json"))
    assert told["matrix_products"][0]["scaled_seconds"] == 187.5


def test_the_cpu_is_a_device():
    assert list_devices()[0] == "cpu"


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path: Path):
    done = run_doctor("--benchmark", "--format", "json", home=tmp_path)
    told = json.loads(done.stdout)["matrix_products"]
    assert [one["dtype"] for one in told[:2]] == ["float32", "bfloat16"]
    assert {one["device"] for one in told} == set(list_devices())
    for one in told:
        assert one["scaled_seconds"] == pytest.approx(one["seconds"] * (10_000 / one["size"]) ** 3)
