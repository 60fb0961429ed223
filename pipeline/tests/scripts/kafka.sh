#!/usr/bin/env bash
# Apache Kafka: one KRaft node, broker on PORT and controller on PORT+1, from its Maven artifacts (there is no Debian
# package).  Topics keep the broker's default of producers' timestamps; ask for `message.timestamp.type=LogAppendTime`
# when you create one, as `haulstream topics apply` does, or set KAFKA_EXTRA='log.message.timestamp.type=LogAppendTime'.
#
#   KAFKA_EXTRA   more lines for server.properties     KAFKA_HEAP   the broker's heap (512m)
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
VERSION=4.3.1   # 4.4.0's artifacts do not resolve
INSTALLED=$CACHE/kafka-$VERSION

fetch() {
  need mvn maven "fetching Kafka's jars"
  say "fetching Kafka $VERSION into $INSTALLED"
  cat >"$INSTALLED/pom.xml" <<P
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>local</groupId><artifactId>kafka-cache</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>$VERSION</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>$VERSION</version></dependency>
    <!-- without a binding the broker logs nothing -->
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.4</version></dependency>
  </dependencies>
</project>
P
  mvn -q -B -f "$INSTALLED/pom.xml" org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$INSTALLED" >&2
  cat >"$INSTALLED/log4j2.xml" <<'P'
<Configuration status="ERROR">
  <Appenders><Console name="C" target="SYSTEM_OUT"><PatternLayout pattern="[%d] %p %m (%c{1})%n"/></Console></Appenders>
  <Loggers><Root level="${sys:kafka.log.level:-WARN}"><AppenderRef ref="C"/></Root></Loggers>
</Configuration>
P
}

install() {
  need java openjdk-17-jre-headless "Kafka"
  install_once "$INSTALLED"
}

run() {
  # Sessions and rebalances are short, so that a broker that was killed is back in seconds: it is fenced until its
  # former session has run out.  Topics are never made by accident: a misspelt name is an error.
  cat >"$DIR/server.properties" <<P
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:$((PORT + 1))
listeners=PLAINTEXT://127.0.0.1:$PORT,CONTROLLER://127.0.0.1:$((PORT + 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$PORT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs=$DIR/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
log.cleaner.backoff.ms=1000
log.cleaner.dedupe.buffer.size=16777216
${KAFKA_EXTRA:-}
P
  if [ ! -e "$DIR/data/meta.properties" ]; then
    # A cluster id is 16 random bytes in URL-safe base64 and may not begin with '-'.
    local id; id=$(head -c16 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=' | sed 's/^-/A/')
    java -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dlog4j2.configurationFile="$INSTALLED/log4j2.xml" \
      -cp "$INSTALLED/*" kafka.tools.StorageTool format --standalone -t "$id" -c "$DIR/server.properties"
  fi
  exec java -Xms256m -Xmx"${KAFKA_HEAP:-512m}" -Dlog4j2.configurationFile="$INSTALLED/log4j2.xml" \
    -cp "$INSTALLED/*" kafka.Kafka "$DIR/server.properties"
}
main "$@"
