# make demo: see the service work; make demo FILE=recording.mp3: on a recording.   make test: the tests.   make check: everything a change must pass.
# make web: the service with its page, on http://localhost:8080.   make test-browser: the page's tests, in Chromium.
# make test WORKERS=8: on eight processes instead of two.
# make test-ray: the tests with a Ray cluster, one after the other; installs requirements-ray.txt.
# make test-speech: real speech with Whisper base, whose weights (133 MB) are fetched once.
# make test-slow: the tests that take longer.   make soak: 10,000 mixed requests.   make benchmark: docs/performance.md.
# make rehearsal: float32 and int8 compared with random weights of full size (10 GB of memory and disk); installs requirements-rehearsal.txt.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2

.PHONY: demo web test check lint test-slow test-speech test-browser test-ray soak benchmark rehearsal
demo: .venv/installed
	$(BIN)/python -m tests.demo $(if $(FILE),"$(FILE)")

web: .venv/installed
	$(BIN)/python -m tests.web

test: .venv/installed
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

check: lint test

test-slow: .venv/installed
	$(BIN)/python -m pytest -m "slow and not gpu and not ray and not speech and not browser"

test-speech: .venv/installed
	$(BIN)/python -m pytest -m "speech and not ray"

test-browser: .venv/installed
	command -v chromedriver || { apt-get update -qq && apt-get install --yes -qq chromium chromium-driver; }
	$(BIN)/python -m pytest -m browser

test-ray: .venv/ray-installed
	$(BIN)/python -m pytest -m ray

soak: .venv/installed
	$(BIN)/python -m tests.load --requests 10000 --seconds 1800

benchmark: .venv/installed
	$(BIN)/python -m ml.benchmark --weights bundled --device cpu

rehearsal: .venv/rehearsal-installed
	$(BIN)/python -m tests.load.rehearsal

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/ray-installed: .venv/installed requirements-ray.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-ray.txt
	touch $@

.venv/rehearsal-installed: .venv/installed requirements-rehearsal.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-rehearsal.txt
	touch $@

.venv/installed: requirements.txt requirements-whisper.txt requirements-onnx.txt requirements-dev.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
