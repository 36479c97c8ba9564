#!/bin/sh
# Runs a compiler and keeps what ptxas reports of each kernel (registers, stack, spills) beside the
# object file, as OBJECT.report: tests/cuda/test_cuda_build.py reads it. Other messages pass through.
object=
last=
for word in "$@"; do
  [ "$last" = -o ] && object=$word
  last=$word
done
"$@" 2>"$object.report"
code=$?
grep -v -e '^ptxas info' -e '^    [0-9]* bytes stack frame' "$object.report" >&2
exit $code
