# shellcheck shell=bash
# What perf/compare.sh and perf/big.sh share: servers that are started here and stopped here, whatever happens, and the
# load on them. To be sourced; ROOT must be set by then, and CORED, LOADGEN, ETCD_DIR, CORED_FLAGS, DIR (where a directory
# for the data is made) and KEEP before begin.

ME=$(basename "$0")
ROUND=1
# etcd's default of 2 GiB is not enough for all rows.
QUOTA=${QUOTA:-8589934592}
declare -A PIDS CLIENT_PORTS PEER_PORTS

usage() { # the comment at the head of the script
  sed -n '2,/^set/s/^# \{0,1\}//p' "$ROOT/perf/$ME" >&2
  exit 2
}

absolute() { realpath -e "$1" || { echo "$ME: no $1" >&2 && exit 2; }; }

measure() { "$ROOT/perf/measure.py" "$@"; }

# Makes the directory of this run; from here on it and the servers are cleared away at the end.
begin() {
  mkdir -p "$ROOT/target/perf" "$ROOT/perf/reports"
  DIR=$(mktemp -d "${DIR:-$ROOT/target/perf}/${ME%.sh}.XXXXXX")
  RESULTS=$DIR/results.jsonl
  trap finish EXIT
  trap 'exit 130' INT TERM
}

finish() {
  local status=$?
  trap - EXIT INT TERM
  set +e
  # Loads end their children when they are asked to; servers need not be asked.
  for job in $(jobs -p); do kill "$job" 2> /dev/null || true; done
  for server in "${PIDS[@]}"; do kill -9 "$server" 2> /dev/null || true; done
  wait 2> /dev/null || true
  if [ $status -ne 0 ]; then
    echo "$ME: failed; the servers' last words:" >&2
    tail -n 3 "$DIR"/*.log >&2 || true
  fi
  # A report can be written again from them.
  [ ! -e "$RESULTS" ] || cp "$RESULTS" "$ROOT/target/perf/last-results.jsonl"
  if declare -F clean_up > /dev/null; then clean_up; fi
  [ -n "$KEEP" ] || rm -rf "$DIR"
  exit $status
}
choose_ports() { # server
  read -r "CLIENT_PORTS[$1]" "PEER_PORTS[$1]" < <(python3 -c '
import random, socket
# Below the ports that the kernel gives to outgoing connections: a server is started again on its own.
sockets = []
while len(sockets) < 2:
    try:
        sockets.append(socket.create_server(("127.0.0.1", random.randrange(10000, 30000))))
    except OSError:
        pass
ports = [s.getsockname()[1] for s in sockets]
# Free again before anybody is told: cored starts faster than Python ends.
for s in sockets:
    s.close()
print(*ports)')
}

start() { # server directory [command that runs the server…]
  local server=$1 data=$DIR/$1-$2 program=$CORED flags
  shift 2
  local client=http://127.0.0.1:${CLIENT_PORTS[$server]} peer=http://127.0.0.1:${PEER_PORTS[$server]}
  flags=(--name one --data-dir "$data" --listen-client-urls "$client" --advertise-client-urls "$client"
    --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "one=$peer"
    --quota-backend-bytes "$QUOTA")
  if [ "$server" = etcd ]; then
    program=$ETCD_DIR/etcd
    flags+=(--log-level warn)
  else
    # shellcheck disable=SC2206 # several words are meant
    flags+=($CORED_FLAGS)
  fi
  "$@" "$program" "${flags[@]}" >> "$data.log" 2>&1 &
  PIDS[$server]=$!
}

await() { # server: until it answers a linearizable read
  local tries=0
  until load "$1" range --requests 1 --duration 60s --keys 1 > /dev/null 2>&1; do
    kill -0 "${PIDS[$1]}" 2> /dev/null || { echo "$ME: $1 did not start" >&2 && return 1; }
    tries=$((tries + 1))
    [ $tries -lt 6000 ] || { echo "$ME: $1 does not answer" >&2 && return 1; }
    sleep 0.01
  done
}

stop() { # server [signal]
  kill "-${2:-TERM}" "${PIDS[$1]}" 2> /dev/null || echo "$ME: $1 was gone already" >&2
  wait "${PIDS[$1]}" 2> /dev/null || true
  unset "PIDS[$1]"
}

disk_mib() { # path
  # A file may go while it looks.
  { du -s --block-size=1 "$1" 2> /dev/null || true; } | awk '{ print $1 / 1048576 }'
}

# A checkpoint may be on its way, and what it replaces is given back a moment after it is there.
settled_mib() { # path
  local before='' now
  now=$(disk_mib "$1")
  until [ "$now" = "$before" ]; do
    sleep 5
    before=$now now=$(disk_mib "$1")
  done
  echo "$now"
}

load() { # server arguments…
  local server=$1
  shift
  "$LOADGEN" "$@" --endpoints "127.0.0.1:${CLIENT_PORTS[$server]}" --quiet
}

record() { # row server tool [--kind K] -- command…: a row that fails is told in the report and stops nothing
  local row=$1 server=$2 tool=$3
  shift 3
  measure run --out "$RESULTS" --row "$row" --server "$server" --round "$ROUND" --tool "$tool" \
    --pid "${PIDS[$server]}" --dir "$DIR" "$@" || true
}

note() { # row server NAME=NUMBER…
  measure note --out "$RESULTS" --row "$1" --server "$2" --round "$ROUND" "${@:3}"
}

by_loadgen() { # server row kind arguments…
  local server=$1 row=$2 kind=$3
  shift 3
  record "$row" "$server" loadgen --kind "$kind" -- "$LOADGEN" "$@" --json - --quiet \
    --endpoints "127.0.0.1:${CLIENT_PORTS[$server]}" --server-pid "${PIDS[$server]}"
}
