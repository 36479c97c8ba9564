#!/bin/sh
# Prints commands for queue.sh: the given pytest command at each ISA level that standard input names. The tests of a
# level are two commands, the longer ones first.
levels=$(cat)
[ -n "$levels" ] || exit 1
for level in $levels; do echo "GOSSAMER_ISA=$level $1 --ignore=tests/formats"; done
for level in $levels; do echo "GOSSAMER_ISA=$level $1 -o testpaths=tests/formats"; done
