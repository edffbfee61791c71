"""Every command of docs/course.md runs and prints what the page says, and its files are right.

What runs them is slow. Quick commands run in this process, one after the other, in a folder that
looks like the checkout; those whose comment speaks of minutes as a student starts them, in a copy.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from pages import ROOT, Example, copy_checkout, examples, find_difference, without_comment
from PIL import Image
from servers.comet import serve_comet

from hf_finetune.cli import main
from hf_finetune.runs.environment import describe_environment

COURSE = ROOT / "docs" / "course"
PAGE = (ROOT / "docs" / "course.md").read_text(encoding="utf-8")
EXAMPLES = examples(PAGE)
# What a command's comment may speak of.
SLOW, REFUSED, VARYING = "minute", "refused", "differ"
KEYED, STOPPED = "with a key", "Ctrl-C"
EXERCISES = (*range(1, 19), *range(20, 24))
LATER = (19,)


def speaks_of(example: Example, word: str) -> bool:
    return any(word in command.partition(" #")[2] for command in example.commands)


QUICK = [example for example in EXAMPLES if not speaks_of(example, SLOW)]
QUOTING = [example for example in QUICK if example.output]


def is_the_pages_machine() -> bool:
    """Whether training comes to the page's bits here: another CPU rounds otherwise."""
    measured = re.search(r"on (.+?) with (\d+) threads?, torch ([\d.]+)", PAGE)
    assert measured is not None, "the page must say what it was measured on"
    cpu = describe_environment()["cpu"]
    return (cpu["model"] or "") == measured[1] and torch.__version__.startswith(measured[3])


def difference(example: Example, printed: str) -> str | None:
    same = is_the_pages_machine() and not speaks_of(example, VARYING)
    return find_difference(example.output, printed, same_numbers=same)


def name_of(example: Example) -> str:
    return f"{example.heading.split('.')[0]}: {without_comment(example.commands[-1])}"


def run_here(command: str) -> tuple[int, str]:
    """Exit status and output of a command, without a process where it is Python's."""
    words = shlex.split(command, comments=True)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        if words[0] == "hf-finetune":
            status = main(words[1:])
        elif words[0] == "python":
            status = _run_file(words[1:])
        else:
            status = subprocess.run(words, check=False).returncode
    return status, printed.getvalue()


