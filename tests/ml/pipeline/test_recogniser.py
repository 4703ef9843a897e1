"""The recogniser over an engine: completions are yielded as they come, and ending early leaves nothing behind."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import pytest

from ml.audio.splitter import Chunk
from ml.engine.request import Retry
from ml.errors import UndecodableAudioError
from ml.interfaces import RecognitionOptions
from ml.pipeline.recogniser import recognise_with
from ml.transcript import Completion
from tests.support.waiting import HANG_LIMIT_S, wait_until


class FakeEngine:
    """Answers each chunk with its first sample, unless `answers` is False."""

    def __init__(self, answers: bool = True) -> None:
        self.futures: list[Future[Completion]] = []
        self.most_at_once = 0
        self.answers = answers
        self.recordings: list[object] = []

    def submit(self, waveform: np.ndarray, recording_id: object, options: RecognitionOptions) -> "Future[Completion]":
        future: Future[Completion] = Future()
        self.futures.append(future)
        self.recordings.append(recording_id)
        self.most_at_once = max(self.most_at_once, sum(not future.done() for future in self.futures))
        if self.answers:
            future.set_result(Completion(str(int(waveform[0]))))
        return future


def chunk(number: int) -> Chunk:
    return Chunk(np.full(16_000, number, np.float32), number * 16_000)


def reading_ahead() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "read-ahead"]


def test_completion_does_not_wait_for_the_next_chunk() -> None:
    more = threading.Event()

    def chunks() -> Iterator[Chunk]:
        yield chunk(1)
        assert more.wait(HANG_LIMIT_S)
        yield chunk(2)

    texts = recognise_with(FakeEngine(), window=4)(chunks(), threading.Event(), RecognitionOptions())
    assert next(texts).text == "1"
    more.set()
    assert [completion.text for completion in texts] == ["2"] and reading_ahead() == []


def test_chunks_recognised_again_are_known_as_those_of_their_recording() -> None:
    engine = FakeEngine()
    recording, other = threading.Event(), threading.Event()
    recognise = recognise_with(engine, window=4)
    for cancelled, options in (
        (recording, RecognitionOptions()),
        (recording, RecognitionOptions(again=True)),
        (other, RecognitionOptions()),
    ):
        list(recognise(map(chunk, range(2)), cancelled, options))
    assert engine.recordings == [*2 * [recording], *2 * [Retry(recording)], *2 * [other]]


def test_no_more_chunks_than_the_window_are_in_the_engine() -> None:
    engine = FakeEngine(answers=False)
    texts = recognise_with(engine, window=3)(map(chunk, range(10)), threading.Event(), RecognitionOptions())
    found = []
    answering = threading.Thread(target=lambda: found.extend(completion.text for completion in texts))
    answering.start()
    for number in range(10):
        wait_until(lambda number=number: len(engine.futures) > number)
        engine.futures[number].set_result(Completion(str(number)))
    answering.join()
    assert found == [str(number) for number in range(10)] and engine.most_at_once <= 3


def test_closing_early_evicts_chunks_from_the_engine_and_ends_the_wait_for_more() -> None:
    engine, cancelled = FakeEngine(), threading.Event()

    def chunks() -> Iterator[Chunk]:
        yield chunk(1)
        engine.answers = False
        yield chunk(2)
        assert cancelled.wait(HANG_LIMIT_S)

    texts = recognise_with(engine, window=4)(chunks(), cancelled, RecognitionOptions())
    assert next(texts).text == "1"
    wait_until(lambda: len(engine.futures) == 2)
    texts.close()  # type: ignore[attr-defined]  # it is a generator
    assert engine.futures[1].cancelled() and cancelled.is_set() and reading_ahead() == []


def test_error_of_the_decoder_comes_after_the_completions_before_it_and_cancels_nothing() -> None:
    def chunks() -> Iterator[Chunk]:
        yield chunk(1)
        raise UndecodableAudioError("broken")

    cancelled = threading.Event()
    texts = recognise_with(FakeEngine(), window=4)(chunks(), cancelled, RecognitionOptions())
    assert next(texts).text == "1"
    with pytest.raises(UndecodableAudioError):
        next(texts)
    assert not cancelled.is_set() and reading_ahead() == []
