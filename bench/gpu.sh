#!/usr/bin/env bash
# One call on a machine with a GPU: what it has, the build, then the tests with compute-sanitizer, or the benchmarks with the
# machine's limits and a profile of the hot kernels.
#   bench/gpu.sh --tests | --bench  [--dry-run] [--no-build] [--out FOLDER]
# Each ends within five minutes: a part has a budget in seconds. Benchmarks share what building leaves, drop the cases that they have
# no time for, and say which.
# --no-build takes the gossamer that PYTHON (default python3) imports. Needs no network.
# FOLDER (default $OUT, else build/gpu/results) gets at most five files: logs.tar.gz, and of the benchmarks results.jsonl, table.txt,
# limits.json and wgmma.jsonl: what is off by default, of cases that results.jsonl has, too; table.txt compares them.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
python=${PYTHON:-python3}
dry_run=false build=true out=${OUT:-build/gpu/results} what=
while [ $# -gt 0 ]; do
  case $1 in
    --tests | --bench) what=${1#--} ;;
    --dry-run) dry_run=true ;;
    --no-build) build=false ;;
    --out) out=${2:?--out needs a folder}; shift ;;
    *) echo "gpu.sh: unknown option $1" >&2; exit 2 ;;
  esac
  shift
done
[ -n "$what" ] || { echo "gpu.sh: say --tests or --bench" >&2; exit 2; }

logs=build/gpu/logs
readonly limit=300
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
  timeout --kill-after=5 "$budget" "$@" >"$logs/$name.log" 2>&1 || status=$?
  tail -n 6 "$logs/$name.log"
  case $status in
    0) ;;
    124 | 137) failed+=("$name: ran past its $budget s") ;;
    *) failed+=("$name: status $status, see $name.log of logs.tar.gz") ;;
  esac
  return $status
}

# bench NAME BUDGET ARGUMENTS…: a NAME that ends in -wgmma has the kernels for Hopper alone, and a file of its own.
bench() {
  local name=$1 budget=$2 file=results.jsonl on=0
  shift 2
  case $name in *-wgmma) file=wgmma.jsonl on=1 ;; esac
  GOSSAMER_CUDA_WGMMA=$on part "$name" "$budget" "$python" -m gossamer.cli bench --device cuda --rounds 3 --time 0.06 \
    --budget $((budget > 12 ? budget - 8 : budget / 3)) --out "$out/$file" "${limits[@]}" "$@"
  ! $dry_run && dropped+=("$(grep -h '^dropped for want of time' "$logs/$name.log" 2>/dev/null | sed "s/^/$name: /")")
}

