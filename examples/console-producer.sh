#!/bin/sh
# A source's topic from Kafka's own console producer, with key and headers.
#
#   KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:9092 examples/console-producer.sh PARTNER SOURCE < examples/console.txt
#
# A line is: headers, a tab, the key, a tab, the event. Headers are `name:value`, with commas between them.
# KAFKA_CONSOLE_PRODUCER: the command, where it is not kafka-console-producer.sh on the path.
set -eu
[ $# -eq 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 2; }

exec ${KAFKA_CONSOLE_PRODUCER:-kafka-console-producer.sh} \
    --bootstrap-server "${KAFKA_BOOTSTRAP_SERVERS:-127.0.0.1:9092}" \
    --topic "raw.$1.$2" \
    --property parse.headers=true \
    --property parse.key=true \
    --producer-property acks=all \
    --producer-property enable.idempotence=true
