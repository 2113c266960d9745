# make demo   installs into .venv and runs the demo; the page is demo-out/report.html
# make test   installs what the tests need and runs them
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo-out

.PHONY: demo test lint

demo: $(VENV)/.installed
	$(BIN)/xingaug demo --out $(OUT)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/uv
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --constraints constraints.txt --editable .
	touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/uv
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --constraints constraints.txt --editable '.[test]'
	touch $@ $(VENV)/.installed
