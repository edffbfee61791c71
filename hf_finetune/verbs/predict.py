"""The verbs `evaluate` and `predict`: what a trained model is worth, and what it answers."""

from __future__ import annotations

import argparse
import sys

from hf_finetune.errors import UserError
from hf_finetune.verbs import Verbs, add_model, add_verb


def add(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Adds `evaluate` and `predict`."""
    evaluate = add_verb(verbs, "evaluate", _evaluate, "score a model on a split of the data")
    add_model(evaluate)
    evaluate.add_argument("--split", default="test", choices=["train", "validation", "test"])
    evaluate.add_argument("--format", default="table", choices=["table", "json"])

    predict = add_verb(verbs, "predict", _predict, "name the class of image or sound files")
    add_model(predict)
    predict.add_argument("files", nargs="+", metavar="FILE", help="image or sound files")
    predict.add_argument("--format", default="table", choices=["table", "csv"])
    predict.add_argument("--top", type=int, metavar="K", help="K likeliest classes (1)")
    predict.add_argument(
        "--mc-dropout", type=int, metavar="N", help="predict N times with dropout switched on"
    )
    predict.add_argument(
        "--histogram", metavar="FILE", help="with --mc-dropout: draw the predictions of one file"
    )
    predict.add_argument(
        "--seed", dest="dropout_seed", type=int, metavar="S", help="of --mc-dropout (0)"
    )


def _evaluate(arguments: argparse.Namespace) -> int:
    from hf_finetune.console import format_scores, format_table
    from hf_finetune.inference import evaluate_model
    from hf_finetune.runs.run_dir import format_json

    split = arguments.split
    scored, scores = evaluate_model(arguments.model, arguments.config, arguments.overrides, split)
    as_json = arguments.format == "json"
    table = {"model": str(scored), **format_scores(split, scores)}
    print(format_json(scores) if as_json else format_table(table))
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
