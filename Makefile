# Each target sets up .venv by itself; bare `make` lists the targets.
PYTHON  ?= python3
SCALE   ?= laptop
RESULTS ?= results
BIN     := .venv/bin
READY   := .venv/.ready

# Recipes read users' values from the environment, so that neither make nor the shell expands what is in them.
VALUES = SCALE RESULTS DATASET ONLY SEEDS PAIRS ADDED
$(foreach name,$(VALUES),$(eval unexport $(name))$(eval export STUDY_$(name) := $$(value $(name))))
export PYTHONUTF8 := 1
REPRODUCE = $(BIN)/python -m dilib.commands.reproduce --results="$$STUDY_RESULTS"
ASKED = $${STUDY_DATASET:+--dataset="$$STUDY_DATASET"} $${STUDY_ONLY:+--only="$$STUDY_ONLY"} \
    $${STUDY_SEEDS:+--seeds="$$STUDY_SEEDS"} $${STUDY_PAIRS:+--pairs="$$STUDY_PAIRS"} \
    $${STUDY_ADDED:+--added="$$STUDY_ADDED"}

.DEFAULT_GOAL := help
.PHONY: help setup reproduce report carry smoke bench test docs slow torture format lab clean

help: ## print this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo "  variables: SCALE=smoke|laptop|overnight|paper DATASET=name|folder:PATH ONLY=notebook SEEDS=0,1,2 PAIRS=1 ADDED=name|folder:PATH RESULTS=folder"

# The stamp is written last, so an interrupted installation is taken up again.
$(READY): pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock --editable '.[dev]'
	touch $@

setup: $(READY) ## install everything into .venv

reproduce: $(READY) ## run the study: tables, figures and report into results/SCALE/DATASET
	$(REPRODUCE) --scale="$$STUDY_SCALE" $(ASKED)

report: $(READY) ## rebuild the report, and for RESULTS=results the README's summary, from the results there are
	$(BIN)/python -m dilib.commands.report --results="$$STUDY_RESULTS" $(if $(filter results,$(value RESULTS)),--readme README.md)

# Left out is what is soon made again, or stands for less than a cell: students in training, decoded images, locks.
carry: ## pack what another machine needs to go on with a SCALE into carried.tar, to be unpacked beside its Makefile
	tar -cf carried.tar --exclude=students --exclude=locks --exclude='*.checkpoint.*' --exclude='*.npy' --exclude='.*.*' \
	    -- "$$STUDY_RESULTS/$$STUDY_SCALE" "artifacts/$$STUDY_SCALE"
	@du -h carried.tar

smoke: $(READY) ## run every notebook at toy size, in a few minutes
	$(REPRODUCE) --scale smoke $(ASKED)

bench: $(READY) ## time a synthesis step on this machine, into results/bench/DEVICE.json
	$(BIN)/python -m dilib.commands.benchmark --results="$$STUDY_RESULTS" $${STUDY_ONLY:+--only="$$STUDY_ONLY"}

test: $(READY) ## lint, and run the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

torture: $(READY) ## kill a smoke run at a hundred random moments, and compare it with one that was not, for an hour
	$(BIN)/python tests/torture.py

docs: $(READY) ## make the API's reference from the docstrings, into build/api
	$(BIN)/pdoc --output-directory build/api dilib
	@echo "The reference is build/api/index.html"

slow: $(READY) ## run the tests that take minutes and are left out of `make test`
	$(BIN)/python -m pytest -m slow

format: $(READY) ## put code and notebooks in the common format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lab: $(READY) ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab --ip 127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root --no-browser) notebooks

clean: ## remove .venv, artifacts and smoke results; keep committed results
	rm -rf .venv artifacts results/smoke build *.egg-info
