"""Shows on a terminal how far a call, or a batch of files, has come."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from generated.v1.transcription_pb2 import Progress

_BYTES = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}Б из {total_fmt}Б, {elapsed}"
_SECONDS = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f} из {total:.0f} сек, {elapsed}"
_FILES = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt} из {total_fmt}, {elapsed}"


@dataclass(frozen=True)
class CallBars:
    """One bar for the bytes sent, one for the seconds of audio that are done of those decoded so far."""

    upload: Any
    done: Any

    def on_sent(self, sent_bytes: int) -> None:
        """Moves the upload's bar; see TranscriptionClient.transcribe_stream."""
        self.upload.update(sent_bytes)
        sent = self.upload.n >= self.upload.total
        self.upload.set_description_str("Отправлено, идёт распознавание" if sent else "Отправка")

    def on_progress(self, progress: Progress) -> None:
        """Moves the other bar."""
        self.done.total = max(progress.decoded_s, progress.done_s)
        self.done.n = progress.done_s
        self.done.refresh()


@contextmanager
def call_bars(size_bytes: int, shown: bool) -> Iterator[CallBars]:
    """Bars for one streamed call; nothing where stderr is not a terminal."""
    options: dict[str, Any] = {"file": sys.stderr, "disable": None if shown else True}
    with (  # the upper bar is closed first, and so keeps its place
        tqdm(desc="Распознано", bar_format=_SECONDS, position=1, total=0, **options) as done,
        tqdm(desc="Отправка", bar_format=_BYTES, position=0, total=size_bytes, unit_scale=True, **options) as upload,
    ):
        yield CallBars(upload, done)


@contextmanager
def files_bar(count: int) -> Iterator[Any]:
    """A bar for `count` files; a single one needs none, and neither does a stderr that is not a terminal."""
    with tqdm(
        desc="Файлы", total=count, file=sys.stderr, bar_format=_FILES, disable=True if count < 2 else None
    ) as bar:
        yield bar


def say_above(line: str) -> None:
    """Prints a line to stderr without tearing the bars."""
    tqdm.write(line, file=sys.stderr)
