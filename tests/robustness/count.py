"""Count what bad input is answered with: ``python -m tests.robustness.count [--seed N] [--count N] [KIND ...]``."""

from __future__ import annotations

import argparse
import os
import sys

from tests.robustness.doors import timed
from tests.robustness.kinds import KINDS


def main() -> int:
    """Print a line per kind, then every fault; 1 if there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", choices=[[], *KINDS], metavar="KIND", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--seed", type=int, default=0, help="decides where files are cut and flipped (default 0)")
    parser.add_argument("--count", type=int, default=100, help="cuts, and flips, of each good file (default 100)")
    parser.add_argument("--accepted", action="store_true", help="also name what was accepted")
    options = parser.parse_args()
    # Decoders of images write what they find straight to the terminal, past Python.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    faults = []
    write = sys.stdout.write
    write(f"{'kind':26}{'mutations':>10}{'accepted':>10}{'refused':>10}{'faults':>8}{'seconds':>9}\n")
    for kind in options.kinds or KINDS:
        result, seconds = timed(KINDS[kind].cases(options.seed, options.count))
        numbers = (result.answers[answer] for answer in ("accepted", "refused", "fault"))
        counts = "{:10}{:10}{:8}".format(*numbers)
        write(f"{kind:26}{result.total:10}{counts}{seconds:9.1f}\n")
        sys.stdout.flush()
        faults += [f"{kind}: {fault}" for fault in result.faults]
        if options.accepted:
            write("".join(f"  accepted: {name}\n" for name in result.accepted))
    write("".join(f"FAULT {fault}\n" for fault in faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
