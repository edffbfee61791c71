"""The verb `push-data`: a data set with its splits goes to the Hugging Face Hub, or a folder."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from hf_finetune.verbs import Verbs, add_config, add_verb


def add(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Adds `push-data`."""
    told = "publish a data set with its splits and a card"
    parser = add_verb(verbs, "push-data", _push_data, told)
    add_config(parser)
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


def _push_data(arguments: argparse.Namespace) -> int:
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
