# make demo [DATA=DIR]   train, ship and score a small model
# make test              the linter and the whole suite; one module in seconds: .venv/bin/python -m pytest FILE -m 'not slow'
# make lint              the linter alone
# make bench             reference, fast and other authors' versions timed side by side, about 3 minutes; JSON=bench.json
# make lower             production lowered for an H100 without one: fails on what would not run there, predicts the rest;
#                        about 2 minutes and several GB; PRESET=golf OPTIONS="--attention flash --json lower.json"
# make wheels            what a GPU machine without a network lacks, as wheels in .whl
# make docs              the documentation as pages in site/, from docs/ and the docstrings
# make venv              the environment alone
# make exhaustive        every float32 through the fp8 encoder, about 10 minutes
# make soak              a run that is killed 20 times ends as the one left alone, bit for bit; about 5 minutes
# make fuzz              do both decoders stand what strangers write? coverage-guided fuzzing, 10 minutes
# make pictures          the page of runs/demo in a headless Chromium, photographed for the README; after make demo
# make study             objectives and inputs at equal steps, tokens and size: trains what is missing, prints the tables; hours,
#                        resumable; GROUPS="demo double" DATA=DIR OPTIONS="--jobs 2 --report --plot study.svg"
# make golden OUT=DIR    what every command prints and makes, to compare with diff -r before and after a change that changes nothing
# make recording         what maskgolf sample shows as it draws, as frames of text in assets/sample.txt; RUN=runs/demo
# make mutate            do the suites notice small wrong changes? two hours or more; PIECES="fp8 harness.validate.scan" judges some

PYTHON ?= python3
DATA ?=
PIECES ?=
GROUPS ?=
JSON ?= bench.json
OUT ?= golden
PRESET ?= golf
OPTIONS ?=
RUN ?= runs/demo
WHEELS := lz4 safetensors tyro docstring_parser typeguard rich constriction mpmath packaging parso brotli
PLATFORMS := $(foreach n,2_28 2_27 2_17,--platform manylinux_$(n)_x86_64) --platform manylinux2014_x86_64
VENV := .venv
BIN := $(VENV)/bin
LOWER := .venv-lower

.PHONY: demo test lint docs bench lower wheels venv exhaustive soak fuzz golden pictures study recording mutate clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(BIN)/maskgolf demo $(if $(DATA),--data $(DATA))

test: lint
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/installed-test
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

docs: $(VENV)/installed-docs
	$(BIN)/mkdocs build --quiet

bench: $(VENV)/installed-test
	$(BIN)/python -m pytest tests/benchmarks --benchmark-enable --benchmark-json=$(JSON) --benchmark-columns=median,iqr,rounds

lower: $(LOWER)/installed
	$(LOWER)/bin/python -m harness.lower --preset $(PRESET) $(OPTIONS)

wheels:
	$(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
	    $(PLATFORMS) --dest .whl --constraint constraints.txt $(WHEELS)

venv: $(VENV)/installed

exhaustive: $(VENV)/installed-test
	$(BIN)/python -m tests.scripts.exhaustive

soak: $(VENV)/installed-test
	$(BIN)/python -m tests.scripts.soak

fuzz: $(VENV)/installed-fuzz
	$(BIN)/python -m tests.scripts.fuzz

golden: $(VENV)/installed-test
	$(BIN)/python -m tests.scripts.golden $(OUT)

pictures: $(VENV)/installed-test
	$(BIN)/python -m tests.scripts.pictures runs/demo assets

study: $(VENV)/installed-test
	$(BIN)/python -m tests.scripts.study $(GROUPS) $(if $(DATA),--data $(DATA)) $(OPTIONS)

recording: $(VENV)/installed-test
	$(BIN)/python -m tests.scripts.recording $(RUN) assets/sample.txt

mutate: $(VENV)/installed-mutate
	$(BIN)/python -m tests.scripts.mutate $(PIECES)

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "maskgolf needs Python 3.11 or newer, found $$($(PYTHON) --version 2>&1); pass PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[plot]' --constraint constraints.txt
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]' --constraint constraints.txt
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]' --constraint constraints.txt
	@touch $@

$(VENV)/installed-fuzz: $(VENV)/installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,fuzz]' --constraint constraints.txt
	@touch $@

$(VENV)/installed-mutate: $(VENV)/installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,mutate]' --constraint constraints.txt
	@touch $@

$(LOWER)/installed: constraints-lower.txt
	$(PYTHON) -m venv $(LOWER)
	$(LOWER)/bin/python -m pip install --quiet --disable-pip-version-check torch numpy sentencepiece --constraint constraints-lower.txt
	@touch $@

clean:
	rm -rf $(VENV) $(LOWER) .whl build *.egg-info .pytest_cache .mutation
