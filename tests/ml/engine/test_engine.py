"""One thread owns the model; chunks of many callers share its slots and each gets its own text."""

from concurrent.futures import CancelledError, Future, wait

import numpy as np
import pytest

from ml.borealis.features import N_SAMPLES
from ml.borealis.runner import make_engine
from ml.engine.engine import QUEUE_CAPACITY
from ml.errors import RecognitionError
from ml.transcript import Completion
from tests.support.fake_models import (
    POISON,
    FakeModel,
    PausingModel,
    busy_engine,
    chunk,
    in_background,
    text,
    texts_of,
)
from tests.support.waiting import HANG_LIMIT_S


def cancelled(future: "Future[Completion]") -> bool:
    with pytest.raises(CancelledError):
        future.result(HANG_LIMIT_S)
    return True


@pytest.mark.parametrize("slots", [1, 2, 3, 8])
def test_each_caller_gets_the_text_of_its_own_chunk(fake: FakeModel, device_pace: str, slots: int) -> None:
    lengths = [(7 * number) % 11 for number in range(1, 60)]
    with make_engine(fake, slots) as engine:
        futures = [
            engine.submit(chunk(number, length), recording_id=number % 5)
            for number, length in enumerate(lengths, start=1)
        ]
        assert texts_of(futures) == [text(number, length) for number, length in enumerate(lengths, start=1)]


def test_only_the_engine_s_thread_works_the_model(fake: FakeModel) -> None:
    with make_engine(fake, 4) as engine:
        callers = [in_background(lambda: engine.submit(chunk(1)).result(HANG_LIMIT_S).text) for _ in range(8)]
        assert {caller.result(HANG_LIMIT_S) for caller in callers} == {text(1)}
    assert len(fake.threads) == 1
    assert {stage for stage, _ in fake.log} == {"encode", "prefill", "step", "decode"}


def test_recordings_take_turns_and_each_goes_oldest_first(fake: FakeModel, unhurried: None) -> None:
    with busy_engine(fake, slots=1) as engine:
        futures = [engine.submit(chunk(number), recording_id="a long file") for number in range(1, 11)]
        futures += [engine.submit(chunk(20), recording_id="a clip")]
        futures += [engine.submit(chunk(number), recording_id="another file") for number in (30, 31)]
        fake.gate.set()
        texts_of(futures)
    order = [number for batch in fake.calls("encode") for number in batch]
    assert order == [0, 1, 20, 30, 2, 31, 3, 4, 5, 6, 7, 8, 9, 10]


def test_a_clip_that_arrives_while_a_long_file_runs_is_admitted_next(fake: FakeModel, unhurried: None) -> None:
    with busy_engine(fake, slots=2) as engine:
        clip: list[Future[Completion]] = []
        fake.at_step[8] = lambda: clip.append(engine.submit(chunk(99, 1), recording_id="a clip"))
        futures = [engine.submit(chunk(number, 4), recording_id="a long file") for number in range(1, 21)]
        fake.gate.set()
        texts_of(futures)
        assert texts_of(clip) == [text(99, 1)]
    decoded_before = {number for numbers in fake.calls("step")[:8] for number in numbers}
    order = [number for batch in fake.calls("encode") for number in batch]
    assert order.index(99) <= len(decoded_before) + 1  # no more than one chunk of the file's came in between


def test_a_finished_chunk_leaves_at_once_and_the_next_takes_its_slot(fake: FakeModel, unhurried: None) -> None:
    with busy_engine(fake, slots=2) as engine:
        futures = [engine.submit(chunk(number, length)) for number, length in [(1, 3), (2, 9), (3, 1), (4, 2)]]
        fake.gate.set()
        assert texts_of(futures) == [text(1, 3), text(2, 9), text(3, 1), text(4, 2)]
    assert fake.rows == [(0, 0), (1, 0), (2, 1), (3, 0), (4, 0)]
    end = -1  # in the steps, a chunk that is about to say its end
    assert fake.calls("step") == [
        [end], [1], [1, 2], [end, 2], [end, 2], [4, 2], [end, 2], [2], [2], [2], [end],
    ]  # fmt: skip
    assert engine.stats.snapshot()["stepped_rows"] == 1 + 3 + 9 + 1 + 2  # no step for a finished sequence


