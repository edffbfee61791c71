"""Exercise 23: one picture in ten forms, and what the tool makes of each.

Place: docs/course.md runs it on the run of exercise 4; the forms are what cameras, scanners and
other people's arrays come as.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from hf_finetune import load_run
from hf_finetune.models import load_classifier


def forms(image: Image.Image) -> dict[str, Any]:
    """The same picture, otherwise kept."""
    levels = np.asarray(image.convert("L"))  # uint8 [height, width], 0…255
    inverted = 255 - levels
    return {
        "as it is": image,
        "large": image.resize((640, 480)),
        "colour": image.convert("RGB"),
        "transparent": image.convert("RGBA"),
        "uint8 0…255 [H, W]": levels,
        "uint8 0…255 [3, H, W]": np.stack([levels] * 3),
        "uint16 0…65535": levels.astype(np.uint16) * 257,
        "float 0…1": levels / 255,
        "torch tensor 0…1": torch.from_numpy(levels / 255).float(),
        "black on white": inverted,
        "float 0…255": levels.astype(np.float32),
        "normalised": (levels / 255 - 0.13) / 0.31,
        "[1, 1, 1, H, W]": levels[None, None, None],
    }


def main() -> None:
    """Shows what the model gets, and what it answers or why it can't; keeps one form as a file."""
    classifier = load_classifier(load_run("runs/digits").model)
    model = classifier.model
    image = Image.open("docs/images/digit.png")
    ImageOps.invert(image).save("runs/black_on_white.png")
    for name, form in forms(image).items():
        try:
            inputs = classifier.processor(images=form, return_tensors="pt")
        except ValueError as error:
            print(f"{name:21}  {error}")
            continue
        pixels = inputs["pixel_values"].to(model.device)  # the model's device, wherever that is
        with torch.inference_mode():
            probabilities = model(pixel_values=pixels).logits.softmax(-1)[0]
        best = int(probabilities.argmax())
        shape = f"{str(pixels.dtype).removeprefix('torch.')} {list(pixels.shape)}"
        print(f"{name:21}  {shape}  {model.config.id2label[best]} at {probabilities[best]:.3f}")


if __name__ == "__main__":
    main()
