# `make` lists the targets. Everything runs in .venv, which the first target that needs it sets up from the locks:
# .venv/runtime with minibill's own dependencies, .venv/installed with the development tools as well.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo serve test test-all torture lint format bench schema client reference wheel binary lock clean

help:  ## list the targets
	@echo "Targets of make:"
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)$$/  \1|\2/p' $(MAKEFILE_LIST) | awk -F '|' '{ printf "%-12s %s\n", $$1, $$2 }'

# --- running ---

demo: .venv/runtime  ## run a whole campaign on a fresh database
	@$(BIN)/minibill demo

serve: .venv/runtime  ## serve minibill.db for development, and print a token to paste
	$(BIN)/minibill serve --dev

# --- tests and style ---

test: .venv/installed  ## run the tests on all cores, without the slow ones
	$(BIN)/pytest -n auto --dist worksteal -m "not slow and not serial"
	$(BIN)/pytest -m "serial and not slow"

test-all: .venv/installed  ## run all tests
	$(BIN)/pytest -n auto --dist worksteal -m "not serial"
	$(BIN)/pytest -m serial

torture: .venv/installed  ## run fault and attack tests at full length, for hours; `make torture T=kill` selects some
	@$(BIN)/python $(INSTALL) --only-binary :all: --require-hashes \
		-r tests/faults/fuzz/requirements.lock || echo "No fuzzing: this Python has no wheel of the fuzzer here." >&2
	$(BIN)/pytest tests/faults --long -k "$(T)"

lint: .venv/installed  ## check format, style, types and known vulnerabilities of dependencies
	$(BIN)/ruff format --check src tests bench docs/example
	$(BIN)/ruff check src tests bench docs/example
	$(BIN)/mypy
	@$(BIN)/python -m tests.tools.audit_dependencies

format: .venv/installed  ## format the code, and fix style errors that can be fixed
	$(BIN)/ruff format src tests bench docs/example
	$(BIN)/ruff check --fix src tests bench docs/example

bench: .venv/installed  ## run every benchmark next to its baselines
	$(BIN)/python -m bench

# --- generated files ---

schema: .venv/installed  ## generate sql/schema.sql and the next release's database from the migrations
	$(BIN)/python -m minibill.db.migrations > sql/schema.sql
	$(BIN)/python -m tests.tools.release_db

client: .venv/installed  ## generate the synchronous client from the asynchronous one
	$(BIN)/python tests/tools/sync_client.py

reference: .venv/installed  ## generate the reference pages of settings, commands and metrics
	$(BIN)/python -m tests.tools.reference_docs

# uv only writes the locks; nothing else needs it.
lock:  ## resolve the dependencies anew, with uv
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet --extra dev pyproject.toml -o requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet --group fuzz -o tests/faults/fuzz/requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet pyproject.toml -c requirements.lock -o docs/deploy/requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet --extra binary pyproject.toml -c requirements.lock -o docs/deploy/binary.lock

# --- packages ---

wheel: .venv/installed  ## build dist/*.whl, with the commit inside
	@rm -f dist/*.whl
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .

# The hash seed fixes the order of names, and the commit's time replaces the build's, so that builds are reproducible.
binary: wheel build/venv/installed  ## build dist/minibill, one file that needs no Python
	build/venv/bin/python $(INSTALL) --no-deps --force-reinstall dist/*.whl
	PYTHONHASHSEED=1 SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) \
	    build/venv/bin/pyinstaller --noconfirm --clean --log-level WARN --distpath dist --workpath build docs/deploy/minibill.spec

clean:  ## delete everything that make has created
	rm -rf .venv dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis

# --- virtual environments ---

# To install the package itself takes development tools. Until then, a script runs it from the source tree.
.venv/runtime: docs/deploy/requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "minibill needs Python 3.11 or later: make PYTHON=python3.11 …" >&2; exit 1; }
	@echo "Setting up .venv …"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python $(INSTALL) --require-hashes -r docs/deploy/requirements.lock
	@printf '#!/bin/sh\nPYTHONPATH="%s/src" exec "%s/.venv/bin/python" -m minibill "$$@"\n' "$(CURDIR)" "$(CURDIR)" > $(BIN)/minibill
	@chmod +x $(BIN)/minibill
	@touch $@

.venv/installed: .venv/runtime requirements.lock pyproject.toml
	@echo "Installing the development tools …"
	@$(BIN)/python $(INSTALL) --require-hashes -r requirements.lock
	@$(BIN)/python $(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

build/venv/installed: docs/deploy/binary.lock
	@echo "Setting up build/venv …"
	@$(PYTHON) -m venv --clear build/venv
	@build/venv/bin/python $(INSTALL) --require-hashes -r docs/deploy/binary.lock
	@touch $@
