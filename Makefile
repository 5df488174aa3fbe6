# Limner. `make help` lists the targets; the first of them makes its own environment in .venv.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
# A second package index, for a torch without CUDA
TORCH_INDEX ?=
# Of train-gpu: how long, where to, a folder of wheels, and a Python that has torch and pytorch-lightning
MINUTES ?= 9
OUT ?= runs/gpu
WORK ?= runs/gpu-work
WHEELS ?=
GPU_PYTHON ?= $(PYTHON)
# Passed on to the command of a target: make train-avatars-clip ARGS="--help"
ARGS ?=

BIN := $(VENV)/bin
# Exact versions for this Python; a Python that has none takes what pip finds.
PINS := constraints/$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
# Stamps: what is already installed for the project as it is now.
RUNTIME := $(VENV)/.limner-runtime
FULL := $(VENV)/.limner-full

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z][a-zA-Z%_-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' \
		| while IFS=$$'\t' read -r name text; do printf '  %-24s %s\n' "$$name" "$$text"; done

# --- using it ---------------------------------------------------------------------------------------------

.PHONY: demo
demo: $(RUNTIME) ## Edit held-out portraits by words, without torch; the sheet goes to out/demo.png
	@mkdir -p out
	$(BIN)/limner demo --output out/demo.png $(ARGS)

.PHONY: install
install: $(RUNTIME) ## Install the runtime alone into .venv (no torch)
	$(BIN)/limner check

.PHONY: install-all
install-all: $(FULL) ## Install the runtime, training, export and development tools into .venv
	$(BIN)/limner check

# --- making it --------------------------------------------------------------------------------------------

train-avatars-%: $(FULL) ## Train one model: judge, identity, clip, encoder, autoencoder, diffusion
	$(BIN)/limner train $* --out runs/$* --save checkpoints/avatars/$* $(ARGS)

.PHONY: train-avatars-stylegan2
train-avatars-stylegan2: $(FULL) ## Train the generator, stage by stage: ARGS="--stage warmup --stage mapping"
	$(BIN)/limner train stylegan2-stages --out runs/stylegan2 --save checkpoints/avatars/stylegan2 $(ARGS)

.PHONY: train-avatars-relevance
train-avatars-relevance: $(FULL) ## Measure what each style channel means to CLIP
	$(BIN)/limner train relevance --out runs/relevance --save checkpoints/avatars/edits $(ARGS)

.PHONY: train-gpu
train-gpu: typings ## Train what gains most in MINUTES=9, into OUT=runs/gpu; WHEELS=FOLDER of packages, no network needed
	@mkdir -p $(OUT) $(WORK)
	if [ -n "$(WHEELS)" ]; then $(GPU_PYTHON) -m pip install --quiet --no-index --no-deps --upgrade \
		--target $(WORK)/packages $(WHEELS)/*.whl; fi
	PYTHONPATH=typings:$(WORK)/packages $(GPU_PYTHON) -m limner.training.cli all \
		--minutes $(MINUTES) --out $(OUT) --work $(WORK) $(ARGS)

.PHONY: train-gpu-adopt
train-gpu-adopt: $(FULL) ## Take over what `make train-gpu` wrote into OUT=runs/gpu
	$(BIN)/limner train adopt $(OUT) $(ARGS)

.PHONY: train-avatars-mappers
train-avatars-mappers: $(FULL) ## Train the latent mappers of the avatars in one run, for the generator as it is now
	$(BIN)/limner train mapper --out runs/mappers --save checkpoints/avatars/edits/mappers $(ARGS)

.PHONY: export
export: $(FULL) ## Export checkpoints/avatars to the bundle of ONNX graphs, with its parity report
	$(BIN)/limner export onnx $(ARGS)

.PHONY: export-diffusion
export-diffusion: $(FULL) ## Make a bundle of checkpoints/avatars/diffusion, in place, with its parity report
	$(BIN)/limner export onnx --model checkpoints/avatars/diffusion --in-place $(ARGS)

.PHONY: sd15-scale
sd15-scale: $(FULL) ## Export and edit with a random pipeline of Stable Diffusion 1.5's size (minutes to an hour, 16 GB)
	PYTHONPATH=tests $(BIN)/python -m benchmarks.scale_diffusion run $(ARGS)

.PHONY: engines
engines: $(FULL) ## Compile every graph for three GPU generations, without a GPU; tables in docs/figures/engines.md
	PYTHONPATH=tests $(BIN)/python -m benchmarks.engines $(ARGS)

.PHONY: engines-scale
engines-scale: $(FULL) ## The same for a generator at 1024 pixels and a UNet of Stable Diffusion's size (hours, 16 GB)
	PYTHONPATH=tests $(BIN)/python -m benchmarks.scale_engines $(ARGS)

.PHONY: precision
precision: $(FULL) ## Convert the bundle to fp16 and int8 behind the gate, battery included; reports in out/*/parity.md
	@mkdir -p out
	for kind in fp16 int8; do $(BIN)/limner export precision checkpoints/avatars/bundle --out out/bundle-$$kind \
		--precision $$kind --pictures avatars --judge checkpoints/avatars/judge $(ARGS); done

.PHONY: bench
bench: $(FULL) ## Time the runtime on this machine, beside torch eager
	PYTHONPATH=tests $(BIN)/python -m benchmarks.stylegan2 $(ARGS)

.PHONY: bench-size
bench-size: $(FULL) ## Time a UNet of Stable Diffusion's shape beside diffusers, torch.compile and OpenVINO, with memory
	PYTHONPATH=tests $(BIN)/python -m benchmarks.size run $(ARGS)

.PHONY: bench-diffusion
bench-diffusion: $(FULL) ## Time edits of the diffusion bundle, beside diffusers eager
	PYTHONPATH=tests $(BIN)/python -m benchmarks.diffusion $(ARGS)

.PHONY: bench-serving
bench-serving: $(FULL) ## Time many clients at once, beside one Editor with a lock and one that all share
	PYTHONPATH=tests $(BIN)/python -m benchmarks.serving run $(ARGS)

.PHONY: bench-cluster
bench-cluster: $(FULL) ## Time edits on a Ray cluster of two nodes on this machine, one of which is killed
	PYTHONPATH=tests $(BIN)/python -m benchmarks.cluster $(ARGS)

.PHONY: bench-shortcuts
bench-shortcuts: out/samples/test ## Judge and time diffusion edits that leave something out, beside exact ones (half an hour)
	PYTHONPATH=tests $(BIN)/python -m benchmarks.shortcuts out/samples/test $(ARGS)

out/samples/%: $(FULL)
	$(BIN)/limner train samples --split $* --out $@

.PHONY: bench-page
bench-page: $(FULL) ## Seconds from `limner ui` to a first edit on the page, and pictures of every step in out/page (needs chromium)
	PYTHONPATH=tests $(BIN)/python -m benchmarks.page --shots out/page $(ARGS)

.PHONY: bench-watermark
bench-watermark: out/samples/test ## Read the invisible mark back after attacks, and look for it in 10,000 pictures without (an hour)
	PYTHONPATH=tests $(BIN)/python -m benchmarks.watermark out/samples/test $(ARGS)

.PHONY: study
study: out/samples/test ## Judge all methods on held-out and generated pictures, into out/study; docs/study.md says what it does
	$(BIN)/limner study run out/samples/test --out out/study/stylegan2 $(ARGS)
	$(BIN)/limner study run out/samples/test --out out/study/diffusion --bundle checkpoints/avatars/diffusion \
		--part generated --part real $(ARGS)
	$(BIN)/limner study run out/samples/test --out out/study/prompts --bundle checkpoints/avatars/diffusion \
		--part prompts --count 100

.PHONY: study-adopt
study-adopt: ## Take the rows of `make study` into docs/figures/study; `make docs-write` makes the tables of them
	for run in stylegan2 diffusion prompts; do mkdir -p docs/figures/study/$$run; \
		cp out/study/$$run/run.json out/study/$$run/rows.jsonl docs/figures/study/$$run/; done

# --- checking it ------------------------------------------------------------------------------------------

.PHONY: test
test: $(FULL) ## Run the fast tests
	$(BIN)/python -m pytest -m "not slow and not wheel" $(ARGS)

.PHONY: test-all
test-all: $(FULL) ## Run every test, those that train and build included
	$(BIN)/python -m pytest $(ARGS)

.PHONY: test-npm
test-npm: $(FULL) ## Drive the server with OpenAI's client for JavaScript (installs it by name; needs node and npm)
	$(BIN)/python -m pytest -m slow tests/runtime/server/test_npm.py $(ARGS)

.PHONY: test-onnxruntimes
test-onnxruntimes: $(FULL) ## Make the same pictures with other releases of ONNX Runtime (installs them by name)
	$(BIN)/python -m pytest tests/test_onnxruntimes.py $(ARGS)

.PHONY: test-fuzz
test-fuzz: $(FULL) ## Feed the parsers TIMES=100 times as many random inputs as `make test` does
	LIMNER_FUZZ=$(or $(TIMES),100) $(BIN)/python -m pytest -q -s tests/runtime/test_fuzz.py $(ARGS)

.PHONY: full-scale
full-scale: $(FULL) ## Published files of real size, random inside, to edits at 1024 px; may take 14 GB
	$(BIN)/python -m pytest -q -s tests/test_full_scale.py -k full $(ARGS)

.PHONY: docs
docs: $(FULL) typings ## Build the documentation into out/docs, warnings as errors; needs no network
	$(BIN)/python docs/reference.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file .mkdocs.yml

.PHONY: docs-write
docs-write: $(FULL) ## Write what is generated anew: docs/reference, and the tables of docs/figures and README
	$(BIN)/python docs/reference.py

.PHONY: docs-pictures
docs-pictures: $(FULL) ## Make the documentation's pictures anew, by the present code and bundles
	sh docs/pictures/make.sh $(BIN)/limner

.PHONY: check
check: lint types wheel ## Format, lint, types, import directions and a smoke test of the wheel

.PHONY: lint
lint: $(FULL) ## Check format, lint and the directions of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -q -m "not slow and not wheel" tests/test_packaging.py

.PHONY: types
types: $(FULL) typings ## Check types with mypy, strict
	$(BIN)/mypy
	$(BIN)/mypy tests

.PHONY: wheel
wheel: $(FULL) ## Build the wheel, install it into a clean environment and use it there
	$(BIN)/python -m pytest -q -m wheel tests/test_packaging.py

.PHONY: format
format: $(FULL) ## Format the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: typings
typings: # Links that show the type checker the packages under their full names
	@mkdir -p typings/limner
	@for folder in checkpoints export runtime training; do ln -sfn ../../$$folder typings/limner/$$folder; done

.PHONY: constraints
constraints: ## Write constraints/*/*.txt anew: what pip takes today for Python 3.10 to 3.13
	$(PYTHON) constraints/freeze.py

.PHONY: clean
clean: ## Remove the environment and everything else that make produced, but no trained weights
	rm -rf $(VENV) build dist typings limner.egg-info .mypy_cache .pytest_cache .ruff_cache

# --- environments -----------------------------------------------------------------------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "error: $(PYTHON) is older than Python 3.10; run make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): pyproject.toml $(wildcard $(PINS)/runtime.txt) | $(BIN)/python
	$(INSTALL) --editable '.[cpu]' $(patsubst %,--constraint %,$(wildcard $(PINS)/runtime.txt))
	@touch $@

$(FULL): pyproject.toml $(wildcard $(PINS)/train.txt) | $(BIN)/python
	$(INSTALL) --editable '.[cpu,train,export,serve,ui,ray,tracing,tensorrt-rtx,study,sign,docs,dev]' $(patsubst %,--constraint %,$(wildcard $(PINS)/train.txt))
	@touch $(RUNTIME) $@
