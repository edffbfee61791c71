"""What is said about device, precision and threads is what really happens."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import optimizer as accelerate_optimizer
from small_jobs import make_job, run

from hf_finetune.engines.compiled_shapes import NAME
from hf_finetune.engines.compute import Compute, seed_everything, settle_compute
from hf_finetune.engines.options import ComputeOptions
from hf_finetune.errors import UserError
from hf_finetune.models import DataDescription, build_model
from hf_finetune.models.mlp import Options


def test_auto_uses_every_core_under_accelerate():
    """`accelerate launch` sets OMP_NUM_THREADS=1; half of a small machine would stand idle."""
    code = (
        "from hf_finetune.engines.compute import settle_compute, ComputeOptions; import torch;"
        "compute = settle_compute(ComputeOptions(device='cpu'));"
        "print(compute.num_threads, torch.get_num_threads())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    cores = len(os.sched_getaffinity(0))
    assert answer == [str(cores), str(cores)]


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch):
    threads = torch.get_num_threads()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert settle_compute(ComputeOptions(device="cpu")).num_threads == max(
        1, len(os.sched_getaffinity(0)) // 2
    )
    torch.set_num_threads(threads)


def test_threads_can_be_given():
    threads = torch.get_num_threads()
    assert settle_compute(ComputeOptions(device="cpu", num_threads=1)).num_threads == 1
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("come_again", "setting", "kept"),
    [(None, None, 0), (True, None, 20), (False, None, 0), (True, "256", 0)],
)
def test_few_compiled_shapes_are_kept_unless_widths_come_again(
    come_again: bool | None, setting: str | None, kept: int
):
    """20 shapes, 300 others, and the first 20 again: how many of these are compiled anew."""
    code = f"""
import torch
from hf_finetune.engines.compiled_shapes import keep_shapes
if {come_again} is not None:
    keep_shapes({come_again})
torch.set_num_threads(1)
layer = torch.nn.Conv1d(64, 64, 3)
with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
    for length in [*range(1000, 1320), *range(1000, 1020)]:
        print("LENGTH", length, flush=True)
        layer(torch.ones(1, 64, length))
"""
    environment = {**os.environ, "ONEDNN_VERBOSE": "profile_create"}
    environment.pop(NAME, None)
    if setting is not None:
        environment[NAME] = setting
    command = [sys.executable, "-c", code]
    answer = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout
    parts = answer.split("LENGTH ")[1:]
    if not any("create:cache_miss,cpu,convolution" in part for part in parts):
        pytest.skip("torch computes without oneDNN here")
    again = parts[320:]
    assert sum("create:cache_hit,cpu,convolution" in part for part in again) == kept


def test_a_run_is_heard_that_says_how_many_shapes_to_keep(tmp_path: Path):
    """oneDNN asks once, when it first computes: no model may do so while it is built."""
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from small_sounds import assemble_sounds, configure, load_sounds
from hf_finetune import assembly
heard = assembly.keep_shapes
assembly.keep_shapes = lambda come_again: heard(come_again) or print("KEPT", come_again, flush=True)
folder = Path({str(tmp_path)!r})
data = load_sounds(folder)
for batches in ("by_length", "equal_length"):
    config = configure(folder, features__audio__batches=batches)
    bench = assembly.assemble_with(config, data, None)
next(iter(bench.make_loader("train", training=True)))
"""
    environment = {**os.environ, "ONEDNN_VERBOSE": "profile_create"}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert "create:" not in answer.split("KEPT")[0]
    assert answer.count("KEPT True") == answer.count("KEPT False") == 1


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.parametrize(
    ("option", "setting", "kept"),
    [("True", {}, True), ("False", {}, False), ("True", {"MALLOC_TOP_PAD_": "131072"}, False)],
)
def test_freed_memory_is_there_for_the_next_step(option: str, setting: dict[str, str], kept: bool):
    """Pages that the system clears and maps anew in every step were a quarter of its time."""
    code = f"""
import resource, torch
from hf_finetune.engines.compute import settle_compute, ComputeOptions
compute = settle_compute(ComputeOptions(device="cpu", keep_freed_memory={option}))
def faults():
    torch.ones(2**24)  # 64 MB: glibc's own threshold never grows that far
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(30):  # the first of them leave gaps behind
    first = faults()
print(compute.keeps_freed_memory, faults() - first)
"""
    names = [name for name in os.environ if not name.startswith(("MALLOC_", "GLIBC_"))]
    environment = {name: os.environ[name] for name in names} | setting
    command = [sys.executable, "-c", code]
    answer = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    assert answer[0] == str(kept)
    assert (int(answer[1]) < 100) == kept


def test_memory_stays_as_it_is_without_glibc(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not settle_compute(ComputeOptions(device="cpu")).keeps_freed_memory


@pytest.mark.parametrize("engine", ["loop", "trainer"])
def test_accelerate_asks_for_lomo_once(engine: str, monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(
        accelerate_optimizer, "is_lomo_available", lambda: bool(asked.append(engine))
    )
    images = DataDescription(("no", "yes"), 4, 4, 1, (0.5,), (0.2,))
    batch = {"pixel_values": torch.rand(4, 1, 4, 4), "labels": torch.tensor([0, 1, 1, 0])}
    job = make_job(build_model(Options(), images), {**batch, "index": torch.arange(4)})
    assert run(engine, job).step == 4
    assert asked == [engine]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_missing_device_is_named():
    with pytest.raises(UserError, match=r"compute.device: 'cuda' is not there"):
        settle_compute(ComputeOptions(device="cuda"))


def test_fp16_needs_cuda():
    with pytest.raises(UserError, match=r"fp16 needs a CUDA device.*Allowed here: fp32, bf16"):
        settle_compute(ComputeOptions(device="cpu", precision="fp16"))


def test_auto_precision_follows_the_processor():
    compute = settle_compute(ComputeOptions(device="cpu"), prefers_channels_last=True)
    found = torch.cpu.get_capabilities()
    fast = bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    assert compute.precision == ("bf16" if fast else "fp32")
    assert compute.channels_last == fast


@pytest.mark.parametrize(
    ("precision", "memory_format", "expected"),
    [
        ("fp32", "auto", False),
        ("bf16", "auto", True),
        ("bf16", "contiguous", False),
        ("fp32", "channels_last", True),
    ],
)
def test_memory_format(precision: str, memory_format: str, expected: bool):
    options = ComputeOptions(device="cpu", precision=precision, memory_format=memory_format)  # type: ignore[arg-type]
    assert settle_compute(options, prefers_channels_last=True).channels_last is expected


def test_the_accelerator_counts_as_the_plan_says():
    for precision, expected in (("fp32", "no"), ("bf16", "bf16"), ("fp32", "no")):
        accelerator = Compute("cpu", precision, False, 1, 1, 0).make_accelerator()
        assert accelerator.mixed_precision == expected
        assert accelerator.device.type == "cpu"


def test_a_launcher_s_own_settings_decide_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    compute = settle_compute(ComputeOptions(device="cpu", precision="fp32"))
    accelerator = compute.make_accelerator()
    assert accelerator.mixed_precision == "no"
    assert accelerator.gradient_accumulation_steps == 1
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "no"


def test_seeding_reaches_every_generator():
    import random

    import numpy as np

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    seed_everything(5)
    first = draw()
    seed_everything(5)
    assert draw() == first
    seed_everything(6)
    assert all(a != b for a, b in zip(draw(), first, strict=True))
