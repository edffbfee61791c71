"""The verbs `summary`, `verify-engines`, `doctor` and `schema`: what is there, and is it sound."""

from __future__ import annotations

import argparse

from hf_finetune.errors import UserError
from hf_finetune.verbs import Verbs, add_config, add_verb, read_config


def add(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Adds `summary`, `verify-engines`, `doctor` and `schema`."""
    summary = add_verb(verbs, "summary", _summary, "show layers, shapes and parameters")
    add_config(summary)

    verify = add_verb(verbs, "verify-engines", _verify, "show that both engines agree bit for bit")
    add_config(verify)
    verify.add_argument("--steps", type=int, default=20, metavar="K", help="steps to compare (20)")

    doctor = add_verb(
        verbs, "doctor", _doctor, "say what this machine is and what will break on it"
    )
    doctor.add_argument("--benchmark", action="store_true", help="time products of large matrices")
    doctor.add_argument("--format", default="text", choices=["text", "json"])

    add_verb(verbs, "schema", _schema, "print the JSON schema of configurations, for editors")


def _summary(arguments: argparse.Namespace) -> int:
    config = read_config(arguments)
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
    config = read_config(arguments)
    from hf_finetune.verification import format_verification, verify_engines

    result = verify_engines(config, arguments.steps)
    print(format_verification(result))
    return 0 if result.difference is None else 1


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
