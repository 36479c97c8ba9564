#!/bin/sh
# Runs the shell commands on standard input, a line each, two at a time and in their order, so that no
# processor waits for the last of a stage. Each prints its output whole when it ends, below its seconds.
# What failed is named again at the end, with its exit status and its last lines, and makes this fail.
# From the time QUEUE_UNTIL on, in seconds since 1970, no other command is begun: what is left out is named.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export folder
cat >"$folder/lines"
[ -s "$folder/lines" ] || { echo "queue.sh: no commands" >&2; exit 1; }
# The inner shell expands what stands in it. It ends with 0, since xargs starts no more after some statuses.
# shellcheck disable=SC2016
xargs -a "$folder/lines" -d '\n' -P 2 -n 1 sh -c '
  if [ -n "$QUEUE_UNTIL" ] && [ "$(date +%s)" -ge "$QUEUE_UNTIL" ]; then
    printf "\n=== left out for want of time: %s\n" "$1" >>"$folder/left"
    echo "$1" >>"$folder/ended"
    exit 0
  fi
  log=$(mktemp "$folder/log.XXXXXX")
  begun=$(date +%s)
  sh -c "$1" >"$log" 2>&1 </dev/null
  code=$?
  seconds=$(($(date +%s) - begun))
  {
    flock 9
    printf "\n=== %s s, status %s: %s\n" "$seconds" "$code" "$1"
    cat "$log"
    if [ $code -ne 0 ]; then
      { printf "\n=== failed with status %s: %s\n" "$code" "$1"; tail -n 60 "$log"; } >>"$folder/failed"
    fi
  } 9>>"$folder/lock"
  echo "$1" >>"$folder/ended"
  rm "$log"' sh
code=$?
cat "$folder/left" 2>/dev/null
cat "$folder/failed" 2>/dev/null && exit 1
# A command that was never begun, or whose shell was killed, has not passed.
[ $code -eq 0 ] && [ "$(wc -l <"$folder/ended")" -eq "$(grep -c . "$folder/lines")" ]
