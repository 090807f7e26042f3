# Everything runs in .venv, which the first target that needs it makes. PYTHON chooses the interpreter.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test check chaos clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/abstream demo

# Many tests wait: as many processes as cores, each with one torch thread, since more would spin against each other.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .

chaos: setup
	$(BIN)/abstream chaos

clean:
	rm -rf .venv runs build *.egg-info
