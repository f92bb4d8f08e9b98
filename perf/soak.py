#!/usr/bin/env python3
"""What perf/big.sh needs beside its loads while a server is soaked, by HTTP and /proc alone.

    soak.py sample OPTIONS --pid PID --dir DIR     memory and disk every --interval seconds, as lines for a report
    soak.py leases OPTIONS --port PORT             leases that hold keys; half are revoked, half run out

Both run for --seconds. `leases` then waits until all must be gone, and says how many keys and leases are left.
"""

import argparse
import base64
import http.client
import json
import os
import sys
import time

from measure import append, status_mib

# Leases granted a second; each holds one key.
LEASES_PER_S = 20
TTL_S = 5
# Time beyond its TTL that a lease may take to end.
GRACE_S = 10


def encoded(text):
    return base64.b64encode(text.encode()).decode()


class Client:
    """The JSON gateway, one request after the other."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def post(self, path, request):
        self.connection.request("POST", "/v3/" + path, json.dumps(request), {"content-type": "application/json"})
        response = self.connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise ValueError(f"{path}: {response.status} {text.decode(errors='replace').strip()}")
        return json.loads(text)


def disk_mib(directory):
    """What the files below a directory take on the disk; one that goes away meanwhile takes nothing."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_blocks * 512
            except FileNotFoundError:
                pass
    return total / 2**20


def sample(options):
    begun = time.monotonic()
    number = 0
    while (at_s := number * options.interval) <= options.seconds:
        time.sleep(max(0.0, begun + at_s - time.monotonic()))
        line = {"row": options.row, "server": options.server, "round": number, "at_s": at_s}
        line |= status_mib(options.pid)
        line["disk_mib"] = disk_mib(options.dir)
        line["threads"] = len(os.listdir(f"/proc/{options.pid}/task"))
        line["files"] = len(os.listdir(f"/proc/{options.pid}/fd"))
        append(options.out, line, quiet=number % 6 != 0)
        number += 1


def leases(options):
    client = Client(options.port)
    begun = time.monotonic()
    held, granted, revoked = [], 0, 0
    while (now := time.monotonic()) - begun < options.seconds:
        for _ in range(LEASES_PER_S):
            lease = client.post("lease/grant", {"TTL": TTL_S})["ID"]
            client.post("kv/put", {"key": encoded("l/" + lease), "value": encoded(lease), "lease": lease})
            granted += 1
            held.append(lease)
        # Every second one is revoked, a second old; of the others the server takes care.
        for lease in held[: max(0, len(held) - LEASES_PER_S) : 2]:
            client.post("lease/revoke", {"ID": lease})
            revoked += 1
        held = held[-LEASES_PER_S:]
        time.sleep(max(0.0, now + 1 - time.monotonic()))
    last = held[-1] if held else None
    time.sleep(TTL_S + GRACE_S)
    everything = {"key": encoded("l/"), "range_end": encoded("l0"), "count_only": True}
    left = int(client.post("kv/range", everything).get("count", 0))
    alive = last and int(client.post("lease/timetolive", {"ID": last}).get("TTL", 0)) > 0
    line = {"row": options.row, "server": options.server, "round": 1, "leases": granted, "revoked": revoked,
            "keys_left": left, "last_alive": int(bool(alive))}
    append(options.out, line)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("sample", "leases"):
        part = parts.add_parser(name)
        part.add_argument("--out", required=True)
        part.add_argument("--row", required=True)
        part.add_argument("--server", required=True)
        part.add_argument("--seconds", type=float, required=True)
        if name == "sample":
            part.add_argument("--pid", type=int, required=True)
            part.add_argument("--dir", required=True)
            part.add_argument("--interval", type=float, default=10)
        else:
            part.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    {"sample": sample, "leases": leases}[options.part](options)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"soak.py: {error}")
