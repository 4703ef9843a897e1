"""Finds the recordings in the given files and folders, and decides where the output of each goes."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

RECORDING_ENDINGS = (
    *(".mp3", ".mp2", ".mpga", ".wav", ".wave", ".flac", ".aac", ".ogg", ".oga", ".opus", ".spx"),
    *(".m4a", ".m4b", ".mp4", ".m4v", ".mov", ".3gp", ".3gpp", ".3g2", ".webm", ".weba", ".mkv", ".mka"),
    *(".aiff", ".aif", ".aifc", ".caf", ".amr", ".awb", ".wma", ".asf", ".wmv"),
)
_SEPARATORS = ("/", os.sep)


class UsageError(Exception):
    """The arguments cannot be carried out. The message is one line for the user."""


@dataclass(frozen=True)
class Job:
    """One recording and the file its output goes to; None means standard output."""

    recording: Path
    output: Path | None

    @property
    def is_done(self) -> bool:
        """Whether there is an output no older than the recording; outputs are put in place only when complete."""
        if self.output is None or not self.output.is_file():
            return False
        try:
            return self.output.stat().st_mtime_ns >= self.recording.stat().st_mtime_ns
        except FileNotFoundError:
            return False


@dataclass(frozen=True)
class Plan:
    """What is to be done; `skipped` are the files in the folders that are neither recordings nor outputs."""

    jobs: list[Job]
    skipped: list[Path]


def plan(arguments: list[Path], output: str | None, ending: str) -> Plan:
    """The jobs for all recordings in `arguments`: files, and folders with everything in and below them.

    `output` is a file for a single file, unless it is a folder or ends like one ("out/"); otherwise it is a folder.
    In it, outputs are named as the recordings, with `ending`, and the folders below an argument are kept.

    Raises:
        UsageError: there are no recordings, two outputs would be one file, or one would be a recording.
        OSError: a folder cannot be read.
    """
    found = [_search(argument) for argument in arguments]
    places = _distinct(place for recordings, _ in found for place in recordings)
    if not places:
        raise UsageError(f"В папке нет записей: ни одного файла {' '.join(RECORDING_ENDINGS)}")
    jobs = _jobs(places, arguments, output, ending)
    known = {path.resolve() for job in jobs for path in (job.recording, job.output) if path}
    skipped = [path for _, others in found for path in others if path.resolve() not in known]
    return Plan(jobs, list(dict.fromkeys(skipped)))


def _jobs(places: list[tuple[Path, Path]], arguments: list[Path], output: str | None, ending: str) -> list[Job]:
    if output is None:
        return [Job(path, None) for path, _ in places]
    target = Path(output)
    if len(arguments) == 1 and not arguments[0].is_dir() and not target.is_dir() and not output.endswith(_SEPARATORS):
        jobs = [Job(arguments[0], target)]
    elif target.exists() and not target.is_dir():
        raise UsageError(f"Записей может быть несколько, а {target} - файл: укажите папку (-o)")
    else:
        jobs = [Job(path, target / name) for (path, _), name in zip(places, _names(places, ending), strict=True)]
    _check(jobs)
    return jobs


def _search(argument: Path) -> tuple[list[tuple[Path, Path]], list[Path]]:
    """Each recording with its path below the argument, and the other files; both without hidden files.

    A named file is a recording whatever its ending.
    """
    if not argument.is_dir():
        return [(argument, Path(argument.name))], []
    recordings, others = [], []
    for folder, folders, names in os.walk(argument, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(folder, name) for name in sorted(names) if not name.startswith(".")):
            if path.suffix.lower() in RECORDING_ENDINGS:
                recordings.append((path, path.relative_to(argument)))
            else:
                others.append(path)
    return recordings, others


def _raise(error: OSError) -> None:
    raise error


def _distinct(places: Iterable[tuple[Path, Path]]) -> list[tuple[Path, Path]]:
    """Each recording once, even if it is named twice."""
    found: dict[Path, tuple[Path, Path]] = {}
    for path, place in places:
        found.setdefault(path.resolve(), (path, place))
    return list(found.values())


def _names(places: list[tuple[Path, Path]], ending: str) -> list[Path]:
    """`interview.srt`; if there are two, `interview.mp3.srt` and `interview.wav.srt`."""
    short = [place.with_suffix(ending) for _, place in places]
    counts = Counter(_key(name) for name in short)
    return [
        name if counts[_key(name)] == 1 else place.with_name(place.name + ending)
        for name, (_, place) in zip(short, places, strict=True)
    ]


def _check(jobs: list[Job]) -> None:
    recordings = {job.recording.resolve() for job in jobs}
    taken: dict[str, Path] = {}
    for job in jobs:
        assert job.output is not None
        if job.output.resolve() in recordings:
            raise UsageError(f"Вывод затёр бы запись {job.output}: задайте другой -o")
        other = taken.setdefault(_key(job.output), job.recording)
        if other is not job.recording:
            raise UsageError(
                f"Записи {other} и {job.recording} попали бы в один файл {job.output}: отправьте их порознь"
            )


def _key(path: Path) -> str:
    """Equal for names that are the same file on case-insensitive systems."""
    return str(path).casefold()