$dry_run || { mkdir -p "$out" "$logs" && rm -f "$logs"/*; }
part machine 15 bash -c "nvidia-smi; nvcc --version; cmake --version; compute-sanitizer --version; ncu --version
  '$python' -c 'import sysconfig, torch; print(sysconfig.get_path(\"include\"), torch.__version__, torch.version.cuda)'"
if $build; then
  export PYTHONPATH=$PWD/build/gpu/site
  part configure 40 cmake -S . -B build/gpu/tree -G Ninja -DGOSSAMER_PYTHON=ON -DGOSSAMER_CUDA=ON \
    -DCMAKE_CUDA_ARCHITECTURES=native -DPython_EXECUTABLE="$(command -v "$python")" \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" &&
    part build 150 cmake --build build/gpu/tree --parallel &&
    part install 20 cmake --install build/gpu/tree --prefix build/gpu/site &&
    part package 5 cp -r python/gossamer/. build/gpu/site/gossamer
fi
part device 30 "$python" -c \
  'import gossamer, sys; print(gossamer.info()); sys.exit(not gossamer.info()["cuda"]["available"])'

tests() {
  # The selections name tests and devices by words: pytest takes no other signs there.
  # Other versions of the frameworks may warn, which is no error here. In several processes, a kernel
  # that fails takes the GPU from few tests: nothing of CUDA works in a process after that.
  local workers=()
  "$python" -c "import xdist" 2>/dev/null && workers=(-n 8)
  part gpu-tests 110 "$python" -m pytest -q -W default -p no:cacheprovider "${workers[@]}" -m "gpu and not once" \
    -k "cuda and not emulated" tests
  # PyTorch's allocator would cut arrays out of large segments, within which no overrun is seen.
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1
  local some="not emulated and (every_width or long_rows or begin_anywhere or many_blocks or turns_each or leading"
  some+=" or picks_by_vectors or many_slices or bsr-16x16 or every_type_follows or partly_kept or several_parts or are_the_cpus"
  some+=" or streams_of or many_columns or of_a_row_are_shared or (decoding_integers and int32) or test_lists or with_its_hessian or swapped_as_on or grow_as_on)"
  local files=(tests/cuda/test_cuda_csr.py tests/cuda/test_cuda_bsr.py tests/cuda/test_cuda_bsr_convert.py
    tests/cuda/test_cuda_nm_quant.py tests/cuda/test_cuda_backward.py tests/cuda/test_cuda_prune.py
    tests/cuda/test_cuda_regrow.py tests/cuda/test_cuda_attention.py tests/cuda/test_cuda_packed.py
    tests/cuda/test_cuda_decode.py tests/cuda/test_cuda_choose.py tests/cuda/test_cuda_layout.py
    tests/cuda/test_cuda_activation.py tests/cuda/test_cuda_batched.py tests/cuda/test_cuda_layerwise.py
    tests/cuda/test_cuda_bsr_wgmma.py)
  part sanitizer-memory 60 compute-sanitizer --tool memcheck --error-exitcode 9 \
    "$python" -m pytest -q -W default -p no:cacheprovider -m gpu -k "$some" "${files[@]}"
  part sanitizer-races 60 compute-sanitizer --tool racecheck --error-exitcode 9 \
    "$python" -m pytest -q -W default -p no:cacheprovider -m gpu -k "$some" "${files[@]}"
}

benchmarks() {
  if $dry_run; then
    part limits 30 "$python" -m gossamer.bench.cuda
  elif part limits 30 "$python" -m gossamer.bench.cuda; then
    tail -n 1 "$logs/limits.log" >"$out/limits.json"
    limits=(--limits "$out/limits.json")
  fi
  # Weight, name, arguments. What matters most comes first in each: the rest may be dropped.
  local n=1,16,128,1024,4096
  local levels=0.9,0.5,0.8,0.95,0.7,0.98
  local llama=4096x4096,11008x4096 bert=768x768,3072x768,768x3072
  # Run without and with the kernels that are off by default.
  local prefill="--op linear,spmm --shapes 4096x4096 --n 4096,128 --sparsity 0.5,0.9 --dtype bf16 --variants cuda-packed,cuda-packed-wide"
  local blocks="--op spmm --shapes 4096x4096 --n 4096 --sparsity 0.9,0.5 --dtype bf16 --pattern block64 --variants cuda-bsr"
  local passes=group_soft_threshold,sef_prox,cett_threshold,channel_threshold,polarization,nnz_stats,coverage_or
  passes+=,mean_same_pattern,set_drop,edge_score,strength
  local benches=(
    "4 llama-csr --op linear --shapes $llama --n $n --sparsity $levels --dtype bf16 --cold"
    "2 llama-packed --op linear --shapes $llama --n 8,1024,2,64 --sparsity 0.5,0.7,0.9 --dtype bf16 --variants cuda-packed --cold"
    "2 prefill $prefill --peers cublas"
    "2 prefill-wgmma $prefill --peers none"
    "1 blocks64 $blocks --peers cublas"
    "1 blocks64-wgmma $blocks --peers none"
    "4 llama-blocks --op linear,spmm --shapes $llama --n $n --sparsity $levels --dtype bf16 --pattern block32 --cold"
    "2 llama-nm --op linear,spmm --shapes 4096x4096 --n 1,8,128 --dtype bf16 --pattern 2:4 --cold"
    "2 llama-blocks16 --op linear,spmm --shapes $llama --n $n --sparsity 0.9,0.5,0.95 --dtype bf16 --pattern block16"
    "2 bert-csr --op linear,spmm --shapes $bert --n $n --sparsity $levels --dtype f32"
    "1 bert-blocks --op linear --shapes $bert --n $n --sparsity $levels --dtype f16 --pattern block16"
    "1 transposed --op spmm-t --shapes 4096x4096 --n $n --sparsity 0.9,0.5,0.95 --dtype f32"
    "1 backward --op linear-backward --shapes 4096x4096 --n 128,1024 --sparsity 0.9 --dtype bf16"
    "1 sddmm --op sddmm --shapes 4096x4096 --depth 64,128 --sparsity $levels --dtype f32"
    "1 conversions --op from_dense,to_dense,transpose,$passes --shapes 4096x4096 --sparsity 0.9,0.5 --dtype f32"
    "1 attention --op attention-forward,attention-backward --shapes 8192x128 --heads 8 --layout s2,causal --dtype bf16"
    "1 decode --op attention-decode --shapes 32768x128 --heads 32 --key_heads 8 --keys all,pages,tokens --dtype bf16"
    "1 layers --op sparse-linear,gather-decode,gated-mlp,csr-attention --shapes 4096x4096 --n 1,16 --sparsity 0.9,0.98 --dtype bf16"
    "1 masks --op magnitude,rows,groups32,nm --shapes 4096x4096,16384x16384 --sparsity 0.5,0.9 --dtype f32"
    "3 block-others --op spmm-t,sddmm,from_dense,to_dense,transpose --shapes 4096x4096 --n 16,128 --sparsity 0.9,0.5 --dtype bf16 --pattern block32"
  )
  local weights=0 each weight name arguments share
  for each in "${benches[@]}"; do weights=$((weights + ${each%% *})); done
  for each in "${benches[@]}"; do
    read -r weight name arguments <<<"$each"
    # A share of what is left, the profile's and the table's time apart.
    share=$(((limit - 60 - SECONDS + start) * weight / weights)) weights=$((weights - weight))
    # shellcheck disable=SC2086
    bench "$name" $((share < 10 * weight ? share : 10 * weight)) $arguments
  done
  part profile 35 ncu --set basic --clock-control none --target-processes all --launch-skip 20 --launch-count 8 \
    "$python" -m gossamer.cli bench --device cuda --op linear --shapes 4096x4096 --n 1,128 --sparsity 0.9 --dtype bf16 \
    --peers none --rounds 1 --time 0.01
  if $dry_run; then
    part table 20 "$python" -m gossamer.cli bench --read "$out/results.jsonl"
    return
  fi
  {
    timeout 10 "$python" -m gossamer.cli bench --read "$out/results.jsonl" &&
      timeout 10 "$python" -m gossamer.cli bench --compare "$out/results.jsonl" "$out/wgmma.jsonl"
  } >"$out/table.txt" 2>&1 || failed+=("table: see table.txt")
  cat "$out/table.txt"
}

if [ "$what" = tests ]; then tests; else benchmarks; fi
$dry_run && exit 0
tar -czf "$out/logs.tar.gz" -C "$(dirname "$logs")" "$(basename "$logs")"

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
