"""What is left to do after the last byte: a recording streamed faster than it was spoken, against the unary call."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

from ml.benchmarks.calls import caller, served
from ml.benchmarks.figures import Line, Run, to_line
from ml.benchmarks.floor import Cost
from ml.benchmarks.load import Answers
from ml.benchmarks.machine import Meter
from ml.borealis.model import BorealisModel
from ml.interfaces import SAMPLE_RATE

SPEED = 20  # times real time
BYTES_PER_S = SPEED * SAMPLE_RATE * 2  # of 16-bit samples


def measure_stream(
    model: BorealisModel, checkpoint: Path, slots: int, path: Path, repeats: int, on_answer: Callable[[], None]
) -> list[Line]:
    """Sends the 16 kHz WAV file `path` to one server, in turn as a unary call and in a stream at SPEED.

    The unary line's latencies are the server's processing times, from the last byte on; the stream's are what the
    client waits after its last byte has left. `checkpoint` is the folder `model` is of.
    Raises RuntimeError if the server does not start.
    """
    meter = Meter(model.device)
    unary, streamed = Answers(), Answers()
    elapsed_s: dict[str, list[float]] = {"unary": [], "stream": []}
    uploads_s = []
    with (
        served(checkpoint, model, slots) as address,
        caller(address) as call,
        caller(address, "--bytes-per-s", str(BYTES_PER_S)) as stream,
    ):
        for _ in range(repeats):
            found = call(path)
            unary.latencies_s.append(found["processing_s"])
            elapsed_s["unary"].append(found["latency_s"])
            on_answer()
            found = stream(path)
            streamed.latencies_s.append(found["latency_s"])
            uploads_s.append(found["upload_s"])
            elapsed_s["stream"].append(found["upload_s"] + found["latency_s"])
            on_answer()
    usage = meter.read()
    lines = []
    for name, own in (("unary", unary), ("stream", streamed)):
        own.waited_s, own.audio_s = [0.0], found["audio_s"]
        run = Run(own, replace(usage, elapsed_s=median(elapsed_s[name])), {}, Cost(), Cost())
        lines.append(to_line(f"{found['audio_s']:g} s at {SPEED} times real time", name, 1, 1, [run]))
    tail_share = lines[1].p50_s / lines[0].p50_s
    return [lines[0], replace(lines[1], upload_s=median(uploads_s), tail_share=tail_share)]
