"""Provoke faults of a running server and count what they cost.

    python -m loadtests.faults --package PACKAGE --image IMAGE [--rounds 3] [SCENARIO ...]

Each scenario starts a server of its own on a free port of the loopback address, in a temporary workspace. It prints one
line per round; the exit code is 1 when a scenario failed.
"""

import argparse
import sys
import time
import traceback
from pathlib import Path

from loadtests.faults.scenarios import SCENARIOS


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"default: all of {', '.join(SCENARIOS)}")
    parser.add_argument("--package", type=Path, required=True, help="folder of a model package (mlflow-model)")
    parser.add_argument("--image", type=Path, required=True, help="image to score")
    parser.add_argument("--rounds", type=int, default=1, help="how often each scenario runs")
    parsed = parser.parse_args()
    for name in parsed.scenarios:
        if name not in SCENARIOS:
            parser.error(f"SCENARIO must be one of {', '.join(SCENARIOS)}, but got {name!r}")
    has_failed = False
    for name in parsed.scenarios or SCENARIOS:
        for number in range(1, parsed.rounds + 1):
            began = time.monotonic()
            try:
                facts = SCENARIOS[name](parsed.package, parsed.image)
                line = ", ".join(f"{key}: {value}" for key, value in facts.items())
            except Exception:
                has_failed = True
                line = f"FAILED\n{traceback.format_exc()}"
            print(f"{name} {number}/{parsed.rounds} ({time.monotonic() - began:.0f} s): {line}", flush=True)
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main())
