"""Lets torchaudio be imported beside a CPU build of torch, when the package is imported.

The torchaudio wheels on the package index are CUDA builds. Beside a CPU-only torch their compiled
part fails to load (`OSError: … libc10_cuda.so`), and since transformers imports torchaudio wherever
it is installed, even `from transformers import Trainer` then fails. Nothing that this toolkit uses
(resampling, spectrograms, Kaldi features) needs the compiled part, so it is declared absent.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType


def repair_torchaudio() -> None:
    """Puts a stand-in for `torchaudio._extension` in place where the real one can't load.

    Does nothing where torchaudio is missing or already imported, or where torch is a CUDA build.
    Neither torch nor torchaudio is imported.
    """
    if "torchaudio" in sys.modules or find_spec("torchaudio") is None:
        return
    torch_spec = find_spec("torch")
    if torch_spec is None or torch_spec.origin is None:
        return
    if (Path(torch_spec.origin).parent / "lib" / "libc10_cuda.so").exists():
        return
    extension = ModuleType("torchaudio._extension")
    extension.__dict__.update(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
        _check_cuda_version=lambda: None,
        fail_if_no_align=_refuse,
    )
    sys.modules["torchaudio._extension"] = extension


def _refuse(function: object) -> object:
    """Leaves a function of torchaudio undecorated: it fails by itself when it is called."""
    return function