def _run_file(words: list[str]) -> int:
    before = sys.argv, list(sys.path)
    sys.argv, sys.path[0:0] = words, [str(Path(words[0]).resolve().parent)]
    try:
        runpy.run_path(words[0], run_name="__main__")
    finally:
        sys.argv, sys.path[:] = before
    return 0


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("course")
    for name in ("configs", "docs", "examples", "samples", ".vscode"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@contextlib.contextmanager
def account(example: Example) -> Iterator[None]:
    """A Comet on this machine, with a key to it, where the page wants one."""
    if not speaks_of(example, KEYED):
        yield
        return
    with serve_comet() as comet, pytest.MonkeyPatch.context() as patch:
        comet.keys.add("n0tArealKey0fAnyb0dy12345")
        patch.setenv("COMET_API_KEY", *comet.keys)
        patch.setenv("COMET_URL_OVERRIDE", comet.address)
        yield
        assert len(comet.experiments) == 1


@pytest.fixture(scope="module")
def outputs(workspace: Path) -> dict[Example, str]:
    """What each quick block of the page prints."""
    found = {}
    with contextlib.chdir(workspace):
        for example in QUICK:
            printed = ""
            with account(example):
                for command in example.commands:
                    status, text = run_here(command)
                    assert status == (2 if REFUSED in command else 0), f"{command}\n{text}"
                    printed += text
            found[example] = printed
    return found


@pytest.mark.slow
@pytest.mark.parametrize("example", QUOTING, ids=name_of)
def test_what_the_page_quotes_is_what_is_printed(example: Example, outputs: dict[Example, str]):
    line = difference(example, outputs[example])
    assert line is None, f"not printed: {line}\n{outputs[example]}"


def test_every_exercise_has_a_section():
    headings = re.findall(r"^## (\d+)\. ", PAGE, re.MULTILINE)
    assert [int(number) for number in headings] == list(EXERCISES)
    sections = {example.heading.split(".")[0] for example in EXAMPLES}
    assert sections == {str(number) for number in EXERCISES}
    assert all(re.search(rf"^- {number}\. .*later work", PAGE, re.MULTILINE) for number in LATER)


def test_every_file_is_used_and_every_link_leads_somewhere():
    for file in COURSE.iterdir():
        assert file.is_dir() or re.search(rf"course/{re.escape(file.name)}\b", PAGE), file.name
    for target in re.findall(r"\]\(([^)#:]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target


@pytest.mark.slow
def test_pictures_are_small_and_as_they_are_drawn_now(outputs: dict[Example, str], workspace: Path):
    shown = re.findall(r"!\[[^\]]+\]\(images/course_(\w+)\.png\)", PAGE)
    shipped = [path.stem.removeprefix("course_") for path in ROOT.glob("docs/images/course_*.png")]
    assert sorted(shown) == sorted(shipped)
    assert set(shown) <= {path.stem for path in (workspace / "runs").rglob("*.png")}
    for name in shown:
        picture = ROOT / "docs" / "images" / f"course_{name}.png"
        assert picture.stat().st_size < 120_000, name
        if (COURSE / f"{name}.py").exists():  # the toolkit's own cut themselves to what is on them
            with Image.open(picture) as before, Image.open(f"{workspace}/runs/{name}.png") as now:
                assert before.size == now.size, name


@pytest.mark.slow
def test_the_loop_learns_with_all_three_calls_only(outputs: dict[Example, str]):
    table = next(text for text in outputs.values() if text.startswith("left out"))
    rows = [line.split() for line in table.splitlines()[1:5]]
    end = {name: float(mean) for name, _, mean in rows}
    assert len({first for _, first, _ in rows}) == 1  # the same weights, the same batch
    assert end["backward"] == end["step"] > 2.2
    assert end["nothing"] < 1.2 < end["zero_grad"]


@pytest.mark.slow
def test_debug_configurations_start_train_and_evaluate(
    outputs: dict[Example, str], workspace: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(workspace)
    configurations = json.loads(Path(".vscode/launch.json").read_text())["configurations"]
    assert [one["args"][0] for one in configurations] == ["train", "evaluate"]
    for one in configurations:
        assert (one["module"], one["cwd"]) == (main.__module__, "${workspaceFolder}")
        assert main(one["args"]) == 0


def load_file(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"course_{name}", COURSE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("rows", "others", "width"), [(1, 1, 1), (5, 3, 7), (4, 9, 2), (0, 2, 3)])
def test_distances_are_those_of_a_loop(rows: int, others: int, width: int):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, width, generator=generator) for n in (rows, others))
    found = load_file("distances").squared_distances(a, b)
    assert found.shape == (rows, others)
    assert found.dtype == torch.float32
    for i, j in torch.cartesian_prod(torch.arange(rows), torch.arange(others)).tolist():
        expected = sum((x - y) ** 2 for x, y in zip(a[i].tolist(), b[j].tolist(), strict=True))
        assert found[i, j].item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_distances_far_from_zero_are_never_negative():
    distances = load_file("distances")
    a = torch.rand(40, 20, generator=torch.Generator().manual_seed(1)) + 1000
    assert distances.raw_squared_distances(a, a).min() < 0
    assert distances.squared_distances(a, a).min() == 0


@pytest.mark.parametrize("size", [0, 1, 3])
def test_reshape_leaves_the_batch_alone(size: int):
    kind = load_file("reshape").Reshape
    images = torch.arange(size * 12.0).reshape(size, 3, 4).requires_grad_()
    for shape in ((12,), (2, 6), (2, -1), (1, 3, 4)):
        answer = torch.nn.Sequential(kind(*shape))(images)
        assert answer.shape[0] == size
        assert torch.equal(answer.flatten(), images.flatten())
    answer.sum().backward()
    assert images.grad is not None
    with pytest.raises(RuntimeError):
        kind(5)(torch.zeros(5, 4))  # 20 numbers would make 4 rows of 5: not this batch


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the checkout, with its commands on the path."""
    copy_checkout(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PATH", f"{Path(sys.prefix) / 'bin'}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("example", [e for e in EXAMPLES if speaks_of(e, SLOW)], ids=name_of)
def test_slow_commands_print_what_the_page_quotes(example: Example, checkout: Path):
    printed = ""
    for command in example.commands:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=checkout,
            env={**os.environ, "COLUMNS": "100"},  # as wide as the page
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        expected = 124 if STOPPED in command else 0  # what `timeout` says of it
        assert done.returncode == expected, f"{command}\n{done.stdout}"
        printed += done.stdout
    line = difference(example, printed)
    assert line is None, f"not printed: {line}\n{printed}"


@pytest.mark.slow
def test_the_notebook_runs(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("IPYTHONDIR", str(checkout / ".ipython"))
    book = nbformat.read(checkout / "docs/course/corrupt_mnist.ipynb", as_version=4)
    folder = checkout / "docs/course"  # where an editor starts it
    NotebookClient(book, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    shown = [output for cell in book.cells for output in cell.get("outputs", [])]
    text = "".join(output.get("text", "") for output in shown)
    accuracy = re.search(r"test accuracy  ([\d.]+)%", text)
    assert accuracy is not None
    assert float(accuracy[1]) > 60
    assert sum("image/png" in output.get("data", {}) for output in shown) == 3
    assert (checkout / "runs/notebook/001/metrics.json").exists()


def test_outputs_are_compared_line_by_line():
    printed = "a  1.50\nb 2 in 3.1 s\n\nc 3\nd 4\n"
    for quoted in ("a 1.50\nb 2 in 9 s\nc 3\nd 4", "…\nd 4", "a …\n…\nd 4", "a 1.50\n…", "…"):
        assert find_difference(quoted, printed) is None, quoted
    for quoted, line in (
        ("a 1.51\n…", "a 1.51"),
        ("…\nc 3", "(nothing), but printed: d 4"),
        ("a 1.50\nc 3\n…", "c 3"),
        ("…\nd 4\nc 3", "c 3"),
        ("…\nb 3 …\n…", "b 3 …"),
    ):
        assert find_difference(quoted, printed) == line, quoted
    assert find_difference("a 1.51\n…\nd 5", printed, same_numbers=False) is None
    assert find_difference("x 1.51\n…", printed, same_numbers=False) == "x 1.51"
