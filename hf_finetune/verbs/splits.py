"""The verbs `cross-validate` and `audit`: every fold in its turn, and what leaks."""

from __future__ import annotations

import argparse

from hf_finetune.stopping import stoppable
from hf_finetune.verbs import Verbs, add_config, add_short_forms, add_verb, read_config


def add(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Adds `cross-validate` and `audit`."""
    folds = add_verb(verbs, "cross-validate", _cross_validate, "train once a fold, and sum up")
    add_config(folds)
    add_short_forms(folds)
    folds.add_argument("--num-folds", type=int, metavar="K", help="deal the rows out into K folds")
    folds.add_argument(
        "--leave-one-out", metavar="COLUMN", help="each group of a column is the test split once"
    )
    folds.add_argument("--quiet", action="store_true", help="print nothing but errors")

    told = "find leaks, copies and near copies in the data"
    audit = add_verb(verbs, "audit", _audit, told)
    add_config(audit)
    audit.add_argument("--json", action="store_true", help="print everything as JSON")


def _cross_validate(arguments: argparse.Namespace) -> int:
    config = read_config(arguments)
    from hf_finetune.cross_validation import cross_validate as run_folds

    with stoppable():
        run_folds(config, arguments.num_folds, arguments.leave_one_out, arguments.quiet)
    return 0


def _audit(arguments: argparse.Namespace) -> int:
    import json

    config = read_config(arguments)
    from hf_finetune.audit_report import audit as look
    from hf_finetune.audit_report import format_audit, list_audit

    found = look(config)
    name = config.data.name
    print(json.dumps(list_audit(found), indent=1) if arguments.json else format_audit(found, name))
    return 0 if found.is_sound else 1
