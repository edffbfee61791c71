"""Exercise 12: what dropout does to an answer in training mode, and that it is off for inference.

Place: docs/course.md runs it on the run of exercise 4; `hf-finetune predict --mc-dropout` counts
many such answers.
"""

from __future__ import annotations

import torch
from PIL import Image

from hf_finetune import load_run
from hf_finetune.models import load_classifier


def main() -> None:
    """Asks the same network about the same picture, five times in either mode."""
    classifier = load_classifier(load_run("runs/digits").model)
    model = classifier.model
    image = Image.open("docs/course/crossed_seven.png")
    inputs = classifier.processor(images=image, return_tensors="pt")
    torch.manual_seed(0)
    for mode in ("train", "eval"):
        model.train(mode == "train")
        answers = []
        for _ in range(5):
            with torch.inference_mode():  # no gradients are kept; dropout doesn't care
                probabilities = model(**inputs).logits.softmax(-1)[0]
            best = int(probabilities.argmax())
            answers.append(f"{model.config.id2label[best]} at {probabilities[best]:.3f}")
        print(f"model.{mode + '()':8}", "  ".join(answers))


if __name__ == "__main__":
    main()
