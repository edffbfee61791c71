"""Publishes the data set of a configuration: a folder, or a repository of the Hugging Face Hub.

    python scripts/push_data.py --config configs/corrupt_mnist_sample.yaml --to digits

The same as `hf-finetune push-data`, with the same options.
"""

import sys

from hf_finetune.cli import main

if __name__ == "__main__":
    sys.exit(main(["push-data", *sys.argv[1:]]))
