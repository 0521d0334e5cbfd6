# Everything here sets itself up: a virtual environment in .venv, pinned by infra/constraints.txt.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Two processes side by side; a file of the jobs' tests stays in one, which has a Ray and a chain of artefacts to share.
PYTEST_LIBRARY := $(BIN)/python -m pytest --ignore tests/workflows --numprocesses 2
PYTEST_JOBS    := $(BIN)/python -m pytest tests/workflows --numprocesses 2 --dist loadfile

FAST := not slow and not long

.PHONY: demo test test-long check coverage lint chaos fuzz bench clean

demo: $(READY)            ## the whole chain on drawn faces: four minutes on two cores
	$(BIN)/likeness demo --out demo-out

test: lint                ## everything that must pass before a change lands, slow tests included: 18 minutes at most
	$(PYTEST_LIBRARY) -m "not long"
	$(PYTEST_JOBS) -m "not long"

test-long: $(READY)       ## what takes minutes by itself: 20 minutes at most, after `make test` where CI runs
	$(BIN)/python -m pytest -m long --numprocesses 2 --dist loadfile || [ $$? -eq 5 ]  # 5: nothing is marked long

check: lint               ## the inner loop: lint, types and the fast tests
	$(PYTEST_LIBRARY) -m "$(FAST)"
	$(PYTEST_JOBS) -m "$(FAST)"

coverage: export COVERAGE_FILE := $(CURDIR)/.coverage
coverage: $(READY)        ## lines and branches that the fast tests go through, in every process that they start
	rm -f .coverage .coverage.*
	$(subst -m pytest,-m coverage run -m pytest,$(PYTEST_LIBRARY)) -m "$(FAST)"
	$(subst -m pytest,-m coverage run -m pytest,$(PYTEST_JOBS)) -m "$(FAST)"
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	@$(BIN)/coverage json --quiet -o - | $(BIN)/python -c "import json, sys; t = json.load(sys.stdin)['totals']; \
	    print('lines %.1f %%, branches %.1f %%' % (t['percent_statements_covered'], t['percent_branches_covered']))"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

chaos: $(READY)           ## kills: 30 of an embed job over 20,000 pictures, 20 of an index build, 10 of a pipeline, 8 of each other job (the suite has 5, 3, 3, 1); 10 stops of a training
	LIKENESS_KILLS=30 LIKENESS_IMAGES=20000 $(BIN)/python -m pytest tests/workflows/embed/test_chaos.py -s --timeout 3600
	LIKENESS_KILLS=20 LIKENESS_ROWS=100000 $(BIN)/python -m pytest tests/workflows/index/test_kills.py -s --timeout 3600
	LIKENESS_KILLS=10 $(BIN)/python -m pytest tests/workflows/pipeline/test_kills.py -s --timeout 3600
	LIKENESS_KILLS=8 LIKENESS_STOPS=5 $(BIN)/python -m pytest tests/workflows/test_kills.py -s --timeout 3600

fuzz: export PYTHONPATH := $(CURDIR):$(CURDIR)/tests
fuzz: $(READY)            ## 28,000 mutated inputs of every reader: 25 minutes; FUZZ="--each 100 --seed 2 --format tar" for others
	$(BIN)/python -m fuzz --out fuzz-out $(FUZZ)

bench: bench-mining       ## timings of losses and miners against pytorch-metric-learning

bench-%: $(READY)         ## one program of tests/bench: mining, study, embedding, decode, start, kernels, index
	$(BIN)/python -m pip install --quiet --constraint infra/constraints.txt --requirement infra/constraints-bench.txt
	$(BIN)/python tests/bench/$*.py

clean:
	rm -rf $(VENV) demo-out fuzz-out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*

$(READY): pyproject.toml infra/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint infra/constraints.txt --editable ".[cpu,s3,test]"
	touch $@
