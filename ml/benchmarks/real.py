"""Compares the service over Whisper with faster-whisper's own ways, on the same weights and real speech, in turns.

The first table lists what was measured, the second what is to be reached.

    python ml/benchmarks/festival.py resources/speech/sentences.txt FOLDER
    python -m ml.benchmarks.real FOLDER --model .cache/models/whisper-base --json real.json

Any folder with a manifest.tsv for ml/evaluate.py will do.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from faster_whisper import BatchedInferencePipeline, WhisperModel

from ml.audio.decoder import AudioDecoder
from ml.audio.ffmpeg import find_ffmpeg
from ml.benchmarks.festival import PAUSES_S, write_wav
from ml.benchmarks.goals import (
    AT_ONCE,
    BESIDE,
    FILE_BESIDE,
    IDLE,
    LONG,
    SENTENCES,
    Result,
    count_errors,
    goal_table,
    goals,
    lost_sentences,
    result_table,
)
from ml.interfaces import SAMPLE_RATE, Waveform
from ml.manifest import Sample, read_manifest
from ml.pipeline.pipeline import Pipeline
from ml.pipeline.recogniser import recognise_with
from ml.pipeline.repetition import first_repeat
from ml.whisper.load import WhisperOptions, load_engine
from ml.whisper.weights import DEFAULT_FOLDER

LANGUAGE = "ru"
LONG_S = 600.0
CLIPS = 32
BATCH = 8  # of BatchedInferencePipeline
ROUNDS = 3
Transcribe = Callable[[Path], str]


def main(arguments: list[str] | None = None) -> int:
    """Run the workloads, print a table and write the JSON file asked for."""
    flags = _parser().parse_args(arguments)
    samples = read_manifest(flags.folder / "manifest.tsv")
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder, _service(flags.model) as service:
        recordings = [
            _long_recording(samples, Path(folder) / f"long-{order}.wav", flags.long_s, order)
            for order in range(flags.rounds)
        ]
        library = WhisperModel(str(flags.model), device="cpu", compute_type="int8")
        ways = {"service": service, "transcribe": _plain(library), "batched": _batched(library)}
        results += _long_file(recordings, ways)
        del ways["batched"]
        results += _many_clips(samples[: flags.clips], ways, flags.rounds)
        results += _sentences([sample for _, spoken in recordings for sample in spoken], service)
        results += _beside(samples[0], recordings[0][0], service, flags.rounds)
    print(result_table(results), goal_table(goals(results)), sep="\n\n")
    if flags.json:
        rows = [asdict(result) | {"median_s": result.median_s} for result in results]
        reached = [asdict(goal) | {"is_reached": goal.is_reached} for goal in goals(results)]
        report = {"results": rows, "goals": reached}
        flags.json.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return 0


@contextmanager
def _service(model: Path) -> Iterator[Transcribe]:
    """The service's pipeline and engine, as start.py --implementation whisper runs them."""
    engine = load_engine(WhisperOptions(name=str(model), device="cpu", local_files_only=True))
    decoder = AudioDecoder(find_ffmpeg(None), max_duration_s=24 * 3600.0, timeout_s=3600.0)
    pipeline = Pipeline(decoder, engine.max_chunk_s, recognise_with(engine, window=64))

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


def _long_file(recordings: Sequence[tuple[Path, list[Sample]]], ways: dict[str, Transcribe]) -> list[Result]:
    """Long recordings and the samples spoken in each, one a round, each way in turn."""
    results = {name: Result(LONG, name, ()) for name in ways}
    for path, spoken in recordings:
        said = [sample.text for sample in spoken]
        for name, transcribe in ways.items():
            started_s = time.perf_counter()
            text = transcribe(path)
            elapsed_s, before = time.perf_counter() - started_s, results[name]
            errors, words = count_errors([" ".join(said)], [text])
            results[name] = replace(
                before,
                seconds=(*before.seconds, elapsed_s),
                errors=before.errors + errors,
                words=before.words + words,
                lost=before.lost + lost_sentences(said, text),
                loops=before.loops or first_repeat(text) is not None,
            )
    return list(results.values())


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
    return [
        Result(f"{len(samples)} {AT_ONCE}", name, tuple(seconds[name]), *count_errors(said, texts[name]))
        for name in ways
    ]


def _sentences(spoken: Sequence[Sample], transcribe: Transcribe) -> list[Result]:
    """The sentences of the long recording, each alone: what its error rate is compared with."""
    started_s = time.perf_counter()
    texts = {sample.path: transcribe(sample.path) for sample in dict.fromkeys(spoken)}
    elapsed_s = time.perf_counter() - started_s
    errors = count_errors([sample.text for sample in spoken], [texts[sample.path] for sample in spoken])
    return [Result(SENTENCES, "service", (elapsed_s,), *errors)]


def _beside(clip: Sample, long: Path, transcribe: Transcribe, rounds: int) -> list[Result]:
    """A clip on an idle service, and clips one after the other until the long recording is transcribed."""
    idle = [_timed(transcribe, clip.path) for _ in range(rounds + 2)]
    beside: list[float] = []
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(_timed, transcribe, long)
        time.sleep(2.0)  # the recording's first chunks are in the engine
        while not running.done():
            beside.append(_timed(transcribe, clip.path))
    return [
        Result(IDLE, "service", tuple(idle)),
        Result(BESIDE, "service", tuple(beside)),
        Result(FILE_BESIDE, "service", (running.result(),)),
    ]


def _timed(transcribe: Transcribe, path: Path) -> float:
    started_s = time.perf_counter()
    transcribe(path)
    return time.perf_counter() - started_s


def _long_recording(samples: Sequence[Sample], path: Path, duration_s: float, order: int) -> tuple[Path, list[Sample]]:
    """Write sentences in a random order with pauses of PAUSES_S until `duration_s`.

    Returns the file and its sentences. Which words are wrong depends on the sentences around them: another `order` is
    another sample of the error rate.
    """
    draw = random.Random(order)
    parts: list[Waveform] = []
    spoken: list[Sample] = []
    while sum(map(len, parts)) < duration_s * SAMPLE_RATE:
        for sample in draw.sample(list(samples), len(samples)):
            parts += [_read(sample.path), np.zeros(int(draw.uniform(*PAUSES_S) * SAMPLE_RATE), np.float32)]
            spoken.append(sample)
            if sum(map(len, parts)) >= duration_s * SAMPLE_RATE:
                break
    write_wav(path, np.concatenate(parts))
    return path, spoken


def _read(path: Path) -> Waveform:
    with AudioDecoder(find_ffmpeg(None), 3600.0, 60.0).open(path.open("rb")) as decoding:
        return np.concatenate(list(decoding))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ml.benchmarks.real", description="Сравнивает с faster-whisper")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="набор с manifest.tsv")
    parser.add_argument("--model", type=Path, default=DEFAULT_FOLDER, metavar="M", help="папка весов в CTranslate2")
    parser.add_argument("--long-s", type=float, default=LONG_S, metavar="S", help="длина длинной записи, секунд")
    parser.add_argument("--clips", type=int, default=CLIPS, metavar="N", help="коротких записей сразу")
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, metavar="N", help="кругов, каждый со своим порядком предложений"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="куда записать числа")
    return parser


if __name__ == "__main__":
    sys.exit(main())
