"""The verb `push-data`: its words, and what it prints.

Place: `cli` hangs it in; the publishing itself is `data_publishing`, imported when it is asked for.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path


def add_words(parser: argparse.ArgumentParser) -> None:
    """Adds what `hf-finetune push-data` takes beside a configuration."""
    parser.add_argument("--repo-id", metavar="OWNER/NAME", help="data set of the Hugging Face Hub")
    parser.add_argument("--to", metavar="DIR", help="new folder that is written, too or instead")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to push to (main)")
    parser.add_argument("--license", metavar="NAME", help="for the card, such as cc-by-4.0")
    parser.add_argument(
        "--language",
        action="append",
        default=[],
        metavar="CODE",
        help="for the card: what is spoken, as en (may be repeated)",
    )


def push_data(arguments: argparse.Namespace) -> int:
    """Publishes the data set of a configuration, and says what was done.

    Raises:
        UserError: As `load_config` and `publish_data`.
    """
    from hf_finetune.config import load_config
    from hf_finetune.data_publishing import Publication, publish_data

    publication = Publication(
        repo_id=arguments.repo_id,
        folder=None if arguments.to is None else Path(arguments.to),
        private=arguments.private,
        revision=arguments.revision,
        license=arguments.license,
        languages=tuple(arguments.language),
        command=_repeat(arguments),
    )
    print(publish_data(load_config(arguments.config, arguments.overrides), publication))
    return 0


def _repeat(arguments: argparse.Namespace) -> str:
    """The command line that asks for the same again."""
    words = ["hf-finetune", "push-data", "--config", arguments.config, *arguments.overrides]
    for flag in ("repo-id", "to", "revision", "license"):
        value = getattr(arguments, flag.replace("-", "_"))
        words += [f"--{flag}", value] if value is not None else []
    words += ["--private"] if arguments.private else []
    for code in arguments.language:
        words += ["--language", code]
    return shlex.join(words)
