"""Examples a second with wav2vec2 on spoken digits and DeiT on images; collators by extractors.

    python benchmarks/audio_training.py [--root DIR] [--quick]

Weights are random: they change no speed. The engines run as in a real run; every contender of a
table trains the same network on the same examples at the same precision.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

# As the command line does; read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import torch
from measurement import Clock, Turns, describe_machine, format_table, make_parser, take_turns
from throughput import SAMPLE, Stopwatch, run_engine
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import (
    ASTFeatureExtractor,
    DeiTConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from hf_finetune.assembly import Workbench, assemble_with, describe
from hf_finetune.config import RunConfig, config_from
from hf_finetune.data import LoadedData, load_data
from hf_finetune.data.tables import RowReader
from hf_finetune.engines.compiled_shapes import keep_shapes
from hf_finetune.engines.optimization import build_optimizer
from hf_finetune.features import collator_for
from hf_finetune.features.extraction import extractor_for
from hf_finetune.models import build_model

DIGITS = Path("samples/spoken_digits")
SPEECH_BATCH, IMAGE_BATCH, CLIPS = 16, 32, 16
# Examples that are trained on (None: all), steps to warm up, steps that are timed (None: what is
# left of an epoch, since batches by length differ within it), rounds.
Length = tuple[int | None, int, int | None, int]
SPEECH_LENGTH: Length = (None, 3, None, 3)
IMAGE_LENGTH: Length = (384, 2, 10, 7)
QUICK: Length = (32, 1, 1, 1)
MAX_SECONDS = 1.0
_LAYERS = {
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "intermediate_size": 768,
}


@dataclass(frozen=True)
class Setting:
    """What is trained, and how long; what `throughput.run_engine` asks for.

    Attributes:
        tree: The configuration, as a file would give it.
        data: Its data.
        ready: Features of each training example, for the bare loop.
        labels: int64 `[N]`.
        batch: Examples of a step.
        warm_up: Steps before the clock starts.
        steps: Steps that are timed.
    """

    tree: dict[str, Any]
    data: LoadedData
    ready: Sequence[torch.Tensor]
    labels: torch.Tensor
    batch: int
    warm_up: int
    steps: int

    def assemble(self, engine: str = "loop") -> Workbench:
        """A fresh model on its device."""
        config = config_from({**self.tree, "train": {**self.tree["train"], "engine": engine}})
        return assemble_with(config, self.data, build_model(config.model, describe(self.data)))

    def with_features(self, **features: Any) -> Setting:
        """The same with other features."""
        return replace(self, tree={**self.tree, "features": features})

    def frozen(self, part: str) -> Setting:
        """The same with another part frozen."""
        return replace(self, tree={**self.tree, "model": {**self.tree["model"], "freeze": part}})


def run_bare_loop(setting: Setting) -> float:
    """Features in memory, and nothing but the steps: random batches, padded to the longest."""
    bench = setting.assemble()
    compute, model = bench.compute, bench.classifier.model
    optimizer, name = build_optimizer(model, bench.config.train), model.main_input_name
    half = torch.autocast(compute.device, torch.bfloat16, enabled=compute.precision == "bf16")
    watch = Stopwatch(setting)
    for step, rows in enumerate(_row_batches(setting), start=1):
        features = _pad([setting.ready[row] for row in rows]).to(compute.device)
        model.train()  # the part that is frozen goes back to evaluation by itself
        with half:
            logits = model(**{name: features}).logits
        cross_entropy(logits.float(), setting.labels[rows].to(compute.device)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), bench.config.train.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        watch.on_step(step)
    return watch.seconds


def _row_batches(setting: Setting) -> Iterator[np.ndarray]:
    """Every example once, in a random order; then again."""
    random = np.random.default_rng(0)
    left = setting.warm_up + setting.steps
    while True:
        rows = random.permutation(len(setting.labels))
        for start in range(0, len(rows) - setting.batch + 1, setting.batch):
            if left == 0:
                return
            left -= 1
            yield rows[start : start + setting.batch]


def _pad(examples: Sequence[torch.Tensor]) -> torch.Tensor:
    if len({example.shape for example in examples}) == 1:
        return torch.stack(list(examples))
    return nn.utils.rnn.pad_sequence(list(examples), batch_first=True)


def prepare_speech(root: Path, folder: Path, length: Length) -> Setting:
    """Spoken digits of up to a second, and a wav2vec2 whose front end is frozen."""
    keep_shapes(come_again=True)  # a run does so before anything is computed
    Wav2Vec2Config(**_LAYERS).save_pretrained(folder / "speech")
    Wav2Vec2FeatureExtractor().save_pretrained(folder / "speech")
    tree = {
        "data": {
            "name": "audio_folder",
            "root": str(root),
            "name_pattern": "{label}_{speaker}_{take}",
            "split": {"group_by": "none", "validation_fraction": 0.1, "test_fraction": 0.1},
        },
        "model": _model_tree("auto_audio", folder / "speech", freeze="feature_encoder"),
        "train": _train_tree(SPEECH_BATCH),
        "run": {"directory": str(folder / "runs"), "pictures": False},
        "features": {"audio": {"max_seconds": MAX_SECONDS}},
    }
    data = load_data(config_from(tree).data)
    return _make_setting(tree, data, "input_values", SPEECH_BATCH, length)


def prepare_images(folder: Path, length: Length) -> Setting:
    """Corrupted digits at 224 pixels, and a DeiT."""
    DeiTConfig(**_LAYERS).save_pretrained(folder / "image")
    ViTImageProcessorPil().save_pretrained(folder / "image")
    tree = {
        "data": {"name": "corrupt_mnist", "root": str(SAMPLE)},
        "model": _model_tree("auto_image", folder / "image"),
        "train": _train_tree(IMAGE_BATCH),
        "run": {"directory": str(folder / "runs"), "pictures": False},
    }
    data = load_data(config_from(tree).data)
    return _make_setting(tree, data, "pixel_values", IMAGE_BATCH, length)


def _make_setting(
    tree: dict[str, Any], data: LoadedData, name: str, batch: int, length: Length
) -> Setting:
    """Shortens the data, and makes the features that the bare loop has ready."""
    examples, warm_up, steps, _ = length
    data = _shorten(data, examples)
    ready, labels = _read_features(tree, data, name)
    if steps is None:
        steps = len(labels) // batch - warm_up
    return Setting(tree, data, ready, labels, batch, warm_up, steps)


def _model_tree(name: str, folder: Path, **more: Any) -> dict[str, Any]:
    return {"name": name, "checkpoint": str(folder), "pretrained": False, **more}


def _train_tree(batch: int) -> dict[str, Any]:
    return {
        "per_device_train_batch_size": batch,
        "num_train_epochs": 100,
        "eval_strategy": "steps",
        "eval_steps": 10**6,
    }


def _shorten(data: LoadedData, examples: int | None) -> LoadedData:
    """So many examples to train on (None: all), and few to score at the end."""
    splits, sizes = data.splits, {"train": examples, "validation": 16, "test": 16}
    for name, size in sizes.items():
        rows = np.arange(len(splits[name]))
        if size is not None and size < len(rows):  # spread out: neighbours are of one class
            splits[name] = splits[name].select(rows[:: len(rows) // size][:size])
    return data


def _read_features(
    tree: dict[str, Any], data: LoadedData, name: str
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """What the model takes of each training example; labels int64 `[N]`."""
    config: RunConfig = config_from(tree)
    classifier = build_model(config.model, describe(data))
    collator = collator_for(classifier.processor, config.features, 0, False)
    column = "audio" if "audio" in data.splits["train"].column_names else "image"
    reader, ready, labels = RowReader(data.splits["train"], [column, "label"]), [], []
    for row in range(len(reader)):
        batch = collator({**reader.read(np.array([row])), "index": np.array([row])})
        ready.append(batch[name][0])
        labels.append(batch["labels"])
    return ready, torch.cat(labels)


def measure_speech(setting: Setting, repeats: int) -> str:
    """Examples a second with wav2vec2, each beside the bare loop."""
    random = {"audio": {"max_seconds": MAX_SECONDS, "batches": "random"}, "keep_frozen": "off"}
    by_length = {"audio": {"max_seconds": MAX_SECONDS}, "keep_frozen": "off"}
    kept = {"audio": {"max_seconds": MAX_SECONDS}}
    contenders: dict[str, Clock] = {
        "bare loop, random batches": partial(run_bare_loop, setting),
        "engine loop, random batches": partial(run_engine, setting.with_features(**random), "loop"),
        "engine loop, by length": partial(run_engine, setting.with_features(**by_length), "loop"),
        "engine loop, by length, front end kept": partial(
            run_engine, setting.with_features(**kept), "loop"
        ),
        "engine trainer, by length, front end kept": partial(
            run_engine, setting.with_features(**kept), "trainer"
        ),
        "engine loop, by length, backbone frozen and kept": partial(
            run_engine, setting.with_features(**kept).frozen("backbone"), "loop"
        ),
    }
    return _format_speeds("wav2vec2, front end frozen", setting, take_turns(contenders, repeats), 2)


def measure_images(setting: Setting, repeats: int) -> str:
    """Examples a second with DeiT, each beside the bare loop."""
    contenders: dict[str, Clock] = {
        "bare loop on tensors in memory": partial(run_bare_loop, setting),
        "engine loop": partial(run_engine, setting, "loop"),
        "engine trainer": partial(run_engine, setting, "trainer"),
    }
    return _format_speeds("DeiT at 224 pixels", setting, take_turns(contenders, repeats), 1)


def _format_speeds(title: str, setting: Setting, turns: Turns, references: int) -> str:
    """Examples a second, each beside the first contenders."""
    names = list(turns.seconds)
    header = [title, "examples a second", "/ bare", "/ random"][: 2 + references]
    rows = [
        [name, f"{setting.steps * setting.batch / turns.median(name):,.1f}"]
        + [f"{turns.times_as_fast(name, reference):.2f}" for reference in names[:references]]
        for name in names
    ]
    return format_table(header, rows)


EXTRACTORS: dict[str, Callable[[], Any]] = {
    "Wav2Vec2FeatureExtractor": Wav2Vec2FeatureExtractor,
    "ASTFeatureExtractor": ASTFeatureExtractor,
    "WhisperFeatureExtractor": WhisperFeatureExtractor,
}


def measure_extractors(clips: Sequence[torch.Tensor], repeats: int) -> str:
    """Milliseconds to make features of some clips: by extractors one by one, and our way."""
    header = [f"features of {CLIPS} clips", "clip by clip, ms", "ours, ms", "ratio", "apart"]
    rows = []
    for name, make in EXTRACTORS.items():
        processor = make()
        ours = extractor_for(processor)
        found = {
            "one by one": _extract_singly(processor, clips),
            "ours": ours.extract(clips)[processor.model_input_names[0]],
        }
        turns = take_turns(
            {
                "one by one": partial(_time, partial(_extract_singly, processor, clips)),
                "ours": partial(_time, partial(ours.extract, clips)),
            },
            repeats,
        )
        apart = float((found["ours"] - found["one by one"]).abs().max())
        ratio = turns.times_as_fast("ours", "one by one")
        medians = [f"{1000 * turns.median(way):.2f}" for way in turns.seconds]
        rows.append([name, *medians, f"{ratio:.1f}", f"{apart:.1e}"])
    return format_table(header, rows)


def _extract_singly(processor: Any, clips: Sequence[torch.Tensor]) -> torch.Tensor:
    rate, name = processor.sampling_rate, processor.model_input_names[0]
    single = [
        torch.from_numpy(processor(clip.numpy(), sampling_rate=rate, return_tensors="np")[name][0])
        for clip in clips
    ]
    return _pad(single)


def _time(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=DIGITS, help="folder with the spoken digits")
    arguments = parser.parse_args()
    speech_length, image_length = SPEECH_LENGTH, IMAGE_LENGTH
    if arguments.quick:
        speech_length = image_length = QUICK
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HF_FINETUNE_CACHE"] = str(folder / "cache")
        speech = prepare_speech(arguments.root, folder, speech_length)
        tables = [
            measure_speech(speech, speech_length[3]),
            measure_images(prepare_images(folder, image_length), image_length[3]),
            measure_extractors(speech.ready[:CLIPS], 1 if arguments.quick else 9),
        ]
    print(
        f"Audio and image models: batches of {SPEECH_BATCH} clips of {arguments.root} and of "
        f"{IMAGE_BATCH} images; {describe_machine()}\n"
    )
    print("\n\n".join(tables))


if __name__ == "__main__":
    main()
