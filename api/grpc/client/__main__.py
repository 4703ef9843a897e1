"""Runs the command line: `python -m api.grpc.client FILE`."""

import sys

from api.grpc.client.cli import main

if __name__ == "__main__":
    sys.exit(main())
