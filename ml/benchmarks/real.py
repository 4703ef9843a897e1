"""Compares the service over Whisper with faster-whisper's own ways, on the same weights and real speech, in turns.

    python ml/benchmarks/festival.py resources/speech/sentences.txt FOLDER
    python -m ml.benchmarks.real FOLDER --model .cache/models/whisper-base --json real.json

Any folder with a manifest.tsv for ml/evaluate.py will do.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
import wave
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import jiwer
import numpy as np
from faster_whisper import BatchedInferencePipeline, WhisperModel

from ml.audio.decoder import AudioDecoder
from ml.audio.ffmpeg import find_ffmpeg
from ml.interfaces import SAMPLE_RATE, Waveform
from ml.manifest import Sample, normalise, read_manifest
from ml.pipeline.pipeline import Pipeline
from ml.pipeline.recogniser import recognise_with
from ml.whisper.load import WhisperOptions, load_engine
from ml.whisper.weights import DEFAULT_FOLDER

LANGUAGE = "ru"
PAUSES_S = (0.1, 1.0)
LONG_S = 600.0
CLIPS = 32
BATCH = 8  # of BatchedInferencePipeline
ROUNDS = 3
Transcribe = Callable[[Path], str]


@dataclass(frozen=True)
class Result:
    """Seconds of each round, and word errors of the last, of one way to do one workload."""

    workload: str
    way: str
    seconds: tuple[float, ...]
    errors: int
    words: int

    @property
    def median_s(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.seconds)


def main(arguments: list[str] | None = None) -> int:
    """Run the workloads, print a table and write the JSON file asked for."""
    flags = _parser().parse_args(arguments)
    samples = read_manifest(flags.folder / "manifest.tsv")
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder, _service(flags.model) as service:
        long, text = _long_recording(samples, Path(folder) / "long.wav", flags.long_s)
        library = WhisperModel(str(flags.model), device="cpu", compute_type="int8")
        ways = {"service": service, "transcribe": _plain(library), "batched": _batched(library)}
        results += _long_file(long, text, ways, flags.rounds)
        results += _many_clips(
            samples[: flags.clips], {"service": service, "transcribe": ways["transcribe"]}, flags.rounds
        )
        results += _sentences(samples, service)
        results += _beside(samples[0], long, service, flags.rounds)
    print(_table(results))
    if flags.json:
        rows = [asdict(result) | {"median_s": result.median_s} for result in results]
        flags.json.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return 0


@contextmanager
def _service(model: Path) -> Iterator[Transcribe]:
    """The service's pipeline and engine, as start.py --implementation whisper runs them."""
    engine = load_engine(WhisperOptions(name=str(model), device="cpu", local_files_only=True))
    decoder = AudioDecoder(find_ffmpeg(None), max_duration_s=24 * 3600.0, timeout_s=3600.0)
    pipeline = Pipeline(decoder, 30.0, recognise_with(engine, window=64))

    def transcribe(path: Path) -> str:
        with path.open("rb") as file:
            return pipeline.transcribe(file).text

    try:
        yield transcribe
    finally:
        engine.close()


def _plain(model: WhisperModel) -> Transcribe:
    def transcribe(path: Path) -> str:
        segments, _ = model.transcribe(str(path), language=LANGUAGE, beam_size=1)
        return " ".join(segment.text.strip() for segment in segments)

    return transcribe


def _batched(model: WhisperModel) -> Transcribe:
    pipeline = BatchedInferencePipeline(model)

    def transcribe(path: Path) -> str:
        segments, _ = pipeline.transcribe(str(path), language=LANGUAGE, beam_size=1, batch_size=BATCH)
        return " ".join(segment.text.strip() for segment in segments)

    return transcribe


def _long_file(path: Path, text: str, ways: dict[str, Transcribe], rounds: int) -> list[Result]:
    """One long recording, each way in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    texts: dict[str, str] = {}
    for _ in range(rounds):
        for name, transcribe in ways.items():
            started_s = time.perf_counter()
            texts[name] = transcribe(path)
            seconds[name].append(time.perf_counter() - started_s)
    return [Result("long recording", name, tuple(seconds[name]), *_errors([text], [texts[name]])) for name in ways]


def _many_clips(samples: Sequence[Sample], ways: dict[str, Transcribe], rounds: int) -> list[Result]:
    """All clips at once: the service takes them together, the library one after the other."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    texts: dict[str, list[str]] = {}
    for _ in range(rounds):
        for name, transcribe in ways.items():
            started_s = time.perf_counter()
            with ThreadPoolExecutor(len(samples) if name == "service" else 1) as pool:
                texts[name] = list(pool.map(transcribe, [sample.path for sample in samples]))
            seconds[name].append(time.perf_counter() - started_s)
    said = [sample.text for sample in samples]
    return [Result(f"{len(samples)} clips", name, tuple(seconds[name]), *_errors(said, texts[name])) for name in ways]


