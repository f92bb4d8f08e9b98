#!/usr/bin/env python3
"""The numbers of perf/compare.sh: runs one command beside one server and writes down what both used.

It knows three load tools by their output, /proc, and nothing of what is compared. Each measurement is one line of JSON
in a file that perf/report.py reads.

    measure.py payload KIND KEY [BYTES]     the body of a request, on standard output
    measure.py run OPTIONS -- COMMAND…      run, measure, append a line
    measure.py note OPTIONS NAME=NUMBER…    append a line of numbers found otherwise
    measure.py start OPTIONS -- COMMAND…    become a server, and tell when it answered its first read
"""

import argparse
import base64
import http.client
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


# ---- What a server used ------------------------------------------------------------------------


def process_seconds(pid):
    """User and system time of a process with all its threads, those of its io_uring workers included."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def machine_seconds():
    """Busy time of all processors; waiting and idling left out."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _wait, irq, softirq = map(int, file.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / TICKS_PER_S


def status_mib(pid):
    """Resident memory now and at its highest, and what of it is the process's own and what is mapped from files."""
    with open(f"/proc/{pid}/status") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    names = {"rss_mib": "VmRSS", "rss_peak_mib": "VmHWM", "anon_mib": "RssAnon", "file_mib": "RssFile"}
    return {ours: int(fields[name].split()[0]) / 1024 for ours, name in names.items()}


def disk_counts(directory):
    """Writes and flushes that the device below a directory has completed, by everybody; None if it has no counts."""
    device = os.stat(directory).st_dev
    with open("/proc/diskstats") as file:
        for line in file:
            fields = line.split()
            if (int(fields[0]), int(fields[1])) == (os.major(device), os.minor(device)):
                return {
                    "disk_writes": int(fields[7]),
                    "disk_mib": int(fields[9]) / 2048,
                    "disk_flushes": int(fields[18]) if len(fields) > 18 else 0,
                }
    return None


class Watch:
    """Readings of all clocks, taken twice."""

    def __init__(self, pid, directory):
        self.pid, self.directory = pid, directory
        self.before = self.read()

    def read(self):
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "wall_s": time.monotonic(),
            "server_s": process_seconds(self.pid) if self.pid else 0.0,
            "tool_s": children.ru_utime + children.ru_stime,
            "machine_s": machine_seconds(),
            **((self.directory and disk_counts(self.directory)) or {}),
        }

    def spent(self):
        after = self.read()
        spent = {name: after[name] - self.before[name] for name in after if name in self.before}
        known_s = spent["server_s"] + spent["tool_s"]
        spent["foreign_percent"] = 100 * max(0.0, spent["machine_s"] - known_s) / spent["wall_s"]
        if self.pid:
            spent |= status_mib(self.pid)
        return spent


# ---- What a load tool said ---------------------------------------------------------------------


def from_loadgen(text, kind, _log):
    """cored-loadgen --json -: its own window, warm-up left out."""
    result = json.loads(text)
    row = result["kinds"][kind or next(iter(result["kinds"]))]
    latency = row["response_ms"]
    failed = sum(each["failed"] for each in result["kinds"].values()) + result["unanswered"]
    found = {
        "ops": row["ok"],
        "ops_per_s": row["per_s"],
        "failed": failed,
        "keys": row["keys"],
        "p50_ms": latency["p50"],
        "p90_ms": latency["p90"],
        "p99_ms": latency["p99"],
        "p999_ms": latency["p999"],
        "max_ms": latency["max"],
        "unsent": result["unsent"],
    }
    if result["cpu"]:
        found["cpu_us"] = result["cpu"]["server_us_per_op"]
        found["tool_cpu_us"] = result["cpu"]["own_us_per_op"]
        found["foreign_percent"] = result["cpu"]["foreign_percent"]
    for part in ("verify", "watch"):
        for name, value in (result[part] or {}).items():
            if isinstance(value, (int, float)):
                found[f"{part}_{name}"] = value
    return found


