"""Exercise 9: what a training loop does without each of its three calls.

Place: docs/course.md runs it; hf_finetune/engines/loop.py is the loop that does all of them.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import torch
from matplotlib.figure import Figure

from hf_finetune import load_config
from hf_finetune.assembly import assemble
from hf_finetune.runs.plots import BLUE, GREEN, GREY, ORANGE

CALLS = ("nothing", "zero_grad", "backward", "step")
SETTINGS = ["model={name: mlp}", "features={}", "train.per_device_train_batch_size=32"]
STEPS = 100
PICTURE = Path("runs/three_calls.png")


def train(left_out: str) -> list[float]:
    """Trains a fully connected network for `STEPS` steps without one of the calls.

    Args:
        left_out: One of `CALLS`.

    Returns:
        The training loss of each step.
    """
    bench = assemble(load_config("docs/course/digits.yaml", SETTINGS))
    model = bench.classifier.model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for batch in islice(bench.make_loader("train", training=True), STEPS):
        logits = model(pixel_values=batch["pixel_values"]).logits
        loss = torch.nn.functional.cross_entropy(logits, batch["labels"])
        if left_out != "backward":
            loss.backward()
        if left_out != "step":
            optimizer.step()
        if left_out != "zero_grad":
            optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def draw(curves: dict[str, list[float]]) -> None:
    """Draws the loss of each run by step into `PICTURE`."""
    figure = Figure(figsize=(8, 4), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    # Two of the curves are the same: dashes on a broad line show both.
    styles = ((BLUE, "-", 1.5), (ORANGE, "-", 1.5), (GREY, "-", 4), (GREEN, "--", 1.5))
    for (left_out, losses), (color, line, width) in zip(curves.items(), styles, strict=True):
        label = "with all three" if left_out == "nothing" else f"without {left_out}"
        axes.plot(
            range(1, STEPS + 1), losses, color=color, linestyle=line, linewidth=width, label=label
        )
    axes.set(xlabel="step", ylabel="training loss", ylim=(0, 4))
    axes.legend(frameon=False, loc="lower left")
    axes.grid(alpha=0.25)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE)


def main() -> None:
    """Trains four times from the same weights on the same batches, and compares."""
    curves = {left_out: train(left_out) for left_out in CALLS}
    print("left out   loss at first  mean of the last 10")
    for left_out, losses in curves.items():
        print(f"{left_out:9}  {losses[0]:13.4f}  {sum(losses[-10:]) / 10:19.4g}")
    draw(curves)
    print(PICTURE)


if __name__ == "__main__":
    main()
