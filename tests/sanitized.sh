#!/bin/sh
# Runs a command with the package that `make asan` or `make tsan` built: sanitized.sh asan|tsan COMMAND…
# What the address sanitizer says is kept in files and shown where the command fails: its process ends.
kind=$1
shift
root=$(cd "$(dirname "$0")/.." && pwd)
library() { "${CXX:-c++}" -print-file-name="$1"; }
export PYTHONPATH="$root/build/$kind/site"
case $kind in
asan)
  # libstdc++ comes with libasan because the interpreter does not link it, and without it the sanitizer's __cxa_throw
  # has nothing to forward to. Leaks are the interpreter's own; the suite finds ours by counting.
  said=$root/build/asan/report.$$
  export GOSSAMER_SANITIZE=address,undefined PYTHONMALLOC=malloc
  export ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1:log_path=$said"
  export UBSAN_OPTIONS="print_stacktrace=1:log_path=$said"
  LD_PRELOAD="$(library libasan.so) $(library libubsan.so) $(library libstdc++.so)" "$@"
  code=$?
  [ $code -eq 0 ] || grep -s -h -A 40 -E "ERROR|runtime error" "$said".*
  exit $code
  ;;
tsan)
  # It halts a race at once, so nothing may be captured. Python threads are instrumented as far as they are ours.
  # That is enough: the interpreter's lock is a mutex that the sanitizer sees. Modules that it does not see into have
  # orders of their own (OpenBLAS spins).
  export GOSSAMER_SANITIZE=thread TSAN_OPTIONS=halt_on_error=1:ignore_noninstrumented_modules=1
  LD_PRELOAD=$(library libtsan.so) exec "$@"
  ;;
*)
  echo "sanitized.sh: $kind is no build" >&2
  exit 2
  ;;
esac
