"""The verb `push` of the command line: its words, and what it prints.

Place: `cli` adds it to its verbs. Nothing of the Hub is imported before it is used.
"""

from __future__ import annotations

import argparse
import sys


def add_words(parser: argparse.ArgumentParser) -> None:
    """Adds the words of `push` to its parser."""
    parser.add_argument("path", metavar="RUN", help="a run directory, or the folder of its name")
    parser.add_argument("--repo-id", metavar="OWNER/NAME", help="by default as it was configured")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to push to (main)")
    parser.add_argument(
        "--private",
        action=argparse.BooleanOptionalAction,
        help="whether a repository made by the push is private (yes, or as it was configured)",
    )


def push(arguments: argparse.Namespace) -> int:
    """Pushes a run and says where it is now."""
    from hf_finetune.hub.push import describe_push, push_run

    pushed = push_run(
        arguments.path,
        arguments.repo_id,
        revision=arguments.revision,
        private=arguments.private,
        show_bars=sys.stderr.isatty(),
    )
    print(describe_push(pushed))
    return 0
