#!/usr/bin/env python3
"""Whether a run lost, doubled, made up or mixed up anything, judged from a dump of its inputs and outputs alone.

It shares no code with the program under test and needs Python's standard library only. dump.py says what a dump holds,
expected.py what must come of it, outputs.py what is compared, controls.py how the checker itself is proven.

    check.py DIRECTORY               the report; exit code 1 if there is a fault
    check.py --controls DIRECTORY    plants one fault after the other into this good dump; exit code 1 if one is not flagged
"""

import argparse
import sys
from collections import Counter

import controls
import dump
import expected
import outputs

LISTED_MAX = 5
IDENTITIES = {
    "I1": "what was acknowledged is in Kafka", "I2": "nothing is lost or altered", "I3": "nothing is doubled",
    "I4": "no key goes back", "I5": "nothing comes of nothing", "I6": "nothing crosses a company",
    "I7": "no checkpoint is ahead of what was put out",
}


class Report:
    """Faults by identity and name, and how much was looked at."""

    def __init__(self):
        self.faults, self.checks, self.counts = {}, [], Counter()

    def fault(self, identity, name, what):
        self.faults.setdefault((identity, name), []).append(what)

    def checked(self, identity, what, count):
        self.checks.append((identity, what, count))

    def counted(self, what, count):
        self.counts[what] += count

    def names(self):
        return {name for _, name in self.faults}

    def text(self):
        lines = [f"{identity} {what}: {count}" for identity, what, count in sorted(self.checks)]
        lines += ["", "counted, no faults:"] + [f"   {what}: {count}" for what, count in self.counts.items()] + [""]
        for identity, promise in IDENTITIES.items():
            broken = {name: found for (of, name), found in self.faults.items() if of == identity}
            lines.append(f"{identity} {promise}: {'BROKEN' if broken else 'holds'}")
            for name, found in broken.items():
                lines.append(f"   {name}: {len(found)}")
                lines += [f"      {what}" for what in found[:LISTED_MAX]]
        return "\n".join(lines)


def judge(of, window_ms, references_ms):
    report = Report()
    model = expected.Expected(of, window_ms, references_ms)
    report.counted("repeated messages left out", model.repeated)
    outputs.Outputs(of, model, report).everything()
    return report


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("directory")
    arguments.add_argument("--controls", action="store_true", help="plant faults into a good dump")
    arguments.add_argument("--seed", type=int, default=1, help="of the planted faults")
    arguments.add_argument("--window-ms", type=int, default=250, help="by which a message's tick may lie off its append time")
    arguments.add_argument("--references-ms", type=int, default=2_000, help="the same of a reference record")
    given = arguments.parse_args()
    of = dump.Dump(given.directory)
    if given.controls:
        sys.exit(controls.run(of, given.seed, lambda changed: judge(changed, given.window_ms, given.references_ms)))
    report = judge(of, given.window_ms, given.references_ms)
    print(report.text())
    sys.exit(1 if report.faults else 0)


if __name__ == "__main__":
    main()
