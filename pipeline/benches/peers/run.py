#!/usr/bin/env python3
"""The same queries on the same topics by haulstream, a hand-written Rust program and other engines, one at a time.

    run.py FOLDER [--work DIR] [--peers rust,kstreams,flink,...] [--queries q1:none,q2:none,q2:kafka,...] [--runs N]
    run.py FOLDER --latency [--peers rust,kstreams,flink-preload] [--rate 20000] [--seconds 40] [--runs N]

FOLDER holds the comparison: its WORKLOAD.md says what the topics hold and which totals are right, its bench.py and lat.py
measure one engine, its run.sh builds the engines and starts the broker.  It is copied to DIR and given one more engine: ours.
Prints events per CPU-second and per second of each, ours as a share of the hand-written program, and whether totals are right.
"""
import argparse, json, os, pathlib, re, shutil, statistics, subprocess, sys, time

BROKER = "127.0.0.1:19092"
HERE = pathlib.Path(__file__).resolve().parent
OURS = "    if peer == 'haulstream': return [os.environ['HAULSTREAM_PEER'], 'run', B, q, str(par), sink, out]\n"
OURS_LIVE = (
    "    elif peer == 'haulstream': c = [os.environ['HAULSTREAM_PEER'], 'run', B, 'q2', par, 'kafka', out, 'live']; w = 5\n"
)
EXPECTED = {
    "q2": "sum_ts=1199988680708 sum_seq=81994832",
    "q3": "keys=100000 sum_ts=59249191890 sum_seq=3996000",
    "q4": "rows=10000 sum_cnt=4000000 sum_speed=260196253",
    "q5": r"distinct=(2000|102000)\b",
}


def say(text):
    print(text, flush=True)


def our_program():
    """Builds it; its path."""
    command = ["cargo", "build", "--release", "--workspace", "--bench", "peers", "--message-format=json"]
    built = subprocess.run(command, cwd=HERE, check=True, stdout=subprocess.PIPE, text=True).stdout
    messages = [json.loads(line) for line in built.splitlines() if '"executable":"' in line]
    return next(message["executable"] for message in messages if message["target"]["name"] == "peers")


def copied(folder, work):
    """The comparison in a place of its own, with ours among the engines."""
    for name in ("peers", "services"):
        source = folder if name == "peers" else folder.parent / "services"
        shutil.copytree(source, work / name, dirs_exist_ok=True, symlinks=True)
    peers = work / "peers"
    bench, live = peers / "bench.py", peers / "lat.py"
    text = bench.read_text()
    bench.write_text(text.replace("    if peer == 'rust': return", OURS + "    if peer == 'rust': return", 1))
    text = live.read_text()
    live.write_text(text.replace("    elif peer == 'direct':", OURS_LIVE + "    elif peer == 'direct':", 1))
    for name in ("logs", "results", "tmp"):
        (peers / name).mkdir(exist_ok=True)
    # What Flink asks of Java 17, as its own start script gives it.
    opens = ("lang", "net", "io", "nio", "lang.reflect", "text", "time", "util")
    opens += ("util.concurrent", "util.concurrent.atomic", "util.concurrent.locks")
    options = peers / "flink" / "jvmopts"
    if not options.exists():
        options.write_text(" ".join(f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in opens))
    return peers


def right(row):
    if row["sink"] != "kafka" or "check" not in row:
        return ""
    return "right" if re.search(EXPECTED[row["q"]], row["check"]) else "WRONG: " + row["check"]


def measure(peers, peer, query, sink, runs, environment):
    say(f"# {peer} {query} {sink}")
    # Flink's faster form, in which references are preloaded.
    variant = {"VARIANT": "preload"} if (peer, query) == ("flink", "q2") else {}
    command = [sys.executable, "bench.py", peer, query, sink, "2", str(runs)]
    done = subprocess.run(command, cwd=peers, env={**environment, **variant}, stdout=subprocess.PIPE, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    rows = [row for row in rows if not row.get("failed")]
    if not rows:
        say(done.stdout)
        return None
    for row in rows:
        say(f"  {row['ev_per_cpu']:>9} /CPU-s {row['rate']:>9} /s  {row['rss']:>5} MiB  {right(row)}")
    return {
        "cpu": statistics.median(row["ev_per_cpu"] for row in rows),
        "rate": statistics.median(row["rate"] for row in rows),
        "rss": max(row["rss"] for row in rows),
        "check": next((right(row) for row in rows if right(row)), ""),
    }


def table(results, queries):
    for query in queries:
        base = results.get(("rust", query))
        say(f"\n{query}")
        for (peer, one), row in results.items():
            if one != query or row is None:
                continue
            share = f"{100 * row['cpu'] / base['cpu']:5.0f} % of hand-written" if base else ""
            say(f"  {peer:<12}{row['cpu']:>10.0f} /CPU-s{row['rate']:>10.0f} /s{row['rss']:>6.0f} MiB  {share}  {row['check']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    default = pathlib.Path(os.environ.get("HAULSTREAM_CACHE", pathlib.Path.home() / ".cache/haulstream")) / "peers"
    parser.add_argument("--work", type=pathlib.Path, default=default)
    parser.add_argument("--peers", default="rust")
    parser.add_argument("--queries", default="q1:none,q2:none,q2:kafka,q3:kafka,q4:kafka,q5:kafka")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("--rate", default="20000")
    parser.add_argument("--seconds", default="40")
    parser.add_argument("--no-setup", action="store_true", help="engines are built and the broker runs")
    given = parser.parse_args()
    program = our_program()
    peers = copied(given.folder.resolve(), given.work)
    environment = {**os.environ, "HAULSTREAM_PEER": program}
    if not given.no_setup:
        subprocess.run(["bash", "run.sh", "setup"], cwd=peers, check=True)
    subprocess.run([program, "prepare", BROKER], check=True)
    names = ["haulstream", *(name for name in given.peers.split(",") if name)]
    if given.latency:
        for name in names:
            # Messages of the run before would have to be caught up with.
            subprocess.run([peers / "rust/target/release/fleetgen", "del", BROKER, "telemetry.live"], check=True)
            time.sleep(2)
            command = [sys.executable, "lat.py", name, "2", given.rate, given.seconds, str(given.runs)]
            subprocess.run(command, cwd=peers, env=environment, check=True)
        return
    queries, results = given.queries.split(","), {}
    for query in queries:
        for name in names:
            results[name, query] = measure(peers, name, *query.split(":"), given.runs, environment)
    table(results, queries)


main()