def from_h2load(text, _kind, log):
    """h2load with --log-file: start, status and length of each request, in microseconds."""
    counts = re.search(r"requests: (\d+) total.*?(\d+) succeeded, (\d+) failed, (\d+) errored", text)
    codes = re.search(r"status codes: (\d+) 2xx", text)
    rate = re.search(r"finished in [^,]+, ([\d.]+) req/s", text)
    with open(log) as file:
        times_us = sorted(int(line.split()[2]) for line in file if line.split()[1] == "200")
    if not (counts and codes and rate and times_us):
        raise ValueError("h2load said something else than usual")
    quantile = lambda q: times_us[min(len(times_us) - 1, int(q * len(times_us)))] / 1000
    return {
        "ops": int(codes[1]),
        "ops_per_s": float(rate[1]),
        "failed": int(counts[3]) + int(counts[4]),
        "p50_ms": quantile(0.5),
        "p99_ms": quantile(0.99),
        "p999_ms": quantile(0.999),
    }


def from_benchmark(text, _kind, _log):
    """etcd's own tool; it says seconds."""
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    times = dict(re.findall(r"([\d.]+)% in ([\d.]+) secs", text))
    total = re.search(r"Total:\s+([\d.]+) secs", text)
    errors = re.search(r"Error distribution:\s*((?:\s*\[\d+\].*\n?)+)", text)
    if not (rate and total):
        raise ValueError("benchmark said something else than usual")
    return {
        "ops": round(float(rate[1]) * float(total[1])),
        "ops_per_s": float(rate[1]),
        "failed": sum(map(int, re.findall(r"\[(\d+)\]", errors[1]))) if errors else 0,
        **{name: float(times[q]) * 1000
           for name, q in (("p50_ms", "50"), ("p99_ms", "99"), ("p999_ms", "99.9")) if q in times},
    }


TOOLS = {"loadgen": from_loadgen, "h2load": from_h2load, "benchmark": from_benchmark}


def run(options, command):
    """Runs a load and appends a line, whatever happened: a row without numbers says why it has none."""
    line = {"row": options.row, "server": options.server, "round": options.round, "tool": options.tool}
    with tempfile.TemporaryDirectory() as directory:
        log = os.path.join(directory, "log")
        command = [log if word == "LOG" else word for word in command]
        try:
            watch = Watch(options.pid, options.dir)
        except FileNotFoundError:
            append(options.out, line | {"error": "the server is gone"})
            return 1
        # Not check=True: the exit code of a load is a finding.
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            line.update(watch.spent())
            if options.tool != "none":
                found = TOOLS[options.tool](done.stdout, options.kind, log)
                # What the tool measured in its own window is better than what we saw around it.
                line.update(found)
                line.setdefault("cpu_us", 1e6 * line["server_s"] / max(1, found["ops"]))
                line.setdefault("tool_cpu_us", 1e6 * line["tool_s"] / max(1, found["ops"]))
        except FileNotFoundError:
            line["error"] = "the server is gone"
        except (OSError, ValueError, KeyError) as error:
            line["error"] = str(error)
        if done.returncode != 0 and not (options.may_fail and done.returncode == 3):
            # The last line of a result in JSON says nothing.
            said = done.stderr.strip() or ("" if done.stdout.startswith("{") else done.stdout.strip())
            line.setdefault("error", ": ".join([f"exit code {done.returncode}", *said.splitlines()[-1:]]))
    append(options.out, line)
    return 0 if "error" not in line and not line.get("failed") else 1


def append(path, line, quiet=False):
    with open(path, "a") as file:
        file.write(json.dumps(line) + "\n")
    if quiet:
        return
    shown = ("ops_per_s", "p50_ms", "p99_ms", "p999_ms", "cpu_us", "rss_mib", "foreign_percent", "failed")
    numbers = "  ".join(f"{name} {line[name]:,.4g}" for name in shown if name in line)
    others = {name: value for name, value in line.items() if name == "error" or "tool" not in line}
    print(f"{line['row']:<22} {line['server']:<6} {numbers or others} {line.get('error', '')}", flush=True)


