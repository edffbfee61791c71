"""Examples a second in training: both engines beside a bare loop, the course's loop and Trainer.

    python benchmarks/throughput.py [--root DIR] [--quick]

Every contender trains the same network on the same images; the course's loop and Trainer used the
usual way have ReLU before the pooling, as it is usually written. The engines run as in a real run:
data from the toolkit's loader, history written, progress printed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

# As the command line does; read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import torch
from measurement import Clock, Turns, describe_machine, format_table, make_parser, take_turns
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, TensorDataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_finetune.assembly import Workbench, assemble_with, describe
from hf_finetune.config import RunConfig, config_from
from hf_finetune.data import LoadedData, load_data
from hf_finetune.data.tables import RowReader
from hf_finetune.engines.optimization import build_optimizer
from hf_finetune.finetuning import prepare_job
from hf_finetune.models import DataDescription, build_model
from hf_finetune.registry import kind
from hf_finetune.runs.run_dir import create_run_dir

FULL, SAMPLE = Path("data/corruptmnist"), Path("samples/corruptmnist")
BATCH, COURSE_BATCH = 128, 32
# By network: steps to warm up, steps that are timed, rounds. The larger network is steadier.
LENGTHS = {"course": (10, 60, 15), "default": (5, 15, 9)}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is trained, and how long."""

    config: RunConfig
    data: LoadedData
    description: DataDescription
    pixels: torch.Tensor
    labels: torch.Tensor
    warm_up: int
    steps: int

    def assemble(self, engine: str = "loop") -> Workbench:
        """A fresh model on its device."""
        train = self.config.train.model_copy(update={"engine": engine})
        config = self.config.model_copy(update={"train": train})
        return assemble_with(config, self.data, build_model(config.model, self.description))


class Stopwatch:
    """Seconds between two steps; a listener of the engines."""

    def __init__(self, setting: Setting) -> None:
        self.first = setting.warm_up
        self.last = setting.warm_up + setting.steps
        self.seconds = 0.0

    def on_step(self, step: int, *_: object) -> None:
        if step == self.first:
            self.seconds = -_now()
        elif step == self.last:
            self.seconds += _now()

    def on_record(self, record: object) -> None:
        """Nothing to note."""


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def run_engine(setting: Setting, engine: str) -> float:
    """The toolkit's own engine, with everyone who listens to a real run."""
    bench = setting.assemble(engine)
    watch = Stopwatch(setting)
    with contextlib.redirect_stdout(io.StringIO()):
        run = create_run_dir(bench.config)
        job, trackers, console = prepare_job(bench, run, None, (watch,), quiet=False)
        with trackers.until_the_end(), console:
            kind("engines", engine).fit(dataclasses.replace(job, stop_after=watch.last))
    return watch.seconds


def run_bare_loop(setting: Setting) -> float:
    """Ready tensors in memory, and nothing but the steps, at the precision of the engines."""
    bench = setting.assemble()
    compute, model = bench.compute, bench.classifier.model.train()
    optimizer = build_optimizer(model, bench.config.train)
    images, labels = setting.pixels.to(compute.device), setting.labels.to(compute.device)
    half = torch.autocast(compute.device, torch.bfloat16, enabled=compute.precision == "bf16")
    watch = Stopwatch(setting)
    for step, rows in enumerate(_row_batches(setting, compute.device), start=1):
        with half:
            logits = model(pixel_values=images[rows]).logits
        cross_entropy(logits.float(), labels[rows]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), bench.config.train.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        watch.on_step(step)
    return watch.seconds


def _row_batches(setting: Setting, device: str) -> Iterator[torch.Tensor]:
    for _ in range(setting.warm_up + setting.steps):
        yield torch.randint(len(setting.labels), (BATCH,), device=device)


def as_usually_written(model: nn.Module) -> nn.Module:
    """The same network with ReLU before the pooling, as courses teach it; answers are equal."""
    for block in model.features:
        if isinstance(block[-1], nn.ReLU) and isinstance(block[-2], nn.MaxPool2d):
            block[-2], block[-1] = block[-1], block[-2]
    return model.to(memory_format=torch.contiguous_format).train()


def run_course_loop(setting: Setting) -> float:
    """What the course's exercises come to: batch 32, fp32, torch's own loader, Adam."""
    bench = setting.assemble()
    device = bench.compute.device
    model = as_usually_written(bench.classifier.model)
    loader = DataLoader(TensorDataset(setting.pixels, setting.labels), COURSE_BATCH, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss_function = nn.CrossEntropyLoss()
    watch = Stopwatch(setting)
    for step, (images, labels) in enumerate(islice(_endless(loader), watch.last), start=1):
        optimizer.zero_grad()
        loss = loss_function(model(images.to(device)).logits, labels.to(device))
        loss.backward()
        optimizer.step()
        watch.on_step(step)
    return watch.seconds


def _endless(loader: DataLoader[Any]) -> Iterator[Any]:
    while True:
        yield from loader


class Items(Dataset[dict[str, Any]]):
    """One example at a time, as most scripts feed Trainer."""

    def __init__(self, setting: Setting) -> None:
        self.pixels, self.labels = setting.pixels, setting.labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"pixel_values": self.pixels[row], "labels": self.labels[row]}


