"""The verb `train`: one run, some seeds of it, or the rest of one that was cut off."""

from __future__ import annotations

import argparse

from hf_finetune.errors import UserError
from hf_finetune.stopping import stoppable
from hf_finetune.verbs import Verbs, add_config, add_short_forms, add_verb, read_config

RESUME_HELP = (
    "go on with a run that was cut off; hub.*, trackers, tracking.* and data.root may be set anew"
)


def add(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Adds `train`."""
    train = add_verb(verbs, "train", _train, "train what a configuration names, and test it once")
    add_config(train, required=False)
    add_short_forms(train)
    train.add_argument("--resume", metavar="RUN", help=RESUME_HELP)
    train.add_argument("--repeat-seeds", type=int, metavar="N", help="N runs, seeds in a row")
    train.add_argument("--print-config", action="store_true", help="print every setting and stop")
    train.add_argument("--quiet", action="store_true", help="print nothing but errors")


def _train(arguments: argparse.Namespace) -> int:
    with stoppable():
        return _run_training(arguments)


def _run_training(arguments: argparse.Namespace) -> int:
    if arguments.resume is not None:
        return _resume(arguments)
    if arguments.config is None:
        raise UserError("train: --config is missing. Name one, such as --config configs/x.yaml")
    if arguments.repeat_seeds is not None and arguments.repeat_seeds < 1:
        raise UserError(f"--repeat-seeds: must be at least 1, got {arguments.repeat_seeds}.")
    config = read_config(arguments)
    if arguments.print_config:
        from hf_finetune.config import dump_config

        print(dump_config(config), end="")
    elif arguments.repeat_seeds is not None:
        from hf_finetune.repetition import repeat_seeds

        repeat_seeds(config, arguments.repeat_seeds, quiet=arguments.quiet)
    else:
        from hf_finetune.finetuning import finetune

        finetune(config, quiet=arguments.quiet)
    return 0


def _resume(arguments: argparse.Namespace) -> int:
    others = (arguments.config, arguments.repeat_seeds, arguments.print_config or None)
    if any(other is not None for other in others):
        raise UserError(
            "--resume: a run goes on with its own configuration. Leave out --config, "
            "--repeat-seeds and --print-config."
        )
    from hf_finetune.finetuning import finetune
    from hf_finetune.runs.resumption import load_resumed_config
    from hf_finetune.runs.run_dir import load_unfinished_run

    run = load_unfinished_run(arguments.resume)
    config = load_resumed_config(run, arguments.overrides)
    finetune(config, resume_from=run.path, quiet=arguments.quiet)
    return 0
