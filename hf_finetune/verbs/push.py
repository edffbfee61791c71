"""The verb `push`: a run goes to the Hugging Face Hub, with a model card."""

from __future__ import annotations

import argparse
import sys

from hf_finetune.verbs import Verbs, add_verb


def add(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Adds `push`."""
    parser = add_verb(verbs, "push", _push, "push a run to the Hugging Face Hub, with a model card")
    parser.add_argument("path", metavar="RUN", help="a run directory, or the folder of its name")
    parser.add_argument("--repo-id", metavar="OWNER/NAME", help="by default as it was configured")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to push to (main)")
    parser.add_argument(
        "--private",
        action=argparse.BooleanOptionalAction,
        help="whether a repository made by the push is private (yes, or as it was configured)",
    )
    parser.add_argument("--license", metavar="NAME", help="for the card, such as apache-2.0")


def _push(arguments: argparse.Namespace) -> int:
    from hf_finetune.hub.push import describe_push, push_run

    pushed = push_run(
        arguments.path,
        arguments.repo_id,
        revision=arguments.revision,
        private=arguments.private,
        model_license=arguments.license,
        show_bars=sys.stderr.isatty(),
    )
    print(describe_push(pushed))
    return 0
