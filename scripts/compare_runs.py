"""Shows runs beside each other: scores, spread over seeds, and which settings differ.

    python scripts/compare_runs.py runs/ --plot curves.png

The same as `hf-finetune compare`, with the same options.
"""

import sys

from hf_finetune.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
