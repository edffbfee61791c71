"""Seconds from the command to the answer, and what the heavy libraries would cost it.

    python benchmarks/start_up.py [--quick]

Every measurement is a process of its own; files lie in the page cache after the first.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from measurement import Clock, describe_machine, format_table, make_parser, take_turns

CONFIG = """
data: {name: corrupt_mnist, root: samples/corruptmnist}
model: {name: cnn, preset: course}
"""
FAULTY = CONFIG + "train: {learning_rat: 1e-3}\n"
FIRST_STEP = """
import os, sys, time
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
from hf_finetune import finetune, load_config

class Stop:
    def on_step(self, *_):
        os._exit(0)
    def on_record(self, record):
        pass

finetune(load_config(sys.argv[1], ["run.directory=" + sys.argv[2]]), listeners=(Stop(),))
"""
# hf_finetune first: without it some of these can't be imported beside a CPU build of torch.
LIBRARIES = {
    "torch": "import torch",
    "transformers.Trainer": "from transformers import Trainer",
    "datasets": "import datasets",
    "accelerate": "import accelerate",
    "evaluate": "import evaluate",
    "sklearn.metrics": "import sklearn.metrics",
    "comet_ml": "import comet_ml",
}


def time_process(*words: str, status: int = 0) -> float:
    """Seconds of a Python process; it must end as expected."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode != status:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
    return seconds


def make_clocks(folder: Path, libraries: dict[str, str]) -> dict[str, Clock]:
    """What is measured, by what it is called in the table."""
    config, faulty = folder / "course.yaml", folder / "faulty.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    faulty.write_text(FAULTY, encoding="utf-8")
    verb = partial(time_process, "-m", "hf_finetune.cli")
    return {
        "hf-finetune --help": partial(verb, "--help"),
        "hf-finetune train, a faulty setting": partial(
            verb, "train", "--config", str(faulty), status=2
        ),
        "hf-finetune summary": partial(verb, "summary", "--config", str(config)),
        "hf-finetune train, to the first step": partial(
            time_process, "-c", FIRST_STEP, str(config), str(folder / "runs")
        ),
    } | {
        f"import {name}": partial(time_process, "-c", f"import hf_finetune; {statement}")
        for name, statement in libraries.items()
    }


def main() -> None:
    arguments = make_parser(__doc__.splitlines()[0]).parse_args()
    libraries = {"torch": LIBRARIES["torch"]} if arguments.quick else LIBRARIES
    with tempfile.TemporaryDirectory() as folder:
        clocks = make_clocks(Path(folder), libraries)
        turns = take_turns(clocks, repeats=1 if arguments.quick else 3)
    print(f"Start-up: {describe_machine()}\n")
    rows = [
        [name, f"{turns.median(name):.2f}", f"{turns.times_as_fast('import torch', name):.2f}"]
        for name in clocks
    ]
    print(format_table(["a process of its own", "seconds", "/ import torch"], rows))


if __name__ == "__main__":
    main()
