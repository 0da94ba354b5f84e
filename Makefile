# Everything happens in .venv, which the first command makes; `make` alone lists the commands.
# Settings: PYTHON=python3.12 make test; make demo WORKERS=8; make test PYTEST_ARGS="-k mel -x".

PYTHON ?= python3
WORKERS ?= 2
STEPS ?= 200
PYTEST_ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
G4G_PREP := "$(CURDIR)/$(VENV)/bin/g4g-prep"
G4G_MODEL := "$(CURDIR)/$(VENV)/bin/g4g-model"
G4G_EVAL := "$(CURDIR)/$(VENV)/bin/g4g-eval"

# Work is spread over processes, so one thread each; it also keeps floats equal from machine to machine.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help install demo demo-data demo-models test test-slow lint bench clean distclean

help:
	@echo "make demo       render the sample, build shards of it, train G4G and Wav2Lip (tiny) on them, compare the two"
	@echo "make test       tests that need no footage of yours (minutes)"
	@echo "make test-slow  the others: kills and resumes, real clips, long builds"
	@echo "make lint       ruff and mypy"
	@echo "make bench      speed of the pipeline, the loader and the metrics, beside what is usual"
	@echo "make clean      delete the demo, results and caches; make distclean: also .venv"

# ---------------------------------------------------------------- installation

# A stamp a set of dependencies: installed once, and again when pyproject.toml changes. Installed editable, so that
# changed code needs no reinstallation.
install: $(VENV)/installed

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(PIP) install --quiet --editable .
	@touch $@

# face-alignment depends on opencv-python and syncnet-python on opencv-contrib-python, which overwrite the files of
# opencv-python-headless and then need libGL. The last one installed wins, so headless is installed again, last
# (docs/landmarks.md). The others go entirely: their versions would count in fingerprints, and the demo be built anew,
# though their files are not the ones in use.
$(VENV)/installed-test: pyproject.toml | $(VENV)/installed
	$(PIP) install --quiet --editable '.[test,fan,s3,bench]'
	$(PIP) uninstall --quiet --yes opencv-python opencv-contrib-python
	$(PIP) install --quiet --force-reinstall --no-deps opencv-python-headless
	@touch $@

$(VENV)/installed-lint: pyproject.toml | $(VENV)/installed
	$(PIP) install --quiet --editable '.[lint]'
	@touch $@

# ---------------------------------------------------------------- demo

# make-sample writes into a hidden folder and renames it when all is there, so a folder that exists is whole.
# The two are made side by side; hdtf takes longer and shows its progress.
demo/hdtf: | $(VENV)/installed
	$(G4G_PREP) make-sample $@ --layout hdtf

demo/lrs2: | $(VENV)/installed
	$(G4G_PREP) make-sample $@ --layout lrs2 --quiet

# One data set of both layouts: lrs2 is split by its own lists, hdtf (which has none) by the CSV. It is built inside
# demo/, so that the g4g.yaml which notes the latest data set lies there and not among your own files.
#
# doctor answers 0 for fit or demo-size (the sample is that: 3.6 minutes), 1 for unfit, which stops make.
demo-data: $(VENV)/installed
	$(MAKE) -j2 demo/hdtf demo/lrs2
	cd demo && $(G4G_PREP) build-shards --lrs2 lrs2 --hdtf hdtf --identity csv:hdtf/splits.csv --split-by csv \
		--workers $(WORKERS) --out shards
	cd demo && $(G4G_PREP) verify --deep
	cd demo && $(G4G_PREP) doctor
	cd demo && $(G4G_PREP) stats
	cd demo && $(G4G_PREP) contact-sheet

# Each model is trained for the same steps on the same frames, on a core of its own; Wav2Lip's expert goes before it. A
# run that was interrupted is resumed.
TRAIN = cd demo && $(G4G_MODEL) train --preset tiny --shards shards --steps $(STEPS) --set threads=1
RESUMED = $(if $(wildcard demo/runs/$(1)/run.json),--resume)

demo/runs/g4g/g4g.safetensors:
	$(TRAIN) --model g4g --out runs/g4g $(call RESUMED,g4g) --quiet

demo/runs/wav2lip-expert/wav2lip-expert.safetensors:
	$(TRAIN) --model wav2lip-expert --out runs/wav2lip-expert $(call RESUMED,wav2lip-expert)

demo/runs/wav2lip/wav2lip.safetensors: demo/runs/wav2lip-expert/wav2lip-expert.safetensors
	$(TRAIN) --model wav2lip --set expert=runs/wav2lip-expert --out runs/wav2lip $(call RESUMED,wav2lip)

# Wav2Lip has an expert to train first, so G4G is done before it. The core that is free by then measures the footage
# itself, which waits for no training; the evaluation finds that done.
EVALUATION = demo/runs/reconstruction-1-test

$(EVALUATION)/truth.stamp: demo/runs/g4g/g4g.safetensors
	cd demo && $(G4G_EVAL) run --models ground-truth --no-controls --workers 1 --no-report --quiet >/dev/null
	@touch $@

demo-models: $(EVALUATION)/truth.stamp demo/runs/wav2lip/wav2lip.safetensors

# What is tested on are phrases and people that nobody was trained on.
demo: demo-data
	$(MAKE) -j2 demo-models
	cd demo && $(G4G_EVAL) run --models g4g,wav2lip --workers $(WORKERS)
	@test -e g4g.yaml || cp demo/g4g.yaml g4g.yaml  # so that the commands work from here, too; your own file stays
	@cmp -s demo/g4g.yaml g4g.yaml || echo "g4g.yaml here is not the demo's: go on inside demo/"
	@echo
	@echo "Data set:      $(CURDIR)/demo/shards"
	@echo "Look at it:    $(CURDIR)/demo/shards/contact-sheet.html (open it in a browser)"
	@echo "Leaderboard:   $(CURDIR)/demo/runs/reconstruction-1-test/report.html"
	@echo "What they draw: $(CURDIR)/demo/runs/g4g/pictures, $(CURDIR)/demo/runs/wav2lip/pictures"
	@echo "Go on:         . $(VENV)/bin/activate && g4g-eval run --models g4g,wav2lip && g4g-model --help"

# ---------------------------------------------------------------- development

test: $(VENV)/installed-test
	$(PY) -m pytest -n 2 -m "not slow" $(PYTEST_ARGS)

test-slow: $(VENV)/installed-test
	$(PY) -m pytest -m slow $(PYTEST_ARGS)

lint: $(VENV)/installed-lint
	$(PY) -m ruff check .
	$(PY) -m mypy

# The loader is measured on the demo's data set. Tables on the screen, numbers in benchmarks/results/*.json.
bench: $(VENV)/installed-test demo
	mkdir -p benchmarks/results
	$(PY) benchmarks/prep.py --out benchmarks/results/prep.json
	$(PY) benchmarks/loader.py --shards demo/shards --out benchmarks/results/loader.json
	$(PY) -m benchmarks.metrics --shards demo/shards --out benchmarks/results/metrics.json

clean:
	rm -rf demo build dist *.egg-info benchmarks/results .pytest_cache .mypy_cache .ruff_cache
	find baselines evaluation g4g_core g4g_model prep reports tests benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