# ---- How fast a server starts ------------------------------------------------------------------


def start(options, command):
    """Becomes the server `command`. A grandchild that outlives this tells by the pipe when the server first answered."""
    if options.drop_caches:
        os.sync()
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("3")
    begun, server = time.monotonic(), os.getpid()
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            with open(options.tell, "w") as pipe:
                pipe.write(first_read(options.port, server, begun))
        os._exit(0)
    # Reaped here: the server has no child that it does not know.
    os.waitpid(child, 0)
    os.execvp(command[0], command)


def first_read(port, server, begun):
    """Asks for a key, linearizably, until there is an answer: the time since `begun`, and the memory of the server then."""
    request = json.dumps({"key": base64.b64encode(b"00000000").decode()})
    while os.path.exists(f"/proc/{server}"):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        try:
            connection.request("POST", "/v3/kv/range", request, {"content-type": "application/json"})
            if connection.getresponse().status == 200:
                elapsed_s, memory = time.monotonic() - begun, status_mib(server)
                return f"first_read_s={elapsed_s} rss_mib={memory['rss_mib']} anon_mib={memory['anon_mib']}\n"
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.001)
    return "first_read_s=nan\n"


# ---- What is sent ------------------------------------------------------------------------------


def field(number, content):
    """A length-delimited protobuf field."""
    length, varint = len(content), b""
    while length > 127:
        varint += bytes([length & 127 | 128])
        length >>= 7
    return bytes([number << 3 | 2]) + varint + bytes([length]) + content


def payload(kind, key, length):
    """A request body: KV.Put or KV.Range as gRPC sends it, or a put as JSON."""
    key, value = key.encode(), b"v" * length
    if kind == "json-put":
        encode = lambda data: base64.b64encode(data).decode()
        return json.dumps({"key": encode(key), "value": encode(value)}).encode()
    message = field(1, key) + (field(2, value) if kind == "put" else b"")
    return b"\0" + len(message).to_bytes(4, "big") + message


# ---- The command line --------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    payloads = parts.add_parser("payload")
    payloads.add_argument("kind", choices=["put", "range", "json-put"])
    payloads.add_argument("key")
    payloads.add_argument("bytes", type=int, nargs="?", default=0)
    for name in ("run", "note"):
        part = parts.add_parser(name)
        part.add_argument("--out", required=True)
        part.add_argument("--row", required=True)
        part.add_argument("--server", required=True)
        part.add_argument("--round", type=int, default=1)
        if name == "run":
            part.add_argument("--tool", choices=[*TOOLS, "none"], required=True)
            part.add_argument("--kind", help="which of cored-loadgen's kinds is the row")
            part.add_argument("--may-fail", action="store_true", help="failed requests are expected")
            part.add_argument("--pid", type=int)
            part.add_argument("--dir")
            part.add_argument("command", nargs=argparse.REMAINDER)
        else:
            part.add_argument("numbers", nargs="+")
    starts = parts.add_parser("start")
    starts.add_argument("--port", type=int, required=True)
    starts.add_argument("--tell", required=True, help="a named pipe that takes the result")
    starts.add_argument("--drop-caches", action="store_true", help="begin with nothing in the kernel's caches")
    starts.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.part == "payload":
        sys.stdout.buffer.write(payload(options.kind, options.key, options.bytes))
        return 0
    if options.part == "note":
        numbers = dict(pair.split("=", 1) for pair in options.numbers)
        line = {"row": options.row, "server": options.server, "round": options.round}
        append(options.out, line | {name: float(number) for name, number in numbers.items()})
        return 0
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if options.part == "start":
        return start(options, command)
    # As an exception it also ends the command.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return run(options, command)


if __name__ == "__main__":
    sys.exit(main())
