#!/bin/bash
# What takes longer than perf/compare.sh has time for: large stores, checkpoints and compaction under load, little
# memory, and hours. Writes a report.
#
# Usage: perf/big.sh [--row ROW]… [--cored PATH] [--loadgen PATH] [--etcd-dir DIR] [--quick] [--rounds N] [--seconds N]
#                    [--minutes N] [--dir DIR] [--report FILE] [--cored-flags "…"] [--keep]
#
#   --row ROW         start, disk, checkpoint, compaction, memory, memory-fill or soak; again for more (all of them)
#   --cored PATH      the server (target/release/cored)
#   --loadgen PATH    the load generator (target/release/cored-loadgen)
#   --etcd-dir DIR    what perf/get-etcd.sh has built; with it the row compaction is measured on etcd as well
#   --quick           small stores, one short round: to see whether everything works
#   --rounds N        how often what alternates is measured (5)
#   --seconds N       how long a window is measured (15)
#   --minutes N       how long the soak takes (20)
#   --dir DIR         where the data goes; its disk is what is measured, 20 GB should be free (a new directory in target/perf)
#   --report FILE     the report (perf/reports/DATE-big.md)
#   --keep            leave the data directories
#
# The rows start, memory and memory-fill want root: to drop the kernel's caches, and to make a memory cgroup.
set -euo pipefail
cd "$(dirname "$0")/.."
ROOT=$PWD
# shellcheck source=perf/servers.sh
. perf/servers.sh

ETCD_DIR='' CORED=target/release/cored LOADGEN=target/release/cored-loadgen
ROWS=() ROUNDS=5 SECONDS_EACH=15 MINUTES=20 DIR='' REPORT='' CORED_FLAGS='' KEEP=''
# Keys of 8 bytes and values of 256: 264 bytes each.
START_KEYS=(1000000 10000000) REDO_PUTS=900000 DISK_KEYS=4000000 CHECKPOINT_KEYS=9500000 RATE=3000
WARMUP=2 REVISIONS=1000000 MEMORY_KEYS=12000000 MEMORY_MIB=1024 MEMORY_FLAGS='' SOAK_KEYS=200000 SOAK_RATE=3000
QUOTA=68719476736
COMMAND_LINE="perf/big.sh $*"
while [ $# -gt 0 ]; do
  case $1 in
    --row) ROWS+=("$2") && shift ;;
    --etcd-dir) ETCD_DIR=$2 && shift ;;
    --cored) CORED=$2 && shift ;;
    --loadgen) LOADGEN=$2 && shift ;;
    --rounds) ROUNDS=$2 && shift ;;
    --seconds) SECONDS_EACH=$2 && shift ;;
    --minutes) MINUTES=$2 && shift ;;
    --dir) DIR=$2 && shift ;;
    --report) REPORT=$2 && shift ;;
    --cored-flags) CORED_FLAGS=$2 && shift ;;
    --quick)
      ROUNDS=1 SECONDS_EACH=3 MINUTES=1
      START_KEYS=(100000) REDO_PUTS=50000 DISK_KEYS=200000 CHECKPOINT_KEYS=400000 REVISIONS=50000
      MEMORY_KEYS=1500000 MEMORY_MIB=256 MEMORY_FLAGS='--checkpoint-wal-bytes 33554432'
      ;;
    --keep) KEEP=yes ;;
    *) usage ;;
  esac
  shift
