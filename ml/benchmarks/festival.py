"""Speaks Russian sentences with festival: a set for ml/evaluate.py, or one recording with pauses.

    python ml/benchmarks/festival.py resources/speech/sentences.txt FOLDER
    python ml/benchmarks/festival.py resources/speech/free_text.txt --recording resources/speech/free_text.mp3

Needs `apt-get install festival festvox-ru`.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import argparse
import json
import re
import subprocess
import wave
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from ml.audio.ffmpeg import find_ffmpeg
from ml.interfaces import SAMPLE_RATE, Waveform
from ml.tiny_model.speech import Span, Speech, festival_speech

PAUSES_S = (0.1, 1.0)  # shortest and longest between sentences, drawn evenly
BIT_RATE = "48k"


def main(arguments: list[str] | None = None) -> int:
    """Write what is asked for; return 0, or 1 where festival is missing or fails."""
    parser = argparse.ArgumentParser(prog="ml/benchmarks/festival.py", description="Озвучивает русский текст")
    parser.add_argument("texts", metavar="TEXT", type=Path, help="предложения, по строкам или подряд")
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, nargs="?", help="куда записать набор: WAV и manifest.tsv"
    )
    parser.add_argument("--recording", metavar="FILE", type=Path, help="записать всё в один файл, с паузами")
    flags = parser.parse_args(arguments)
    texts = sentences(flags.texts.read_text(encoding="utf-8"))
    try:
        speeches = festival_speech(texts)
    except (OSError, subprocess.CalledProcessError):
        print("❌ festival не работает: apt-get install festival festvox-ru", file=sys.stderr)
        return 1
    if flags.folder:
        write_set(flags.folder, texts, speeches)
    if flags.recording:
        whole = join(speeches)
        write_recording(flags.recording, whole.waveform)
        write_words(flags.recording.with_suffix(".json"), whole.words)
    return 0


def sentences(text: str) -> list[str]:
    """The sentences of `text`, one by one."""
    return [sentence.strip() for sentence in re.split(r"(?<=[.!?])\s+", text) if sentence.strip()]


def write_set(folder: Path, texts: Sequence[str], speeches: Sequence[Speech]) -> None:
    """Write each sentence as WAV, its words as JSON, and manifest.tsv with the texts."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:03d}.wav" for number in range(1, len(texts) + 1)]
    for name, speech in zip(names, speeches, strict=True):
        write_wav(folder / name, speech.waveform)
    rows = [f"{name}\t{text}" for name, text in zip(names, texts, strict=True)]
    (folder / "manifest.tsv").write_text("\n".join(["audio\ttext", *rows]) + "\n", encoding="utf-8")
    for name, speech in zip(names, speeches, strict=True):
        write_words((folder / name).with_suffix(".json"), speech.words)


def write_words(path: Path, words: Sequence[Span]) -> None:
    """Write words and the times that festival gives, one word a line."""
    rows = ",\n".join(json.dumps(asdict(word), ensure_ascii=False) for word in words)
    path.write_text(f"[\n{rows}\n]\n", encoding="utf-8")


def join(speeches: Sequence[Speech], seed: int = 0) -> Speech:
    """Speeches one after another, with pauses of PAUSES_S between them."""
    random = np.random.default_rng(seed)
    parts: list[Waveform] = []
    words: list[Span] = []
    for speech in speeches:
        if parts:
            parts.append(np.zeros(int(random.uniform(*PAUSES_S) * SAMPLE_RATE), np.float32))
        start_s = sum(map(len, parts)) / SAMPLE_RATE
        words += [Span(word.name, start_s + word.start_s, start_s + word.end_s) for word in speech.words]
        parts.append(speech.waveform)
    return Speech(np.concatenate(parts), SAMPLE_RATE, tuple(words), ())


def write_wav(path: Path, waveform: Waveform) -> None:
    """Write a waveform (N,) as 16 bit mono WAV."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((np.clip(waveform, -1, 1) * 32767).astype("<i2").tobytes())


def write_recording(path: Path, waveform: Waveform) -> None:
    """Write a waveform in the format of the file's ending."""
    source = ["-f", "f32le", "-ar", str(SAMPLE_RATE), "-ac", "1", "-i", "-"]
    command = [str(find_ffmpeg(None)), "-v", "error", "-y", *source, "-b:a", BIT_RATE, str(path)]
    subprocess.run(command, input=waveform.astype("<f4").tobytes(), check=True)


if __name__ == "__main__":
    sys.exit(main())