def test_a_new_recording_is_encoded_without_the_chunks_of_a_file_that_has_some_in_flight(
    fake: FakeModel, in_batches: None
) -> None:
    with busy_engine(fake, slots=8) as engine:
        futures = [engine.submit(chunk(number, 3), recording_id="a file") for number in range(1, 25)]
        fake.at_step[2] = lambda: futures.append(engine.submit(chunk(99, 3), recording_id="a clip"))
        fake.gate.set()
        texts_of(futures[:24])
        assert texts_of(futures[24:]) == [text(99)]
    batches = fake.calls("encode")
    assert [99] in batches
    assert max(map(len, batches)) == 5


def test_a_recording_that_arrives_pauses_the_batch_of_a_file(unhurried: None) -> None:
    model, late = PausingModel(), []
    with make_engine(model, 4) as engine:
        engine.submit(chunk(1), recording_id="file").result(HANG_LIMIT_S)  # its first chunk would not be paused
        model.at_layer[4] = lambda: late.append(engine.submit(chunk(9), recording_id="clip"))
        futures = [engine.submit(chunk(number, 30), recording_id="file") for number in (2, 3)]
        assert texts_of(futures) == [text(2, 30), text(3, 30)]
        assert texts_of(late) == [text(9)]
    assert model.calls("layer") == [[1]] * 3 + [[2]] + [[9]] * 3 + [[2]] * 2 + [[3]] * 3
    assert model.calls("prefill") == [[1], [9], [2], [3]]


def test_a_file_s_first_chunk_is_not_paused(unhurried: None) -> None:
    model, late = PausingModel(), []
    with make_engine(model, 4) as engine:
        model.at_layer[1] = lambda: late.append(engine.submit(chunk(9), recording_id="clip"))
        assert engine.submit(chunk(1), recording_id="file").result(HANG_LIMIT_S).text == text(1)
        assert texts_of(late) == [text(9)]
    assert model.calls("prefill") == [[1], [9]]


def test_a_text_is_cut_at_the_limit_of_tokens(fake: FakeModel, device_pace: str) -> None:
    with make_engine(fake, 2) as engine:
        futures = [engine.submit(chunk(1, 1000)), engine.submit(chunk(2, 2)), engine.submit(chunk(3, 40))]
        assert texts_of(futures) == [text(1, 40), text(2, 2), text(3, 40)]


def test_a_chunk_cancelled_in_the_queue_is_never_encoded_and_leaves_its_place(fake: FakeModel) -> None:
    with busy_engine(fake, queue_capacity=2) as engine:
        doomed, kept = engine.submit(chunk(1)), engine.submit(chunk(2))
        assert doomed.cancel()
        late = in_background(lambda: engine.submit(chunk(3)))  # would block if the cancelled chunk still had its place
        late_future = late.result(HANG_LIMIT_S)
        fake.gate.set()
        assert isinstance(late_future, Future)
        assert texts_of([kept, late_future]) == [text(2), text(3)]
    assert [1] not in fake.calls("encode")


def test_a_chunk_cancelled_in_decoding_frees_its_row_and_does_not_disturb_the_others(
    fake: FakeModel, device_pace: str
) -> None:
    with busy_engine(fake, slots=2) as engine:
        doomed, other, successor = engine.submit(chunk(1, 30)), engine.submit(chunk(2, 35)), engine.submit(chunk(3, 2))
        fake.at_step[20] = doomed.cancel
        fake.gate.set()
        assert cancelled(doomed)
        assert texts_of([other, successor]) == [text(2, 35), text(3, 2)]
    assert dict(fake.rows)[3] == dict(fake.rows)[1]
    assert sum(1 in numbers for numbers in fake.calls("step")) <= 20


def test_all_chunks_may_be_cancelled_at_any_step(fake: FakeModel, device_pace: str) -> None:
    for step in range(1, 12):
        fake.__init__()  # type: ignore[misc]
        with busy_engine(fake, slots=2) as engine:
            doomed = [engine.submit(chunk(number, 5)) for number in (1, 2, 3)]
            fake.at_step[step] = lambda doomed=doomed: [future.cancel() for future in doomed]
            fake.gate.set()
            wait(doomed, HANG_LIMIT_S)
            assert engine.submit(chunk(4)).result(HANG_LIMIT_S).text == text(4)


def test_a_recording_with_a_full_queue_is_held_back_and_no_other(fake: FakeModel) -> None:
    with busy_engine(fake, queue_capacity=1) as engine:
        engine.submit(chunk(1), recording_id="a long file")
        blocked = in_background(lambda: engine.submit(chunk(2), recording_id="a long file").result(HANG_LIMIT_S))
        clip = in_background(lambda: engine.submit(chunk(3), recording_id="a clip"))
        assert isinstance(clip.result(HANG_LIMIT_S), Future)
        assert not wait([blocked], timeout=0.2).done
        fake.gate.set()
        assert blocked.result(HANG_LIMIT_S).text == text(2)


