"""Too little memory is one line with what to do, and other errors keep their traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hf_finetune.cli import main
from hf_finetune.memory_shortage import describe_shortage


def test_torchs_own_errors_are_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    line = describe_shortage(caught.value)
    assert line is not None
    assert line.startswith("out of memory: there is no room for another 4,194,304.00 GiB. Take sm")
    assert "train.per_device_train_batch_size" in line
    assert "\n" not in line
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**40, 2**40)
    assert describe_shortage(caught.value) is not None
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee more")
    line = describe_shortage(error) or ""
    assert line.startswith("out of memory: there is no room for another 2.00 GiB. Take smaller")
    on_windows = RuntimeError(
        "DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."
    )
    assert (describe_shortage(on_windows) or "").startswith("out of memory: there is no room for")
    assert (describe_shortage(MemoryError()) or "").startswith("out of memory. Take smaller")
    assert describe_shortage(RuntimeError("shapes differ")) is None


def test_the_command_line_says_it_in_one_line(capsys: pytest.CaptureFixture[str]):
    words = ["summary", "--config", "configs/corrupt_mnist_sample.yaml"]
    model = "model={name: mlp, hidden_sizes: [99999999999]}"
    assert main([*words, model, "features.augmentation={}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("out of memory: ")


PLUGIN = """
from typing import Literal
from hf_finetune.data import DataOptions
class Options(DataOptions):
    name: Literal["vast"] = "vast"
    bits: int
def load(options):
    if options.bits:
        bytearray(2**options.bits)
    raise RuntimeError("shapes differ")
"""


def test_pythons_own_error_is_a_line_too_and_other_errors_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "vast.py").write_text(PLUGIN)
    path = tmp_path / "x.yaml"
    path.write_text(f"plugins: [{tmp_path}/vast.py]\nmodel: {{name: cnn}}\ndata: {{name: vast}}")
    assert main(["inspect", "--config", str(path), "data.bits=62"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("out of memory. Take smaller batches")
    with pytest.raises(RuntimeError, match="shapes differ"):
        main(["inspect", "--config", str(path), "data.bits=0"])
