# Two commands: `make demo` stylizes a photo with the bundled model, `make test` proves the package.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PHOTO ?= examples/coffee.jpg
STYLE ?= oil-painting
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test unit check docs clean

demo: $(VENV)/installed
	@$(BIN)/stylescore stylize $(PHOTO) --style $(STYLE) --output out

test: unit check docs

unit: $(VENV)/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

check: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/installed-test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) out site
