#!/usr/bin/env bash
# Redis from Debian, 512 numbered databases so that each test can have its own; changes go to an append-only file, as in
# production, so that a killed and restarted server still has them (all but the last second).
#
#   REDIS_EXTRA   more command-line options
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
INSTALLED=redis-server

install() { need redis-server redis-server "Redis"; }

run() {
  # shellcheck disable=SC2086  # REDIS_EXTRA is a list of words
  exec redis-server --bind 127.0.0.1 --port "$PORT" --dir "$DIR" --daemonize no --protected-mode no --databases 512 \
    --save "" --appendonly yes --appendfsync everysec --loglevel notice ${REDIS_EXTRA:-}
}
main "$@"
