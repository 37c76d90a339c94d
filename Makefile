# Two commands: `make demo` stylizes a photo with the bundled model, `make test` proves the package.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PHOTO ?= examples/coffee.jpg
STYLE ?= van-gogh
GENERATOR := $(wildcard src/stylescore/catalog/bundled/mini/generators/$(STYLE).*)
GALLERY_PHOTOS := $(foreach name,chelsea coffee astronaut,examples/$(name).jpg)
GALLERY_STYLES := van-gogh ukiyo-e stained-glass watercolor
HARD_PHOTOS := examples/face.jpg examples/lamps.jpg
HARD_STYLES := pencil-sketch oil-painting flat-illustration watercolor ink-drawing stained-glass
SMALL_DRAWN := ink-drawing pencil-sketch flat-illustration pixel-art
SMALL_PAINTED := van-gogh oil-painting stained-glass watercolor ukiyo-e
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo gallery thumbnails test unit hard-use check docs clean

demo: $(VENV)/installed
	@$(BIN)/stylescore stylize $(PHOTO) --style $(STYLE) --output out
	@$(if $(GENERATOR),$(BIN)/stylescore stylize $(PHOTO) --style $(STYLE) --fast --output out/fast)

gallery: $(VENV)/installed
	$(BIN)/python examples/gallery.py $(GALLERY_PHOTOS) --styles $(GALLERY_STYLES) --cell 400 --target docs/images/gallery.jpg
	$(BIN)/python examples/gallery.py --target docs/images/gallery-more.jpg
	$(BIN)/python examples/gallery.py $(HARD_PHOTOS) --styles $(HARD_STYLES) --target docs/images/failures.jpg
	$(BIN)/python examples/knob.py --target docs/images/knob.jpg
	$(BIN)/python examples/own_size.py --target docs/images/own-size.jpg
	$(BIN)/python examples/one_step.py --styles van-gogh watercolor --target docs/images/one-step.jpg
	$(BIN)/python examples/one_step.py --styles stained-glass flat-illustration --target docs/images/one-step-areas.jpg
	$(BIN)/python examples/one_step.py --styles ink-drawing pencil-sketch --target docs/images/one-step-drawings.jpg
	$(BIN)/python examples/small_networks.py --styles $(SMALL_DRAWN) --target docs/images/small-networks.jpg
	$(BIN)/python examples/small_networks.py --styles $(SMALL_PAINTED) --target docs/images/small-networks-painted.jpg
	$(BIN)/python examples/relevance_maps.py --target docs/images/relevance.jpg

thumbnails: $(VENV)/installed
	$(BIN)/python examples/thumbnails.py

test: unit check docs

unit: $(VENV)/installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

hard-use: $(VENV)/installed-test
	$(BIN)/python tests/hard_use

check: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/installed-test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(VENV)/installed: pyproject.toml
	@echo "installing stylescore and torch into $(VENV): some minutes, and one to several GB"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) out site
