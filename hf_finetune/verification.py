"""Shows that both engines do the same: the same losses and the same weights, bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hf_finetune.assembly import assemble_with
from hf_finetune.config import RunConfig
from hf_finetune.data import LoadedData, load_data
from hf_finetune.registry import kind, kind_names


@dataclass
class Trace:
    """What an engine did, step by step; a listener of the engines.

    Attributes:
        losses: Loss of each step.
        weights: Hash of every parameter and buffer after each step, by name.
        evaluations: Every validation record, in order.
        kept: The tensor asked for by `keep`, as it was after that step.
    """

    keep: tuple[int, str] | None = None
    losses: list[float] = field(default_factory=list)
    weights: list[dict[str, bytes]] = field(default_factory=list)
    evaluations: list[dict[str, float | int | bool]] = field(default_factory=list)
    kept: Tensor | None = None

    def on_step(self, step: int, loss: Tensor, model: nn.Module) -> None:
        """Notes the loss and the state of the model."""
        state = model.state_dict()
        self.losses.append(float(loss))
        self.weights.append({name: _digest(tensor) for name, tensor in state.items()})
        if self.keep is not None and self.keep[0] == step:
            self.kept = state[self.keep[1]].detach().double().cpu().clone()

    def on_record(self, record: Mapping[str, float | int | bool]) -> None:
        """Notes what validation scored."""
        if "validation/loss" in record:
            self.evaluations.append({k: v for k, v in record.items() if k != "seconds"})


def _digest(tensor: Tensor) -> bytes:
    array = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(array.tobytes(), digest_size=16).digest()


@dataclass(frozen=True)
class Difference:
    """The first place where two engines part.

    Attributes:
        step: Optimiser step, from 1.
        what: `loss`, the name of a parameter or buffer, `number of steps`, or a validation metric.
        values: What each engine has there: a number, or for a tensor its largest deviation.
    """

    step: int
    what: str
    values: str


@dataclass(frozen=True)
class Verification:
    """What `verify_engines` found.

    Attributes:
        engines: The two engines compared.
        steps: Steps that both took.
        evaluations: Validation scores that both made.
        num_tensors: Parameters and buffers compared after each step.
        difference: The first difference, or None.
    """

    engines: tuple[str, str]
    steps: int
    evaluations: int
    num_tensors: int
    difference: Difference | None


def verify_engines(config: RunConfig, steps: int) -> Verification:
    """Trains the first steps of a configuration with each engine, and compares every bit.

    Both run in fp32 on the CPU in this process with equal threads: the conditions under which
    equality is promised. Nothing is written.

    Args:
        config: Any configuration; its engine, device and precision are set aside.
        steps: Optimiser steps to take; fewer where the run is shorter.
    """
    compute = config.compute.model_copy(update={"device": "cpu", "precision": "fp32"})
    config = config.model_copy(update={"compute": compute})
    data = load_data(config.data)
    first, second = sorted(kind_names("engines"), reverse=True)  # trainer, loop
    traces = [trace_engine(config, data, name, steps) for name in (first, second)]
    difference = _find_difference(*traces)
    if difference is not None and difference.what in traces[0].weights[0]:
        place = (difference.step, difference.what)
        kept = [trace_engine(config, data, n, place[0], place).kept for n in (first, second)]
        tensors = [tensor for tensor in kept if tensor is not None]
        deviation = float((tensors[0] - tensors[1]).abs().max())
        difference = Difference(*place, f"largest deviation {deviation:.3g}")
    return Verification(
        (first, second),
        len(traces[0].losses),
        len(traces[0].evaluations),
        len(traces[0].weights[0]),
        difference,
    )


def trace_engine(
    config: RunConfig,
    data: LoadedData,
    engine: str,
    steps: int,
    keep: tuple[int, str] | None = None,
) -> Trace:
    """Trains some steps with one engine, and notes everything.

    Args:
        config: What to train.
        data: Its data, loaded.
        engine: Which engine.
        steps: When to stop.
        keep: Step and tensor name to keep a copy of.
    """
    trace = Trace(keep)
    bench = assemble_with(config, data, None)
    kind("engines", engine).fit(bench.make_job(listeners=(trace,), stop_after=steps))
    return trace


def _find_difference(first: Trace, second: Trace) -> Difference | None:
    """The first step whose loss, tensors or following evaluation differ."""
    both = zip(first.losses, second.losses, first.weights, second.weights, strict=False)
    for step, (loss, other_loss, weights, other_weights) in enumerate(both, start=1):
        if loss != other_loss:
            return Difference(step, "loss", f"{loss!r} and {other_loss!r}")
        for name, digest in weights.items():
            if other_weights[name] != digest:
                return Difference(step, name, "")
    if len(first.losses) != len(second.losses):
        counts = f"{len(first.losses)} and {len(second.losses)}"
        return Difference(min(len(first.losses), len(second.losses)), "number of steps", counts)
    return _find_evaluation_difference(first, second)


def _find_evaluation_difference(first: Trace, second: Trace) -> Difference | None:
    last = len(first.losses)
    if len(first.evaluations) != len(second.evaluations):
        counts = f"{len(first.evaluations)} and {len(second.evaluations)}"
        return Difference(last, "number of evaluations", counts)
    for record, other in zip(first.evaluations, second.evaluations, strict=True):
        for name, value in record.items():
            if other[name] != value:
                return Difference(int(record["step"]), name, f"{value!r} and {other[name]!r}")
    return None


def format_verification(result: Verification) -> str:
    """What was found, in a sentence or two."""
    names = " and ".join(result.engines)
    if result.difference is None:
        return (
            f"{names} agree bit for bit: {result.steps} steps, {result.num_tensors} tensors after "
            f"each, {result.evaluations} evaluation{'s' * (result.evaluations != 1)} "
            f"(fp32, CPU, {torch.get_num_threads()} threads)"
        )
    found = result.difference
    return f"{names} differ first at step {found.step} in {found.what}: {found.values}"
