"""Reads a page of the documentation: its blocks, its commands, and what it says they print.

Place: shared by the tests of the pages, which run every command.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ANYTHING = "…"  # stands on a page for lines, or the rest of a line, that are left out
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_DURATION = re.compile(r"[\d.]+ (?:s|ms|min|h)\b")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?")


@dataclass(frozen=True)
class Example:
    """Commands of a page, and what they print.

    Attributes:
        heading: The section that they stand in.
        commands: With their comments.
        output: As quoted; empty where the page quotes nothing.
    """

    heading: str
    commands: tuple[str, ...]
    output: str = ""


def blocks(page: str, language: str) -> list[str]:
    """The content of the page's fenced blocks of a language."""
    return [body for kind, body in _BLOCK.findall(page) if kind == language]


def without_comment(line: str) -> str:
    """A command without what is said about it."""
    return line.partition(" #")[0].strip()


def commands(page: str) -> list[str]:
    """Every command of the page, in its order."""
    lines = [without_comment(line) for body in blocks(page, "bash") for line in body.splitlines()]
    return [line for line in lines if line]


def examples(page: str) -> list[Example]:
    """The page's commands by block; a `text` block quotes what the `bash` block before it prints.

    Raises:
        ValueError: A quoted output follows no command.
    """
    found: list[Example] = []
    for part in re.split(r"^(?=## )", page, flags=re.MULTILINE):
        heading = part.splitlines()[0].removeprefix("## ") if part else ""
        asked = False
        for language, body in _BLOCK.findall(part):
            if language == "bash":
                lines = tuple(line for line in body.splitlines() if without_comment(line))
                found.append(Example(heading, lines))
            elif language == "text":
                if not asked:
                    raise ValueError(f"{heading}: an output without a command before it")
                found[-1] = Example(heading, found[-1].commands, body)
            asked = language == "bash"
    return found


def find_difference(quoted: str, printed: str, *, same_numbers: bool = True) -> str | None:
    """The first line of a quoted output that a command didn't print, or None.

    Durations may always differ, and so may the widths of columns.

    Args:
        quoted: What the page says; a line `…` stands for any lines, `…` at a line's end for its
            rest.
        printed: What was printed.
        same_numbers: Whether all other numbers must be the same ones.
    """

    def plain(line: str) -> str:
        line = _DURATION.sub("a while", line)
        return " ".join((line if same_numbers else _NUMBER.sub("0", line)).split())

    lines = [plain(line) for line in printed.splitlines() if line.strip()]
    place, skipping = 0, False
    for original in quoted.splitlines():
        line = plain(original)
        if line == ANYTHING:
            skipping = True
        elif line:
            ends = range(place, len(lines) if skipping else min(place + 1, len(lines)))
            hit = next((i for i in ends if _matches(line, lines[i])), None)
            if hit is None:
                return original
            place, skipping = hit + 1, False
    return None if skipping or place == len(lines) else f"(nothing), but printed: {lines[place]}"


def _matches(quoted: str, printed: str) -> bool:
    start = quoted.removesuffix(ANYTHING)
    return printed.startswith(start) if start != quoted else printed == quoted


def copy_checkout(target: Path) -> None:
    """Copies the files that git knows, with their times, and links the tests' environment."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    (target / ".venv").symlink_to(Path(sys.prefix))
    # Or make finds the environment out of date, and installs this copy into it.
    os.utime(target / "pyproject.toml", (0, 0))
