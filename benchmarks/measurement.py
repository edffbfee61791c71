"""How the benchmarks measure and what they print; their shared ground, no benchmark itself."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Also lets transformers be imported after it, where torch is a CPU build.
from hf_finetune.runs.environment import describe_environment

Clock = Callable[[], float]


@dataclass(frozen=True)
class Turns:
    """What contenders took that were measured in turn.

    Attributes:
        seconds: By contender: of each round.
    """

    seconds: Mapping[str, Sequence[float]]

    def median(self, name: str) -> float:
        """Median seconds of a contender."""
        return statistics.median(self.seconds[name])

    def times_as_fast(self, name: str, reference: str) -> float:
        """Median, over the rounds, of how many times as fast one contender was as another.

        Both are taken from the same round, so that a machine that slows down for some rounds
        changes nothing.
        """
        pairs = zip(self.seconds[name], self.seconds[reference], strict=True)
        return statistics.median(other / own for own, other in pairs)


def take_turns(clocks: Mapping[str, Clock], repeats: int) -> Turns:
    """Measures every contender once a round; every round begins with another one.

    Args:
        clocks: By contender: does the work once, and returns the seconds that it took.
        repeats: Rounds.
    """
    names = list(clocks)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(repeats):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            seconds[name].append(clocks[name]())
            if sys.stderr.isatty():
                print(f"round {number + 1} of {repeats}: {name}", end="\033[K\r", file=sys.stderr)
    if sys.stderr.isatty():
        print(end="\033[K", file=sys.stderr)
    return Turns(seconds)


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers, and stand right."""
    table = [list(header), *map(list, rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    lines = [
        "| " + " | ".join([row[0].ljust(widths[0])] + [
            cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)
        ]) + " |"
        for row in table
    ]  # fmt: skip
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([lines[0], "| " + " | ".join(rule) + " |", *lines[1:]])


def describe_machine() -> str:
    """Hardware and versions, on one line."""
    there = describe_environment()
    cpu, packages = there["cpu"], there["packages"]
    gpus = [gpu["name"] for gpu in there["gpus"]]
    hardware = [*gpus, f"{cpu['usable_cores']} cores of {cpu['model']}"]
    versions = [f"{name} {packages[name]}" for name in ("torch", "transformers", "datasets")]
    return f"{'; '.join(hardware)}; Python {there['python']}, {', '.join(versions)}"


def resident_megabytes() -> tuple[float, float]:
    """Memory of this process alone, and its part of mapped files, both as resident now."""
    status = Path("/proc/self/status")
    if not status.exists():  # not on Linux
        return float("nan"), float("nan")
    words = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return tuple(int(words[key].split()[0]) / 1000 for key in ("RssAnon", "RssFile"))  # type: ignore[return-value]


def make_parser(text: str) -> argparse.ArgumentParser:
    """The options that every benchmark takes."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument(
        "--quick", action="store_true", help="a few steps only: shows that it runs, not how fast"
    )
    return parser
