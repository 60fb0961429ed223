#!/usr/bin/env bash
# psql from Debian: a client, so there is nothing to run.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
INSTALLED=psql

install() { need psql postgresql-client "reading over the Postgres wire"; }

run() { die "psql is a client: install only"; }
main "$@"
