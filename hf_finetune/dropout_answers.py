"""What a model says of files over many samples of its dropout; `predict --mc-dropout`.

Place: beside `inference`, which reads the files; the sampling is `evaluation.uncertainty`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hf_finetune.console import format_columns
from hf_finetune.data.listing import shown
from hf_finetune.errors import UserError
from hf_finetune.inference import (
    FileReading,
    find_inverted,
    format_rows,
    load_for_files,
    read_batches,
)

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from hf_finetune.evaluation.uncertainty import DropoutSamples
    from hf_finetune.models import Classifier


@dataclass(frozen=True)
class SampledAnswer:
    """What a model says about one file over many samples of its dropout.

    Attributes:
        file: The path as given.
        classes: Classes that a sample predicts, most often first: label, share of the samples,
            mean probability.
        predictive_entropy: In nats; see `evaluation.uncertainty.DropoutSamples`.
        mutual_information: In nats; likewise.
        is_inverted: As in `FileAnswer`.
    """

    file: str
    classes: tuple[tuple[str, float, float], ...]
    predictive_entropy: float
    mutual_information: float
    is_inverted: bool = False


def sample_files(
    model: str,
    files: Sequence[str],
    config_path: str | None = None,
    overrides: Sequence[str] = (),
    num_samples: int = 100,
    seed: int = 0,
    histogram: str | Path | None = None,
) -> list[SampledAnswer]:
    """Predicts files, images or sound, many times with dropout switched on (Monte Carlo dropout).

    Args:
        model: Run, folder or state_dict file.
        files: Image or sound files.
        config_path: Configuration; needed for a state_dict file.
        overrides: Settings to change.
        num_samples: Predictions of each file.
        seed: Decides what is dropped.
        histogram: PNG file to draw the predictions of the one file to.

    Raises:
        UserError: The model can't be used or has no dropout, a file is missing or not of its kind,
            or the histogram can't be drawn.
    """
    from hf_finetune.evaluation.uncertainty import sample_dropout

    if num_samples < 1:
        raise UserError(f"--mc-dropout: must be at least 1 sample, got {num_samples}.")
    if histogram is not None:
        _check_histogram(Path(histogram), files)
    classifier, reading = load_for_files(model, files, config_path, overrides)
    answers = []
    for part, batch in read_batches(classifier, files, reading):
        samples = sample_dropout(classifier.model, [batch], num_samples, seed)
        inverted = find_inverted(batch, classifier.processor)
        answers += [
            _describe_samples(classifier, samples, row, file, inverted[row])
            for row, file in enumerate(part)
        ]
        if histogram is not None:
            picture = _picture_of(classifier, batch, files[0], reading)
            _draw_histogram(Path(histogram), classifier, picture, samples, answers[0])
    return answers


def _describe_samples(
    classifier: Classifier, samples: DropoutSamples, row: int, file: str, is_inverted: bool
) -> SampledAnswer:
    names, votes = classifier.model.config.id2label, samples.votes[row]
    order = sorted(votes.nonzero()[0].tolist(), key=lambda label: -votes[label])
    return SampledAnswer(
        file,
        tuple(
            (
                names[label],
                float(votes[label] / votes.sum()),
                float(samples.probabilities[row, label]),
            )
            for label in order
        ),
        float(samples.predictive_entropy[row]),
        float(samples.mutual_information[row]),
        is_inverted,
    )


def _check_histogram(path: Path, files: Sequence[str]) -> None:
    from hf_finetune.runs.pictures import check_own

    if len(files) != 1:
        raise UserError(f"--histogram: shows one file, got {len(files)}. Name one file.")
    check_own(path)


def _picture_of(
    classifier: Classifier, batch: Mapping[str, Tensor], file: str, reading: FileReading
) -> np.ndarray:
    """The file as the model sees or hears it: float `[1 or 3, H, W]`."""
    if "pixel_values" in batch:
        pixels: np.ndarray = batch["pixel_values"][0].numpy()
        return pixels
    from hf_finetune.clip_reading import draw_clip

    return draw_clip(classifier, file, reading.features)


def _draw_histogram(
    path: Path,
    classifier: Classifier,
    picture: np.ndarray,
    samples: DropoutSamples,
    answer: SampledAnswer,
) -> None:
    from hf_finetune.runs.pictures import draw_votes, write_picture

    names = [name for _, name in sorted(classifier.model.config.id2label.items())]
    title = (
        f"{Path(answer.file).name}: {samples.votes[0].sum():,} samples with dropout\n"
        f"predictive entropy {answer.predictive_entropy:.3f} nats, "
        f"mutual information {answer.mutual_information:.3f} nats"
    )
    write_picture(path, lambda place: draw_votes(picture, samples.votes[0], names, place, title))


def format_samples(answers: Sequence[SampledAnswer], style: str) -> str:
    """The answers as a table for each file, or as one CSV (`style` csv)."""
    if style != "csv":
        return "\n\n".join(map(_format_answer, answers))
    header = ("file", "label", "share", "mean_probability")
    measures = ("predictive_entropy_nats", "mutual_information_nats")
    rows = [
        (
            shown(answer.file),
            *row,
            f"{answer.predictive_entropy:.4f}",
            f"{answer.mutual_information:.4f}",
        )
        for answer in answers
        for row in _list_classes(answer)
    ]
    return format_rows((*header, *measures), rows, style)


def _format_answer(answer: SampledAnswer) -> str:
    return (
        f"{shown(answer.file)}: predictive entropy {answer.predictive_entropy:.4f} nats, "
        f"mutual information {answer.mutual_information:.4f} nats\n"
        + format_columns(("label", "share", "mean probability"), list(_list_classes(answer)))
    )


def _list_classes(answer: SampledAnswer) -> Iterator[tuple[str, str, str]]:
    for label, share, probability in answer.classes:
        yield label, f"{share:.4f}", f"{probability:.4f}"
