"""A soak: thousands of short mixed requests, faults among them. `python -m tests.load --requests N --seconds S`."""

import argparse
import sys

from tests.load.report import problems_of, show
from tests.load.run import soak


def main() -> int:
    """Print the measurements; return 0 only if nothing was lost and nothing is left behind."""
    parser = argparse.ArgumentParser(prog="python -m tests.load", description="Many short requests, faults among them")
    parser.add_argument("--requests", type=int, default=10_000, help="how many (10000)")
    parser.add_argument("--seconds", type=float, default=1800, help="the longest it may take (1800)")
    parser.add_argument("--clients", type=int, default=8, help="threads that send them (8)")
    arguments = parser.parse_args()
    result = soak(arguments.requests, arguments.seconds, arguments.clients, print)
    show(result)
    problems = problems_of(result, arguments.requests)
    for problem in problems:
        print(f"FAILED: {problem}")
    print("FAILED" if problems else "PASSED")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
