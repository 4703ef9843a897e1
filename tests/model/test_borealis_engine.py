"""One thread owns the model; chunks of many callers share its batches and none suffers for another."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from ml.borealis.checkpoint import Checkpoint
from ml.borealis.engine import Engine
from ml.borealis.features import N_SAMPLES, LogMel
from ml.borealis.model import BorealisModel, GenerationOptions, resolve_device
from ml.borealis.staging import CudaStager, HostStager
from ml.errors import RecognitionError
from tests.model.builders import tone

PATIENCE_S = 20
POISON = 666


class FakeModel:
    """Answers a chunk with its first sample; `gate` holds the work back, `batches` records it."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.at_work = threading.Event()
        self.batches: list[list[str]] = []
        self.threads: set[int] = set()
        self.largest_batch = 10**6
        self.error: BaseException = RuntimeError("poisoned")

    def log_mel(self, waveforms: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(waveforms, (0, N_SAMPLES - waveforms.shape[-1]))

    def encode(self, features: torch.Tensor) -> torch.Tensor:
        if len(features) > self.largest_batch:
            raise torch.OutOfMemoryError("too large")
        return features

    def embed(self, audio: torch.Tensor) -> torch.Tensor:
        return audio

    def transcribe_inputs(self, inputs: torch.Tensor) -> list[str]:
        self.threads.add(threading.get_ident())
        texts = [str(int(value)) for value in inputs[:, 0]]
        self.batches.append(texts)
        self.at_work.set()
        assert self.gate.wait(PATIENCE_S)
        if str(POISON) in texts:
            raise self.error
        return texts


def chunk(number: int) -> np.ndarray:
    return np.full(10, number, np.float32)


@pytest.fixture
def fake() -> FakeModel:
    return FakeModel()


@contextmanager
def busy_engine(fake: FakeModel, batch_size: int = 4, max_queue: int = 64) -> Iterator[Engine]:
    """An engine whose thread is held at a first chunk of its own, until `fake.gate` is set."""
    fake.gate.clear()
    with Engine(fake, batch_size, max_queue) as engine:
        engine.submit(chunk(0))
        assert fake.at_work.wait(PATIENCE_S)
        try:
            yield engine
        finally:
            fake.gate.set()


def texts_of(futures: list[Future[str]]) -> list[str]:
    return [future.result(PATIENCE_S) for future in futures]


def in_background(work: Callable[[], object]) -> Future[object]:
    future: Future[object] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run).start()
    return future


def test_each_caller_gets_the_text_of_his_own_chunk(fake: FakeModel) -> None:
    with Engine(fake, 4) as engine:
        assert texts_of([engine.submit(chunk(number)) for number in range(50)]) == [str(n) for n in range(50)]


def test_what_waits_is_batched_oldest_first(fake: FakeModel) -> None:
    with busy_engine(fake) as engine:
        futures = [engine.submit(chunk(number)) for number in range(1, 7)]
        fake.gate.set()
        texts_of(futures)
    assert fake.batches == [["0"], ["1", "2", "3", "4"], ["5", "6"]]


def test_only_the_engine_s_thread_touches_the_model(fake: FakeModel) -> None:
    with Engine(fake, 4) as engine:
        callers = [in_background(lambda: engine.submit(chunk(1)).result(PATIENCE_S)) for _ in range(8)]
        wait(callers, PATIENCE_S)
    assert len(fake.threads) == 1
    assert threading.get_ident() not in fake.threads


def test_a_cancelled_chunk_never_runs_and_leaves_the_queue_at_once(fake: FakeModel) -> None:
    with busy_engine(fake, max_queue=2) as engine:
        doomed, kept = engine.submit(chunk(1)), engine.submit(chunk(2))
        assert doomed.cancel()
        assert wait([doomed], PATIENCE_S).done
        late = engine.submit(chunk(3))  # would block if the cancelled chunk still took its place
        fake.gate.set()
        assert texts_of([kept, late]) == ["2", "3"]
    assert fake.batches == [["0"], ["2", "3"]]


def test_a_full_queue_holds_the_caller_back_until_there_is_room(fake: FakeModel) -> None:
    with busy_engine(fake, max_queue=1) as engine:
        engine.submit(chunk(1))
        blocked = in_background(lambda: engine.submit(chunk(2)).result(PATIENCE_S))
        assert not wait([blocked], timeout=0.2).done
        fake.gate.set()
        assert blocked.result(PATIENCE_S) == "2"


@pytest.mark.parametrize("place", range(5))
def test_a_poisoned_chunk_fails_alone(fake: FakeModel, place: int) -> None:
    numbers = [1, 2, 3, 4]
    numbers.insert(place, POISON)
    with busy_engine(fake, batch_size=5) as engine:
        futures = [engine.submit(chunk(number)) for number in numbers]
        fake.gate.set()
        for number, future in zip(numbers, futures, strict=True):
            if number == POISON:
                error = future.exception(PATIENCE_S)
                assert isinstance(error, RecognitionError)
                assert error.__cause__ is fake.error
            else:
                assert future.result(PATIENCE_S) == str(number)
        assert engine.submit(chunk(7)).result(PATIENCE_S) == "7"


