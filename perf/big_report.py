#!/usr/bin/env python3
"""Writes the report of perf/big.sh from its measurements: one section for each row that was run, with what is to be reached.

Like perf/report.py it computes nothing but medians and ratios.
"""

import argparse
import datetime
import statistics

from report import Measurements, facts, number, table

MIB = 2**20

# What is to be reached.
START_S = {1_000_000: 0.6, 10_000_000: 1.0}
START_RSS_MIB = 400e6 / MIB
DISK_RATIO = 1.25
CHECKPOINT_RATIO = 1.5
COMPACTION_RATIO = 1.10
# The last quarter of a soak may need this much more than the second; the first is there to warm up.
SOAK_RATIO = 1.1


def verdict(met):
    return "yes" if met else "**no**"


def spread(values):
    """The median, and in what range the values were."""
    if not values:
        return "–"
    if len(values) == 1:
        return number(values[0])
    return f"{number(statistics.median(values))} ({number(min(values))}–{number(max(values))})"


def values(found, row, name, server="cored"):
    return list(found.each(row, server, name).values())


def start(found):
    rows = []
    for (row, _), rounds in found.lines.items():
        name, _, how = row.rpartition("-")
        if not (name.startswith("start-") and how in ("clean", "killed")):
            continue
        keys = int(name.removeprefix("start-"))
        seconds, rss = values(found, row, "first_read_s"), values(found, row, "rss_mib")
        goal = START_S.get(keys)
        met = statistics.median(rss) <= START_RSS_MIB and (goal is None or statistics.median(seconds) <= goal)
        rows.append([f"{keys:,} keys, {'stopped' if how == 'clean' else 'kill -9'}",
                     spread(values(found, row, "log_mib")), spread(seconds), spread(rss),
                     spread(values(found, row, "anon_mib")), number(goal), verdict(met)])
    if not rows:
        return
    dropped = all(line.get("caches_dropped") for (row, _), rounds in found.lines.items()
                  if row.endswith(("-clean", "-killed")) for line in rounds.values())
    yield from [
        "## Start", "",
        "From the start of the process to the answer of its first linearizable read, and the memory then; the kernel's caches "
        f"{'were empty, the program itself was on disk' if dropped else '**were not dropped**'}. "
        f"RSS may be {number(START_RSS_MIB)} MiB (400 MB).", ""]
    yield from table(["", "log MiB", "first read s", "RSS MiB", "of it anonymous", "goal s", "met"], rows)


def disk(found):
    line = found.lines.get(("disk", "cored"), {}).get(1)
    if line is None:
        return
    logical = line["logical_mib"]
    yield from [
        "## Disk after compaction and defragmentation", "",
        f"After half of the keys were overwritten and a quarter deleted. {number(logical)} MiB of keys and values are left.", ""]
    yield from table(["", "MiB", "ratio", "goal", "met"], [
        ["image", number(line["image_mib"]), number(line["image_mib"] / logical), number(DISK_RATIO),
         verdict(line["image_mib"] / logical <= DISK_RATIO)],
        ["with the logs, which are reused", number(line["all_mib"]), number(line["all_mib"] / logical), "", ""]])


LATENCIES = [("p50_ms", "p50 ms"), ("p90_ms", "p90"), ("p99_ms", "p99"), ("p999_ms", "p99.9"), ("max_ms", "max")]


def windows(found, before, during, goal, servers=("etcd", "cored"), after=None):
    """Latencies of windows that alternate, and the ratio within each round: to the window before, or to the mean of the
    windows before and after, which a disk that gets slower meanwhile does not change."""
    rows = []
    for server in servers:
        if not found.lines.get((before, server)):
            continue
        labels = [(before, "without"), (during, "with")] + [(after, "without, after")] * (after is not None)
        for row, label in labels:
            rows.append([f"{server}, {label}", spread(values(found, row, "ops_per_s", server)),
                         *(spread(values(found, row, name, server)) for name, _ in LATENCIES), ""])
        ratios = []
        for name, _ in LATENCIES:
            without, with_ = found.each(before, server, name), found.each(during, server, name)
            if after is not None:
                behind = found.each(after, server, name)
                without = {r: (without[r] + behind[r]) / 2 for r in without.keys() & behind.keys()}
            ratios.append([with_[r] / without[r] for r in without.keys() & with_.keys() if without[r]])
        p99 = statistics.median(ratios[2]) if ratios[2] else None
        met = "" if server == "etcd" or p99 is None else verdict(p99 <= goal)
        rows.append([f"{server}, ratio", "", *map(spread, ratios), met])
    header = ["", "a second", *(label for _, label in LATENCIES), f"p99 ≤ {goal} ×"]
    yield from table(header, rows)


def checkpoint(found):
    builds = found.lines.get(("checkpoint-builds", "cored"))
    if not builds:
        return
    yield from [
        "## Puts while a checkpoint is built", "",
        f"The image takes {spread(values(found, 'checkpoint-builds', 'image_mib'))} MiB; a build took "
        f"{spread(values(found, 'checkpoint-builds', 'build_s'))} s, and in each window with one there was one all the time. "
        "Open loop, latency since due; medians over the windows and their range.", ""]
    yield from windows(found, "checkpoint-without", "checkpoint-during", CHECKPOINT_RATIO)