def _sentences(samples: Sequence[Sample], transcribe: Transcribe) -> list[Result]:
    """Every sentence alone, for the error rate that the long recording is compared with."""
    started_s = time.perf_counter()
    texts = [transcribe(sample.path) for sample in samples]
    elapsed_s = time.perf_counter() - started_s
    errors = _errors([sample.text for sample in samples], texts)
    return [Result(f"{len(samples)} sentences, one by one", "service", (elapsed_s,), *errors)]


def _beside(clip: Sample, long: Path, transcribe: Transcribe, rounds: int) -> list[Result]:
    """A clip on an idle service, and while the long recording is being transcribed."""
    idle = [_timed(transcribe, clip.path) for _ in range(rounds + 2)]
    beside: list[float] = []
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(transcribe, long)
        time.sleep(2.0)  # the recording's first chunks are in the engine
        while not running.done() and len(beside) < 5 * rounds:
            beside.append(_timed(transcribe, clip.path))
    return [
        Result("a clip, idle", "service", tuple(idle), 0, 0),
        Result("a clip during the long recording", "service", tuple(beside), 0, 0),
    ]


def _timed(transcribe: Transcribe, path: Path) -> float:
    started_s = time.perf_counter()
    transcribe(path)
    return time.perf_counter() - started_s


def _long_recording(samples: Sequence[Sample], path: Path, duration_s: float) -> tuple[Path, str]:
    """Write sentences in random order with pauses of PAUSES_S until `duration_s`; return the file and its text."""
    draw = random.Random(0)
    parts: list[Waveform] = []
    texts: list[str] = []
    while sum(map(len, parts)) < duration_s * SAMPLE_RATE:
        for sample in draw.sample(list(samples), len(samples)):
            parts += [_read(sample.path), np.zeros(int(draw.uniform(*PAUSES_S) * SAMPLE_RATE), np.float32)]
            texts.append(sample.text)
            if sum(map(len, parts)) >= duration_s * SAMPLE_RATE:
                break
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes((np.concatenate(parts) * 32767).astype("<i2").tobytes())
    return path, " ".join(texts)


def _read(path: Path) -> Waveform:
    with AudioDecoder(find_ffmpeg(None), 3600.0, 60.0).open(path.open("rb")) as decoding:
        return np.concatenate(list(decoding))


def _errors(said: Sequence[str], recognised: Sequence[str]) -> tuple[int, int]:
    """Wrong, missing and additional words, and the words said."""
    found = jiwer.process_words([normalise(text) for text in said], [normalise(text) for text in recognised])
    return found.substitutions + found.deletions + found.insertions, sum(len(normalise(text).split()) for text in said)


def _table(results: Sequence[Result]) -> str:
    lines = ["workload                          way         median, s   rounds                    WER"]
    for result in results:
        rounds = " ".join(f"{seconds:.2f}" for seconds in result.seconds[:6])
        wer = f"{result.errors / result.words:7.1%}" if result.words else ""
        lines.append(f"{result.workload:33} {result.way:10} {result.median_s:10.2f}   {rounds:24} {wer}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ml.benchmarks.real", description="Сравнивает с faster-whisper")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="набор с manifest.tsv")
    parser.add_argument("--model", type=Path, default=DEFAULT_FOLDER, metavar="M", help="папка весов в CTranslate2")
    parser.add_argument("--long-s", type=float, default=LONG_S, metavar="S", help="длина длинной записи, секунд")
    parser.add_argument("--clips", type=int, default=CLIPS, metavar="N", help="коротких записей сразу")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help="кругов")
    parser.add_argument("--json", type=Path, metavar="FILE", help="куда записать числа")
    return parser


if __name__ == "__main__":
    sys.exit(main())
