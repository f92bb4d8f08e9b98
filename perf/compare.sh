#!/bin/bash
# Runs etcd and cored under the same loads, in turn, on the same disk, and writes a report of both.
#
# Usage: perf/compare.sh --etcd-dir DIR [--cored PATH] [--loadgen PATH] [--quick] [--rounds N] [--seconds N]
#                        [--keys N] [--dir DIR] [--report FILE] [--cored-flags "…"] [--keep]
#
#   --etcd-dir DIR    what perf/get-etcd.sh has built
#   --cored PATH      the server (target/release/cored)
#   --loadgen PATH    the load generator (target/release/cored-loadgen)
#   --quick           one round of two seconds and 100,000 keys: to see whether everything works
#   --rounds N        how often each row is measured on each server (3)
#   --seconds N       how long a row is measured (10)
#   --keys N          keys for the rows about memory, counting and starting (1,000,000)
#   --dir DIR         where the data goes; its disk is what is measured (a new directory in target/perf)
#   --report FILE     the report (perf/reports/DATE.md)
#   --keep            leave the data directories
#
# Both servers run all the time and only one is loaded: rows alternate within seconds, so what disturbs the machine
# disturbs both, and the ratio within a row is what counts. h2load (Debian: nghttp2-client) is used if it is there.
set -euo pipefail
cd "$(dirname "$0")/.."
ROOT=$PWD
# shellcheck source=perf/servers.sh
. perf/servers.sh

ETCD_DIR='' CORED=target/release/cored LOADGEN=target/release/cored-loadgen
ROUNDS=3 SECONDS_EACH=10 WARMUP=2 LONE_WARMUP=8 KEYS=1000000 LIMITED=100 DIR='' REPORT='' CORED_FLAGS='' KEEP='' QUICK=''
COMMAND_LINE="perf/compare.sh $*"
while [ $# -gt 0 ]; do
  case $1 in
    --etcd-dir) ETCD_DIR=$2 && shift ;;
    --cored) CORED=$2 && shift ;;
    --loadgen) LOADGEN=$2 && shift ;;
    --rounds) ROUNDS=$2 && shift ;;
    --seconds) SECONDS_EACH=$2 && shift ;;
    --keys) KEYS=$2 && shift ;;
    --dir) DIR=$2 && shift ;;
    --report) REPORT=$2 && shift ;;
    --cored-flags) CORED_FLAGS=$2 && shift ;;
    --quick) QUICK=yes ROUNDS=1 SECONDS_EACH=2 WARMUP=0.5 LONE_WARMUP=0.5 KEYS=100000 LIMITED=20 ;;
    --keep) KEEP=yes ;;
    *) usage ;;
  esac
  shift
done
ETCD_DIR=$(absolute "${ETCD_DIR:?compare.sh: --etcd-dir DIR is needed; perf/get-etcd.sh makes one}")
CORED=$(absolute "$CORED")
LOADGEN=$(absolute "$LOADGEN")
REPORT=${REPORT:-perf/reports/$(date +%Y-%m-%d-%H%M)${QUICK:+-quick}.md}
H2LOAD=$(command -v h2load || true)
begin

revision() { # server
  "$ETCD_DIR/etcdctl" --endpoints "127.0.0.1:${CLIENT_PORTS[$1]}" get nothing -w json |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["header"]["revision"])'
}

# ---- Rows ----------------------------------------------------------------------------------------

# Each row for both servers, the other one first in every second round.
both() { # function arguments…
  local order=(etcd cored)
  [ $((ROUND % 2)) -eq 1 ] || order=(cored etcd)
  for server in "${order[@]}"; do "$1" "$server" "${@:2}"; done
}

timed() { # server row kind arguments…
  by_loadgen "$@" --duration "${SECONDS_EACH}s" --warmup "${WARMUP}s"
}

by_h2load() { # server row path body arguments…
  local server=$1 row=$2 path=$3 body=$4 before
  shift 4
  [ -n "$H2LOAD" ] || return 0
  local command=("$H2LOAD" "$@" -d "$DIR/$body" "http://127.0.0.1:${CLIENT_PORTS[$server]}$path")
  "${command[@]}" -n 2000 > /dev/null
  before=$(revision "$server")
  record "$row" "$server" h2load -- "${command[@]}" -D "$SECONDS_EACH" --log-file LOG
  # h2load sees HTTP status 200 also where gRPC has failed; revisions do not lie.
  note "$row/check" "$server" "revisions=$(($(revision "$server") - before))"
}

GRPC=(-c 10 -m 100 -t 1 -H 'content-type: application/grpc' -H 'te: trailers')
JSON=(--h1 -c 100 -m 1 -t 1 -H 'content-type: application/json')

by_benchmark() { # server row arguments…
  local server=$1 row=$2
  shift 2
  record "$row" "$server" benchmark -- "$ETCD_DIR/benchmark" \
    --endpoints "127.0.0.1:${CLIENT_PORTS[$server]}" --conns 100 --clients 1000 "$@"
}

