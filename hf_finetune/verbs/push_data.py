"""The verb `push-data`: a data set with its splits goes to the Hugging Face Hub, or a folder."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from hf_finetune.errors import UserError
from hf_finetune.verbs import Verbs, add_config, add_verb


def add(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Adds `push-data`."""
    told = "publish a data set with its splits and a card"
    parser = add_verb(verbs, "push-data", _push_data, told)
    parser.add_argument("given", nargs="?", metavar="CONFIG", help="YAML configuration")
    add_config(parser, required=False)
    parser.add_argument(
        "--repo-id",
        metavar="OWNER/NAME",
        help="data set of the Hugging Face Hub; files of an earlier push are replaced, others stay",
    )
    parser.add_argument("--to", metavar="DIR", help="new folder that is written, too or instead")
    parser.add_argument(
        "--private",
        action=argparse.BooleanOptionalAction,
        help="whether a repository made by the push is private (yes)",
    )
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

    _settle_config(arguments)
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


def _settle_config(arguments: argparse.Namespace) -> None:
    """Takes the configuration from where it stands: alone, or after --config.

    Raises:
        UserError: It stands nowhere, or in both places.
    """
    given = arguments.given
    if given is not None and "=" in given:  # a setting, which may stand anywhere
        arguments.overrides = [given, *arguments.overrides]
        given = None
    if given is not None and arguments.config is not None:
        raise UserError(
            f"push-data: there are two configurations, {given!r} and --config "
            f"{arguments.config!r}. Name one."
        )
    arguments.config = given if arguments.config is None else arguments.config
    if arguments.config is None:
        raise UserError(
            "push-data: it needs the configuration whose data it publishes. Name one: "
            "hf-finetune push-data CONFIG --repo-id OWNER/NAME"
        )


def _repeat(arguments: argparse.Namespace) -> str:
    """The command line that asks for the same again."""
    words = ["hf-finetune", "push-data", "--config", arguments.config, *arguments.overrides]
    for flag in ("repo-id", "to", "revision", "license"):
        value = getattr(arguments, flag.replace("-", "_"))
        words += [f"--{flag}", value] if value is not None else []
    if arguments.private is not None:
        words.append("--private" if arguments.private else "--no-private")
    for code in arguments.language:
        words += ["--language", code]
    return shlex.join(words)