done
[ ${#ROWS[@]} -gt 0 ] || ROWS=(start disk checkpoint compaction memory memory-fill soak)
CORED=$(absolute "$CORED")
LOADGEN=$(absolute "$LOADGEN")
[ -z "$ETCD_DIR" ] || ETCD_DIR=$(absolute "$ETCD_DIR")
REPORT=${REPORT:-perf/reports/$(date +%Y-%m-%d-%H%M)-big.md}
begin

# ---- Asking a server -----------------------------------------------------------------------------

post() { # server path [json]
  curl -sSf --max-time 3600 "127.0.0.1:${CLIENT_PORTS[$1]}/v3/$2" -d "${3:-{\}}"
}

metric() { # server name
  curl -sSf "127.0.0.1:${CLIENT_PORTS[$1]}/metrics" | awk -v name="$2" '$1 == name { printf "%.0f\n", $2 }'
}

revision() { # server
  post "$1" kv/range '{"key": "MA==", "count_only": true}' |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["header"]["revision"])'
}

checkpoints() { # directory: how many were made so far
  grep -c 'made a checkpoint' "$DIR/cored-$1.log" || true
}

# Runs a command and says how many seconds it took.
seconds_of() {
  local ns
  ns=$(date +%s%N)
  "$@" > /dev/null
  ns=$(($(date +%s%N) - ns))
  printf '%d.%09d\n' $((ns / 1000000000)) $((ns % 1000000000))
}

fill() { # server keys [prefix]: the most that arrives at once, and a checkpoint of it
  by_loadgen "$1" "${3:-}fill" fill fill --keys "$2" --clients 64 --conns 10
  post "$1" maintenance/defragment > /dev/null
}

open_puts() { # server row keys: latency since due at a fixed rate, which a closed loop can not tell
  by_loadgen "$1" "$2" put put --rate "$RATE" --clients 2000 --conns 10 --keys "$3" --patience 60s \
    --duration "${SECONDS_EACH}s" --warmup "${WARMUP}s"
}

# ---- Rows ----------------------------------------------------------------------------------------

timed_start() { # row directory: from nothing in the caches to the first linearizable read
  local numbers drop=()
  [ ! -w /proc/sys/vm/drop_caches ] || drop=(--drop-caches)
  rm -f "$DIR/first" && mkfifo "$DIR/first"
  start cored "$2" "$ROOT/perf/measure.py" start --port "${CLIENT_PORTS[cored]}" --tell "$DIR/first" "${drop[@]}" --
  read -r numbers < "$DIR/first"
  # shellcheck disable=SC2086 # several words are meant
  note "$1" cored $numbers "caches_dropped=${#drop[@]}" "log_mib=${LOG_MIB:-0}"
}

row_start() {
  local before
  for keys in "${START_KEYS[@]}"; do
    choose_ports cored
    start cored "start-$keys"
    await cored
    fill cored "$keys" "start-$keys-"
    for ROUND in 1 2 3; do
      stop cored
      LOG_MIB=0 timed_start "start-$keys-clean" "start-$keys"
      before=$(metric cored etcd_disk_wal_write_bytes_total)
      load cored fill --keys "$REDO_PUTS" --clients 16 --conns 10 --seed "$ROUND" > /dev/null
      LOG_MIB=$((($(metric cored etcd_disk_wal_write_bytes_total) - before) >> 20))
      stop cored KILL
      timed_start "start-$keys-killed" "start-$keys"
      # Back to a short log, as the next round begins.
      post cored maintenance/defragment > /dev/null
    done
    ROUND=1
    stop cored KILL
    rm -rf "$DIR/cored-start-$keys"
  done
}

# What a store takes on disk when its history is gone, half of it overwritten and a quarter deleted.
row_disk() {
  local live_keys=$((DISK_KEYS * 3 / 4))
  choose_ports cored
  start cored disk
  await cored
  fill cored "$DISK_KEYS" disk-
  load cored put --requests $((DISK_KEYS / 2)) --clients 1000 --conns 10 --keys "$DISK_KEYS" > /dev/null
  # Names are the numbers in base 10 in eight digits: the last quarter goes.
  post cored kv/deleterange "$(python3 -c "
import base64
name = lambda number: base64.b64encode(b'%08d' % number).decode()
print('{\"key\": \"%s\", \"range_end\": \"%s\"}' % (name($live_keys), name($DISK_KEYS)))")" > /dev/null
  post cored kv/compaction "{\"revision\": \"$(revision cored)\", \"physical\": true}" > /dev/null
  post cored maintenance/defragment > /dev/null
  note disk cored "logical_mib=$(python3 -c "print($live_keys * 264 / 2**20)")" \
    "image_mib=$(settled_mib "$DIR/cored-disk/checkpoint")" "all_mib=$(disk_mib "$DIR/cored-disk")"
  stop cored
  rm -rf "$DIR/cored-disk"
}

row_checkpoint() {
  local builder before
  choose_ports cored
  start cored checkpoint
  await cored
  fill cored "$CHECKPOINT_KEYS" checkpoint-
  for ROUND in $(seq "$ROUNDS"); do
    before=$(checkpoints checkpoint)
    open_puts cored checkpoint-without "$CHECKPOINT_KEYS"
    [ "$(checkpoints checkpoint)" = "$before" ] || echo "a checkpoint was made in a window without one" >&2
    # Uniform keys touch nearly all blocks in a window, so nearly all of the image is written. One build after the other
    # until the window is over; the last one outlasts it.
    rm -f "$DIR/enough"
    until [ -e "$DIR/enough" ]; do seconds_of post cored maintenance/defragment; done > "$DIR/builds" &
    builder=$!
    open_puts cored checkpoint-during "$CHECKPOINT_KEYS"
    touch "$DIR/enough"
    wait "$builder"
    note checkpoint-builds cored "builds=$(wc -l < "$DIR/builds")" "build_s=$(head -n 1 "$DIR/builds")" \
      "image_mib=$(settled_mib "$DIR/cored-checkpoint/checkpoint")"
  done
  ROUND=1
  stop cored KILL
  rm -rf "$DIR/cored-checkpoint"
}

row_compaction() {
  local servers=(cored) revision
  [ -z "$ETCD_DIR" ] || servers=(etcd cored)
  for server in "${servers[@]}"; do
    choose_ports "$server"
    start "$server" compaction
    await "$server"
    for ROUND in $(seq "$ROUNDS"); do
      load "$server" put --requests "$REVISIONS" --warmup 0s --clients 1000 --conns 10 --keys 100000 > /dev/null
      # What these have begun, as a checkpoint, is not what is measured.
      settled_mib "$DIR/$server-compaction" > /dev/null
      open_puts "$server" compaction-before 100000
      # To find it out costs CPU, which would be measured too.
      revision=$(revision "$server")
      {
        sleep "$WARMUP"
        seconds_of post "$server" kv/compaction "{\"revision\": \"$revision\", \"physical\": true}" \
          > "$DIR/compaction_s"
      } &
      local compaction=$!
      open_puts "$server" compaction-during 100000
      wait "$compaction"
      note compaction-took "$server" "compaction_s=$(cat "$DIR/compaction_s")"
      open_puts "$server" compaction-after 100000
    done
    ROUND=1
    stop "$server" KILL
    rm -rf "$DIR/$server-compaction"
  done
}

# A directory of the kernel's that bounds the memory of the processes in it, page cache included. Version 1 or 2.
make_group() {
  if [ -d /sys/fs/cgroup/memory ]; then
    GROUP=/sys/fs/cgroup/memory/cored-perf-$$ LIMIT=memory.limit_in_bytes PEAK=memory.max_usage_in_bytes
    KILLS=memory.oom_control
  else
    GROUP=/sys/fs/cgroup/cored-perf-$$ LIMIT=memory.max PEAK=memory.peak KILLS=memory.events
  fi
  mkdir "$GROUP" && echo $((MEMORY_MIB << 20)) > "$GROUP/$LIMIT" ||
    { echo "$ME: no memory cgroup can be made here, the rows about memory are left out" >&2 && return 1; }
}

clean_up() { [ ! -d "${GROUP:-/nowhere}" ] || rmdir "$GROUP"; }

start_in_group() { # directory
  # shellcheck disable=SC2016 # the inner shell's
  start cored "$1" bash -c 'echo $$ > "$0/cgroup.procs" && exec "$@"' "$GROUP"
}

# What the limit did to the server; a server that is gone has no keys.
note_group() { # row
  local alive=0 keys=0
  if kill -0 "${PIDS[cored]}" 2> /dev/null; then
    alive=1
    keys=$(post cored kv/range '{"key": "AA==", "range_end": "AA==", "count_only": true}' |
      python3 -c 'import json, sys; print(json.load(sys.stdin).get("count", 0))') || true
  fi
  note "$1" cored "alive=$alive" "keys=${keys:-0}" "peak_mib=$(($(cat "$GROUP/$PEAK") >> 20))" "limit_mib=$MEMORY_MIB" \
    "oom_kills=$(awk '$1 == "oom_kill" { print $2 }' "$GROUP/$KILLS")"
}

# A store three times as large as the memory that it may use: filled without a limit, served within.
row_memory() {
  make_group || return 0
  local CORED_FLAGS="$CORED_FLAGS $MEMORY_FLAGS"
  choose_ports cored
  start cored memory
  await cored
  fill cored "$MEMORY_KEYS" memory-
  stop cored
  # What is in the caches is accounted to nobody in the group.
  sync
  echo 3 > /proc/sys/vm/drop_caches
  start_in_group memory
  await cored || true
  few memory-get range range
  few memory-put put put
  few memory-mix all mix --mix put=50,range=50
  note_group memory-served
  stop cored KILL
  rm -rf "$DIR/cored-memory"
  clean_up
}

few() { # row kind arguments…
  by_loadgen cored "$@" --keys "$MEMORY_KEYS" --clients 50 --conns 10 --patience 60s --duration "$((2 * SECONDS_EACH))s"
}

# The same, but filled within the limit.
row_memory-fill() {
  make_group || return 0
  local CORED_FLAGS="$CORED_FLAGS $MEMORY_FLAGS"
  choose_ports cored
  start_in_group memory
  await cored
  # A server that was killed answers nothing; the report says so, and the next row begins.
  fill cored "$MEMORY_KEYS" memory-within- || true
  few memory-within-get range range
  note_group memory-filled
  stop cored KILL
  rm -rf "$DIR/cored-memory"
  clean_up
}

# Everything at once for a long time: what is acknowledged stays, and what is used does not grow.
row_soak() {
  local seconds=$((MINUTES * 60)) jobs=()
  local CORED_FLAGS="$CORED_FLAGS --checkpoint-wal-bytes 33554432 --auto-compaction-retention 1m"
  choose_ports cored
  start cored soak
  await cored
  local common=(--duration "${seconds}s" --warmup 0s --patience 120s --key-size 12)
  by_loadgen cored soak-mix all mix --mix put=60,txn-cas=20,delete=15,range=5 --rate "$SOAK_RATE" --clients 500 \
    --keys "$SOAK_KEYS" --key-prefix m/ --verify "${common[@]}" &
  jobs+=($!)
  by_loadgen cored soak-watch event watch --rate 100 --clients 100 --watchers 100 --streams 10 --keys 1000 \
    --key-prefix w/ "${common[@]}" &
  jobs+=($!)
  by_loadgen cored soak-keepalive lease-keepalive lease-keepalive --rate 100 --clients 100 "${common[@]}" &
  jobs+=($!)
  perf/soak.py leases --out "$RESULTS" --row soak-leases --server cored --seconds "$seconds" \
    --port "${CLIENT_PORTS[cored]}" &
  jobs+=($!)
  perf/soak.py sample --out "$RESULTS" --row soak-sample --server cored --seconds "$seconds" \
    --pid "${PIDS[cored]}" --dir "$DIR/cored-soak" &
  jobs+=($!)
  # Each tells its own trouble; a server that died shows in all of them.
  for job in "${jobs[@]}"; do wait "$job" || true; done
  note soak-made cored "checkpoints=$(checkpoints soak)" "compacted=$(metric cored etcd_debugging_mvcc_compact_revision)" \
    "revision=$(metric cored etcd_debugging_mvcc_current_revision)"
  stop cored
  local verified=0
  "$CORED" verify "$DIR/cored-soak" || verified=$?
  note soak-verify cored "code=$verified"
  rm -rf "$DIR/cored-soak"
}

echo "data in $DIR, results in $REPORT"
for row in "${ROWS[@]}"; do
  echo "-- $row"
  "row_$row"
done
python3 perf/big_report.py "$RESULTS" --command "$COMMAND_LINE" --dir "$DIR" --cored "$CORED" \
  --etcd "${ETCD_DIR:+$ETCD_DIR/etcd}" --seconds "$SECONDS_EACH" --rounds "$ROUNDS" > "$REPORT.new"
mv "$REPORT.new" "$REPORT"
echo "written: $REPORT"
