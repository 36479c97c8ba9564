# The front door: what a developer types, and what .ci/run calls.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CXX ?= c++
export PATH := $(CURDIR)/$(BIN):$(PATH)
comma := ,
space := $(subst ,, )

# Builds the package with the sanitizers $(2) and the settings $(3) into build/$(1)/site.
sanitized = $(BIN)/pip install --quiet --upgrade --no-deps --target build/$(1)/site \
  $(foreach setting,build-dir=build/$(1)/tree cmake.build-type=Debug cmake.define.GOSSAMER_CUDA=OFF \
    cmake.define.GOSSAMER_SANITIZE=$(2) $(3),--config-settings=$(setting)) .

# Configures, builds and runs the consumer programs $(4) (all where none are named) against the library under
# build/$(1)/site.
consumer = cmake -S tests/consumer -B build/$(1)/consumer -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -Dgossamer_DIR=$(CURDIR)/build/$(1)/site/$(3) \
  -DCMAKE_CXX_FLAGS="-fsanitize=$(2) -fno-sanitize-recover=all" \
  && cmake --build build/$(1)/consumer --parallel 2 $(if $(4),--target $(4)) \
  && ctest --test-dir build/$(1)/consumer --parallel 2 --output-on-failure $(if $(4),-R '$(subst $(space),|,$(4))')

.PHONY: build test lint format bench asan asan-build asan-gpu-parts asan-parts tsan tsan-build tsan-parts fuzz libfuzzer aarch64 ci clean

build: $(BIN)/python
	$(BIN)/pip install -c constraints.txt ".[test,bench,lint]"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

test: build
	$(BIN)/pytest -n 2

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest gossamer._core
	$(BIN)/shellcheck bench/*.sh tests/*.sh cuda/*.sh
	$(BIN)/clang-format --dry-run -Werror $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')

format:
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')

bench: build
	$(BIN)/gossamer bench

# The package, sanitized, beside the installed one, at every ISA level, and the emulated GPU. "once" is what a sanitizer
# cannot change. A fork while another thread allocates leaves GCC 12's ASan allocator locked in the child.
asan: asan-build
	$(MAKE) --silent --no-print-directory asan-gpu-parts asan-parts >build/asan/parts
	tests/queue.sh <build/asan/parts

asan-build: $(BIN)/python
	rm -f build/asan/report.*
	$(call sanitized,asan,address$(comma)undefined,cmake.define.GOSSAMER_HIGHEST_LEVEL=native)
	$(call consumer,asan,address$(comma)undefined,gossamer/lib/cmake/gossamer)

# The sanitizer of undefined behaviour writes to the standard error, whatever its log_path, and ends the process: what
# pytest had captured would be lost.
asan_pytest = tests/sanitized.sh asan $(BIN)/python -m pytest -q -s
asan_levels = $(asan_pytest) -m "not once and not gpu" \
  --deselect tests/base/test_threads.py::test_fork_in_the_middle_of_a_product \
  --deselect tests/base/test_threads.py::test_fork_during_the_first_transposed_product
# Print commands for queue.sh. The emulated GPU takes two, of which the first builds it.
asan-gpu-parts:
	echo '$(asan_pytest) -m gpu tests/cuda/test_cuda_[p-z]*.py'
	echo '$(asan_pytest) -m gpu --ignore-glob="*/cuda/test_cuda_[p-z]*.py"'
asan-parts:
	tests/sanitized.sh asan $(BIN)/python -c "import gossamer; print(*gossamer.info()['available_isas'])" \
	  | tests/each_level.sh '$(asan_levels)'

# Races do not depend on the level: the lowest is built alone. A child that is forked from several threads makes none
# under the sanitizer.
tsan: tsan-build
	$(MAKE) --silent --no-print-directory tsan-parts >build/tsan/parts
	tests/queue.sh <build/tsan/parts

# With the tests that watch where and when threads run, and so run alone.
tsan-build: $(BIN)/python
	$(call sanitized,tsan,thread,cmake.define.GOSSAMER_HIGHEST_LEVEL=baseline)
	TSAN_OPTIONS=halt_on_error=1 $(call consumer,tsan,thread,gossamer/lib/cmake/gossamer,product threads)
	$(tsan_pytest) -m alone

