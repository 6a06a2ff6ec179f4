# The commands of the project. `make demo` and `make test` need Python ≥ 3.11 and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check format lint types imports rows wheel bench soak micro micro-quick weights clean

demo: $(VENV)/.core  ## refine the bundled examples before your eyes
	$(BIN)/python examples/demo.py

test: $(STAMP) build/litellm/.installed  ## install what the tests need, and run them all
	-.ci/chromium
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: lint types imports rows test  ## format, lint, strict types, layers, training rows, tests

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports

rows: $(STAMP)  ## the rows of the risk scorer: form, balance, near-duplicates; TESTS=folders adds overlap with test sets
	$(BIN)/python -m training.risk.check --table $(if $(TESTS),--against $(TESTS))

format: $(STAMP)  ## write the format that `make lint` checks
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: $(STAMP)  ## build the wheel, install it alone, refine with it
	rm -rf dist build/wheel-env
	$(BIN)/python -m build --wheel
	$(PYTHON) -m venv build/wheel-env
	build/wheel-env/bin/pip install -q -c constraints/ci.txt dist/*.whl
	cd build && wheel-env/bin/vlmguard refine "Fill in the list in the picture." --image ../examples/list.png
	cd build && wheel-env/bin/vlmguard doctor

bench: $(STAMP)  ## quality and speed; DATA=folder adds the development data
	$(BIN)/python benchmarks/quality.py $(if $(DATA),--data $(DATA))
	$(BIN)/python benchmarks/ocr.py
	$(BIN)/python benchmarks/process.py
	$(BIN)/python -m benchmarks.risk
	$(BIN)/python benchmarks/rewriters.py
	$(if $(DATA),$(BIN)/python benchmarks/tiers.py --data $(DATA))
	$(BIN)/python benchmarks/synth.py
	$(BIN)/python benchmarks/evaluate.py
	$(BIN)/python -m benchmarks.train
	$(BIN)/python -m benchmarks.gateway
	$(BIN)/python -m benchmarks.audit
	$(BIN)/python -m benchmarks.console

soak: $(STAMP)  ## the long runs
	$(BIN)/python -m pytest -m soak
	$(BIN)/python -m pytest --hypothesis-profile=soak tests/soak/test_hostile_pictures.py tests/test_images.py tests/test_trace.py \
		tests/test_policy.py tests/test_types.py tests/wire tests/perception/test_mending.py tests/rewriters/test_asking.py

micro: $(STAMP)  ## the paper in miniature (docs/micro.md): bases, targets, data, rewriters, all arms; 3 splits, 2 seeds
	$(BIN)/python -m recipes.micro full

micro-quick: $(STAMP)  ## one split, one seed, two targets: minutes
	$(BIN)/python -m recipes.micro quick

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip

$(VENV)/.core: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install -q -c constraints/ci.txt -e .
	touch $@

$(STAMP): $(VENV)/.core pyproject.toml constraints/ci.txt
	$(BIN)/pip install -q -c constraints/ci.txt -e '.[gateway,postgres,otel,parquet,local,serving,synth,ray,train,eval]' --group test --group check --group bench
	touch $@

build/litellm/.installed: constraints/litellm.txt  ## LiteLLM's proxy wants versions of its own, so it has an environment of its own
	$(PYTHON) -m venv build/litellm
	build/litellm/bin/pip install -q -c constraints/litellm.txt 'litellm[proxy]'
	touch $@

clean:
	rm -rf $(VENV) build dist
