"""The verbs room: what the command line can do, one file for verbs that belong together.

Contract of a file: `add(verbs)` adds parsers, each with a `run` that answers with the exit status.
Here stands what they share. Nothing heavy is imported before a verb runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hf_finetune.config import RunConfig

Verbs = argparse._SubParsersAction  # what add_subparsers gives; it has no public name
OVERRIDE_HELP = "settings to change, such as train.learning_rate=1e-3"
# What is set most often.
SHORT_FORMS = {
    "--lr": "train.learning_rate",
    "--batch-size": "train.per_device_train_batch_size",
    "--epochs": "train.num_train_epochs",
    "--engine": "train.engine",
    "--seed": "seed",
}


def add_verb(
    verbs: Verbs[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    """A verb's parser.

    Args:
        verbs: Where it is added.
        name: The verb.
        run: Does it, and answers with the exit status.
        text: What it does, in a few words.
    """
    parser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    return parser


def add_config(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """The words that name a configuration and change its settings."""
    parser.add_argument("--config", required=required, metavar="FILE", help="YAML configuration")
    parser.set_defaults(overrides=[])
    parser.epilog = f"key=value: {OVERRIDE_HELP}"


def add_short_forms(parser: argparse.ArgumentParser) -> None:
    """The flags that are short for a setting."""
    for flag, key in SHORT_FORMS.items():
        parser.add_argument(flag, dest=key, metavar="VALUE", help=f"short for {key}=VALUE")


def add_model(parser: argparse.ArgumentParser) -> None:
    """The words that name a model."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a run, a model folder, OWNER/NAME on the Hub, or a state_dict file (with --config)",
    )
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit on the Hub")
    add_config(parser, required=False)


def read_config(arguments: argparse.Namespace) -> RunConfig:
    """The configuration that the words name, with the settings that they change."""
    from hf_finetune.config import load_config

    return load_config(arguments.config, arguments.overrides)
