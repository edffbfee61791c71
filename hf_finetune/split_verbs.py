"""The verbs `cross-validate` and `audit`: their words, and what they call.

Place: `cli` lists them; nothing heavy is imported before they run.
"""

from __future__ import annotations

import argparse

from hf_finetune.stopping import stoppable


def add_fold_words(parser: argparse.ArgumentParser) -> None:
    """The words of `cross-validate`, beside the configuration."""
    parser.add_argument("--num-folds", type=int, metavar="K", help="deal the rows out into K folds")
    parser.add_argument(
        "--leave-one-out", metavar="COLUMN", help="each group of a column is the test split once"
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")


def add_audit_words(parser: argparse.ArgumentParser) -> None:
    """The words of `audit`, beside the configuration."""
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def cross_validate(arguments: argparse.Namespace) -> int:
    """Runs every fold that isn't finished yet; answers with the exit status."""
    from hf_finetune.config import load_config

    config = load_config(arguments.config, arguments.overrides)
    from hf_finetune.cross_validation import cross_validate as run_folds

    with stoppable():
        run_folds(config, arguments.num_folds, arguments.leave_one_out, arguments.quiet)
    return 0


def audit(arguments: argparse.Namespace) -> int:
    """Prints what an audit finds; answers with the exit status, 1 where there are leaks."""
    import json

    from hf_finetune.config import load_config

    config = load_config(arguments.config, arguments.overrides)
    from hf_finetune.audit_report import audit as look
    from hf_finetune.audit_report import format_audit, list_audit

    found = look(config)
    name = config.data.name
    print(json.dumps(list_audit(found), indent=1) if arguments.json else format_audit(found, name))
    return 0 if found.is_sound else 1
