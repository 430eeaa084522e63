# One command sets everything up: `make serve` starts a server, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
APP ?= apps/volume_segmentation
# Generated studies of the kind that the app takes.
SAMPLES := sample_studies/$(notdir $(patsubst %/,%,$(APP)))
STUDIES ?= $(SAMPLES)
PORT ?= 8000
CONF ?=
DATA ?= sample_studies/volume_segmentation
OUT ?= runs/simulation
SIMULATE ?=

export PATH := $(CURDIR)/$(BIN):$(PATH)
export MONAI_LABEL_TRACKING_ENABLED := false

.PHONY: serve test test-e2e bench simulate lint clean

serve: $(READY) $(if $(filter $(SAMPLES),$(STUDIES)),$(SAMPLES)/.ready)
	monailabel start_server --app "$(APP)" --studies "$(STUDIES)" --host 127.0.0.1 --port $(PORT) $(CONF)

test: $(READY) lint
	$(BIN)/python -m pytest -m "not slow and not e2e"
	$(BIN)/python -m pytest -m "slow and not e2e"

test-e2e: $(READY)
	$(BIN)/python -m pytest -m e2e --durations=15

bench: $(READY)
	$(BIN)/python -m benchmarks.scoring
	$(BIN)/python -m benchmarks.selection
	$(BIN)/python -m benchmarks.scale --images 3000 --stock-images 3000 --requests-each 10 --pause 0 --strategies random,dropout_variance

simulate: $(READY) $(if $(filter sample_studies/%,$(DATA)),$(DATA)/.ready)
	$(BIN)/python -m tasks.simulation "$(DATA)" --out "$(OUT)" $(SIMULATE)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) sample_studies runs

$(READY): requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

sample_studies/%/.ready: | $(READY)
	$(BIN)/python -m tasks.phantoms $(@D) --app $*
	touch $@
