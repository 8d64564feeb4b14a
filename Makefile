# The habits: setup, demo, quick, test, check, docs, bench. None of them needs anything set up before.
VENV := .venv
BIN := $(VENV)/bin
IN_CONTAINERS := "(remote/programs|recipes/builtin)/"

.PHONY: setup setup-tests demo quick test check format bench docs clean completion reference picture screens

setup:
	@sh scripts/setup

setup-tests: setup
	@sh scripts/setup-tests

demo: setup
	@sh scripts/setup-demo
	@$(BIN)/apexgpu demo

quick: setup
	@sh scripts/setup-quick
	@sh scripts/quick

test: setup-tests check
	@sh scripts/test

check: setup-tests
	@$(BIN)/ruff check src tests bench
	@$(BIN)/ruff format --check --quiet src tests bench
	@$(BIN)/mypy
	@$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32 --exclude $(IN_CONTAINERS) src
	@$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin --exclude $(IN_CONTAINERS) src

format: setup-tests
	@$(BIN)/ruff check --fix src tests bench
	@$(BIN)/ruff format src tests bench

bench: setup-tests
	@$(BIN)/python -m bench

docs: setup
	@$(BIN)/pip install --quiet -e '.[docs]' && $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache

completion: setup
	@$(BIN)/python scripts/make-completion

picture: setup-tests
	@$(BIN)/python scripts/make-picture
	@$(BIN)/python scripts/make-animation --record
	@$(BIN)/python scripts/make-screenshot

screens: setup-tests
	@$(BIN)/python scripts/make-screens

reference: setup
	@$(BIN)/python scripts/make-reference