tsan_pytest = tests/sanitized.sh tsan $(BIN)/python -m pytest -q -s tests/base/test_threads.py -k "not fork"
tsan-parts:
	echo '$(tsan_pytest) -m "not alone"'

# The C++ library for 64-bit ARM, by a cross compiler, and the consumer programs under qemu's user emulation: on a
# processor with all extensions, and what they are used for on one without any. Then the Python package on it.
aarch64: $(BIN)/python
	$(BIN)/pip install --quiet "cmake>=3.25" "ninja>=1.11" "pybind11>=3"
	cmake -S . -B build/aarch64/tree -G Ninja -DCMAKE_TOOLCHAIN_FILE=$(CURDIR)/cmake/aarch64-linux-gnu.cmake \
	  -DGOSSAMER_CUDA=OFF -DGOSSAMER_PYTHON=OFF -DGOSSAMER_WERROR=ON -DCMAKE_INSTALL_PREFIX=$(CURDIR)/build/aarch64/site
	cmake --build build/aarch64/tree --target install
	cmake -S tests/consumer -B build/aarch64/consumer -G Ninja \
	  -DCMAKE_TOOLCHAIN_FILE=$(CURDIR)/cmake/aarch64-linux-gnu.cmake \
	  -Dgossamer_DIR=$(CURDIR)/build/aarch64/site/lib/cmake/gossamer
	cmake --build build/aarch64/consumer
	ctest --test-dir build/aarch64/consumer --parallel 2 --output-on-failure
	qemu-aarch64 -cpu cortex-a53 -L /usr/aarch64-linux-gnu build/aarch64/consumer/numbers
	tests/aarch64.sh

# New random calls for so many seconds, under AddressSanitizer: of the Python API, of the C++ constructors, and, where
# clang++ is, of these by libFuzzer, which keeps what reaches new code in build/fuzz/corpus and what fails in build/fuzz/found.
FUZZ_SECONDS ?= 600
fuzz: $(BIN)/python
	if command -v clang++; then $(MAKE) libfuzzer; else echo "skipped: libFuzzer, for want of clang++"; fi
	$(call sanitized,asan,address$(comma)undefined,cmake.define.GOSSAMER_HIGHEST_LEVEL=native)
	$(call consumer,asan,address$(comma)undefined,gossamer/lib/cmake/gossamer)
	build/asan/consumer/fuzz $$(($(FUZZ_SECONDS) * 2000)) $$(date +%s)
	GOSSAMER_FUZZ_SECONDS=$(FUZZ_SECONDS) tests/sanitized.sh asan $(BIN)/python -m pytest -q tests/fuzz

# What it finds is a file: build/fuzz/fuzz <file> runs that case alone.
libfuzzer: $(BIN)/python
	$(BIN)/pip install --quiet "cmake>=3.25" "ninja>=1.11"
	cmake -S . -B build/fuzz/tree -G Ninja -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	  -DGOSSAMER_CUDA=OFF -DGOSSAMER_HIGHEST_LEVEL=baseline -DGOSSAMER_SANITIZE=address,fuzzer-no-link
	cmake --build build/fuzz/tree
	mkdir -p build/fuzz/corpus build/fuzz/found
	clang++ -std=c++20 -g1 -O1 -DGOSSAMER_LIBFUZZER -fsanitize=address,undefined,fuzzer -fno-sanitize-recover=all \
	  -Icpp/include tests/consumer/fuzz.cpp build/fuzz/tree/cpp/libgossamer.a -pthread -o build/fuzz/fuzz
	GOSSAMER_NUM_THREADS=1 build/fuzz/fuzz -max_total_time=$(FUZZ_SECONDS) -max_len=700 -verbosity=0 -print_final_stats=1 \
	  -artifact_prefix=build/fuzz/found/ build/fuzz/corpus

ci:
	.ci/run

clean:
	rm -rf build
