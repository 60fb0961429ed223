#!/usr/bin/env bash
# Debian's Chromium, headless, driven through its debugging port (PORT) by the tests of the map page.  It has a new empty
# profile in DIR and asks nothing of the network but the page it is told to open.
#
#   CHROMIUM_WEBGL=1   WebGL by software, for pages that draw with it (slower, so off by default)
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
INSTALLED=chromium

install() {
  need chromium chromium "opening the map page"
  INSTALLED=$(command -v chromium)
}

run() {
  local graphics=(--disable-gpu)
  [ -z "${CHROMIUM_WEBGL:-}" ] || graphics=(--use-angle=swiftshader --enable-unsafe-swiftshader)
  # No sandbox: its namespaces are refused to root and in most containers, and the only page opened is our own.
  exec chromium --headless --no-sandbox "${graphics[@]}" --disable-dev-shm-usage --disable-quic --no-first-run \
    --disable-background-networking --disable-component-update --disable-sync --hide-scrollbars \
    --user-data-dir="$DIR/profile" --remote-debugging-address=127.0.0.1 --remote-debugging-port="$PORT" about:blank
}
main "$@"
