"""The German Emotional-TTS set at full size, part by part; the clips are spoken by espeak-ng.

    python benchmarks/german_emotions.py [--root DIR] [--quick]

2,399 synthetic clips in the layout, with the names and of about the lengths of the real ones: good
for seconds and megabytes, and worthless as evidence of accuracy, so no score is printed. Needs
`espeak-ng` (a package of Debian), unless --root names clips that an earlier call has left.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import md5
from itertools import islice, product
from pathlib import Path
from typing import Any

# As the command line does; read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
from measurement import describe_machine, format_table, make_parser, resident_megabytes
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor

from hf_finetune.assembly import assemble_with, describe
from hf_finetune.config import RunConfig, load_config
from hf_finetune.data import LoadedData, load_data, thorsten_emotional
from hf_finetune.data.audit import audit_data
from hf_finetune.engines.length_batches import clip_seconds
from hf_finetune.finetuning import prepare_job
from hf_finetune.models import build_model
from hf_finetune.registry import kind
from hf_finetune.runs.run_dir import create_run_dir

CONFIG = "configs/thorsten_emotional_wav2vec2.yaml"
SENTENCES, QUICK_SENTENCES = 300, 12
NEVER_RECORDED = "2cc2cc4a34b961ef1657cc82dbd18875"  # whisper/… is missing from the published set
# Pitch (0 to 99), words a minute and loudness (0 to 200) of each emotion.
VOICES = {
    emotion: (20 + 8 * number, 150 + 12 * number, 60 + 15 * number)
    for number, emotion in enumerate(thorsten_emotional.EMOTIONS)
}
WHO = ("Der alte Nachbar", "Die junge Lehrerin", "Mein kleiner Bruder", "Unsere neue Kollegin")
WHEN = ("am Morgen", "nach dem Essen", "im Winter", "kurz vor Mitternacht", "an jedem Freitag")
WHERE = ("durch den stillen Wald", "an den großen See", "über die schmale Brücke", "zum Bahnhof")
WHY = (
    "weil dort die Bücher liegen",
    "um die Vögel zu hören",
    "obwohl es seit Stunden regnet",
    "damit der Hund nicht allein ist",
)
# 0.6 million parameters; clips of some seconds are heard as wav2vec2-base would hear them.
SMALL = {
    "conv_dim": [128] * 7,
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 384,
}


def speak(root: Path, sentences: int) -> None:
    """Writes the set as it is published, in another voice.

    Args:
        root: A new folder.
        sentences: How many; each is spoken once an emotion.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        sys.exit("benchmarks/german_emotions.py: espeak-ng is not installed (Debian: espeak-ng).")
    lines = islice(product(WHO, WHEN, WHERE, WHY), sentences)
    texts = [f"{who} geht {when} {where}, {why}." for who, when, where, why in lines]
    stems = [NEVER_RECORDED, *(md5(text.encode()).hexdigest() for text in texts[1:])]
    for emotion in VOICES:
        (root / emotion).mkdir(parents=True)
    metadata = "".join(f"{stem}|{text}\n" for stem, text in zip(stems, texts, strict=True))
    (root / "thorsten-emotional-metadata.csv").write_text(metadata, encoding="utf-8")

    def say(emotion: str, stem: str, text: str) -> None:
        pitch, speed, loudness = map(str, VOICES[emotion])
        settings = ("-v", "de", "-p", pitch, "-s", speed, "-a", loudness)
        path = root / emotion / f"{stem}.wav"
        subprocess.run([program, *settings, "-w", str(path), text], check=True)

    clips = [(emotion, *pair) for emotion in VOICES for pair in zip(stems, texts, strict=True)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda clip: say(*clip), clips))
    (root / "whisper" / f"{NEVER_RECORDED}.wav").unlink()


class Memory:
    """Megabytes of this process alone after each step; a listener of the engines."""

    def __init__(self) -> None:
        self.megabytes: list[float] = []

    def on_step(self, *_: object) -> None:
        self.megabytes.append(resident_megabytes()[0])

    def on_record(self, record: object) -> None:
        """Nothing to note."""


def configure(root: Path, folder: Path) -> RunConfig:
    """The course's exercise for one epoch, with a small network of its kind."""
    Wav2Vec2Config(**SMALL).save_pretrained(folder / "network")
    Wav2Vec2FeatureExtractor().save_pretrained(folder / "network")
    settings = {
        "data.root": str(root),
        "model.checkpoint": str(folder / "network"),
        "model.pretrained": "false",
        "train.num_train_epochs": "1",
        "run.directory": str(folder / "runs"),
        "run.pictures": "false",
        "trackers": "[jsonl]",
    }
    return load_config(CONFIG, [f"{key}={value}" for key, value in settings.items()])


def train(config: RunConfig, data: LoadedData, memory: Memory) -> None:
    """One epoch, with everyone who listens to a real run."""
    bench = assemble_with(config, data, build_model(config.model, describe(data)))
    with contextlib.redirect_stdout(io.StringIO()):
        run = create_run_dir(config)
        job, trackers, console = prepare_job(bench, run, None, (memory,), quiet=False)
        with trackers.until_the_end(), console:
            kind("engines", config.train.engine).fit(job)


def measure(config: RunConfig, rows: dict[str, list[str]]) -> LoadedData:
    """Seconds and megabytes of each part."""

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        rows[name] = [f"{time.perf_counter() - start:.1f}", f"{resident_megabytes()[0]:,.0f}"]
        return result

    timed("read every recording once, and split by sentence", lambda: load_data(config.data))
    data: LoadedData = timed("the same again, from the table", lambda: load_data(config.data))
    timed("audit: shared sentences, copies, near copies", lambda: audit_data(data))
    memory = Memory()
    timed("one epoch with its evaluations", lambda: train(config, data, memory))
    for part in (0.1, 0.5, 1.0):
        step = round(part * (len(memory.megabytes) - 1))
        rows[f"after step {step + 1:,} of it"] = ["", f"{memory.megabytes[step]:,.0f}"]
    return data


@contextlib.contextmanager
def _clips(root: Path | None, folder: Path, sentences: int) -> Iterator[Path]:
    """The folder of the clips; spoken now where it isn't there."""
    where = root or folder / "clips"
    if not where.exists():
        speak(where, sentences)
    yield where


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help="folder of the clips; made where it is missing")
    arguments = parser.parse_args()
    rows: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HF_FINETUNE_CACHE"] = str(folder / "cache")
        sentences = QUICK_SENTENCES if arguments.quick else SENTENCES
        with _clips(arguments.root, folder, sentences) as root:
            data = measure(configure(root, folder), rows)
    seconds = np.concatenate([clip_seconds(split) for split in data.splits.values()])
    print(
        f"German emotions, spoken by espeak-ng: {len(seconds):,} clips of {seconds.mean():.1f} s "
        f"({seconds.sum() / 60:.0f} minutes, 22,050 Hz), heard at 16,000 Hz; {describe_machine()}\n"
    )
    print(
        format_table(["part", "seconds", "own memory then, MB"], [[k, *v] for k, v in rows.items()])
    )


if __name__ == "__main__":
    main()
