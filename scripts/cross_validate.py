"""Trains a configuration once a fold, and sums up; what `accelerate launch` starts.

    accelerate launch scripts/cross_validate.py --config configs/x.yaml --num-folds 5

The same as `hf-finetune cross-validate`, with the same options and the same bits.
"""

import sys

from hf_finetune.cli import main

if __name__ == "__main__":
    sys.exit(main(["cross-validate", *sys.argv[1:]]))
