#!/usr/bin/env bash
# Runs one server for a test process and never outlives it.
#
#   supervise.sh DIR COMMAND...
#
# The test process keeps the other end of this script's standard input.  However that process ends (return, panic,
# kill -9), the pipe closes, the server is killed and DIR, its data, removed; DIR.log stays.  Until then each line read is
# an order, and each order gets one line of answer:
#
#   start          start COMMAND                    -> started PID
#   signal NAME    send it to the server            -> signalled | gone
#   status         is it still running?             -> running | gone
#   pid            of the server started last       -> PID
#   wait           until it has ended               -> ended STATUS
#
# The server is this shell's child, so it is reaped at once, and is only signalled while this shell's own job table has
# it: never some other process that got its number later.
set -u
set -m                  # the server gets a process group of its own, so that its helpers go with it
trap : PIPE             # a test process that is gone must not end us before the clean-up
dir=$1; shift
[ -e "$dir/.service" ] || { echo "supervise.sh: $dir is not a service folder of ours" >&2; exit 2; }
pid=

# From the job table: running (-r) or stopped by a signal (-s), but not ended.
running() { [ -n "$(jobs -pr; jobs -ps)" ]; }

# Waits until the server has ended; its status.  Not by `wait -f`: killed at the wrong moment, bash waits on for a job that it has
# forgotten meanwhile, for ever and at full speed.
ended() {
  while running; do sleep 0.02; done
  wait "$pid" 2>/dev/null
}

while read -r order argument; do
  case $order in
    start)
      running && { echo "error already running"; continue; }
      # If even this shell is killed, the kernel kills the server.
      setpriv --pdeathsig KILL "$@" </dev/null >>"$dir.log" 2>&1 &
      pid=$!
      echo "started $pid" ;;
    signal)
      if running && kill "-$argument" -- "-$pid" 2>/dev/null; then echo signalled; else echo gone; fi ;;
    pid) echo "$pid" ;;
    status) if running; then echo running; else echo gone; fi ;;
    wait)
      if [ -n "$pid" ]; then ended; echo "ended $?"; else echo "ended -"; fi ;;
    *) echo "error unknown order '$order'" ;;
  esac
done

if running; then
  kill -KILL -- "-$pid" 2>/dev/null
  ended
fi
rm -rf "$dir"
