"""Exercise 21: three shapes of loss curves: underfitting, overfitting, and right.

Place: docs/course.md runs it; remedies.py measures what helps against the second.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from hf_finetune import finetune, load_config
from hf_finetune.runs.plots import BLUE, ORANGE
from hf_finetune.runs.run_dir import RunDir
from hf_finetune.trackers.jsonl import read_history

CONFIG = "docs/course/garments.yaml"
RUNS = {
    "underfitting": ["model.hidden_sizes=[2]"],
    "overfitting": ["data.max_train_examples=300"],
    "right": ["model.dropout=0.3"],
}
PICTURE = Path("runs/loss_curves.png")


def losses(run: RunDir) -> np.ndarray:
    """Step, training loss and validation loss of each evaluation, float64 `[evaluations, 3]`."""
    rows = [
        (record["step"], record["train/loss_since_evaluation"], record["validation/loss"])
        for record in read_history(run.path)
        if "validation/loss" in record
    ]
    return np.array(rows)


def main() -> None:
    """Trains three times, and puts the curves side by side."""
    figure = Figure(figsize=(10, 3.6), dpi=100, layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    print("run           training loss  validation loss  lowest validation loss")
    for axes, (name, settings) in zip(panels, RUNS.items(), strict=True):
        run = finetune(load_config(CONFIG, [*settings, f"name={name}"]), quiet=True).run
        steps, training, validation = losses(run).T
        lowest = int(validation.argmin())
        print(
            f"{name:12}  {training[-1]:13.3f}  {validation[-1]:15.3f}  "
            f"{validation[lowest]:.3f} at step {steps[lowest]:.0f}"
        )
        axes.plot(steps, training, color=BLUE, label="training")
        axes.plot(steps, validation, color=ORANGE, label="validation")
        axes.set(title=name, xlabel="step", ylim=(0, 2.4))
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("mean loss per example")
    panels[0].legend(frameon=False, loc="lower left")
    figure.savefig(PICTURE)
    print(PICTURE)


if __name__ == "__main__":
    main()
