"""Exercise 22: accuracy, precision, recall, F1 and confusion matrix of runs, side by side.

Place: docs/course.md runs it; the numbers are those that each run's metrics.json has.
"""

from __future__ import annotations

import sys

from hf_finetune import load_run


def main() -> None:
    """Prints what each run named on the command line says of its test split."""
    print("run                  accuracy  macro-F1  class   precision  recall     F1  predicted as")
    for path in sys.argv[1:]:
        run = load_run(path)
        scores = run.metrics["test"]
        names = list(scores["per_class"])
        for label, counts in zip(names, scores["confusion_matrix"], strict=True):
            of = scores["per_class"][label]
            row = zip(names, counts, strict=True)
            predicted = ", ".join(f"{name} {count}" for name, count in row)
            print(
                f"{run.title:19}  {scores['accuracy']:8.1%}  {scores['macro_f1']:8.3f}  {label:6}"
                f"  {of['precision']:9.3f}  {of['recall']:6.3f}  {of['f1']:5.3f}  {predicted}"
            )


if __name__ == "__main__":
    main()
