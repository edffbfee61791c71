# Every target sets up what it needs in .venv; the second time that takes a second.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TRACKERS := $(VENV)/trackers
CONFIG ?= configs/corrupt_mnist_sample.yaml

.PHONY: finetune test test-slow test-all test-trackers check benchmark clean

# Train the CNN on the real digits of samples/, and print its test accuracy.
finetune: $(READY)
	@$(BIN)/accelerate launch --num_processes 1 --num_machines 1 \
	  --mixed_precision no --dynamo_backend no scripts/finetune.py --config $(CONFIG)

test: $(READY)
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

test-all: test test-slow

# Every tracker beside Comet with its own client, in an environment of its own: what the clients of
# MLflow, Trackio and W&B need would move other packages in $(VENV). None may be left out.
test-trackers: $(TRACKERS)/.ready
	HF_FINETUNE_ALL_TRACKERS=1 $(TRACKERS)/bin/python -m pytest \
	  $(patsubst %,tests/trackers/test_%.py,trackers tensorboard trackio wandb mlflow)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Prints the tables of benchmarks/README.md as they come out here; let nothing else run meanwhile.
# The folders of the full data sets:
# make benchmark CORRUPT_MNIST=DIR FASHION_MNIST=DIR SPOKEN_DIGITS=DIR
benchmark: $(READY)
	@$(BIN)/python benchmarks/start_up.py
	@echo
	@$(BIN)/python benchmarks/throughput.py $(if $(CORRUPT_MNIST),--root $(CORRUPT_MNIST))
	@echo
	@$(BIN)/python benchmarks/input_pipeline.py $(if $(FASHION_MNIST),--root $(FASHION_MNIST))
	@echo
	@$(BIN)/python benchmarks/audio_training.py $(if $(SPOKEN_DIGITS),--root $(SPOKEN_DIGITS))

# python3 -m venv needs ensurepip, which some systems leave out; uv brings its own pip then.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "hf_finetune needs Python 3.11 or newer; name it with: make PYTHON=python3.11"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || uv venv --seed --clear --python $(PYTHON) $(VENV) || \
	  { rm -rf $(VENV); echo "$(PYTHON) can't make an environment: install python3-venv, or uv."; exit 2; }

# Where pip knows a place with a CPU build of torch (find-links), the cap in pyproject.toml lets it
# take that one. editable_mode: by a path entry, so that a script beside a clone of this name finds
# the package and not the clone's folder.
$(READY): pyproject.toml $(BIN)/python
	@echo "Setting up $(VENV) (once; a few minutes)…"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --config-settings editable_mode=compat --editable '.[dev]'
	@touch $(READY)

$(TRACKERS)/.ready: $(READY)
	@echo "Setting up $(TRACKERS) (once; a few minutes)…"
	@$(BIN)/python -m venv $(TRACKERS) || uv venv --seed --clear --python $(BIN)/python $(TRACKERS)
	@$(TRACKERS)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --config-settings editable_mode=compat \
	  --editable '.[dev,tensorboard,trackio,wandb,mlflow]'
	@touch $(TRACKERS)/.ready

clean:
	rm -rf $(VENV) *.egg-info
