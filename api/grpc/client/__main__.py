"""`python -m api.grpc.client FILE`; see cli.py."""

import sys

from api.grpc.client.cli import main

if __name__ == "__main__":
    sys.exit(main())
