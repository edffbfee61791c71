"""Says what this machine is and whether the stack on it is sound; the verb `doctor`.

Place: beside the corridor. It asks the rooms what they would settle on, tries the imports that are
known to fail, and trains nothing. Of credentials it says whether they are there, never more.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

from hf_finetune.console import format_columns, format_table
from hf_finetune.matrix_products import COURSE_SIZE, ProductTiming, list_devices, time_devices
from hf_finetune.runs.environment import describe_environment

_OPTIONAL = ("torchvision", "torchcodec")
_OMP_SETTINGS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "MKL_NUM_THREADS")
_COMET_MODES = ("get_or_create", "create", "get")
_LEAST_FREE_BYTES = 2**30
_GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with this machine.

    Attributes:
        problem: What is wrong.
        cure: What to do.
        breaks: Whether something will fail by it; else it is worth knowing.
    """

    problem: str
    cure: str
    breaks: bool = True


@dataclass(frozen=True)
class Diagnosis:
    """What this machine is, and what is wrong with it.

    Attributes:
        facts: Plain values, ready for JSON.
        findings: What is wrong; empty on a sound machine.
        timings: Products of matrices by device, where they were asked for.
    """

    facts: dict[str, Any]
    findings: tuple[Finding, ...] = ()
    timings: tuple[ProductTiming, ...] = field(default=())

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found that will fail."""
        return not any(finding.breaks for finding in self.findings)


def diagnose(benchmark: bool = False) -> Diagnosis:
    """Looks at this machine; sets the threads of this process as a run would.

    Args:
        benchmark: Also time products of matrices (a few seconds a device).
    """
    findings = tuple(_find_faults())
    facts = _describe_machine()
    return Diagnosis(facts, findings, tuple(time_devices()) if benchmark else ())


def _describe_machine() -> dict[str, Any]:
    import psutil  # type: ignore[import-untyped]

    from hf_finetune.engines.compute import settle_compute
    from hf_finetune.engines.options import ComputeOptions

    environment = describe_environment()
    precisions = {
        name: settle_compute(ComputeOptions.model_validate({"device": name})).precision
        for name in dict.fromkeys(device.partition(":")[0] for device in list_devices())
    }
    return {
        **{key: environment[key] for key in ("hf_finetune", "python", "platform", "cpu", "gpus")},
        "packages": _list_packages(),
        "torchaudio_repair": _describe_repair(),
        "cuda": environment["cuda"],
        "fast_at_bf16": {name: precision == "bf16" for name, precision in precisions.items()},
        "a_run_takes": settle_compute(ComputeOptions()).describe(),
        "torch_num_threads": environment["torch_num_threads"],
        "settings": {name: os.environ.get(name) for name in _OMP_SETTINGS},
        "available_memory_bytes": psutil.virtual_memory().available,
        "free_disk_bytes": shutil.disk_usage(Path.cwd()).free,
        "has_comet_key": _has_comet_key(),
        "has_hub_token": _has_hub_token(),
    }


def _requirements() -> list[Requirement]:
    """What the package asks for; nothing where it runs from a folder without being installed."""
    try:
        listed = [Requirement(text) for text in requires("hf_finetune") or ()]
    except PackageNotFoundError:
        return []
    return [one for one in listed if one.marker is None or one.marker.evaluate({"extra": ""})]


def _list_packages() -> dict[str, str | None]:
    names = [requirement.name for requirement in _requirements()]
    return {name: _version(name) for name in dict.fromkeys((*names, *_OPTIONAL))}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _describe_repair() -> str:
    if find_spec("torchaudio") is None:
        return "not installed"
    stand_in = sys.modules.get("torchaudio._extension")
    return "applied" if stand_in is not None and stand_in.__spec__ is None else "not needed"


def _has_comet_key() -> bool:
    if os.environ.get("COMET_API_KEY", "").strip():
        return True
    places = [os.environ.get("COMET_CONFIG", ""), ".comet.config", "~/.comet.config"]
    files = [Path(place).expanduser() for place in places if place]
    return any(file.is_file() and "api_key" in file.read_text("utf-8", "replace") for file in files)


def _has_hub_token() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None


def _find_faults() -> Iterator[Finding]:
    yield from _check_versions()
    yield from _check_imports()
    yield from _check_comet_mode()
    yield from _check_gpu()
    yield from _check_disk()


def _check_versions() -> Iterator[Finding]:
    """Packages that are missing, or of a version that the toolkit wasn't tested with."""
    for requirement in _requirements():
        found = _version(requirement.name)
        if found is None:
            yield Finding(f"{requirement.name} is missing", f'pip install "{requirement}"')
        elif not requirement.specifier.contains(found, prereleases=True):
            yield Finding(
                f"{requirement.name} {found} is none of the versions that this toolkit is for "
                f"({requirement.specifier})",
                f'pip install "{requirement}"',
            )


def _check_imports() -> Iterator[Finding]:
    """Imports that are known to fail where a CUDA build meets a CPU build of torch."""
    yield from _try_import(
        "torchvision",
        "transformers imports it wherever it is installed",
        "pip uninstall torchvision (the toolkit does without), or install the build that belongs "
        "to this torch",
    )
    codec = _version("torchcodec")
    if codec is not None and Version(codec) >= Version("0.14"):
        yield from _try_import(
            "torchcodec",
            "from 0.14 on the package index has CUDA builds only",
            'pip install "torchcodec<0.14"',
        )
    yield from _try_import(
        "torchaudio", "transformers imports it, too", "pip install --force-reinstall torchaudio"
    )
    yield from _try_import(
        "transformers.trainer",
        "nothing can be trained without it",
        "mend what stands above, or make a new environment",
    )


