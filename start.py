"""Entry point: starts the transcription server. See `python start.py --help`."""

import sys

from api.grpc.transcription_server import main

if __name__ == "__main__":
    sys.exit(main())
