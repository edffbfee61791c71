"""What a trained model is for: scoring it on a split again, and naming the class of files.

MODEL is a run directory (or the folder of a run's name: its newest finished run), a folder that
`save_pretrained` wrote, a model of the Hub (`owner/name`, `owner/name@revision`), or a plain
`state_dict` file together with a configuration.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_finetune.config import RunConfig, load_config
from hf_finetune.config.yaml_text import read_file, read_yaml
from hf_finetune.console import format_columns, show_command
from hf_finetune.data.listing import shown
from hf_finetune.errors import DataError, ModelError, UserError
from hf_finetune.features import FeatureOptions, takes_sound
from hf_finetune.hub import TRAINING_CONFIG
from hf_finetune.hub.location import locate_model
from hf_finetune.runs.run_dir import MODEL, find_run

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

    from hf_finetune.data.image_files import Background, Color
    from hf_finetune.models import Classifier

_BATCH_IMAGES = 256
# Of training pixels, and of a picture's border, on the scale 0…1: far enough apart that a border
# of the other kind is no matter of taste.
_DARK, _BRIGHT = 1 / 3, 2 / 3


def resolve_model(
    model: str, config_path: str | None, overrides: Sequence[str]
) -> tuple[Path, RunConfig | None]:
    """The folder or file of the weights, and the configuration that goes with them.

    Raises:
        UserError: There is no model at that path, or a state_dict file came without configuration.
    """
    config = load_config(config_path, overrides) if config_path else None
    path = locate_model(model) or Path(model)
    if path.is_file():
        if config is None:
            raise UserError(
                f"{model}: a file of weights doesn't say what network it is for. "
                "Name the configuration too: --config configs/x.yaml"
            )
        return path, config
    if (path / "config.json").is_file():
        return path, config or _read_pushed(path, overrides)
    run = find_run(path)
    if run is None:
        raise UserError(
            f"{model}: there is no finished run, no model folder (config.json) and no file of "
            "weights here."
        )
    if not run.model.is_dir():
        raise UserError(
            f"{run.path}: the run has no {MODEL}/; its status is {run.status['status']}. "
            f"Go on with it: {show_command('train', '--resume', str(run.path))}"
        )
    return run.model, config or load_config(run.path / "config.yaml", overrides)


def _read_pushed(folder: Path, overrides: Sequence[str]) -> RunConfig | None:
    """The configuration that was pushed with a model, where there is one; plugins never come so."""
    file = folder / TRAINING_CONFIG
    if not file.is_file() or read_yaml(read_file(file), str(file)).tree.get("plugins"):
        return None
    return load_config(file, overrides)


def _load(path: Path, config: RunConfig | None) -> Classifier:
    """The classifier at a path; a state_dict goes into the network of the configuration."""
    from hf_finetune.models import load_classifier, load_state_dict_file, merge_adapters

    if path.is_dir():
        return load_classifier(path)
    from hf_finetune.assembly import assemble

    if config is None:
        raise UserError(f"{path}: name the configuration too.")
    classifier = assemble(config).classifier
    merge_adapters(classifier.model)  # the file holds weights without them
    load_state_dict_file(classifier, path)
    return classifier


def evaluate_model(
    model: str, config_path: str | None, overrides: Sequence[str], split: str
) -> tuple[Path, dict[str, Any]]:
    """Scores a model on a split of the data that its configuration names.

    Args:
        model: Run, folder or state_dict file.
        config_path: Configuration; needed unless `model` is a run.
        overrides: Settings to change.
        split: train, validation or test.

    Returns:
        The folder or file that was scored, and every metric, as in metrics.json.

    Raises:
        UserError: Model or data can't be used, or their classes differ.
    """
    _refuse_void(model, overrides)
    path, config = resolve_model(model, config_path, overrides)
    if config is None:
        raise UserError(
            f"{model}: a model folder doesn't say what data to score it on. "
            "Name a configuration: --config configs/x.yaml"
        )
    from hf_finetune.assembly import assemble_with
    from hf_finetune.data import load_data

    classifier = _load(path, config)
    data = load_data(config.data)
    known = tuple(name for _, name in sorted(classifier.model.config.id2label.items()))
    if known != data.label_names:
        raise ModelError(
            f"{model}: the model knows the classes {', '.join(known)}; the data has "
            f"{', '.join(data.label_names)}. Score it on the data that it was trained for."
        )
    bench = assemble_with(config, data, classifier)
    predictor = bench.make_predictor(split)
    accelerator = bench.compute.make_accelerator()
    return path, bench.score(predictor.predict(classifier.model, accelerator))


def _refuse_void(model: str, overrides: Sequence[str]) -> None:
    """Refuses settings that would say nothing about a model that is trained already."""
    heard = ("data.", "compute.", "loss.", "train.per_device_eval_batch_size")
    void = [text for text in overrides if not text.startswith(heard)]
    if void and not Path(model).is_file():
        raise UserError(
            f"{void[0]}: it changes nothing about a model that is trained already. "
            "Settings heard here: data.…, compute.…, loss.…, train.per_device_eval_batch_size."
        )


@dataclass(frozen=True)
class FileAnswer:
    """What a model says about one file.

    Attributes:
        file: The path as given.
        classes: The likeliest classes, each with its probability, best first.
        is_inverted: Whether it is dark on light, while the training images are light on dark.
    """

    file: str
    classes: tuple[tuple[str, float], ...]
    is_inverted: bool = False


def predict_files(
    model: str,
    files: Sequence[str],
    config_path: str | None = None,
    overrides: Sequence[str] = (),
    top: int = 1,
) -> list[FileAnswer]:
    """Names the class of files, images or clips of sound, each brought to what the model takes.

    Args:
        model: Run, folder or state_dict file.
        files: Image or sound files.
        config_path: Configuration; needed for a state_dict file.
        overrides: Settings to change.
        top: How many classes to name.

    Raises:
        UserError: The model can't be used, or a file is missing or not of its kind.
    """
    import torch

    from hf_finetune.engines.step import model_inputs
    from hf_finetune.evaluation.prediction import average_windows

    if top < 1:
        raise UserError(f"--top: must be at least 1, got {top}.")
    classifier, reading = load_for_files(model, files, config_path, overrides)
    network = classifier.model.eval()
    answers = []
    for part, batch in read_batches(classifier, files, reading):
        inputs = {name: value.to(network.device) for name, value in model_inputs(batch).items()}
        with torch.inference_mode():
            logits = network(**inputs).logits
        if "example" in batch:
            logits = average_windows(logits, batch["example"].to(logits.device), len(part))
        inverted = find_inverted(batch, classifier.processor)
        values, ids = logits.softmax(-1).topk(min(top, logits.shape[-1]))
        for row, file in enumerate(part):
            names = [network.config.id2label[i] for i in ids[row].tolist()]
            classes = tuple(zip(names, values[row].tolist(), strict=True))
            answers.append(FileAnswer(file, classes, inverted[row]))
    return answers


@dataclass(frozen=True)
class FileReading:
    """How files are brought to a model, as its run brought it its data.

    Attributes:
        color: What is made of images: `grey` where the run's data are made so.
        background: What transparent images are laid on; None: the data say nothing of it.
        features: The configuration's section, which says how long clips are cut.
    """

    color: Color
    background: Background | None
    features: FeatureOptions


def load_for_files(
    model: str, files: Sequence[str], config_path: str | None, overrides: Sequence[str]
) -> tuple[Classifier, FileReading]:
    """The classifier, and how it is brought files."""
    path, config = resolve_model(model, config_path, overrides)
    for file in files:
        _check_file(file)
    data = config.data if config else None
    color: Color = "grey" if getattr(data, "color", None) == "grey" else "as_is"
    features = config.features if config else FeatureOptions()
    reading = FileReading(color, getattr(data, "background", None), features)
    return _load(path, config), reading


def _check_file(file: str) -> None:
    if Path(file).is_dir():
        raise DataError(f"{file}: this is a folder. Name its files: {file}/*")
    if not Path(file).exists():
        raise DataError(f"{file}: there is no such file.")


def read_batches(
    classifier: Classifier, files: Sequence[str], reading: FileReading
) -> Iterator[tuple[Sequence[str], dict[str, Tensor]]]:
    """Some files, and a model batch of them, as `hf_finetune.features` describes it.

    Files are decoded one by one: memory holds a single photograph, however many there are.
    """
    import torch

    if takes_sound(classifier.processor):
        from hf_finetune.clip_reading import read_clips

        yield from read_clips(classifier, files, reading.features)
        return
    for start in range(0, len(files), _BATCH_IMAGES):
        part = files[start : start + _BATCH_IMAGES]
        prepared = (
            classifier.processor(
                images=[_read_picture(file, reading, classifier.processor)],
                return_tensors="pt",
            )
            for file in part
        )
        yield part, {"pixel_values": torch.cat([one["pixel_values"] for one in prepared])}


def find_inverted(batch: Mapping[str, Tensor], processor: Any) -> list[bool]:
    """Which images are bright at their border, where the training images are dark on the whole.

    The processor of a network trained from scratch keeps the mean of its training pixels; that of
    a pretrained one keeps a mean too high to tell. No clip of sound is.
    """
    if "pixel_values" not in batch:
        return [False] * len(next(iter(batch.values())))
    pixel_values = batch["pixel_values"]
    if not getattr(processor, "do_normalize", False):
        return [False] * len(pixel_values)
    mean, std = (
        pixel_values.new_tensor(value).reshape(-1, 1, 1)
        for value in (processor.image_mean, processor.image_std)
    )
    pixels = (pixel_values * std + mean).mean(1)
    edges = (pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1])
    border = sum(edge.mean(1) for edge in edges) / len(edges)
    return [bool(is_so) for is_so in (border > _BRIGHT) & (mean.mean() < _DARK)]


def _read_picture(file: str, reading: FileReading, processor: Any) -> np.ndarray | Image:
    """A file's pixels as training reads them, in a form that the processor takes.

    Our own takes what `read_image` gives; transformers' take whole levels alone (floats and 16 bits
    would count as white), and as many channels as they normalise.
    """
    import numpy as np
    from PIL import Image

    from hf_finetune.data.image_files import quiet_pillow, read_image

    takes_any = hasattr(processor, "num_channels")
    background = reading.background or ("black" if takes_any else "white")
    with quiet_pillow():
        pixels = read_image(file, reading.color, background)
    if takes_any:
        return pixels
    levels = pixels if pixels.dtype == np.uint8 else np.rint(pixels * 255).astype(np.uint8)
    is_grey = isinstance(processor.image_mean, Sequence) and len(processor.image_mean) == 1
    return Image.fromarray(levels).convert("L" if is_grey else "RGB")


def format_predictions(answers: Sequence[FileAnswer], style: str) -> str:
    """The answers as a table, or as CSV with the columns file, rank, label, probability."""
    rows = [
        (shown(answer.file), str(rank), label, f"{probability:.4f}")
        for answer in answers
        for rank, (label, probability) in enumerate(answer.classes, start=1)
    ]
    return format_rows(("file", "rank", "label", "probability"), rows, style)


def format_rows(header: Sequence[str], rows: Sequence[Sequence[str]], style: str) -> str:
    """A table for people, or CSV (`style` csv)."""
    if style != "csv":
        return format_columns(header, rows, text_columns=len(header))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().rstrip("\n")


def describe_inverted(files: Sequence[str]) -> str | None:
    """A line on the files that are dark on light where training was light on dark, if any."""
    if not files:
        return None
    more = f" and {len(files) - 1:,} more" if len(files) > 1 else ""
    return (
        f"warning: dark on light, while the model was trained on light on dark: "
        f"{shown(files[0])}{more}. "
        "Invert the picture."
    )
