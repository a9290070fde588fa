# Every errand of nextquery. `make help` lists them; settings come from NEXTQUERY_ variables and .env.
BIN := .venv/bin
export MACHINE PYTHON

.DEFAULT_GOAL := .venv
.PHONY: .venv run test test-all check format lock help

.venv: ## create .venv and install everything; does nothing when it is up to date
	@sh deploy/setup.sh

run: .venv ## bring the database up to date and start the service
	@$(BIN)/nextquery db upgrade
	@exec $(BIN)/nextquery serve

test: check ## the checks and the fast tests: at most 10 minutes
	@$(BIN)/python -m pytest -n auto --dist loadscope -m "not slow and not chaos and not alone"
	@$(BIN)/python -m pytest -m "alone and not slow and not chaos"

test-all: test ## then the slow tests and the staged faults: at most 30 minutes
	@$(BIN)/python -m pytest -m "slow or chaos"

check: .venv ## format, lint, types, import rules
	@$(BIN)/ruff format --check --quiet . || { echo "Some files are not formatted: run 'make format'."; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache --no-logo

format: .venv ## format the code and mend what ruff can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: .venv ## resolve the lists of deploy/requirements again; UPGRADE=1 takes the newest versions
	@$(BIN)/python -m venv .venv/lock && .venv/lock/bin/python -m pip install -qq uv
	@UV=.venv/lock/bin/uv sh deploy/requirements/lock.sh

help: ## this list
	@sed -n 's/^\([a-z.-]*\):[^#]*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{printf "  %-15s %s\n", $$1, $$2}'
