# Shared by the service scripts (sourced by bash).  What they have in common:
#
#   SCRIPT install         fetch what the server needs, once, into the cache; prints the folder or program used
#   SCRIPT run DIR PORT    become the server, in the foreground, on 127.0.0.1:PORT with its data in DIR
#
# Nothing is put anywhere but in the cache and in DIR, except Debian packages.  Ctrl-C or TERM stops a server; nothing
# here looks for processes by name.  The integration tests run these scripts under supervise.sh.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${HAULSTREAM_CACHE:-${HOME:?set HOME or HAULSTREAM_CACHE}/.cache/haulstream}/services
mkdir -p "$CACHE"

say() { echo "[$(basename "$0" .sh)] $*" >&2; }
die() { say "ERROR: $*"; exit 1; }

# need PROGRAM PACKAGE [WHAT FOR]: the program is there, or its Debian package gets installed (one install at a time).
need() {
  local program=$1 package=$2 why=${3:-this service}
  command -v "$program" >/dev/null && return 0
  command -v apt-get >/dev/null ||
    die "'$program' is missing, needed for $why; install it with your system's package manager (Debian's package: $package)"
  [ "$(id -u)" = 0 ] ||
    die "'$program' is missing, needed for $why, and only root can install it: sudo apt-get install $package"
  say "installing Debian's $package (for $why)"
  local log=$CACHE/apt-$package.log
  (
    flock 9
    export DEBIAN_FRONTEND=noninteractive
    # The lists of a fresh machine are old or absent, so a first failure is answered by refreshing them.
    apt-get install -y -qq --no-install-recommends "$package" ||
      { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$package"; }
  ) 9>"$CACHE/apt.lock" >"$log" 2>&1 </dev/null || { tail -n 8 "$log" >&2; die "apt-get install $package failed (whole log: $log)"; }
  command -v "$program" >/dev/null || die "apt-get installed $package, but '$program' is still missing"
}

# install_once FOLDER: the script's own function `fetch` fills FOLDER, once, however many scripts ask at the same time.
# FOLDER/.complete is made last, so that an interrupted install is begun again rather than used.
install_once() {
  local folder=$1
  [ -e "$folder/.complete" ] && return 0
  (
    flock 9
    [ -e "$folder/.complete" ] && exit 0
    rm -rf "$folder" && mkdir -p "$folder" &&
      # A process of its own: on this side of `||` bash would let a failed step of `fetch` pass.
      bash "$0" fetch && touch "$folder/.complete"
  ) 9>"$folder.lock" </dev/null || die "could not install into $folder (see above); it is tried anew at the next call"
}

main() {
  case ${1:-} in
    install) install; echo "$INSTALLED" ;;
    fetch) fetch ;; # for install_once only
    run)
      [ $# -eq 3 ] || die "usage: $0 run DIR PORT"
      mkdir -p "$2"; DIR=$(cd "$2" && pwd); PORT=$3
      install; run ;;
    *) die "usage: $0 install | run DIR PORT" ;;
  esac
}
