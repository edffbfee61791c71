"""The configuration's `train` and `compute` sections, read by the engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from hf_finetune.evaluation import GREATER_IS_BETTER
from hf_finetune.options import Section
from hf_finetune.registry import kind_names, nearest

PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class OptimizerOptions(Section):
    """The optimiser; its learning rate is `train.learning_rate`."""

    name: str = "adamw"
    """`adamw`, `adam`, `sgd` (torch's own), `muon`, or any name that Trainer's `optim` takes. Muon
    moves the backbone's matrices equally far in every direction, and leaves the rest to AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Not applied to biases and normalisation layers."""
    betas: Annotated[tuple[Fraction, Fraction], Field(strict=False)] = (0.9, 0.999)
    """Decay of the two running means (adam, adamw, and what muon leaves to it)."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the denominator (adam, adamw, and what muon leaves to it)."""
    momentum: Fraction = 0.9
    """sgd, muon."""
    nesterov: bool = False
    """sgd."""

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> OptimizerOptions:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class ScheduleBase(Section):
    """What every learning-rate schedule understands."""

    name: str
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Rise linearly from 0 over this many optimiser steps."""
    warmup_ratio: Fraction = 0.0
    """The same as a part of all steps."""

    @model_validator(mode="after")
    def _one_warmup(self) -> ScheduleBase:
        if self.warmup_steps and self.warmup_ratio:
            raise ValueError("give warmup_steps or warmup_ratio, not both")
        return self


class ConstantSchedule(ScheduleBase):
    """The learning rate stays."""

    name: Literal["constant"] = "constant"


class LinearSchedule(ScheduleBase):
    """Falls in a straight line to 0 at the last step."""

    name: Literal["linear"] = "linear"


class CosineSchedule(ScheduleBase):
    """Falls along half a cosine to 0 at the last step."""

    name: Literal["cosine"] = "cosine"


class OneCycleSchedule(Section):
    """Rises from learning_rate / start_divisor to learning_rate, then falls to nearly nothing."""

    name: Literal["one_cycle"] = "one_cycle"
    rise_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Part of all steps spent rising."""
    start_divisor: Annotated[float, Field(gt=1)] = 25.0
    end_divisor: Annotated[float, Field(gt=1)] = 1e4
    cycle_momentum: bool = False
    """Let momentum (or the first beta) fall while the learning rate rises."""


class StepSchedule(ScheduleBase):
    """Multiplies by gamma every so many epochs or steps."""

    name: Literal["step"] = "step"
    every_epochs: PositiveInt | None = None
    every_steps: PositiveInt | None = None
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1

    @model_validator(mode="after")
    def _one_unit(self) -> StepSchedule:
        if (self.every_epochs is None) == (self.every_steps is None):
            raise ValueError("give every_epochs or every_steps, one of the two")
        return self


class MultiStepSchedule(ScheduleBase):
    """Multiplies by gamma at each of the given epochs or steps."""

    name: Literal["multi_step"] = "multi_step"
    milestones_epochs: Annotated[tuple[PositiveInt, ...], Field(strict=False)] = ()
    milestones_steps: Annotated[tuple[PositiveInt, ...], Field(strict=False)] = ()
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1

    @model_validator(mode="after")
    def _one_unit(self) -> MultiStepSchedule:
        if bool(self.milestones_epochs) == bool(self.milestones_steps):
            raise ValueError("give milestones_epochs or milestones_steps, one of the two")
        return self


class ExponentialSchedule(ScheduleBase):
    """Multiplies by gamma every epoch or every step."""

    name: Literal["exponential"] = "exponential"
    gamma_per_epoch: Annotated[float, Field(gt=0, le=1)] | None = None
    gamma_per_step: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _one_unit(self) -> ExponentialSchedule:
        if (self.gamma_per_epoch is None) == (self.gamma_per_step is None):
            raise ValueError("give gamma_per_epoch or gamma_per_step, one of the two")
        return self


class PlateauSchedule(ScheduleBase):
    """Multiplies by factor when train.metric_for_best_model stops improving on validation."""

    name: Literal["reduce_on_plateau"] = "reduce_on_plateau"
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience_evaluations: Annotated[int, Field(ge=0)] = 2
    threshold: Annotated[float, Field(ge=0)] = 1e-4
    """Least relative change that counts as better."""


ScheduleOptions = Annotated[
    ConstantSchedule
    | LinearSchedule
    | CosineSchedule
    | OneCycleSchedule
    | StepSchedule
    | MultiStepSchedule
    | ExponentialSchedule
    | PlateauSchedule,
    Field(discriminator="name"),
]


class TrainOptions(Section):
    """How the model is trained.

    Attributes:
        metrics: What may choose the best model, and whether more is better; a configuration with
            plugins has more of them.
    """

    metrics: ClassVar[Mapping[str, bool]] = GREATER_IS_BETTER

    engine: Annotated[str, Field(json_schema_extra={"enum": list(kind_names("engines"))})] = (
        "trainer"
    )
    """`trainer` (transformers' Trainer) or `loop` (written out by hand); equal numbers."""
    num_train_epochs: PositiveInt = 3
    """Passes over the training split."""
    max_steps: PositiveInt | None = None
    """Stop after this many optimiser steps; the schedule is laid out for them."""
    per_device_train_batch_size: PositiveInt = 32
    """Examples of one micro-batch on one process."""
    per_device_eval_batch_size: PositiveInt = 256
    """Examples of one batch when predicting."""
    gradient_accumulation_steps: PositiveInt = 1
    """Micro-batches of one optimiser step."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """The highest that the schedule reaches."""
    head_learning_rate: Annotated[float, Field(gt=0)] | None = None
    """The same for the head, which is new where the rest is pretrained; by default no other."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """Multiply the learning rate by this for each layer further from the head; the schedule scales
    every layer's alike."""
    optimizer: OptimizerOptions = OptimizerOptions()
    """Which optimiser, and its settings."""
    schedule: ScheduleOptions = ConstantSchedule()
    """How the learning rate moves: constant, linear, cosine, one_cycle, step, multi_step,
    exponential, reduce_on_plateau."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Clip the gradient's norm to this; 0 leaves it."""
    eval_strategy: Literal["epoch", "steps"] = "epoch"
    """When validation is scored: at each epoch's end, or every `eval_steps`."""
    eval_steps: PositiveInt | None = None
    save_every_evaluations: Annotated[int, Field(ge=0)] = 1
    """Write a checkpoint at every so many evaluations; 0 keeps only the best weights."""
    save_total_limit: PositiveInt = 1
    """Checkpoints to keep, beside the best."""
    metric_for_best_model: Annotated[
        str, Field(json_schema_extra={"enum": list(GREATER_IS_BETTER)})
    ] = "accuracy"
    """Validation metric that chooses the model."""
    early_stopping_patience: PositiveInt | None = None
    """Stop after this many evaluations without a better metric."""
    early_stopping_threshold: Annotated[float, Field(ge=0)] = 0.0
    """Least change that early stopping counts as better."""
    logging_steps: PositiveInt = 10
    """Write the training loss every so many optimiser steps, and at each epoch's end."""
    dataloader_num_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that make batches; 0 makes them in the training process."""

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, value: str) -> str:
        if value not in kind_names("engines"):
            raise ValueError(f"unknown engine {value!r}. {nearest(value, kind_names('engines'))}")
        return value

    @field_validator("metric_for_best_model")
    @classmethod
    def _known_metric(cls, value: str) -> str:
        name = value.removeprefix("validation/")
        if name not in cls.metrics:
            raise ValueError(f"unknown metric {value!r}. {nearest(name, list(cls.metrics))}")
        return name

    @model_validator(mode="after")
    def _eval_steps_given(self) -> TrainOptions:
        if (self.eval_strategy == "steps") != (self.eval_steps is not None):
            raise ValueError("eval_steps belongs to eval_strategy: steps; give both or neither")
        return self


class ComputeOptions(Section):
    """On what the model runs, and how exactly it counts."""

    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    """`auto`: cuda, else mps, else cpu."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto` is bf16 where the device is fast at it, else fp32."""
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    """`auto`: channels_last for convolutional nets where it is the faster."""
    num_threads: Literal["auto"] | Annotated[int, Field(gt=0, le=1024)] = "auto"
    """Threads of one process on the CPU; `auto` shares the cores out among the processes."""
    keep_freed_memory: bool = True
    """On Linux: memory that a step frees stays with the process for the next one, which makes steps
    on the CPU up to a tenth faster; the process stays as large as it has once been. Holds until the
    process ends."""
