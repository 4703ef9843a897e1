"""`start.py` with a stand-in for the model: `python -m tests.support.program --implementation NAME`.

numbering answers at once, stuck never answers, engine is the real engine around a fake model.
"""

import os
import sys
import threading
from collections.abc import Iterator

from ml.interfaces import RecognitionOptions
from ml.transcript import Completion

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # as start.py does, before grpc is imported

from ml.audio.splitter import Chunk
from tests.support.fault_services import NumberingService

STUCK = "a call is stuck"


class Stuck(NumberingService):
    """Prints STUCK for each call and never answers it, unless it is cancelled."""

    def recognise(
        self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        print(STUCK, file=sys.stderr, flush=True)
        cancelled.wait()
        yield from super().recognise(chunks, cancelled, options)


def main(arguments: list[str]) -> int:
    """Serve until a signal, as start.py does."""
    if "engine" in arguments:
        _install_fake_model()
    from api.grpc import transcription_server as server

    known = server.AVAILABLE_IMPLEMENTATIONS
    known.update(numbering=NumberingService, stuck=Stuck, engine=known["borealis"])
    return server.main(arguments)


def _install_fake_model() -> None:
    from ml.borealis import load
    from ml.borealis.runner import make_engine
    from tests.support.scripted_model import ScriptedModel

    load.load_engine = lambda options: make_engine(ScriptedModel(), slots=4)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
