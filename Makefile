# Everything runs in .venv, which the first target that needs it makes. PYTHON chooses the interpreter.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test check chaos audit clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/abstream demo

# For the tests of other languages, which are skipped where this is not possible.
tests/node/node_modules: tests/node/package.json
	-command -v npm >/dev/null && cd tests/node && npm install --no-package-lock --no-audit --no-fund --silent && touch node_modules

# Many tests wait: as many processes as cores, each with one torch thread, since more would spin against each other.
test: setup tests/node/node_modules
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .

chaos: setup
	$(BIN)/abstream chaos

# Known vulnerabilities of the versions that are tested. It asks PyPI; what it does not find there was not looked at.
audit: setup
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	.venv/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --progress-spinner off --strict

clean:
	rm -rf .venv runs build *.egg-info