def test_a_queue_has_a_bound_when_none_is_given(fake: FakeModel) -> None:
    with busy_engine(fake) as engine:
        futures = [engine.submit(chunk(1)) for _ in range(QUEUE_CAPACITY)]
        blocked = in_background(lambda: engine.submit(chunk(2)).result(HANG_LIMIT_S))
        assert not wait([blocked], timeout=0.2).done
        fake.gate.set()
        assert texts_of(futures) == [text(1)] * QUEUE_CAPACITY
        assert blocked.result(HANG_LIMIT_S).text == text(2)


def test_closing_cancels_what_waits_and_finishes_what_is_under_way(fake: FakeModel) -> None:
    fake.gate.clear()
    engine = make_engine(fake, 1, queue_capacity=2)
    running = engine.submit(chunk(1, 9))
    assert fake.at_work.wait(HANG_LIMIT_S)
    waiting = [engine.submit(chunk(2)), engine.submit(chunk(3))]
    blocked = in_background(lambda: engine.submit(chunk(4)))
    closing = in_background(engine.close)
    assert isinstance(blocked.exception(HANG_LIMIT_S), RecognitionError)
    assert all(map(cancelled, waiting))
    assert engine.is_alive
    fake.gate.set()
    assert running.result(HANG_LIMIT_S).text == text(1, 9)
    assert closing.result(HANG_LIMIT_S) is None
    assert not engine.is_alive
    assert fake.calls("encode") == [[1]]


def test_a_closed_engine_may_be_closed_again_and_takes_nothing(fake: FakeModel) -> None:
    engine = make_engine(fake, 4)
    engine.close()
    engine.close()
    with pytest.raises(RecognitionError):
        engine.submit(chunk(1))


@pytest.mark.parametrize("stage", ["encode", "prefill", "step", "decode"])
def test_no_future_stays_open_when_the_thread_breaks_down(fake: FakeModel, device_pace: str, stage: str) -> None:
    fake.poisoned, fake.error = stage, SystemExit("the thread is gone")
    with busy_engine(fake, slots=3) as engine:
        inside = [engine.submit(chunk(1, 40)), engine.submit(chunk(POISON, 30))]
        later = [engine.submit(chunk(number, 40)) for number in range(2, 9)]
        fake.gate.set()
        for future in inside:
            assert isinstance(future.exception(HANG_LIMIT_S), RecognitionError)
        assert wait(later, HANG_LIMIT_S).not_done == set()
        assert later[-1].cancelled()
        with pytest.raises(RecognitionError):
            engine.submit(chunk(3))
    assert not engine.is_alive


@pytest.mark.parametrize(
    "waveform",
    [np.zeros(0, np.float32), np.zeros(N_SAMPLES + 1, np.float32), np.zeros(10), np.zeros((2, 10), np.float32)],
    ids=["empty", "too long", "float64", "stereo"],
)
def test_anything_but_a_chunk_is_refused_at_once(fake: FakeModel, waveform: np.ndarray) -> None:
    with make_engine(fake, 4) as engine, pytest.raises(ValueError, match="float32 samples"):
        engine.submit(waveform)


def test_a_chunk_of_the_longest_and_the_shortest_length_is_taken(fake: FakeModel) -> None:
    longest = np.pad(chunk(1), (0, N_SAMPLES - 2))
    with make_engine(fake, 4) as engine:
        assert engine.submit(longest).result(HANG_LIMIT_S).text == text(1)


def test_the_engine_counts_its_work(fake: FakeModel, unhurried: None) -> None:
    with make_engine(fake, 4) as engine:
        texts_of([engine.submit(chunk(number, 5)) for number in range(1, 7)])
        work = engine.stats.snapshot()
    assert (work["chunks"], work["groups"], work["stepped_rows"]) == (6, 6, 30)
    assert work["steps"] == len(fake.calls("step")) <= 30
    assert min(work["waited_s"], work["encode_s"], work["prefill_s"], work["step_s"]) > 0


def test_warming_up_recognises_silence(fake: FakeModel) -> None:
    with make_engine(fake, 4) as engine:
        engine.warm_up()
    assert fake.calls("encode") == [[0]]


def test_a_model_that_cannot_even_do_silence_fails_the_warm_up(fake: FakeModel) -> None:
    fake.largest_batch = 0
    with make_engine(fake, 4) as engine, pytest.raises(RecognitionError):
        engine.warm_up()