idle() { # server row
  record "$2" "$1" none -- sleep "$SECONDS_EACH"
}

prepare() {
  measure payload put 00000000 256 > "$DIR/put"
  measure payload range 00000001 > "$DIR/range"
  measure payload json-put 00000000 256 > "$DIR/json-put"
  for server in etcd cored; do
    choose_ports $server
    start $server main
    await $server
  done
  both idle idle-empty
  for server in etcd cored; do load $server fill --clients 16 --verify > /dev/null; done
}

round() {
  # After a load that kept all cores busy, what one client uses comes to its core within some seconds.
  WARMUP=$LONE_WARMUP both timed put-1 put put --clients 1
  both timed put-rate put put --rate 1000 --arrivals poisson --clients 200 --conns 10
  both timed put-1000 put put --clients 1000 --conns 100
  both by_h2load put-h2load /etcdserverpb.KV/Put put "${GRPC[@]}"
  both by_h2load range-h2load /etcdserverpb.KV/Range range "${GRPC[@]}"
  WARMUP=$LONE_WARMUP both timed range-1 range range --clients 1
  both timed range-serializable range range --clients 1000 --conns 100 --serializable
  both timed range-keys-1000 range range --clients 10 --range-keys 1000
  both timed txn-cas txn-cas txn-cas --clients 1000 --conns 100
  both timed keepalive lease-keepalive lease-keepalive --clients 1000 --conns 100
  both by_h2load json-put /v3/kv/put json-put "${JSON[@]}"
  both timed watch-rate event watch --watchers 1000 --streams 10 --rate 300 --clients 50 --conns 10
  # As fast as they go, but counted: puts outrun their 1,000-fold events, and the row ends when every watcher has all.
  both by_loadgen watch-most event watch --requests $((SECONDS_EACH * 600)) --patience 120s \
    --watchers 1000 --streams 10 --clients 10 --conns 10
}

# What reaches the disk for what was acknowledged; no warm-up, so that every write counts on both sides.
syncs() {
  both by_loadgen sync-1 put put --requests $((SECONDS_EACH * 200)) --clients 1
  both by_loadgen sync-1000 put put --requests $((SECONDS_EACH * 5000)) --clients 1000 --conns 100
}

# etcd's own client library and load tool: whether they are content matters more than their numbers.
own_tool() {
  local total=$((SECONDS_EACH * 5000))
  both by_benchmark benchmark-put put --total $total --key-size 8 --val-size 256 --key-space-size 100000
  both by_benchmark benchmark-range range 00000001 --total $total
  both by_benchmark benchmark-txn txn-put --total $total --txn-ops 4 --key-size 8 --val-size 256 \
    --key-space-size 100000
}

# Every write that was acknowledged before the server was killed must be there when it is back.
kill_under_load() { # server
  local server=$1
  measure run --out "$RESULTS" --row kill-under-load --server "$server" --tool loadgen --kind put --may-fail -- \
    "$LOADGEN" put --clients 100 --conns 10 --duration 4s --warmup 0s --patience 120s --verify --json - --quiet \
    --key-prefix k/ --key-size 12 --endpoints "127.0.0.1:${CLIENT_PORTS[$server]}" &
  local writers=$!
  sleep 2
  stop "$server" KILL
  start "$server" main
  wait "$writers" || true
}

million() { # server
  local server=$1 begun
  choose_ports "$server"
  start "$server" million
  await "$server"
  by_loadgen "$server" fill fill fill --keys "$KEYS" --clients 16 --conns 10
  settled_mib "$DIR/$server-million" > /dev/null
  idle "$server" idle-full
  by_loadgen "$server" range-limit range range --requests "$LIMITED" --duration 30s --clients 1 \
    --keys "$KEYS" --range-keys "$KEYS" --limit 10
  stop "$server" KILL
  begun=$(date +%s%N)
  start "$server" million
  await "$server"
  note start "$server" "start_s=$(python3 -c "print(($(date +%s%N) - $begun) / 1e9)")"
  by_loadgen "$server" count-after-start range range --requests 1 --clients 1 --keys "$KEYS" \
    --range-keys "$KEYS" --count-only
  stop "$server" KILL
  rm -rf "$DIR/$server-million"
}

echo "data in $DIR, results in $REPORT"
prepare
for ROUND in $(seq "$ROUNDS"); do
  echo "-- round $ROUND of $ROUNDS"
  round
done
ROUND=1
syncs
own_tool
both kill_under_load
for server in etcd cored; do stop $server; rm -rf "$DIR/$server-main"; done
for ROUND in $(seq "$((ROUNDS > 1 ? 2 : 1))"); do
  echo "-- $KEYS keys, round $ROUND"
  both million
done

python3 perf/report.py "$RESULTS" --command "$COMMAND_LINE" --dir "$DIR" --cored "$CORED" \
  --etcd "$ETCD_DIR/etcd" --keys "$KEYS" --seconds "$SECONDS_EACH" --rounds "$ROUNDS" > "$REPORT.new"
mv "$REPORT.new" "$REPORT"
echo "written: $REPORT"
