#!/usr/bin/env python3
"""Writes the report of perf/compare.sh from its measurements: medians over the rounds, and the ratio within each round.

It computes nothing else, and decides nothing but whether a goal is met.
"""

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
from collections import defaultdict

# Rows in the order of the report, and what they are.
ROWS = {
    "put-1": "put, 1 client",
    "put-rate": "put, 1,000 a second (Poisson, latency since due)",
    "put-1000": "put, 1,000 clients on 100 connections",
    "put-h2load": "put, h2load, 10 connections × 100 streams",
    "range-1": "range of 1 key, 1 client",
    "range-h2load": "range of 1 key, h2load, 10 × 100",
    "range-serializable": "range of 1 key, serializable, 1,000 clients",
    "range-keys-1000": "range of 1,000 keys, 10 clients",
    "txn-cas": "compare and swap, 1,000 clients",
    "keepalive": "lease keepalive, 1,000 clients",
    "json-put": "JSON put, h2load, HTTP/1.1, 100 connections",
    "watch-rate": "events to 1,000 watchers of one key, 300 puts a second",
    "watch-most": "events to 1,000 watchers of one key, 600 puts for each second of a row as fast as they go",
    "benchmark-put": "etcd's benchmark: put, 1,000 clients",
    "benchmark-range": "etcd's benchmark: range, 1,000 clients",
    "benchmark-txn": "etcd's benchmark: txn of 4 puts, 1,000 clients",
    "fill": "fill, {keys} keys, 100 a transaction",
    "range-limit": "range with limit 10 over {keys} keys, 1 client",
}

# What is to be reached: row, what of it, its name, whether the goal is a share of etcd's figure, and the goal.
GOALS = [
    ("put-1", "p50_ms", "put, 1 client: p50 (ms)", "share", 0.5),
    ("put-1", "cpu_us", "put, 1 client: server CPU (µs)", "share", 0.33),
    ("put-h2load", "cpu_us", "put, 1,000 in flight: server CPU (µs)", "share", 0.36),
    ("put-h2load", "ops_per_s", "put, h2load 10 × 100 (a second)", "at least", 60_000),
    ("range-h2load", "cpu_us", "range of 1 key, linearizable: server CPU (µs)", "share", 0.4),
    ("range-keys-1000", "cpu_us", "range of 1,000 keys: server CPU (µs)", "share", 0.2),
    ("range-limit", "p50_ms", "range with limit 10 over {keys} keys: p50 (ms)", "at most", 0.3),
    ("json-put", "cpu_us", "JSON put: server CPU (µs)", "share", 0.2),
    ("watch-rate", "cpu_us", "1,000 watchers of one key: server CPU an event (µs)", "share", 0.7),
    ("idle-full", "rss_mib", "resident memory with {keys} keys × 256 B (MiB)", "at most", 480),
    ("start", "start_s", "start after kill -9 with those keys (s)", "at most", 3),
    ("idle-full", "idle_percent", "idle with those keys (% of a core)", "at most", 1.5),
]

COLUMNS = [
    ("ops_per_s", "a second"),
    ("p50_ms", "p50 ms"),
    ("p99_ms", "p99"),
    ("p999_ms", "p99.9"),
    ("cpu_us", "CPU µs"),
    ("rss_mib", "RSS MiB"),
    ("tool_cpu_us", "tool CPU µs"),
    ("foreign_percent", "foreign CPU %"),
]


