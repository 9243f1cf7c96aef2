# Everything runs in .venv, which the first target that needs it sets up from requirements.lock.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all torture lint format serve bench schema client wheel binary lock clean

demo: .venv/installed  ## a whole campaign on a fresh database
	@$(BIN)/minibill demo

test: .venv/installed  ## the tests, on all cores
	$(BIN)/pytest -n auto --dist worksteal -m "not slow and not serial"
	$(BIN)/pytest -m "serial and not slow"

test-all: .venv/installed  ## the same and the slow ones
	$(BIN)/pytest -n auto --dist worksteal -m "not serial"
	$(BIN)/pytest -m serial

torture: .venv/installed  ## the tests of faults and attacks at full length: hours; `make torture T=kill` runs some
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes \
		-r tests/faults/fuzz/requirements.lock || echo "No fuzzing: this Python has no wheel of the fuzzer here." >&2
	$(BIN)/pytest tests/faults --long -k "$(T)"

lint: .venv/installed  ## style and types, and whether a dependency is known to be vulnerable
	$(BIN)/ruff format --check src tests bench docs/example
	$(BIN)/ruff check src tests bench docs/example
	$(BIN)/mypy
	@$(BIN)/python -m tests.tools.audit_dependencies

format: .venv/installed
	$(BIN)/ruff format src tests bench docs/example
	$(BIN)/ruff check --fix src tests bench docs/example

serve: .venv/installed  ## a development server on minibill.db, with a token to paste
	$(BIN)/minibill serve --dev

bench: .venv/installed  ## every measurement, beside its baselines of the same run
	$(BIN)/python -m bench

schema: .venv/installed  ## sql/schema.sql anew from the migrations, and the database of the release to come
	$(BIN)/python -m minibill.db.migrations > sql/schema.sql
	$(BIN)/python -m tests.tools.release_db

client: .venv/installed  ## the synchronous client anew from the asynchronous one
	$(BIN)/python tests/tools/sync_client.py

wheel: .venv/installed  ## dist/*.whl, with the commit inside
	@rm -f dist/*.whl
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .

# The same names in the same order, and no time of the build: the same source comes out as the same file.
binary: wheel build/venv/installed  ## dist/minibill: one file that needs no Python
	build/venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall dist/*.whl
	PYTHONHASHSEED=1 SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) \
	    build/venv/bin/pyinstaller --noconfirm --clean --log-level WARN --distpath dist --workpath build docs/deploy/minibill.spec

build/venv/installed: docs/deploy/binary.lock
	@echo "Setting up build/venv …"
	@$(PYTHON) -m venv --clear build/venv
	@build/venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r docs/deploy/binary.lock
	@touch $@

# uv only writes the lock; nothing else needs it.
lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet --extra dev pyproject.toml -o requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet --group fuzz -o tests/faults/fuzz/requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet pyproject.toml -c requirements.lock -o docs/deploy/requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet --extra binary pyproject.toml -c requirements.lock -o docs/deploy/binary.lock

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "minibill needs Python 3.11 or later: make PYTHON=python3.11 …" >&2; exit 1; }
	@echo "Setting up .venv …"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

clean:
	rm -rf .venv dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
