#!/usr/bin/env bash
# ClickHouse 26, a real server with its HTTP interface on PORT, out of the library that the npm package
# @chdb/lib-linux-*-gnu ships (Debian's own server is from 2018); see clickhouse_server.py.  User `default`, no password,
# this machine only.  Not in this build: Keeper, CREATE USER, query_log.
#
#   CLICKHOUSE_EXTRA   more XML for the server's configuration     CLICKHOUSE_TRACE=1   a full trace in DIR/trace.log
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
VERSION=26.7.3-stable.1
INSTALLED=$CACHE/clickhouse-$VERSION
case $(uname -m) in
  x86_64) PACKAGE=@chdb/lib-linux-x64-gnu ;;
  aarch64) PACKAGE=@chdb/lib-linux-arm64-gnu ;;
  *) die "there is no ClickHouse library for $(uname -m): run the tests on x86_64 or aarch64 Linux" ;;
esac
LIBRARY=$INSTALLED/node_modules/$PACKAGE/libchdb.so

fetch() {
  need npm npm "fetching ClickHouse's library"
  say "fetching ClickHouse $VERSION into $INSTALLED"
  echo '{"private":true}' >"$INSTALLED/package.json"
  npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$INSTALLED" "$PACKAGE@$VERSION" >&2
  [ -s "$LIBRARY" ] || die "npm installed $PACKAGE, but $LIBRARY is missing"
}

install() {
  need python3 python3-minimal "ClickHouse"
  install_once "$INSTALLED"
}

run() {
  # Sized for a machine shared with a build and a broker: two merges at a time are the library's default and too few
  # for a test that inserts fast, and 4 GB is more than any test needs.
  cat >"$DIR/users.xml" <<P
<clickhouse>
  <profiles><default/></profiles>
  <users><default>
    <password></password><networks><ip>127.0.0.1</ip><ip>::1</ip></networks><profile>default</profile><quota>default</quota>
  </default></users>
  <quotas><default/></quotas>
</clickhouse>
P
  local trace=; [ -z "${CLICKHOUSE_TRACE:-}" ] || trace="<logger><log>$DIR/trace.log</log></logger>"
  cat >"$DIR/config.xml" <<P
<clickhouse>
  <users_config>$DIR/users.xml</users_config>
  <timezone>UTC</timezone>
  <background_pool_size>8</background_pool_size>
  <background_schedule_pool_size>8</background_schedule_pool_size>
  <max_server_memory_usage>4000000000</max_server_memory_usage>
  $trace ${CLICKHOUSE_EXTRA:-}
</clickhouse>
P
  exec python3 "$HERE/clickhouse_server.py" "$LIBRARY" "$DIR" "$PORT" "$DIR/config.xml"
}
main "$@"
