#!/bin/sh
# Runs a command at each ISA level that standard input names, two at a time, and prints each output whole.
levels=$(cat)
[ -n "$levels" ] || exit 1
# The inner shell expands what stands in it.
# shellcheck disable=SC2016
printf '%s\n' "$levels" | tr ' ' '\n' | xargs -P 2 -I LEVEL sh -c '
  output=$(GOSSAMER_ISA=LEVEL "$@" 2>&1)
  code=$?
  printf "LEVEL\n%s\n" "$output"
  exit $code' sh "$@"
