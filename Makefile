# make demo, make test: each makes its own virtual environment on the first call.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all test-versions check bench docs clean

demo: .venv/gpt          ## train a small GPT on this machine and sample from it
	$(BIN)/python train.py --preset demo

test: .venv/test         ## everything that is quick
	$(BIN)/python -m pytest -q -m "not slow" -n 2 --dist worksteal

test-all: .venv/test     ## everything
	$(BIN)/python -m pytest -q

test-versions:           ## a smoke set on the oldest and the newest versions of Python, JAX, Optax, Flax and Orbax
	PYTHON=$(PYTHON) .ci/versions

check: .venv/check       ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	@said=$$(PATH="$(CURDIR)/$(BIN):$$PATH" PYTHONPATH=. pyright --verifytypes jaxopt_mini --ignoreexternal) \
		|| { echo "$$said"; exit 1; }  # every public name of the library has a type

bench: .venv/test        ## the figures that the README quotes
	$(BIN)/python -m benchmarks

docs: .venv/docs         ## write the generated pages, and all of them as a site; a broken link is an error
	$(BIN)/python -m docs.generate --measure
	$(BIN)/python -m docs.drawing
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs site

.venv/%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[$*]"
	touch $@

clean:
	rm -rf .venv .venv-versions build dist *.egg-info
