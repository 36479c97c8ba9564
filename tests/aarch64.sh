#!/usr/bin/env bash
# The Python package for 64-bit ARM, which `make aarch64` calls when it has built the C++ library: its
# extension module by the cross compiler, and tests of every family of kernels under qemu's user
# emulation. Python is Debian's, NumPy, SciPy and ml_dtypes are wheels; where they cannot be had, the
# tests are skipped. Emulated code takes 10 to 20 times as long: of each test one case runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=$PWD/build/aarch64
root=$build/root packages=$build/packages site=$build/python python=$build/python3

skip() {
  echo "skipped: the Python tests on aarch64, for want of $1"
  exit 0
}

# Debian's packages, from where the system's apt gets its own; what apt keeps is kept apart from those.
install_python() {
  local apt=$build/apt package
  { command -v apt-get && command -v dpkg; } >/dev/null || return
  mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial" "$apt/packages" || return
  local settings=(-o APT::Architecture=arm64 -o APT::Architectures=arm64
    -o Dir::State="$apt/state" -o Dir::State::status=/dev/null -o Dir::Cache="$apt/cache")
  apt-get -qq "${settings[@]}" update || return
  (cd "$apt/packages" && apt-get -qq "${settings[@]}" download libc6 libgcc-s1 libstdc++6 zlib1g \
    libbz2-1.0 liblzma5 libexpat1 libffi8 libuuid1 libssl3 libcrypt1 python3.11-minimal \
    libpython3.11-minimal libpython3.11-stdlib libpython3.11-dev) || return
  rm -rf "$root.part"
  for package in "$apt"/packages/*.deb; do dpkg -x "$package" "$root.part" || return; done
  # In place of a header that chooses between processors, by a path that the compiler does not search.
  cp "$root.part/usr/include/aarch64-linux-gnu/python3.11/pyconfig.h" \
    "$root.part/usr/include/python3.11/" || return
  mv "$root.part" "$root"
}

install_packages() {
  rm -rf "$packages.part"
  python -m pip install --quiet --no-compile --target "$packages.part" --only-binary=:all: \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64 \
    --platform manylinux2014_aarch64 --python-version 3.11 --implementation cp \
    --abi cp311 --abi abi3 --abi none numpy scipy ml_dtypes hypothesis pytest || return
  mv "$packages.part" "$packages"
}

mkdir -p "$build"
[ -d "$root" ] || install_python || skip "Debian's Python for arm64"
[ -d "$packages" ] || install_packages || skip "wheels for aarch64"

# The interpreter, which CMake asks what it would ask the host's.
cat >"$python" <<END
#!/bin/sh
exec qemu-aarch64 -cpu "\${GOSSAMER_QEMU_CPU:-max}" -L "$root" "$root/usr/bin/python3.11" "\$@"
END
chmod +x "$python"
cmake -S . -B "$build/tree" -DGOSSAMER_PYTHON=ON -DPython_EXECUTABLE="$python" \
  -DPython_INCLUDE_DIR="$root/usr/include/python3.11" \
  -Dpybind11_DIR="$(python -m pybind11 --cmakedir)"
cmake --build "$build/tree"
rm -rf "$site"
cmake --install "$build/tree" --prefix "$site" >/dev/null
cp -r python/gossamer "$site"
# What a test starts is emulated, too.
echo "import sys; sys.executable = '$python'" >"$site/sitecustomize.py"

export PYTHONPATH=$site:$packages PYTHONDONTWRITEBYTECODE=1 OPENBLAS_NUM_THREADS=1
export GOSSAMER_NUM_THREADS=2 GOSSAMER_MOST_CASES=1 python
"$python" -c 'import gossamer; print(gossamer.info())'
# Two parts at a time, those first that take longest; one is what chooses between instructions, on a
# processor without any extension. Left out are arrays of millions of elements, and threads against each other.
# shellcheck disable=SC2016  # the inner shell expands what stands in it, and splits a part into words
printf '%s\n' "max tests/prune" "max tests/products" "max tests/formats" "max tests/attention tests/graph" \
  "cortex-a53 tests/attention/test_attention.py tests/products/test_bf16.py" "max tests/activation" "max tests/regrow" |
  xargs -P 2 -I PART sh -c '
    set -- PART
    export GOSSAMER_QEMU_CPU=$1
    shift
    "$python" -m pytest -q -p no:cacheprovider -m "not once and not gpu" --durations=5 \
      -k "not large and not several_column_blocks and not change_during and not threads_change_no_bit_of_obs" "$@"'