def compaction(found):
    if not found.lines.get(("compaction-before", "cored")):
        return
    took = [f"{server} {spread(values(found, 'compaction-took', 'compaction_s', server))} s"
            for server in ("etcd", "cored") if found.lines.get(("compaction-took", server))]
    yield from [
        "## Puts while history is compacted", "",
        f"Each window with one begins with the compaction of what was written since the last one and before the window. It took: {', '.join(took)}. "
        "Open loop, latency since due.", ""]
    yield from windows(found, "compaction-before", "compaction-during", COMPACTION_RATIO, after="compaction-after")


def memory(found):
    names = {"memory-get": "gets, 50 clients", "memory-put": "puts, 50 clients", "memory-mix": "both, 50 clients",
             "memory-within-fill": "filled within the limit", "memory-within-get": "gets then"}
    rows = []
    for row, label in names.items():
        line = found.lines.get((row, "cored"), {}).get(1)
        if line is not None:
            rows.append([label, number(line.get("ops_per_s")), number(line.get("p50_ms")), number(line.get("p99_ms")),
                         number(line.get("failed")), number(line.get("rss_mib")), line.get("error", "")])
    if not rows:
        return
    yield from ["## Little memory", ""]
    for row, label in (("memory-served", "filled without a limit, served within"), ("memory-filled", "filled within")):
        line = found.lines.get((row, "cored"), {}).get(1)
        if line is not None:
            yield (f"- {label}: {'alive' if line['alive'] else '**gone**'}, {line['oom_kills']:.0f} times killed for memory, "
                   f"{line['keys']:,.0f} keys; at most {line['peak_mib']:.0f} MiB of {line['limit_mib']:.0f}, page cache included")
    yield ""
    yield from table(["", "a second", "p50 ms", "p99", "failed", "RSS MiB", ""], rows)


def soak(found):
    samples = sorted(found.lines.get(("soak-sample", "cored"), {}).values(), key=lambda line: line["at_s"])
    if len(samples) < 8:
        return
    end_s = samples[-1]["at_s"]
    quarters = [[line for line in samples if min(3, int(4 * line["at_s"] / end_s)) == q] for q in range(4)]
    names = [("rss_mib", "RSS MiB"), ("anon_mib", "of it anonymous"), ("file_mib", "of it mapped files"),
             ("disk_mib", "disk MiB"), ("threads", "threads"), ("files", "open files")]
    rows = []
    for name, label in names:
        highest = [max(line[name] for line in quarter) for quarter in quarters]
        ranges = [f"{number(min(line[name] for line in quarter))}–{number(high)}"
                  for quarter, high in zip(quarters, highest)]
        rows.append([label, *ranges, number(highest[3] / highest[1]), verdict(highest[3] <= SOAK_RATIO * highest[1])])
    made = found.lines[("soak-made", "cored")].get(1, {})
    yield from [
        f"## Soak of {end_s / 60:.0f} minutes", "",
        f"{made.get('checkpoints', 0):.0f} checkpoints were made; revision {made.get('revision', 0):,.0f}, compacted up to "
        f"{made.get('compacted', 0):,.0f}. Lowest and highest of each quarter; flat means that the last quarter's highest is at most "
        f"{SOAK_RATIO} times the second's.", ""]
    yield from table(["", "first", "second", "third", "last quarter", "last by second", "flat"], rows)
    yield from soak_checks(found)
    yield ""


def soak_checks(found):
    line = lambda row: found.lines.get((row, "cored"), {}).get(1, {})
    mix, watch, leases, verify = (line("soak-" + name) for name in ("mix", "watch", "leases", "verify"))
    if "verify_keys" in mix:
        yield (f"- {mix['ops']:,} requests at {number(mix['ops_per_s'])} a second, p99 {number(mix['p99_ms'])} ms; of "
               f"{mix['verify_keys']:,} keys read back {mix['verify_lost']} lost, {mix['verify_wrong']} wrong, "
               f"{mix['verify_out_of_order']} acknowledgements out of order")
    if "watch_events" in watch:
        yield (f"- {watch['watch_watchers']} watchers were told {watch['watch_events']:,} events: "
               f"{watch['watch_missed']} missed, {watch['watch_out_of_order']} out of order")
    if leases:
        yield (f"- {leases['leases']:,} leases with a key each, {leases['revoked']:,} of them revoked: "
               f"{leases['keys_left']} keys were left")
    if verify:
        yield f"- `cored verify` ended with {verify['code']:.0f} on what the member left"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results")
    for name in ("command", "dir", "cored"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--etcd", default="")
    for name in ("seconds", "rounds"):
        parser.add_argument("--" + name, type=int, required=True)
    options = parser.parse_args()
    found = Measurements(options.results)
    out = [f"# cored: large stores and long runs, {datetime.date.today()}", "", *facts(options), "",
           "Keys of 8 bytes, values of 256 bytes. Where there is a range in brackets, the figure before it is the median.", ""]
    for section in (start, disk, checkpoint, compaction, memory, soak):
        out += section(found)
    foreign = [line["foreign_percent"] for rounds in found.lines.values() for line in rounds.values()
               if "foreign_percent" in line]
    if foreign:
        out += [f"Others used {spread(foreign)} % of a core while loads ran (those of the soak count each other).", ""]
    out += ["## Troubles", "", *(f"- {trouble}" for trouble in list(found.troubles()) or ["none"]), ""]
    print("\n".join(out), end="")


if __name__ == "__main__":
    main()
