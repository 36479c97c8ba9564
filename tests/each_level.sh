#!/bin/sh
# Runs a pytest command at each ISA level that standard input names and prints each output whole. The
# tests of a level run in two parts, and two parts at a time, so that no processor waits for the last.
levels=$(cat)
[ -n "$levels" ] || exit 1
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
  exit $code' sh "$@"