def test_a_batch_too_large_for_the_memory_is_halved_until_it_fits(fake: FakeModel) -> None:
    fake.largest_batch = 3
    with busy_engine(fake, batch_size=8) as engine:
        futures = [engine.submit(chunk(number)) for number in range(8)]
        fake.gate.set()
        assert texts_of(futures) == [str(n) for n in range(8)]
    assert max(map(len, fake.batches)) <= 3


def test_closing_cancels_what_waits_and_finishes_what_runs(fake: FakeModel) -> None:
    fake.gate.clear()
    engine = Engine(fake, 1, max_queue=2)
    running = engine.submit(chunk(1))
    assert fake.at_work.wait(PATIENCE_S)
    waiting = [engine.submit(chunk(2)), engine.submit(chunk(3))]
    blocked = in_background(lambda: engine.submit(chunk(4)))
    closing = in_background(engine.close)
    assert isinstance(blocked.exception(PATIENCE_S), RecognitionError)
    for future in waiting:
        with pytest.raises(CancelledError):
            future.result(PATIENCE_S)
    fake.gate.set()
    assert running.result(PATIENCE_S) == "1"
    assert closing.result(PATIENCE_S) is None
    assert not engine.is_alive


def test_a_closed_engine_may_be_closed_again_and_takes_nothing(fake: FakeModel) -> None:
    engine = Engine(fake, 4)
    engine.close()
    engine.close()
    with pytest.raises(RecognitionError):
        engine.submit(chunk(1))


def test_nobody_waits_for_ever_when_the_thread_breaks_down(fake: FakeModel) -> None:
    fake.error = SystemExit("the thread is gone")
    with busy_engine(fake, batch_size=1) as engine:
        running, waiting = engine.submit(chunk(POISON)), engine.submit(chunk(2))
        fake.gate.set()
        assert isinstance(running.exception(PATIENCE_S), RecognitionError)
        with pytest.raises(CancelledError):
            waiting.result(PATIENCE_S)
        with pytest.raises(RecognitionError):
            engine.submit(chunk(3))
    assert not engine.is_alive


@pytest.mark.parametrize(
    "waveform",
    [np.zeros(0, np.float32), np.zeros(N_SAMPLES + 1, np.float32), np.zeros(10), np.zeros((2, 10), np.float32)],
    ids=["empty", "too long", "float64", "stereo"],
)
def test_anything_but_a_chunk_is_refused_to_the_caller_s_face(fake: FakeModel, waveform: np.ndarray) -> None:
    with Engine(fake, 4) as engine, pytest.raises(ValueError, match="float32 samples"):
        engine.submit(waveform)


def test_the_sound_is_forgotten_when_its_text_is_there(fake: FakeModel) -> None:
    with Engine(fake, 4) as engine:
        waveform = chunk(1)
        trace = weakref.ref(waveform)
        future = engine.submit(waveform)
        del waveform
        assert future.result(PATIENCE_S) == "1"
        engine.submit(chunk(2)).result(PATIENCE_S)  # the batch before is over and done with
        gc.collect()
        assert trace() is None


def test_the_engine_answers_as_the_model_does(model: BorealisModel) -> None:
    sounds = [tone(frequency, 0.5 + frequency / 500) for frequency in (200, 440, 1000, 2000, 3000)]
    with Engine(model, 3) as engine:
        engine.warm_up()
        futures = [engine.submit(sound) for sound in sounds]
        assert texts_of(futures) == [model.transcribe_batch([sound])[0] for sound in sounds]


def test_a_model_that_cannot_even_do_silence_fails_the_warm_up(fake: FakeModel) -> None:
    fake.largest_batch = 0
    with Engine(fake, 4) as engine, pytest.raises(RecognitionError):
        engine.warm_up()


@pytest.mark.gpu
def test_staging_through_pinned_buffers_equals_staging_on_the_host() -> None:
    device = resolve_device("cuda")
    stager, reference = CudaStager(LogMel(device), device, 4), HostStager(LogMel(torch.device("cpu")))
    for size in (4, 1, 3, 4, 2):  # more rounds than buffers
        sounds = [tone(100 * (size + place), 0.3 + 7 * place) for place in range(size)]
        features = stager.stage(sounds)
        stager.settle()
        torch.testing.assert_close(features.cpu(), reference.stage(sounds), atol=1e-4, rtol=0)


@pytest.mark.gpu
def test_the_engine_on_the_gpu_answers_as_the_model_on_the_cpu(converted: Checkpoint, model: BorealisModel) -> None:
    sounds = [tone(frequency, 0.5 + frequency / 500) for frequency in range(200, 4000, 200)]
    options = GenerationOptions(max_new_tokens=model.options.max_new_tokens)
    on_gpu = BorealisModel.load(converted.path, resolve_device("cuda"), torch.float32, options)
    with Engine(on_gpu, 4) as engine:
        engine.warm_up()
        assert texts_of([engine.submit(sound) for sound in sounds]) == model.transcribe_batch(sounds)