def _try_import(module: str, why: str, cure: str) -> Iterator[Finding]:
    package = module.partition(".")[0]
    if find_spec(package) is None:  # missing packages are named with the versions
        return
    try:
        import_module(module)
    except Exception as error:  # whatever a compiled part that doesn't load leads to
        first: BaseException = error
        while first.__cause__ is not None:  # transformers wraps what really happened
            first = first.__cause__
        reason = next(iter(str(first).splitlines()), "") or type(first).__name__
        yield Finding(f"{module} can't be imported ({reason}); {why}", cure)


def _check_comet_mode() -> Iterator[Finding]:
    mode = os.environ.get("COMET_MODE", "")
    if not mode:
        return
    cure = "unset COMET_MODE; for offline, COMET_START_ONLINE=0 and COMET_OFFLINE_DIRECTORY=DIR"
    if mode.lower() in _COMET_MODES:
        yield Finding(f"COMET_MODE is set ({mode.lower()}); every run hears it", cure, breaks=False)
    else:
        told = "offline" if mode.lower() == "offline" else "an unknown value"
        problem = f"COMET_MODE is set to {told}, and transformers 5 then logs nothing to Comet"
        yield Finding(problem, cure)


def _check_gpu() -> Iterator[Finding]:
    import torch

    if Path("/proc/driver/nvidia/version").exists() and not torch.cuda.is_available():
        is_cpu_build = torch.version.cuda is None
        yield Finding(
            "there is an NVIDIA driver, but "
            + ("torch is a CPU build" if is_cpu_build else "torch finds no GPU that it can use"),
            "install the CUDA build of torch" if is_cpu_build else "update the driver",
            breaks=False,
        )


def _check_disk() -> Iterator[Finding]:
    free = shutil.disk_usage(Path.cwd()).free
    if free < _LEAST_FREE_BYTES:
        yield Finding(
            f"the disk has {free / _GIB:.2f} GiB free here; checkpoints may not fit",
            "free some space, or name another folder with run.directory",
            breaks=False,
        )


def format_diagnosis(diagnosis: Diagnosis, style: str) -> str:
    """The diagnosis as text for people, or as JSON.

    Args:
        diagnosis: What was found.
        style: text or json.
    """
    if style == "json":
        content = {
            "is_sound": diagnosis.is_sound,
            "facts": diagnosis.facts,
            "findings": [asdict(finding) for finding in diagnosis.findings],
            "matrix_products": [
                {**asdict(timing), "scaled_seconds": timing.scaled_seconds}
                for timing in diagnosis.timings
            ],
        }
        return json.dumps(content, indent=1)
    parts = [format_table(_say_facts(diagnosis.facts))]
    if diagnosis.timings:
        parts.append(_format_timings(diagnosis))
    parts += [
        f"{'will break' if finding.breaks else 'note'}: {finding.problem}. Cure: {finding.cure}"
        for finding in diagnosis.findings
    ]
    broken = sum(finding.breaks for finding in diagnosis.findings)
    parts.append(f"{broken} thing{'s' * (broken > 1)} will break: see above" if broken else "sound")
    return "\n\n".join(parts)


def _say_facts(facts: dict[str, Any]) -> dict[str, str]:
    packages = [f"{name} {number}" for name, number in facts["packages"].items() if number]
    cpu, run = facts["cpu"], facts["a_run_takes"]
    bf16 = [f"{name} {_yes(fast)}" for name, fast in facts["fast_at_bf16"].items()]
    settings = [f"{name} {value or 'not set'}" for name, value in facts["settings"].items()]
    memory = cpu["memory_bytes"]
    return {
        "python": f"{facts['python']}, {facts['platform']}",
        "packages": textwrap.fill(
            ", ".join([f"hf_finetune {facts['hf_finetune']}", *packages]),
            width=86,
            break_on_hyphens=False,
        ).replace("\n", "\n" + " " * 14),
        "torchaudio": f"import repair: {facts['torchaudio_repair']}",
        "CPU": f"{cpu['model'] or 'unknown'}, {cpu['usable_cores']} usable cores",
        "GPU": ", ".join(gpu["name"] for gpu in facts["gpus"]) or "none that torch can use",
        "fast at bf16": ", ".join(bf16),
        "a run takes": f"{run['device']}, {run['precision']}, threads: {run['num_threads']}",
        "threads": f"torch would take {facts['torch_num_threads']}; {', '.join(settings)}",
        "memory": f"{facts['available_memory_bytes'] / _GIB:.1f} GiB available"
        + (f" of {memory / _GIB:.1f}" if memory else "")
        + f"; what a run frees stays with it: {_yes(run['keeps_freed_memory'])}",
        "disk": f"{facts['free_disk_bytes'] / _GIB:.1f} GiB free here",
        "credentials": f"Comet {_yes(facts['has_comet_key'])}, "
        f"Hugging Face Hub {_yes(facts['has_hub_token'])}",
    }


def _yes(answer: bool) -> str:
    return "yes" if answer else "no"


def _format_timings(diagnosis: Diagnosis) -> str:
    header = ("ten products", "numbers", "size timed", "seconds", f"at {COURSE_SIZE:,}")
    rows = [
        (
            timing.device,
            timing.dtype,
            f"{timing.size:,} x {timing.size:,}",
            timing.failure or f"{timing.seconds:.3f}",
            "" if timing.scaled_seconds is None else f"{timing.scaled_seconds:.2f}",
        )
        for timing in diagnosis.timings
    ]
    threads = diagnosis.facts["a_run_takes"]["num_threads"]
    return (
        f"{format_columns(header, rows, 2)}\n(ten times the median product after one to warm up; "
        f"{threads} CPU threads; the last column\nis scaled by N³ from the size timed to "
        f"{COURSE_SIZE:,} x {COURSE_SIZE:,})"
    )
