"""Measures a model on recordings with known texts: WER, CER, speed, the worst files, the worth of its confidence."""

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: python ml/evaluate.py
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import argparse
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import jiwer
from tqdm import tqdm

from ml import reliability
from ml.errors import SpeechError
from ml.interfaces import RecognitionOptions
from ml.manifest import ManifestError, Sample, normalise, read_manifest
from ml.transcribe import (
    DEFAULT_MODELS,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_UNREADABLE,
    add_model_flags,
    open_pipeline,
    protect_console,
    say,
)
from ml.transcript import Transcript

Transcribe = Callable[[Path], Transcript]


@dataclass(frozen=True)
class Score:
    """The errors in the transcript of one recording."""

    audio: str  # the file's path as in the manifest
    reference: str
    transcript: str
    errors: int  # words wrong, missing or too many
    words: int  # in the reference
    audio_duration_s: float
    failure: str = ""  # why there is no transcript; all words of the reference count as missing
    judged: tuple[reliability.JudgedWord, ...] = ()  # the words with a confidence, where word times were asked for


@dataclass(frozen=True)
class Report:
    """The results of all recordings together."""

    wer: float | None  # errors per reference word; None where no reference has words
    cer: float | None  # the same for characters
    audio_duration_s: float
    elapsed_s: float
    merge_yo: bool
    scores: tuple[Score, ...]

    @property
    def rtfx(self) -> float:
        """Seconds of audio per second of work."""
        return self.audio_duration_s / self.elapsed_s

    @property
    def failures(self) -> tuple[Score, ...]:
        """The recordings without a transcript."""
        return tuple(score for score in self.scores if score.failure)

    def worst(self, count: int) -> list[Score]:
        """The recordings with the most errors, without those that have none."""
        wrong = [score for score in self.scores if score.errors]
        return sorted(wrong, key=lambda score: (-score.errors, score.audio))[:count]


def evaluate(samples: Sequence[Sample], transcribe: Transcribe, *, merge_yo: bool = True, jobs: int = 1) -> Report:
    """Transcribe every sample, `jobs` at a time, and compare; a sample that fails has an empty transcript.

    `merge_yo` counts ё and е as one letter.
    """
    started_s = time.perf_counter()
    with ThreadPoolExecutor(jobs, thread_name_prefix="evaluate") as pool:
        futures = [pool.submit(_score, sample, transcribe, merge_yo) for sample in samples]
        try:
            bar = tqdm(futures, desc="Оценка", unit="файл", disable=None, file=sys.stderr)
            scores = tuple(future.result() for future in bar)
        except BaseException:  # Ctrl+C: do not start the rest
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    elapsed_s = time.perf_counter() - started_s
    references = [normalise(score.reference, merge_yo) for score in scores]
    transcripts = [normalise(score.transcript, merge_yo) for score in scores]
    spoken = any(references)
    return Report(
        wer=float(jiwer.wer(references, transcripts)) if spoken else None,
        cer=float(jiwer.cer(references, transcripts)) if spoken else None,
        audio_duration_s=sum(score.audio_duration_s for score in scores),
        elapsed_s=elapsed_s,
        merge_yo=merge_yo,
        scores=scores,
    )


def main(arguments: list[str] | None = None) -> int:
    """Evaluate a model; return 0, 1 (no model, or recordings that failed), 2 (bad manifest) or 130 (Ctrl+C)."""
    protect_console()
    flags = _parser().parse_args(arguments)
    try:
        samples = read_manifest(flags.manifest)
        with open_pipeline(flags.model, flags.device, flags.implementation, dtype=flags.dtype) as pipeline:

            def transcribe(path: Path) -> Transcript:
                with path.open("rb") as file:
                    return pipeline.transcribe(file, options=RecognitionOptions(word_times=flags.reliability))

            report = evaluate(samples, transcribe, merge_yo=not flags.keep_yo, jobs=flags.jobs)
        print(to_text(report, flags.worst))
        if flags.reliability:
            print(reliability.to_text([word for score in report.scores for word in score.judged]))
        if flags.json:
            model = flags.model or DEFAULT_MODELS[flags.implementation]
            flags.json.write_text(to_json(report, flags.manifest, model), encoding="utf-8")
    except KeyboardInterrupt:
        return say("⏹ Прервано", EXIT_INTERRUPTED)
    except SpeechError as error:
        return say(f"❌ {error}", EXIT_FAILED)
    except ManifestError as error:
        return say(f"❌ {error}", EXIT_UNREADABLE)
    except OSError as error:
        return say(f"❌ Не удалось открыть файл {error.filename}: {error.strerror}", EXIT_UNREADABLE)
    return EXIT_FAILED if report.failures else 0


def to_text(report: Report, worst: int) -> str:
    """The report as text."""
    lines = [
        f"Файлов: {len(report.scores)}, аудио: {report.audio_duration_s:.1f} сек",
        f"WER: {_percent(report.wer)}",
        f"CER: {_percent(report.cer)}",
        f"RTFx: {report.rtfx:.1f}x от реального времени ({report.elapsed_s:.1f} сек)",
        f"Тексты сравниваются в нижнем регистре, без пунктуации, ё {'=' if report.merge_yo else '≠'} е",
    ]
    lines += [f"❌ {score.audio}: {score.failure}" for score in report.failures]
    if listed := report.worst(worst):
        lines.append("Больше всего ошибок:")
    for score in listed:
        lines.append(f"  {score.audio}: ошибок {score.errors}, слов {score.words}")
        lines.append(f"    сказано:    {score.reference}")
        lines.append(f"    распознано: {score.transcript}")
    return "\n".join(lines)


def to_json(report: Report, manifest: Path, model: str) -> str:
    """The report as JSON."""
    figures = {"manifest": manifest.name, "model": model, "rtfx": report.rtfx, **asdict(report)}
    return json.dumps(figures, ensure_ascii=False, indent=2) + "\n"


def _score(sample: Sample, transcribe: Transcribe, merge_yo: bool) -> Score:
    try:
        transcript, failure = transcribe(sample.path), ""
    except (SpeechError, OSError) as error:
        transcript, failure = Transcript((), 0.0), str(error)
    reference, recognised = normalise(sample.text, merge_yo), normalise(transcript.text, merge_yo)
    compared = jiwer.process_words(reference, recognised)
    words = [word for segment in transcript.segments for word in segment.words]
    return Score(
        audio=sample.audio,
        reference=sample.text,
        transcript=transcript.text,
        errors=compared.substitutions + compared.deletions + compared.insertions,
        words=len(reference.split()),
        audio_duration_s=transcript.audio_duration_s,
        failure=failure,
        judged=reliability.judge(words, sample.text, merge_yo),
    )


def _percent(share: float | None) -> str:
    return "не определён: в манифесте нет ни одного слова" if share is None else f"{share:.2%}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ml/evaluate.py", description="Считает WER, CER и скорость модели")
    parser.add_argument("manifest", metavar="MANIFEST", type=Path, help="TSV (файл, текст) или JSONL (audio, text)")
    add_model_flags(parser)
    parser.add_argument("--json", metavar="OUT", type=Path, help="куда записать отчёт в JSON")
    parser.add_argument("--jobs", type=int, default=4, metavar="N", help="файлов сразу; по умолчанию %(default)s")
    parser.add_argument("--worst", type=int, default=5, metavar="N", help="сколько худших файлов показать")
    parser.add_argument("--reliability", action="store_true", help="показать долю верных слов по их уверенности")
    parser.add_argument("--keep-yo", action="store_true", help="считать ё и е разными буквами")
    return parser


if __name__ == "__main__":
    sys.exit(main())
