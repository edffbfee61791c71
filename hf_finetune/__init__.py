"""Fine-tune image and speech classifiers with the Hugging Face stack, and trust the numbers.

Public names are imported when they are first used, so that importing the package stays quick:

    from hf_finetune import finetune, load_config

    result = finetune(load_config("configs/corrupt_mnist_sample.yaml"))
    print(result.metrics["test"]["accuracy"])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from hf_finetune.engines.compiled_shapes import keep_few_shapes
from hf_finetune.torchaudio_repair import repair_torchaudio

if TYPE_CHECKING:
    from hf_finetune.config import RunConfig as RunConfig
    from hf_finetune.config import load_config as load_config
    from hf_finetune.finetuning import finetune as finetune
    from hf_finetune.runs.run_dir import load_run as load_run

__version__ = "0.1.0"
_HOMES = {
    "RunConfig": "hf_finetune.config",
    "load_config": "hf_finetune.config",
    "finetune": "hf_finetune.finetuning",
    "load_run": "hf_finetune.runs.run_dir",
}
__all__ = ["RunConfig", "finetune", "load_config", "load_run"]

repair_torchaudio()
keep_few_shapes()


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'hf_finetune' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
