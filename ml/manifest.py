"""Reads manifests (recordings with their texts) and normalises texts for comparison."""

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

JSONL_ENDINGS = (".jsonl", ".json")
TSV_HEADER = ("audio", "text")


class ManifestError(Exception):
    """The manifest cannot be used. The message is one line that names the place and the reason."""


@dataclass(frozen=True)
class Sample:
    """A recording and its text."""

    audio: str  # the path as the manifest writes it
    path: Path
    text: str


def read_manifest(manifest: Path) -> list[Sample]:
    """Read a UTF-8 manifest; paths in it are relative to its folder, and blank lines are skipped.

    TSV: a path, a tab, the text, with or without the header "audio, tab, text". JSONL (by the file's ending): objects
    with the keys "audio" and "text".

    Raises:
        ManifestError: a line cannot be read, a recording is missing, or there is none.
        OSError: the manifest cannot be read.
    """
    parse = _parse_json if manifest.suffix.lower() in JSONL_ENDINGS else _parse_tsv
    samples = []
    for number, line in _lines(manifest):
        fields = parse(line)
        if fields is None:
            raise ManifestError(f"{manifest.name}, строка {number}: нужны путь к файлу и текст")
        if number == 1 and fields == TSV_HEADER:
            continue
        sample = Sample(fields[0], manifest.parent / fields[0], fields[1])
        if not sample.path.is_file():
            raise ManifestError(f"{manifest.name}, строка {number}: нет файла {sample.audio}")
        samples.append(sample)
    if not samples:
        raise ManifestError(f"{manifest.name}: в манифесте нет ни одной записи")
    return samples


def normalise(text: str, merge_yo: bool = True) -> str:
    """Lower the case, replace runs of anything but letters and digits by one space, and ё by е where `merge_yo`."""
    text = unicodedata.normalize("NFC", text).lower()  # NFC: й and ё may be written as two code points
    if merge_yo:
        text = text.replace("ё", "е")
    return re.sub(r"[\W_]+", " ", text).strip()


def _lines(manifest: Path) -> Iterator[tuple[int, str]]:
    try:
        text = manifest.read_text(encoding="utf-8-sig")  # with or without the byte order mark of Windows programs
    except UnicodeDecodeError as error:
        raise ManifestError(f"{manifest.name}: манифест должен быть в кодировке UTF-8") from error
    return ((number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip())


def _parse_tsv(line: str) -> tuple[str, str] | None:
    audio, tab, text = line.partition("\t")
    return (audio.strip(), text.strip()) if tab and audio.strip() else None


def _parse_json(line: str) -> tuple[str, str] | None:
    try:
        fields = json.loads(line)
        audio, text = fields["audio"], fields["text"]
    except (ValueError, TypeError, KeyError):
        return None
    return (audio, text) if isinstance(audio, str) and isinstance(text, str) and audio else None
