"""The command line: `hf-finetune VERB`; the verbs stand in a room of their own.

Nothing heavy is imported before a verb needs it: `--help` and a faulty configuration answer at
once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from hf_finetune import __version__
from hf_finetune.errors import UserError
from hf_finetune.memory_shortage import describe_shortage
from hf_finetune.verbs import (
    SHORT_FORMS,
    checks,
    comet,
    compare,
    data,
    predict,
    push,
    push_data,
    splits,
    train,
)

_IN_ORDER = (train, splits, predict, compare, data, checks, push, push_data, comet)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb.

    Args:
        argv: The words after the program's name; by default those of the process.

    Returns:
        0; 2 after an error that the user can mend; 130 after Ctrl-C.
    """
    # Read when torch is loaded: threads that wait for each other spin briefly, then sleep. To sleep
    # at once made a training step slower by a tenth or more, and to spin on by several times where
    # the machine does other things too.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        arguments = _parse(sys.argv[1:] if argv is None else argv)
        run: Callable[[argparse.Namespace], int] = arguments.run
        return run(arguments)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        shortage = describe_shortage(error)
        if shortage is None:
            raise
        print(shortage, file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(stop.args[0] if stop.args else "stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stderr.close()
        return 1


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """Reads the words; settings (`key=value`) may stand anywhere after the verb."""
    parser = _build_parser()
    arguments, rest = parser.parse_known_args(argv)
    if hasattr(arguments, "model") and arguments.revision is not None:  # not `push`: it has none
        arguments.model = f"{arguments.model}@{arguments.revision}"
    unknown = [word for word in rest if "=" not in word or word.startswith("-")]
    if unknown or (rest and not hasattr(arguments, "overrides")):
        parser.error(_explain_unknown((unknown or rest)[0]))
    if hasattr(arguments, "overrides"):
        short = [
            f"{key}={getattr(arguments, key)}"
            for key in SHORT_FORMS.values()
            if getattr(arguments, key, None) is not None
        ]
        arguments.overrides = [*short, *rest]
    return arguments


def _explain_unknown(word: str) -> str:
    if word.endswith((".yaml", ".yml")):
        return f"unknown argument: {word} (a configuration is given with --config {word})"
    return f"unknown argument: {word} (settings are written key=value, as train.learning_rate=1e-3)"


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf-finetune",
        description="Fine-tune image and speech classifiers, and trust the numbers.",
    )
    parser.add_argument("--version", action="version", version=f"hf-finetune {__version__}")

    def show_help(_: argparse.Namespace) -> int:
        parser.print_help()
        return 0

    parser.set_defaults(run=show_help)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for file in _IN_ORDER:
        file.add(verbs)
    return parser


if __name__ == "__main__":
    sys.exit(main())
