"""`start.py` with a stand-in for the model: `python -m tests.support.program --implementation NAME`.

reciter answers at once, slow takes its time over a chunk, engine is the real engine around a fake model.
"""

import os
import sys
import threading
from collections.abc import Iterator

from ml.interfaces import RecognitionOptions
from ml.transcript import Completion

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # as start.py does, before anything loads grpc

from ml.audio.splitter import Chunk
from tests.support.fault_services import NumberingService

CHUNK_S = 1.5  # how long the slow one takes


class Slow(NumberingService):
    """Takes its time over each chunk, unless it is not wanted any more."""

    def recognise(
        self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        for completion in super().recognise(chunks, cancelled, options):
            if cancelled.wait(CHUNK_S):
                return
            yield completion


class Stuck(Slow):
    """Never ends of its own accord."""

    def recognise(
        self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        cancelled.wait()
        yield from super().recognise(chunks, cancelled, options)


def main(arguments: list[str]) -> int:
    """Serves until told to stop, as start.py does."""
    if "engine" in arguments:
        _put_the_fake_model_in()
    from api.grpc import transcription_server as server

    known = server.AVAILABLE_IMPLEMENTATIONS
    known.update(reciter=NumberingService, slow=Slow, stuck=Stuck, engine=known["borealis"])
    return server.main(arguments)


def _put_the_fake_model_in() -> None:
    from ml.borealis import load
    from ml.borealis.runner import make_engine
    from tests.support.scripted_model import ScriptedModel

    load.load_engine = lambda options: make_engine(ScriptedModel(), slots=4)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