class Measurements:
    """All lines, by row, server and round."""

    def __init__(self, path):
        self.lines = defaultdict(dict)
        with open(path) as file:
            for text in file:
                line = json.loads(text)
                if line["row"].startswith("idle") and "server_s" in line:
                    line["idle_percent"] = 100 * line["server_s"] / line["wall_s"]
                self.lines[line["row"], line["server"]][line["round"]] = line

    def each(self, row, server, name):
        rounds = self.lines[row, server]
        return {r: line[name] for r, line in rounds.items() if name in line and "error" not in line}

    def median(self, row, server, name):
        values = self.each(row, server, name).values()
        return statistics.median(values) if values else None

    def ratio(self, row, name):
        """The median of the ratios within a round: what disturbed one server there disturbed the other as well."""
        etcd, cored = self.each(row, "etcd", name), self.each(row, "cored", name)
        ratios = [cored[r] / etcd[r] for r in etcd.keys() & cored.keys() if etcd[r]]
        return statistics.median(ratios) if ratios else None

    def troubles(self):
        for (row, server), rounds in self.lines.items():
            for number, line in rounds.items():
                if "error" in line:
                    yield f"{row}, {server}, round {number}: {line['error']}"
                elif line.get("failed") and row != "kill-under-load":
                    yield f"{row}, {server}, round {number}: {line['failed']} requests failed"
                if line.get("watch_missed") or line.get("watch_out_of_order"):
                    yield (f"{row}, {server}, round {number}: watchers missed {line['watch_missed']} events, "
                           f"{line['watch_out_of_order']} came out of order")


def number(value):
    if value is None:
        return "–"
    if value == 0:
        return "0"
    for above, digits in ((1000, 0), (100, 0), (10, 1), (1, 2)):
        if abs(value) >= above:
            return f"{value:,.{digits}f}"
    return f"{value:.3f}"


def table(header, rows):
    yield "| " + " | ".join(header) + " |"
    yield "|---|" + "---:|" * (len(header) - 1)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def goals(found, keys):
    for row, name, label, kind, goal in GOALS:
        etcd, cored = (found.median(row, server, name) for server in ("etcd", "cored"))
        ratio = found.ratio(row, name)
        reached = {"share": ratio, "at least": cored, "at most": cored}[kind]
        if reached is None:
            verdict = "not measured"
        else:
            met = reached >= goal if kind == "at least" else reached <= goal
            verdict = "yes" if met else "**no**"
        wanted = f"≤ {goal} ×" if kind == "share" else f"{'≥' if kind == 'at least' else '≤'} {goal:,}"
        yield [label.format(keys=keys), number(etcd), number(cored), number(ratio), wanted, verdict]


def details(found, keys):
    for row, label in ROWS.items():
        for server in ("etcd", "cored"):
            if found.lines.get((row, server)):
                values = [number(found.median(row, server, name)) for name, _ in COLUMNS]
                yield [label.format(keys=keys), server, *values]
        ratios = [number(found.ratio(row, name)) for name, _ in COLUMNS[:-2]]
        if any(ratio != "–" for ratio in ratios):
            yield ["", "ratio", *ratios, "", ""]


def syncs(found):
    quiet = {}
    for server in ("etcd", "cored"):
        line = found.lines.get(("idle-empty", server), {}).get(1, {})
        if "disk_flushes" in line:
            quiet[server] = line["disk_flushes"] / line["wall_s"]
    for row, label in (("sync-1", "1 client"), ("sync-1000", "1,000 clients")):
        for server in ("etcd", "cored"):
            line = found.lines.get((row, server), {}).get(1, {})
            if "disk_flushes" not in line or not line.get("ops"):
                continue
            ops = line["ops"]
            yield [
                f"{label}, {server}", number(ops), number(line["disk_flushes"]), number(line["disk_writes"]),
                number(line["disk_flushes"] / ops), number(line["disk_writes"] / ops),
                number(line["disk_mib"]), number(quiet.get(server)),
            ]


def survived(found):
    for server in ("etcd", "cored"):
        line = found.lines.get(("kill-under-load", server), {}).get(1)
        if line is None:
            continue
        if "verify_keys" not in line:
            yield f"- {server}: no answer; {line.get('error', 'nothing was read back')}"
            continue
        yield (f"- {server}: {line['ops']:,} writes acknowledged, {line['failed']:,} failed while it was gone; of "
               f"{line['verify_keys']:,} keys read back {line['verify_lost']} lost, {line['verify_wrong']} wrong, "
               f"{line['verify_out_of_order']} acknowledgements out of order.")


