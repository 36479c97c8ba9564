#!/bin/sh
# Runs a pytest command at each ISA level that standard input names and prints each output whole. The
# tests of a level run in two parts, and two parts at a time, so that no processor waits for the last.
# What failed is named again at the end, with its exit status and its last lines.
levels=$(cat)
[ -n "$levels" ] || exit 1
failures=$(mktemp)
trap 'rm -f "$failures"' EXIT
export failures
parts() {
  for level in $levels; do
    printf '%s --ignore=tests/formats\n' "$level"
    printf '%s -o testpaths=tests/formats\n' "$level"
  done
}
# The inner shell expands what stands in it, and splits a part into its words.
# shellcheck disable=SC2016
parts | xargs -P 2 -I PART sh -c '
  part="PART"
  output=$(GOSSAMER_ISA=${part%% *} "$@" ${part#* } 2>&1)
  code=$?
  printf "%s\n%s\n" "$part" "$output"
  if [ $code -ne 0 ]; then
    report=$(printf "%s\n" "$output" | tail -n 60)
    printf "failed with status %s: %s\n%s\n" "$code" "$part" "$report" >>"$failures"
  fi
  exit $code' sh "$@"
code=$?
cat "$failures"
exit $code
