"""The command line: `hf-finetune VERB`; each verb parses its words and calls one public function.

Nothing heavy is imported before a verb needs it: `--help` and a faulty configuration answer at
once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hf_finetune import __version__, comparison_verb, publishing_verb, split_verbs
from hf_finetune.errors import UserError
from hf_finetune.hub.verb import add_words, push
from hf_finetune.stopping import stoppable
from hf_finetune.trackers import comet_verb

if TYPE_CHECKING:
    from hf_finetune.config import RunConfig

# The short forms of what is set most often.
SHORT_FORMS = {
    "--lr": "train.learning_rate",
    "--batch-size": "train.per_device_train_batch_size",
    "--epochs": "train.num_train_epochs",
    "--engine": "train.engine",
    "--seed": "seed",
}
_OVERRIDE_HELP = "settings to change, such as train.learning_rate=1e-3"


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
        description="Fine-tune image classifiers, and trust the numbers.",
    )
    parser.add_argument("--version", action="version", version=f"hf-finetune {__version__}")

    def show_help(_: argparse.Namespace) -> int:
        parser.print_help()
        return 0

    parser.set_defaults(run=show_help)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")

    train = _add(verbs, "train", _train, "train what a configuration names, and test it once")
    _add_config(train, required=False)
    for flag, key in SHORT_FORMS.items():
        train.add_argument(flag, dest=key, metavar="VALUE", help=f"short for {key}=VALUE")
    train.add_argument("--resume", metavar="RUN", help="go on with a run that was cut off")
    train.add_argument("--repeat-seeds", type=int, metavar="N", help="N runs, seeds in a row")
    train.add_argument("--print-config", action="store_true", help="print every setting and stop")
    train.add_argument("--quiet", action="store_true", help="print nothing but errors")

    evaluate = _add(verbs, "evaluate", _evaluate, "score a model on a split of the data")
    _add_model(evaluate)
    evaluate.add_argument("--split", default="test", choices=["train", "validation", "test"])
    evaluate.add_argument("--format", default="table", choices=["table", "json"])

    _add_predict(verbs)

    inspect = _add(verbs, "inspect", _inspect, "look at the data before training")
    _add_config(inspect)
    inspect.add_argument(
        "--save", metavar="DIR", help="folder of the pictures; by default <runs>/inspection/<name>"
    )

    summary = _add(verbs, "summary", _summary, "show layers, shapes and parameters")
    _add_config(summary)

    _add_splitting(verbs)
    _add_tools(verbs)

    push_data = _add(
        verbs,
        "push-data",
        publishing_verb.push_data,
        "publish a data set with its splits and a card",
    )
    _add_config(push_data)
    publishing_verb.add_words(push_data)

    add_words(_add(verbs, "push", push, "push a run to the Hugging Face Hub, with a model card"))
    comet_verb.add_words(_add(verbs, "comet", comet_verb.comet, "send offline runs to Comet"))

    compare = _add(verbs, "compare", comparison_verb.compare, "show runs beside each other")
    comparison_verb.add_words(compare)

    _add(verbs, "schema", _schema, "print the JSON schema of configurations, for editors")
    return parser


def _add_predict(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    predict = _add(verbs, "predict", _predict, "name the class of image files")
    _add_model(predict)
    predict.add_argument("files", nargs="+", metavar="FILE", help="image files")
    predict.add_argument("--format", default="table", choices=["table", "csv"])
    predict.add_argument("--top", type=int, metavar="K", help="K likeliest classes (1)")
    predict.add_argument(
        "--mc-dropout", type=int, metavar="N", help="predict N times with dropout switched on"
    )
    predict.add_argument(
        "--histogram", metavar="FILE", help="with --mc-dropout: draw the predictions of one image"
    )
    predict.add_argument(
        "--seed", dest="dropout_seed", type=int, metavar="S", help="of --mc-dropout (0)"
    )


def _add_tools(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verify = _add(verbs, "verify-engines", _verify, "show that both engines agree bit for bit")
    _add_config(verify)
    verify.add_argument("--steps", type=int, default=20, metavar="K", help="steps to compare (20)")

    download = _add(verbs, "download", _download, "fetch a published data set, checked and resumed")
    download.add_argument("name", metavar="NAME", help="such as mnist or corrupt_mnist")
    download.add_argument("--to", metavar="DIR", help="folder; by default where it is looked for")
    download.add_argument("--mirror", metavar="URL", help="address that holds the same files")

    doctor = _add(verbs, "doctor", _doctor, "say what this machine is and what will break on it")
    doctor.add_argument("--benchmark", action="store_true", help="time products of large matrices")
    doctor.add_argument("--format", default="text", choices=["text", "json"])


def _add_splitting(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = split_verbs.cross_validate
    folds = _add(verbs, "cross-validate", run, "train once a fold, and sum up")
    _add_config(folds)
    split_verbs.add_fold_words(folds)

    text = "find leaks, copies and near copies in the data"
    audit = _add(verbs, "audit", split_verbs.audit, text)
    _add_config(audit)
    split_verbs.add_audit_words(audit)


def _add(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    return parser


def _add_config(parser: argparse.ArgumentParser, required: bool = True) -> None:
    parser.add_argument("--config", required=required, metavar="FILE", help="YAML configuration")
    parser.set_defaults(overrides=[])
    parser.epilog = f"key=value: {_OVERRIDE_HELP}"


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a run, a model folder, OWNER/NAME on the Hub, or a state_dict file (with --config)",
    )
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit on the Hub")
    _add_config(parser, required=False)


def _read_config(arguments: argparse.Namespace) -> RunConfig:
    from hf_finetune.config import load_config

    return load_config(arguments.config, arguments.overrides)


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
    config = _read_config(arguments)
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
    if arguments.config is not None or arguments.overrides or arguments.repeat_seeds is not None:
        raise UserError(
            "--resume: a run goes on with its own configuration. Leave out --config, settings and "
            "--repeat-seeds."
        )
    from hf_finetune.finetuning import finetune
    from hf_finetune.runs.run_dir import load_unfinished_run

    run = load_unfinished_run(arguments.resume)
    finetune(run.config, resume_from=run.path, quiet=arguments.quiet)
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    import json

    from hf_finetune.console import format_scores, format_table
    from hf_finetune.inference import evaluate_model

    split = arguments.split
    scored, scores = evaluate_model(arguments.model, arguments.config, arguments.overrides, split)
    as_json = arguments.format == "json"
    table = {"model": str(scored), **format_scores(split, scores)}
    print(json.dumps(scores, indent=1) if as_json else format_table(table))
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    from hf_finetune.inference import describe_inverted, format_predictions, predict_files

    if arguments.mc_dropout is not None:
        return _sample(arguments)
    for flag, value in (("histogram", arguments.histogram), ("seed", arguments.dropout_seed)):
        if value is not None:
            raise UserError(f"--{flag}: belongs to samples. Say how many, as --mc-dropout 100")
    top = 1 if arguments.top is None else arguments.top
    answers = predict_files(
        arguments.model, arguments.files, arguments.config, arguments.overrides, top
    )
    print(format_predictions(answers, arguments.format))
    _warn(describe_inverted([answer.file for answer in answers if answer.is_inverted]))
    return 0


def _sample(arguments: argparse.Namespace) -> int:
    from hf_finetune.dropout_answers import format_samples, sample_files
    from hf_finetune.inference import describe_inverted

    if arguments.top is not None:
        raise UserError("--top: samples show every class that they predict. Leave out --top.")
    answers = sample_files(
        arguments.model,
        arguments.files,
        arguments.config,
        arguments.overrides,
        arguments.mc_dropout,
        arguments.dropout_seed or 0,
        arguments.histogram,
    )
    print(format_samples(answers, arguments.format))
    _warn(describe_inverted([answer.file for answer in answers if answer.is_inverted]))
    return 0


def _warn(warning: str | None) -> None:
    if warning is not None:
        print(warning, file=sys.stderr)


def _inspect(arguments: argparse.Namespace) -> int:
    config = _read_config(arguments)
    from hf_finetune.data_report import report_data

    print(report_data(config, arguments.save))
    return 0


def _summary(arguments: argparse.Namespace) -> int:
    config = _read_config(arguments)
    from hf_finetune.assembly import assemble
    from hf_finetune.models.summary import format_summary

    bench = assemble(config)
    batch = next(iter(bench.make_loader("validation", ready=False)))
    model = bench.classifier.model
    print(format_summary(model, tuple(batch[model.main_input_name].shape[1:])))
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    if arguments.steps < 1:
        raise UserError(f"--steps: must be at least 1, got {arguments.steps}.")
    config = _read_config(arguments)
    from hf_finetune.verification import format_verification, verify_engines

    result = verify_engines(config, arguments.steps)
    print(format_verification(result))
    return 0 if result.difference is None else 1


def _download(arguments: argparse.Namespace) -> int:
    from hf_finetune.data.download import download

    try:
        folder, fetched = download(arguments.name, arguments.to, arguments.mirror)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; the same command goes on from there") from None
    news = f"fetched {', '.join(fetched)}" if fetched else "nothing to fetch"
    print(f"{folder}: everything is there, checksums verified ({news})")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from hf_finetune.diagnosis import diagnose, format_diagnosis

    diagnosis = diagnose(arguments.benchmark)
    print(format_diagnosis(diagnosis, arguments.format))
    return 0 if diagnosis.is_sound else 1


def _schema(arguments: argparse.Namespace) -> int:
    import json

    from hf_finetune.config import config_schema

    print(json.dumps(config_schema(), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
