"""The verbs `download` and `inspect`: the data, fetched and looked at."""

from __future__ import annotations

import argparse

from hf_finetune.verbs import Verbs, add_config, add_verb, read_config


def add(verbs: Verbs[argparse.ArgumentParser]) -> None:
    """Adds `download` and `inspect`."""
    download = add_verb(
        verbs, "download", _download, "fetch a published data set, checked and resumed"
    )
    download.add_argument("name", metavar="NAME", help="such as mnist or corrupt_mnist")
    download.add_argument("--to", metavar="DIR", help="folder; by default where it is looked for")
    download.add_argument("--mirror", metavar="URL", help="address that holds the same files")

    inspect = add_verb(verbs, "inspect", _inspect, "look at the data before training")
    add_config(inspect)
    inspect.add_argument(
        "--save", metavar="DIR", help="folder of the pictures; by default <runs>/inspection/<name>"
    )


def _download(arguments: argparse.Namespace) -> int:
    from hf_finetune.data.download import download

    try:
        folder, fetched = download(arguments.name, arguments.to, arguments.mirror)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; the same command goes on from there") from None
    news = f"fetched {', '.join(fetched)}" if fetched else "nothing to fetch"
    print(f"{folder}: everything is there, checksums verified ({news})")
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    config = read_config(arguments)
    from hf_finetune.data_report import report_data

    print(report_data(config, arguments.save))
    return 0
