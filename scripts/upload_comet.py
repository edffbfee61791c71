"""Sends runs that were recorded offline to Comet, each once.

    python scripts/upload_comet.py runs/corrupt_mnist_sample/001

The same as `hf-finetune comet upload`; needs COMET_API_KEY, or a key from `comet login`.
"""

import sys

from hf_finetune.cli import main

if __name__ == "__main__":
    sys.exit(main(["comet", "upload", *sys.argv[1:]]))
