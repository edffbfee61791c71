"""Exercise 21: what each remedy does against overfitting, measured over three seeds.

Place: docs/course.md runs it; it starts from the overfitting run of loss_curves.py.
"""

from __future__ import annotations

from statistics import mean

from loss_curves import CONFIG, RUNS, losses

from hf_finetune import finetune, load_config

SEEDS = (0, 1, 2)
REMEDIES = {
    "none": [],
    "more data: 1,700 rows": ["data.max_train_examples=1700"],
    "augmentation": [
        "features.augmentation={rotation_degrees: 10, shift_fraction: 0.1, scale_ratio: 1.1}"
    ],
    "simpler model": ["model.hidden_sizes=[16]"],
    "dropout": ["model.dropout=0.5"],
    "learning-rate decay": ["train.schedule={name: cosine}"],
    "early stopping": ["train.early_stopping_patience=2"],
}


def measure(settings: list[str], seed: int) -> tuple[float, float, float, float]:
    """Training loss, validation loss and steps at the end, and the accuracy on the test split."""
    overrides = [*RUNS["overfitting"], *settings, f"seed={seed}", "name=remedies"]
    result = finetune(load_config(CONFIG, overrides), quiet=True)
    step, training, validation = losses(result.run)[-1]
    return training, validation, step, result.metrics["test"]["accuracy"]


def main() -> None:
    """Trains with each remedy; the means over the seeds."""
    print("remedy                 training loss  validation loss    gap  steps  test accuracy")
    for name, settings in REMEDIES.items():
        results = [measure(settings, seed) for seed in SEEDS]
        training, validation, steps, accuracy = map(mean, zip(*results, strict=True))
        print(
            f"{name:21}  {training:13.3f}  {validation:15.3f}  {validation - training:5.3f}  "
            f"{steps:5.0f}  {accuracy:13.1%}"
        )


if __name__ == "__main__":
    main()
