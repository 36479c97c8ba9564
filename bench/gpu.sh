#!/usr/bin/env bash
# One call on a machine with a GPU: build, tests, compute-sanitizer, the machine's limits, benchmarks.
#   bench/gpu.sh [--dry-run] [--no-build] [--out FOLDER]
# Ends within nine minutes: each part has a budget in seconds. Benchmarks share what building and testing
# leave, drop the cases that they have no time for, and say which.
# --no-build takes the gossamer that PYTHON (default python3) imports. Needs no network.
# FOLDER (default build/gpu/results) gets results.jsonl, table.txt, limits.json and a log of each part.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
python=${PYTHON:-python3}
dry_run=false build=true out=build/gpu/results
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) dry_run=true ;;
    --no-build) build=false ;;
    --out) out=${2:?--out needs a folder}; shift ;;
    *) echo "gpu.sh: unknown option $1" >&2; exit 2 ;;
  esac
  shift
done

readonly limit=540
failed=() dropped=() limits=()
start=$SECONDS

# part NAME BUDGET COMMAND…: run a command for at most its budget, or what the limit leaves.
part() {
  local name=$1 budget=$2 left=$((limit - 10 - SECONDS + start)) status=0
  shift 2
  if $dry_run; then
    printf '%-18s %4s s  %s\n' "$name" "$budget" "$*"
    return 0
  fi
  if [ "$left" -lt 5 ]; then
    failed+=("$name: no time left")
    return 1
  fi
  [ "$budget" -lt "$left" ] || budget=$left
  echo "== $name (at most $budget s)"
  timeout --kill-after=5 "$budget" "$@" >"$out/$name.log" 2>&1 || status=$?
  tail -n 6 "$out/$name.log"
  case $status in
    0) ;;
    124 | 137) failed+=("$name: ran past its $budget s") ;;
    *) failed+=("$name: status $status, see $out/$name.log") ;;
  esac
  return $status
}

# bench NAME BUDGET ARGUMENTS…
bench() {
  local name=$1 budget=$2
  shift 2
  part "$name" "$budget" "$python" -m gossamer.cli bench --device cuda --rounds 3 --time 0.06 \
    --budget $((budget > 12 ? budget - 8 : budget / 3)) --out "$out/results.jsonl" "${limits[@]}" "$@"
  ! $dry_run && dropped+=("$(grep -h '^dropped for want of time' "$out/$name.log" 2>/dev/null | sed "s/^/$name: /")")
}

$dry_run || mkdir -p "$out"
if $build; then
  export PYTHONPATH=$PWD/build/gpu/site
  part configure 40 cmake -S . -B build/gpu/tree -G Ninja -DGOSSAMER_PYTHON=ON -DGOSSAMER_CUDA=ON \
    -DCMAKE_CUDA_ARCHITECTURES=native -DPython_EXECUTABLE="$(command -v "$python")" \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" &&
    part build 200 cmake --build build/gpu/tree --parallel &&
    part install 20 cmake --install build/gpu/tree --prefix build/gpu/site &&
    part package 5 cp -r python/gossamer/. build/gpu/site/gossamer
fi
part device 30 "$python" -c \
  'import gossamer, sys; print(gossamer.info()); sys.exit(not gossamer.info()["cuda"]["available"])'
part gpu-tests 110 "$python" -m pytest -q -p no:cacheprovider -m "gpu and not once" \
  -k "cuda and not emulated" tests
sanitized=(-k "not emulated and (csr@cuda and leading or begin_anywhere or begins_anywhere or turns_each)"
  tests/products/test_products.py tests/cuda/test_cuda_bsr.py tests/cuda/test_cuda_bsr_convert.py)
part sanitizer-memory 40 compute-sanitizer --tool memcheck --error-exitcode 9 \
  "$python" -m pytest -q -p no:cacheprovider "${sanitized[@]}"
part sanitizer-races 40 compute-sanitizer --tool racecheck --error-exitcode 9 \
  "$python" -m pytest -q -p no:cacheprovider "${sanitized[@]}"
if $dry_run; then
  part limits 30 "$python" -m gossamer.bench.cuda
elif part limits 30 "$python" -m gossamer.bench.cuda; then
  tail -n 1 "$out/limits.log" >"$out/limits.json"
  limits=(--limits "$out/limits.json")
fi

# Weight, name, arguments. What matters most comes first in each: the rest may be dropped.
n=1,16,128,1024,4096
levels=0.9,0.5,0.8,0.95,0.7,0.98
llama=4096x4096,11008x4096 bert=768x768,3072x768,768x3072
benches=(
  "5 llama-csr --op linear --shapes $llama --n $n --sparsity $levels --dtype bf16"
  "5 llama-blocks --op linear,spmm --shapes $llama --n $n --sparsity $levels --dtype bf16 --pattern block32"
  "3 llama-blocks16 --op linear,spmm --shapes $llama --n $n --sparsity 0.9,0.5,0.95 --dtype bf16 --pattern block16"
  "3 bert-csr --op linear,spmm --shapes $bert --n $n --sparsity $levels --dtype f32"
  "3 bert-blocks --op linear --shapes $bert --n $n --sparsity $levels --dtype f16 --pattern block16"
  "2 transposed --op spmm-t --shapes 4096x4096 --n $n --sparsity 0.9,0.5,0.95 --dtype f32"
  "2 sddmm --op sddmm --shapes 4096x4096 --depth 64,128 --sparsity $levels --dtype f32"
  "2 conversions --op from_dense,to_dense,transpose --shapes 4096x4096 --sparsity 0.9,0.5 --dtype f32"
  "3 block-others --op spmm-t,sddmm,from_dense,to_dense,transpose --shapes 4096x4096 --n 16,128 --sparsity 0.9,0.5 --dtype bf16 --pattern block32"
)
weights=0
for each in "${benches[@]}"; do weights=$((weights + ${each%% *})); done
for each in "${benches[@]}"; do
  read -r weight name arguments <<<"$each"
  # A share of what is left, the table's time apart.
  share=$(((limit - 20 - SECONDS + start) * weight / weights)) weights=$((weights - weight))
  # shellcheck disable=SC2086
  bench "$name" $((share < 10 * weight ? share : 10 * weight)) $arguments
done
# The whole suite last, in the time that is left: most of it is the CPU's.
part all-tests 150 "$python" -m pytest -q -p no:cacheprovider -m "not gpu" tests
if $dry_run; then
  part table 10 "$python" -m gossamer.cli bench --read "$out/results.jsonl"
  exit 0
fi
timeout 10 "$python" -m gossamer.cli bench --read "$out/results.jsonl" >"$out/table.txt" 2>&1 ||
  failed+=("table: see $out/table.txt")
cat "$out/table.txt"

echo "== $((SECONDS - start)) s, results in $out"
for each in "${dropped[@]}"; do
  [ -z "$each" ] || echo "== $each"
done
if [ ${#failed[@]} -eq 0 ]; then
  echo "== nothing failed"
else
  printf '== failed: %s\n' "${failed[@]}"
  exit 1
fi