class WatchCallback(TrainerCallback):
    """Lets a stopwatch hear Trainer."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.watch.on_step(state.global_step)


def run_usual_trainer(setting: Setting) -> float:
    """transformers' Trainer by itself: data example by example, default collator, fp32."""
    bench, watch = setting.assemble(), Stopwatch(setting)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=watch.last,
            per_device_train_batch_size=BATCH,
            save_strategy="no",
            dataloader_pin_memory=torch.cuda.is_available(),
            report_to="none",
            disable_tqdm=True,
        )
        model = as_usually_written(bench.classifier.model)
        with contextlib.redirect_stdout(io.StringIO()):
            Trainer(
                model, arguments, train_dataset=Items(setting), callbacks=[WatchCallback(watch)]
            ).train()
    return watch.seconds


CONTENDERS: dict[str, tuple[Callable[[Setting], float], int]] = {
    "bare loop on tensors in memory": (run_bare_loop, BATCH),
    "hf_finetune, engine loop": (lambda setting: run_engine(setting, "loop"), BATCH),
    "hf_finetune, engine trainer": (lambda setting: run_engine(setting, "trainer"), BATCH),
    "the course's loop, batch 32, fp32": (run_course_loop, COURSE_BATCH),
    "Trainer used the usual way, fp32": (run_usual_trainer, BATCH),
}


def prepare(preset: str, root: Path, directory: str, warm_up: int, steps: int) -> Setting:
    """Reads the images, and settles what is trained."""
    config = config_from(
        {
            "data": {"name": "corrupt_mnist", "root": str(root)},
            "model": {"name": "cnn", "preset": preset},
            "train": {"per_device_train_batch_size": BATCH, "num_train_epochs": 100},
            "run": {"directory": directory, "pictures": False},
        }
    )
    data = load_data(config.data)
    needed = BATCH * (warm_up + steps + 1)
    train = data.splits["train"]
    if len(train) < needed:  # else an epoch's end would fall into the timed part
        data.splits["train"] = train.select(np.resize(np.arange(len(train)), needed))
    rows = RowReader(train, ["image", "label"]).read(np.arange(len(train)))
    description = describe(data)
    images = torch.from_numpy(rows["image"])[:, None] / 255
    pixels = (images - description.image_mean[0]) / description.image_std[0]
    labels = torch.from_numpy(rows["label"])
    return Setting(config, data, description, pixels, labels, warm_up, steps)


def measure(setting: Setting, repeats: int) -> Turns:
    """Seconds of every contender."""
    clocks: dict[str, Clock] = {
        name: partial(run, setting) for name, (run, _) in CONTENDERS.items()
    }
    return take_turns(clocks, repeats)


def format_speeds(turns: Mapping[str, Turns], steps: Mapping[str, int]) -> str:
    """Examples a second of each contender by network, each beside the bare loop and the course."""
    header = ["examples a second"]
    for preset in turns:
        header += [f"{preset} network", "/ bare", "/ course"]
    rows = []
    bare, *_, course, _ = CONTENDERS
    for name, (_, batch) in CONTENDERS.items():
        row = [name]
        for preset, seconds in turns.items():
            row.append(f"{steps[preset] * batch / seconds.median(name):,.0f}")
            for reference in (bare, course):
                in_batches = batch / CONTENDERS[reference][1]
                row.append(f"{in_batches * seconds.times_as_fast(name, reference):.2f}")
        rows.append(row)
    return format_table(header, rows)


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help="folder with the full corrupted MNIST")
    arguments = parser.parse_args()
    root = arguments.root or (FULL if FULL.is_dir() and not arguments.quick else SAMPLE)
    turns, timed = {}, {}
    with tempfile.TemporaryDirectory() as directory:
        for preset, length in LENGTHS.items():
            warm_up, steps, repeats = (1, 2, 1) if arguments.quick else length
            setting = prepare(preset, root, directory, warm_up, steps)
            turns[preset], timed[preset] = measure(setting, repeats), steps
    print(f"Throughput: batch {BATCH}, images of {root}; {describe_machine()}\n")
    print(format_speeds(turns, timed))


if __name__ == "__main__":
    main()
