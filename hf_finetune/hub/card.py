"""Writes the model card: what the model is for, how good it is, and how to use it.

Place: `contents` puts it into the folder that is pushed, as README.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hf_finetune.hub import MAIN
from hf_finetune.hub.metadata import find_data_facts, write_metadata
from hf_finetune.hub.record import RunRecord

# A card without this line is somebody's own, and is left as it is.
MARKER = "<!-- Written by hf_finetune at each push. Take out this line to keep a text of yours. -->"
_MOST_CLASSES = 40  # in the table by class; of more, those with the lowest F1
_MOST_NAMED = 20
_FEW_EXAMPLES = 30


@dataclass(frozen=True)
class ModelFacts:
    """What the card needs to know of the model itself.

    Attributes:
        repo_id: Where it will lie.
        revision: Branch.
        architecture: Its class.
        num_parameters: Trainable or not.
        label_names: In the order of the label ids.
        modality: What it takes.
        sampling_rate_hz: Of sound.
        code_files: Python files that go with the weights; none for transformers' own networks.
        license: Of the weights.
        languages: Spoken languages.
    """

    repo_id: str
    revision: str
    architecture: str
    num_parameters: int
    label_names: tuple[str, ...]
    modality: Literal["image", "audio"]
    sampling_rate_hz: int | None = None
    code_files: tuple[str, ...] = ()
    license: str | None = None
    languages: tuple[str, ...] = ()


def write_card(
    record: RunRecord, model: ModelFacts, progress: Mapping[str, Any] | None = None
) -> str:
    """The card as Markdown, with its metadata.

    Args:
        record: The run.
        model: The model.
        progress: The evaluation that the weights belong to, while the run goes on.
    """
    metadata = write_metadata(record, model.repo_id, model.modality, model.license, model.languages)
    parts = [
        f"---\n{metadata}\n---\n{MARKER}",
        _introduce(record, model, progress),
        _show_use(model),
        _state_purpose(record, model),
        _describe_data(record),
        _show_results(record) if record.metrics is not None else "",
        _show_classes(record) if record.metrics is not None else "",
        _show_pictures(record),
        _list_limits(record, model),
        _describe_training(record),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _introduce(record: RunRecord, model: ModelFacts, progress: Mapping[str, Any] | None) -> str:
    names = [_escape(name) for name in model.label_names]
    named = ", ".join(names[:_MOST_NAMED]) + (", …" if len(names) > _MOST_NAMED else "")
    what = {"image": "images", "audio": "sound"}[model.modality]
    origin = "trained from scratch"
    if record.base_model:
        origin = (
            f"fine-tuned from [{record.base_model}](https://huggingface.co/{record.base_model})"
        )
    elif record.settings.get("model", {}).get("pretrained"):
        origin = "fine-tuned from a checkpoint that is not on the Hub"
    data = find_data_facts(record.settings)
    text = (
        f"# {model.repo_id.partition('/')[2]}\n\n"
        f"Classifies {what} into {len(names)} classes: {named}. `{model.architecture}` with "
        f"{model.num_parameters:,} parameters, {origin}, on {data.title}."
    )
    if progress is not None:
        return text + (
            f"\n\n**Training goes on.** These are the weights after step {progress['step']:,} "
            f"(epoch {progress['epoch']:.3g}): accuracy {progress['validation/accuracy']:.2%} and "
            f"macro F1 {progress['validation/macro_f1']:.4f} on validation. The test split is "
            "scored once, when training has ended."
        )
    if record.metrics is None:
        return text
    split = _name_split(record)
    scores = record.metrics[split]
    low, high = scores["accuracy_interval"]
    return text + (
        f"\n\n**{split.capitalize()} accuracy {scores['accuracy']:.2%}** (95 % interval {low:.2%} "
        f"to {high:.2%}, {scores['num_examples']:,} examples), macro F1 {scores['macro_f1']:.4f}."
    )


def _show_use(model: ModelFacts) -> str:
    arguments = [f'"{model.modality}-classification"', f'model="{model.repo_id}"']
    if model.revision != MAIN:
        arguments.append(f'revision="{model.revision}"')
    if model.code_files:
        arguments.append("trust_remote_code=True")
    make = f"classify = pipeline({', '.join(arguments)})"
    if model.modality == "image":
        code = f'from transformers import pipeline\n\n{make}\nprint(classify("image.png"))'
        intro = "`image.png` is a picture of your own, of any size."
    else:
        code = (
            f"import soundfile\nfrom transformers import pipeline\n\n{make}\n"
            'waveform, rate = soundfile.read("clip.wav", dtype="float32")\n'
            'print(classify({"raw": waveform, "sampling_rate": rate}))'
        )
        intro = (
            f"`clip.wav` is a clip of your own, of one channel at {model.sampling_rate_hz:,} Hz."
        )
    text = f"## Use\n\n{intro}\n\n```python\n{code}\n```"
    if model.code_files:
        files = " and ".join(f"`{name}`" for name in model.code_files)
        text += (
            f"\n\n`trust_remote_code=True` lets {files} of this repository run on your machine: "
            "read them first. They need torch, transformers and what these bring."
        )
    command = f"hf-finetune predict {model.repo_id} FILE"
    if model.revision != MAIN:
        command += f" --revision {model.revision}"
    return text + f"\n\nWith hf_finetune installed: `{command}`."


def _state_purpose(record: RunRecord, model: ModelFacts) -> str:
    what = "pictures" if model.modality == "image" else "clips"
    title = find_data_facts(record.settings).title
    those = "it was trained on" if title.startswith("a ") else f"of {title}"  # a folder has no name
    return (
        f"## Intended use\n\nFor {what} like those {those}: study, comparison, and a start for "
        "further training. It always answers with one of its "
        f"{len(model.label_names)} classes, also where none of them is right. It is not made for "
        "decisions about people, nor for anything where a wrong answer does harm."
    )


def _describe_data(record: RunRecord) -> str:
    told = record.plan.get("data", "")
    sizes = re.search(r"train ([\d,]+), validation ([\d,]+), test ([\d,]+)", told)
    rows = []
    if sizes is not None:
        uses = ("training", *_say_uses(record))
        names = ("train", "validation", "held out" if record.shared_examples else "test")
        rows = list(zip(names, sizes.groups(), uses, strict=True))
    table = _format_table(("split", "examples", "used for"), rows) + "\n\n" if rows else ""
    # Which groups were held out is nobody's business: they may be people.
    split = re.sub(r" \([^()]*\)", "", told.partition("; ")[2])
    verdict, _, reason = record.plan.get("leaks", "not known").partition(": ")
    overlap = f"{verdict} ({reason})" if reason else verdict.replace("the warnings", "the limits")
    return (
        f"## Data and split\n\n{table}{_sentence(split)}"
        f"Group overlap between the splits: {overlap}."
    )


def _say_uses(record: RunRecord) -> tuple[str, str]:
    """What validation and test were used for."""
    validation, test = "choosing the weights", "scored once, at the end"
    if not _has_chosen(record):
        validation = "scored once: there was nothing to choose"
    if record.shared_examples:
        test = f"scored at the end; {record.shared_examples:,} of them stand in validation too"
    return validation, test


def _has_chosen(record: RunRecord) -> bool:
    """Whether there was more than one evaluation to choose the weights from."""
    return record.metrics is None or record.num_evaluations != 1


def _show_results(record: RunRecord) -> str:
    metrics = record.metrics or {}
    shared = record.shared_examples
    rows = []
    for split in ("test", "validation"):
        scores = metrics[split]
        name = "held out (no test, see below)" if shared and split == "test" else split
        cells = [f"{scores['accuracy']:.2%}", _interval(scores, "accuracy", "{:.2%}")]
        cells += [f"{scores[key]:.4f}" for key in ("macro_f1", "weighted_f1", "loss")]
        rows.append((name, *cells, f"{scores['num_examples']:,}"))
    header = ("split", "accuracy", "95 % interval", "macro F1", "weighted F1", "loss", "examples")
    lines = [f"## Results\n\n{_format_table(header, rows)}"]
    f1_interval = _interval(metrics["test"], "macro_f1", "{:.4f}")
    if f1_interval and not shared:
        lines.append(f"95 % interval of the test macro F1: {f1_interval}.")
    lines.append(f"{_say_choice(record)}. Accuracy intervals are Wilson's.")
    return "\n\n".join(lines)


def _say_choice(record: RunRecord) -> str:
    """Which splits chose the weights, and so what their scores are worth."""
    metrics, shared = record.metrics or {}, record.shared_examples
    step = f"step {metrics['best_step']:,} of {metrics['steps']:,}"
    if _has_chosen(record):
        chosen = (
            f"validation chose the weights (best {metrics['metric_for_best_model']}, {step}), so "
            "its score can be too good"
        )
        helped = ": they helped to choose the weights, so this model has no independent test"
    else:
        chosen = f"there was one evaluation (at {step}), so validation had nothing to choose"
        helped = ", so that there is no test beside it"
    verdict = "The test split chose nothing"
    if shared:
        verdict = f"{shared:,} of the examples held out stand in validation too{helped}"
    return f"{verdict}; {chosen}"


def _interval(scores: Mapping[str, Any], metric: str, style: str) -> str:
    """Interval of a metric, where there is one."""
    bounds = scores.get(f"{metric}_interval")
    if not isinstance(bounds, list) or len(bounds) != 2:
        return ""
    return " to ".join(style.format(bound) for bound in bounds)


def _name_split(record: RunRecord) -> str:
    """The split that speaks for the model: test, unless it helped to choose the weights."""
    return "validation" if record.shared_examples else "test"


def _show_classes(record: RunRecord) -> str:
    split = _name_split(record)
    classes: Mapping[str, Any] = (record.metrics or {})[split]["per_class"]
    names = list(classes)
    intro = ""
    if len(names) > _MOST_CLASSES:
        names = sorted(names, key=lambda name: classes[name]["f1"])[:_MOST_CLASSES]
        intro = f"The {_MOST_CLASSES} of {len(classes)} classes with the lowest F1:\n\n"
    rows = [
        (
            _escape(name),
            *(f"{classes[name][score]:.3f}" for score in ("precision", "recall", "f1")),
            f"{classes[name]['support']:,}",
        )
        for name in names
    ]
    header = ("class", "precision", "recall", "F1", "examples")
    return f"### By class ({split} split)\n\n{intro}{_format_table(header, rows)}"


def _show_pictures(record: RunRecord) -> str:
    captions = {
        "confusion_matrix.png": "Confusion matrix of the test split: what is taken for what",
        "curves.png": "Learning curves: loss, validation scores and learning rate",
    }
    there = {path.name for path in record.pictures}
    return "\n\n".join(f"![{text}]({name})" for name, text in captions.items() if name in there)


def _list_limits(record: RunRecord, model: ModelFacts) -> str:
    others = {"image": "cameras, places or light", "audio": "speakers, microphones or rooms"}
    limits = [
        "The scores hold for data like those of the splits above. Of other "
        f"{others[model.modality]} they say nothing."
    ]
    split = _name_split(record)
    classes = record.metrics[split]["per_class"] if record.metrics is not None else {}
    rare = [_escape(name) for name, row in classes.items() if row["support"] < _FEW_EXAMPLES]
    if rare:
        named = ", ".join(rare[:_MOST_NAMED]) + (", …" if len(rare) > _MOST_NAMED else "")
        limits.append(
            f"Few {split} examples (under {_FEW_EXAMPLES}) of {named}: their numbers are rough."
        )
    limits += [f"{_escape(_capital(limit)).rstrip('.')}." for limit in record.limits]
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)


def _describe_training(record: RunRecord) -> str:
    environment = record.environment
    rows: dict[str, str] = {
        topic: record.plan[topic]
        for topic in ("model", "features", "training", "compute")
        if topic in record.plan
    }
    rows |= _tell_course(record)
    rows["seed"] = str(record.settings.get("seed"))
    if record.metrics is not None:
        rows["time"] = f"{record.metrics['train_seconds']:.1f} s of training"
    rows["hardware"] = _describe_hardware(environment)
    packages = {"hf_finetune": environment.get("hf_finetune"), **environment.get("packages", {})}
    versions = {"python": environment.get("python"), **packages}
    rows["versions"] = ", ".join(f"{name} {number}" for name, number in versions.items() if number)
    if environment.get("git"):
        changed = ", which had uncommitted changes" * bool(environment["git"]["is_dirty"])
        rows["commit"] = f"{environment['git']['commit']} of the folder it ran in{changed}"
    table = _format_table(("", ""), [(topic, _escape(text)) for topic, text in rows.items()])
    numbers = ", every number in [metrics.json](metrics.json)" * (record.metrics is not None)
    settings = "Every setting stands in [training_config.yaml](training_config.yaml)"
    return f"## Training\n\n{table}\n\n{settings}{numbers}."


def _tell_course(record: RunRecord) -> dict[str, str]:
    """Where training didn't run through in one go."""
    rows: dict[str, str] = {}
    early = record.stopped_early
    if early is not None:
        place = f"at epoch {early['epoch']:.4g} (step {early['step']:,})"
        rows["stopped early"] = f"{place}: {early['reason']}"
    if record.went_on:
        places = [
            (f"after step {step:,}" + (f" (epoch {epoch:.4g})" if epoch is not None else ""))
            if step
            else "from the start"
            for step, epoch in record.went_on
        ]
        rows["interrupted"] = f"and went on {', then '.join(places)}"
    return rows


def _describe_hardware(environment: Mapping[str, Any]) -> str:
    gpus = [gpu["name"] for gpu in environment.get("gpus", [])]
    cpu = environment.get("cpu", {})
    parts = [f"{len(gpus)} x {gpus[0]}"] if gpus else []
    if cpu.get("usable_cores"):
        parts.append(f"{cpu['usable_cores']} cores of {cpu.get('model') or 'a CPU'}")
    return ", ".join(parts) or "not known"


def _format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column to the left."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape(text: str) -> str:
    """Text as Markdown and its tables show it unchanged."""
    return re.sub(r"([\\|*_`<>\[\]])", r"\\\1", " ".join(text.split()))


def _capital(text: str) -> str:
    if re.match(r"\w+[._]\w", text):  # a setting, a file
        return text
    return text[:1].upper() + text[1:]


def _sentence(text: str) -> str:
    return f"{_capital(text)}. " if text else ""
