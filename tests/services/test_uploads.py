"""Long names cost no more than short ones, and uploads together stay within their limit."""

import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from services.transcription.admission import Admission
from services.transcription.errors import OverloadedError, UnsupportedFormatError
from services.transcription.request import MAX_LOGGED_NAME, AudioInfo
from tests.support.waiting import HANG_LIMIT_S

LONG = 20_000_000  # characters; a message may hold ten times as many

LONG_TEXTS = {"letters": "a" * LONG, "folders": "a/" * (LONG // 2), "nothing to print": "\0" * LONG, "dots": "." * LONG}


@pytest.mark.parametrize("name", LONG_TEXTS)
@pytest.mark.parametrize("field", ["filename", "format"])
def test_field_of_millions_of_characters_costs_a_fraction_of_its_size(name: str, field: str) -> None:
    audio_info = AudioInfo(**{"filename": "a", "format": "", "sample_rate": 0, field: LONG_TEXTS[name]})
    tracemalloc.start()
    with pytest.raises(UnsupportedFormatError):
        audio_info.check()
    shown = audio_info.printable_filename + audio_info.format_name
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < LONG / 20 and len(shown) <= 2 * MAX_LOGGED_NAME


def test_extension_of_a_long_name_counts() -> None:
    AudioInfo("папка/" * 100_000 + "запись.MP3 ", "", 0).check()


class Piece(bytes):
    """A piece whose length two uploads read at the same moment."""

    together = threading.Barrier(2)

    def __len__(self) -> int:
        with suppress(threading.BrokenBarrierError):
            self.together.wait(0.5)
        return super().__len__()


def test_two_uploads_at_the_same_moment_do_not_pass_the_limit_together() -> None:
    admission = Admission(max_bytes=150, max_queued_audio_s=1, queued_audio_s=lambda: 0.0)
    both_admitted = threading.Barrier(2)

    def upload() -> bool:
        with admission.admitted([Piece(100)]) as pieces:
            try:
                list(pieces)
            except OverloadedError:
                return False
            finally:
                both_admitted.wait(HANG_LIMIT_S)
        return True

    with ThreadPoolExecutor(2) as threads:
        uploads = [threads.submit(upload) for _ in range(2)]
        assert sorted(upload.result() for upload in uploads) == [False, True]
    assert admission.bytes_held == 0
