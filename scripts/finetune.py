"""Trains what a configuration names; what `accelerate launch` starts.

    accelerate launch scripts/finetune.py --config configs/corrupt_mnist_sample.yaml

The same as `hf-finetune train`, with the same options and the same bits.
"""

import sys

from hf_finetune.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