def checks(found):
    """Whether what h2load took for an answer was one: each put makes a revision, no read does."""
    for row in ("put-h2load", "json-put", "range-h2load"):
        for server in ("etcd", "cored"):
            for number_, line in sorted(found.lines.get((row, server), {}).items()):
                check = found.lines.get((row + "/check", server), {}).get(number_)
                if check is None or "ops" not in line:
                    continue
                made = check["revisions"]
                right = made == 0 if row == "range-h2load" else made >= line["ops"]
                if not right:
                    yield f"{row}, {server}, round {number_}: {line['ops']} answers, {made:.0f} revisions"


def counts(found, keys):
    """Whether all keys of the big fill are there after the server was killed."""
    for server in ("etcd", "cored"):
        for number_, line in sorted(found.lines.get(("count-after-start", server), {}).items()):
            if "keys" in line and line["keys"] != keys:
                yield f"count-after-start, {server}, round {number_}: {line['keys']:,} of {keys:,} keys"


def said_by(*command):
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=10)
        return done.stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def facts(options):
    with open("/proc/cpuinfo") as file:
        model = re.search(r"model name\s*: (.*)", file.read())
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    disk = said_by("findmnt", "-n", "-o", "FSTYPE,SOURCE,OPTIONS", "-T", options.dir)
    version = lambda program: (said_by(program, "--version").splitlines() or ["?"])
    changed = " with changes" if said_by("git", "status", "--porcelain", "--untracked-files=no") else ""
    yield f"- {os.cpu_count()} × {model[1] if model else platform.machine()}, {memory_gib:.0f} GiB, Linux {platform.release()}"
    yield f"- data on {' '.join(disk.split()) or '?'}"
    if options.etcd:
        yield f"- etcd: {version(options.etcd)[0]}"
    yield f"- cored: {'; '.join(version(options.cored)[:2])}, commit {said_by('git', 'rev-parse', '--short', 'HEAD')}{changed}"
    yield f"- rows of {options.seconds} s, {options.rounds} rounds; `{options.command}`"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results")
    for name in ("command", "dir", "cored", "etcd"):
        parser.add_argument("--" + name, required=True)
    for name in ("keys", "seconds", "rounds"):
        parser.add_argument("--" + name, type=int, required=True)
    options = parser.parse_args()
    found, keys = Measurements(options.results), f"{options.keys:,}"

    out = [f"# etcd and cored, {datetime.date.today()}", "", *facts(options), ""]
    out += ["Keys of 8 bytes, values of 256 bytes. Medians over the rounds; a ratio is cored's figure by etcd's in the same",
            "round, then the median. Absolute figures move with the machine, ratios less. CPU is the server's, an operation;",
            "\"foreign\" is everybody but server and tool, the kernel's own threads included.", ""]
    out += ["## Goals", ""]
    out += table(["", "etcd", "cored", "ratio", "goal", "met"], goals(found, keys))
    out += ["## All rows", ""]
    out += table(["load", "server", *(label for _, label in COLUMNS)], details(found, keys))
    out += ["## What reaches the disk", "",
            "From /proc/diskstats, so everybody's; the last column is the flushes a second while the server idled. With one",
            "client each acknowledgement is a group of its own and needs at least one flush (or a write with FUA, which",
            "the kernel counts as a write only).", ""]
    out += table(["load", "acknowledged", "flushes", "writes", "flushes each", "writes each", "MiB written", "idle flushes/s"],
                 syncs(found))
    out += ["## Killed under load (kill -9), started again", "", *survived(found), ""]
    troubles = [*found.troubles(), *checks(found), *counts(found, options.keys)]
    out += ["## Troubles", "", *(f"- {trouble}" for trouble in troubles or ["none"]), ""]
    print("\n".join(out), end="")


if __name__ == "__main__":
    main()
