# The README's commands. `make demo` and `make test` need Python 3.11 or later and nothing else.
PYTHON ?= python3
BIN := .venv/bin
# A file's tests share fixtures that take minutes to make, so files are the unit of work.
PYTEST := --numprocesses auto --maxprocesses 4 --dist loadfile
ACTIVATE := PATH="$(abspath $(BIN)):$$PATH"

.PHONY: demo test test-all test-slurm lint pull clean

# A table that came with git stands without the runs behind it: forcing its rule makes what is missing.
demo: .venv/ready
	$(ACTIVATE) snakemake --cores all results/tables/synthetic.csv --forcerun table
	@cat results/tables/synthetic.md

test: .venv/ready
	$(ACTIVATE) pytest $(PYTEST) -m "not slow"

# Slurm's tests come last and alone, for they want all cores. Where there can be no Slurm they are skipped, and say why.
test-all: .venv/ready
	$(ACTIVATE) pytest $(PYTEST) -m "not slurm"
	-tests/slurm/install.sh
	$(ACTIVATE) pytest -m slurm -rs tests/slurm

# On Debian or Ubuntu, as root: a Slurm on loopback, for as long as its tests take.
test-slurm: .venv/ready
	tests/slurm/install.sh
	$(ACTIVATE) pytest -m slurm -rs tests/slurm

lint: .venv/ready
	$(ACTIVATE) ruff check .
	$(ACTIVATE) ruff format --check .
	$(ACTIVATE) snakefmt --check Snakefile workflow
	$(ACTIVATE) snakemake --lint

# DVC keeps no modification times and Snakemake records none for what it did not make: --touch writes both.
pull: .venv/ready
	@test -e dvc.lock || { echo "Nothing to pull: there is no dvc.lock, so nobody has shared results of this commit."; \
		echo "Make them, \`dvc repro\` here, or go to a commit that has them: docs/dvc.md"; exit 1; }
	@$(ACTIVATE) dvc remote list | grep -q . || { echo "No place to pull from: dvc.lock is here, but no DVC remote."; \
		echo "Name the one that was pushed to, dvc remote add --default NAME PLACE: docs/dvc.md"; exit 1; }
	$(ACTIVATE) dvc pull
	$(ACTIVATE) snakemake --touch --forceall --cores 1

.venv/ready: requirements.lock pyproject.toml CMakeLists.txt $(wildcard src/reaction/flow/_tvl1*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "reaction needs Python 3.11 or later; name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || \
		{ echo "$(PYTHON) cannot make environments; on Debian or Ubuntu: apt install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	@$(BIN)/reaction check
	touch $@

clean:
	rm -rf .venv .snakemake logs timings
