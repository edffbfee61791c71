"""The configuration's `tracking` section: the settings of each tracker, read by its file.

Which trackers a run has is said by `trackers`; here stands how each of them is set.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from hf_finetune.options import Section

Names = Annotated[tuple[str, ...], Field(strict=False)]
Count = Annotated[int, Field(ge=0)]
PROJECT = "hf-finetune"


class CometOptions(Section):
    """Comet. The key comes from COMET_API_KEY or Comet's own file, never from here."""

    mode: Literal["auto", "online", "offline", "off"] = "auto"
    """`auto`: online where there is a key, else offline into the run directory, to be sent later
    with `hf-finetune comet upload RUN`."""
    workspace: str | None = None
    """By default COMET_WORKSPACE or that of Comet's own file, else the key's own workspace."""
    project: str | None = None
    """By default COMET_PROJECT_NAME or that of Comet's own file, else `hf-finetune`."""
    name: str | None = None
    """Name of the experiment; by default the run's name and number."""
    tags: Names = ()
    """Words to find the experiment by."""
    examples: Count = 16
    """Training images as the model sees them, or clips as it hears them, sent one by one."""
    examples_per_cell: Count = 3
    """Test examples to show with each cell of the confusion matrix."""
    log_model: bool = True
    """Send the best model (weights, configuration, processor) when the run has finished."""
    register_model: str | None = None
    """Also register the best model under this name."""
    log_code: bool = False
    """Send the program's source code."""
    log_environment: bool = False
    """Send host name, user, network address, installed packages and Comet's system metrics."""
    log_output: bool = False
    """Send what the run prints."""

    @field_validator("tags")
    @classmethod
    def _plain_tags(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not tag.strip() for tag in value):
            raise ValueError("a tag must hold at least one character. Leave empty tags out")
        return value


class TensorboardOptions(Section):
    """TensorBoard: files that `tensorboard --logdir` shows."""

    directory: str | None = None
    """Parent folder of the event files, `<directory>/<name>/<number>`; by default the folder
    `tensorboard` of the run directory."""
    examples: Count = 16
    """Training images as the model sees them, or clips as it hears them."""


class TrackioOptions(Section):
    """Trackio: a dashboard on this machine (`trackio show`)."""

    project: str = PROJECT
    """The project that the run belongs to."""
    examples: Count = 16
    """Training images as the model sees them, or clips as it hears them."""


class WandbOptions(Section):
    """Weights & Biases. The key comes from WANDB_API_KEY or `wandb login`, never from here."""

    mode: Literal["auto", "online", "offline"] = "auto"
    """`auto`: WANDB_MODE where it is set; else online where there is a key, else offline into the
    run directory (`wandb sync` sends it later)."""
    entity: str | None = None
    """User or team; by default the key's own."""
    project: str = PROJECT
    """The project that the run belongs to."""
    tags: Names = ()
    """Words to find the run by."""
    examples: Count = 16
    """Training images as the model sees them, or clips as it hears them."""


class MlflowOptions(Section):
    """MLflow: a local store, or a server."""

    tracking_uri: str | None = None
    """By default MLFLOW_TRACKING_URI, else a store in the folder of the runs
    (`mlflow ui --backend-store-uri sqlite:///runs/mlflow.db` shows it)."""
    experiment: str = PROJECT
    """The experiment that the run belongs to."""
    tags: Names = ()
    """Words to find the run by."""


class TrackingOptions(Section):
    """The settings of the trackers that `trackers` names."""

    comet: CometOptions = CometOptions()
    """Comet: experiments online or offline."""
    tensorboard: TensorboardOptions = TensorboardOptions()
    """TensorBoard: event files."""
    trackio: TrackioOptions = TrackioOptions()
    """Trackio: a local dashboard."""
    wandb: WandbOptions = WandbOptions()
    """Weights & Biases."""
    mlflow: MlflowOptions = MlflowOptions()
    """MLflow."""

    def set_sections(self) -> list[str]:
        """Names of the trackers whose settings differ from the defaults."""
        plain = TrackingOptions()
        return [n for n in type(self).model_fields if getattr(self, n) != getattr(plain, n)]
