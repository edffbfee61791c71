"""The runs room: the run directory, which is the interface for everything after training."""

from __future__ import annotations

from hf_finetune.options import Section


class RunOptions(Section):
    """Where a run is written, and what of it."""

    directory: str = "runs"
    """Parent folder; the run itself is `<directory>/<name>/<number>`."""
    save_state_dict: bool = False
    """Also write the best weights as `state_dict.pt`."""
    keep_checkpoints: bool = False
    """Keep the checkpoints of a run that has finished."""
    pictures: bool = True
    """Draw examples, learning curves and the confusion matrix (a second or two)."""
    predictions: bool = True
    """Write logits, labels, ids and groups of validation and test."""
