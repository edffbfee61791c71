"""Pushes a finished run to the Hugging Face Hub, with a model card.

    python scripts/push_run.py runs/corrupt_mnist_sample --repo-id OWNER/NAME

The same as `hf-finetune push`, with the same options.
"""

import sys

from hf_finetune.cli import main

if __name__ == "__main__":
    sys.exit(main(["push", *sys.argv[1:]]))
