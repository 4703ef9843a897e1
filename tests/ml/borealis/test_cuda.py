"""On a GPU: what runs beside, ahead of and inside graphs gives what runs on the CPU step by step."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from ml.benchmarks.strategies import transcribe_batch
from ml.borealis import cuda as graphs
from ml.borealis.checkpoint import Checkpoint
from ml.borealis.config import GenerationOptions
from ml.borealis.cuda import GraphedDecoder
from ml.borealis.features import LogMel
from ml.borealis.model import BorealisModel
from ml.borealis.runner import BorealisRunner, make_engine
from ml.borealis.sampler import Tokens
from ml.borealis.transfer import Arrived, AsyncEncoder, CudaReadback, HostEncoder
from ml.engine.continuous import ContinuousScheduler
from ml.engine.request import Request
from tests.support.checkpoints import tone
from tests.support.fake_models import texts_of
from tests.support.reference import (
    CHUNKS,
    Alone,
    NumberedChunks,
    come_and_go,
    ids_as_text,
    numbered_chunk,
    prefill,
    step_to_the_end,
)

pytestmark = pytest.mark.gpu

CPU = torch.device("cpu")
A_WHILE = 2_000_000_000  # cycles of a GPU: about a second


@pytest.fixture
def device() -> torch.device:
    """The last GPU, so that a machine with several shows what is taken for granted about the current one."""
    return torch.device("cuda", torch.cuda.device_count() - 1)


@pytest.fixture
def true_float32() -> Iterator[None]:
    """Full precision in the encoder's convolutions; matrix products have it by default."""
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = True


@pytest.fixture
def on_gpu(converted: Checkpoint, alone: Alone, device: torch.device, true_float32: None) -> Alone:
    """The same model on the GPU."""
    model = BorealisModel.load(converted.path, device, torch.float32, alone.model.options)
    model.eos_ids = alone.model.eos_ids
    return replace(alone, model=model)


@pytest.fixture
def graphed(on_gpu: Alone, monkeypatch: pytest.MonkeyPatch) -> GraphedDecoder:
    """A decoder of five slots whose texts run through several buckets of length."""
    monkeypatch.setattr(graphs, "LENGTH_BUCKET", 7)
    return GraphedDecoder(on_gpu.make_decoder(5))


def sleep(device: torch.device) -> None:
    """Keeps the current stream of the device busy for a while."""
    with torch.cuda.device(device):
        torch.cuda._sleep(A_WHILE)


@pytest.fixture
def no_hidden_waiting() -> Iterator[None]:
    """Every call that makes the host wait for the device raises."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def test_encoding_through_pinned_buffers_equals_encoding_on_the_host(device: torch.device) -> None:
    encoder, reference = AsyncEncoder(LogMel(device), device, 4), HostEncoder(LogMel(CPU))
    batches = [[tone(100 * (size + place), 0.3 + 7 * place) for place in range(size)] for size in (4, 1, 3, 4, 2)]
    under_way = [encoder.encode(sounds) for sounds in batches]  # more batches than buffers
    for sounds, batch in zip(batches, under_way, strict=True):
        features = batch.wait()
        torch.testing.assert_close(features.cpu(), reference.encode(sounds).wait(), atol=1e-4, rtol=0)
        assert batch.is_ready()


def test_encoding_makes_later_work_of_the_device_wait_and_not_the_host(device: torch.device) -> None:
    delays = iter([1, A_WHILE])

    def prepare(waveforms: torch.Tensor) -> torch.Tensor:
        torch.cuda._sleep(next(delays))
        return waveforms * 2.0

    encoder = AsyncEncoder(prepare, device, 1)
    sound = tone(440, 1)
    first = encoder.encode([sound]).wait() + 1.0  # loading a kernel for its first use may wait for the device
    torch.cuda.synchronize(device)
    batch = encoder.encode([sound])
    assert not batch.is_ready()
    used = batch.wait() + 1.0  # on the current stream, which waits on the device
    assert not batch.is_ready()
    torch.testing.assert_close(used[0, : len(sound)].cpu(), torch.from_numpy(sound) * 2 + 1, atol=1e-6, rtol=0)
    assert torch.equal(used, first)
    assert batch.is_ready()


def some(ids: torch.Tensor) -> Tokens:
    """Tokens of probability 0."""
    return Tokens(ids, torch.zeros(len(ids), device=ids.device))


def test_tokens_are_read_in_order_though_each_step_overwrites_the_last(device: torch.device) -> None:
    readback: CudaReadback[int] = CudaReadback(device, 4)
    tokens = torch.zeros(4, dtype=torch.long, device=device)
    arrived = []
    for step in range(20):
        tokens += 1
        readback.put(some(tokens[: 1 + step % 4]), step)
        arrived += readback.get()
    torch.cuda.synchronize(device)
    arrived += readback.get()
    assert [(each.ids, each.tag) for each in arrived] == [([step + 1] * (1 + step % 4), step) for step in range(20)]


def test_reading_back_waits_for_nothing_that_is_under_way(device: torch.device) -> None:
    readback: CudaReadback[str] = CudaReadback(device, 2)
    tokens = torch.full((2,), 7, device=device)
    sleep(device)
    readback.put(some(tokens), "late")
    assert readback.get() == []
    torch.cuda.synchronize(device)
    assert readback.get() == [Arrived([7, 7], [0.0, 0.0], "late")]


def test_what_is_forgotten_does_not_arrive_and_leaves_the_ring_in_order(device: torch.device) -> None:
    readback: CudaReadback[int] = CudaReadback(device, 2)
    for step in range(2):
        readback.put(some(torch.full((2,), step, device=device)), step)
    readback.clear()
    torch.cuda.synchronize(device)
    assert readback.get() == []
    for step in range(2, 8):
        readback.put(some(torch.full((2,), step, device=device)), step)
    torch.cuda.synchronize(device)
    assert [(each.ids, each.tag) for each in readback.get()] == [([step, step], step) for step in range(2, 8)]


def test_without_graphs_the_gpu_says_what_the_cpu_says(on_gpu: Alone) -> None:
    come_and_go(on_gpu.make_decoder(5), on_gpu, random.Random(0), slots=5)


@pytest.mark.parametrize("seed", range(3))
def test_graphs_captured_on_the_way_change_nothing_for_those_admitted(
    graphed: GraphedDecoder, on_gpu: Alone, seed: int
) -> None:
    come_and_go(graphed, on_gpu, random.Random(seed), slots=5)
    come_and_go(graphed, on_gpu, random.Random(seed + 10), slots=5)  # now most buckets are there
    assert len({rows for rows, _ in graphed._graphs}) >= 2
    assert len({length for _, length in graphed._graphs}) >= 3


def test_graphs_captured_beforehand_serve_every_step(graphed: GraphedDecoder, on_gpu: Alone) -> None:
    graphed.capture_all()
    captured = set(graphed._graphs)
    come_and_go(graphed, on_gpu, random.Random(5), slots=5)
    assert set(graphed._graphs) == captured


def test_a_capture_leaves_tokens_positions_and_the_prompt_as_they_were(graphed: GraphedDecoder, on_gpu: Alone) -> None:
    decoder = graphed._decoder
    admitted = {0: 0, 3: 1, 4: 2}
    found = prefill(graphed, on_gpu, admitted)
    before = [decoder.tokens.clone(), decoder.positions.clone(), decoder.keys[:, :, :, : decoder.prefix_length].clone()]
    graphed.capture_all()
    after = [decoder.tokens, decoder.positions, decoder.keys[:, :, :, : decoder.prefix_length]]
    assert all(map(torch.equal, before, after))
    assert step_to_the_end(graphed, on_gpu, found) == {row: on_gpu.tokens[index] for row, index in admitted.items()}


def test_a_capture_may_fall_into_the_work_of_another_stream(graphed: GraphedDecoder, on_gpu: Alone) -> None:
    found = prefill(graphed, on_gpu, {0: 0})
    encoder = AsyncEncoder(on_gpu.model.audio_embeddings, on_gpu.device, 2)
    sounds = [tone(440, 1), tone(1000, 2)]
    batch = encoder.encode(sounds)
    assert step_to_the_end(graphed, on_gpu, found) == {0: on_gpu.tokens[0]}
    expected = on_gpu.model.audio_embeddings(HostEncoder(lambda waveforms: waveforms).encode(sounds).audio)
    torch.testing.assert_close(batch.wait(), expected, atol=1e-4, rtol=1e-4)


def admitted(on_gpu: Alone, indices: list[int]) -> tuple[ContinuousScheduler, list[Request]]:
    """A scheduler of five rows with these chunks admitted."""
    runner = BorealisRunner(NumberedChunks(on_gpu), 5)
    assert not runner.fast_path_failed
    scheduler = ContinuousScheduler(runner)
    requests = [Request(numbered_chunk(index), index, 0.0) for index in indices]
    scheduler.admit(requests)
    return scheduler, requests


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_neither_a_prefill_nor_a_step_makes_the_host_wait(on_gpu: Alone, request: pytest.FixtureRequest) -> None:
    scheduler, requests = admitted(on_gpu, list(range(5)))
    torch.cuda.synchronize(on_gpu.device)
    request.getfixturevalue("no_hidden_waiting")
    while scheduler.in_flight:
        scheduler.advance()
    assert [each.future.result(0).text for each in requests] == [ids_as_text(on_gpu.tokens[i]) for i in range(5)]


def test_the_host_runs_ahead_of_the_device(on_gpu: Alone) -> None:
    longest = max(range(CHUNKS), key=lambda index: len(on_gpu.tokens[index]))
    scheduler, _ = admitted(on_gpu, [longest])
    scheduler.advance()  # a graph's first launch may take longer
    torch.cuda.synchronize(on_gpu.device)
    scheduler.advance()
    torch.cuda.synchronize(on_gpu.device)
    sleep(on_gpu.device)
    for _ in range(CudaReadback.DEPTH):
        scheduler.advance()
    assert not torch.cuda.current_stream(on_gpu.device).query()  # the device has not even begun with the first


@pytest.mark.parametrize("slots", [1, 3, 8, 32])
def test_the_engine_on_the_gpu_says_of_each_chunk_what_is_found_of_it_alone(on_gpu: Alone, slots: int) -> None:
    with make_engine(NumberedChunks(on_gpu), slots) as engine:
        for seed in range(2):
            order = random.Random(seed).sample(range(CHUNKS), CHUNKS)
            futures = [engine.submit(numbered_chunk(index), recording_id=index % 3) for index in order]
            assert texts_of(futures) == [ids_as_text(on_gpu.tokens[index]) for index in order]


def test_sampled_texts_are_the_same_on_the_gpu(converted: Checkpoint, on_gpu: Alone) -> None:
    options = GenerationOptions(max_new_tokens=10, do_sample=True, temperature=1.5, top_p=0.95, top_k=100)
    texts = []
    for device in (CPU, on_gpu.device):
        model = BorealisModel.load(converted.path, device, torch.float32, options)
        with make_engine(NumberedChunks(on_gpu, model), 4) as engine:
            texts.append(texts_of([engine.submit(numbered_chunk(index)) for index in range(CHUNKS)]))
    assert texts[0] == texts[1]


def test_from_sound_to_text_the_engine_on_the_gpu_answers_as_the_model_on_the_cpu(
    on_gpu: Alone, model: BorealisModel, converted: Checkpoint
) -> None:
    sounds = [tone(frequency, 0.5 + frequency / 500) for frequency in range(200, 4000, 400)]
    same = BorealisModel.load(converted.path, on_gpu.device, torch.float32, model.options)
    with make_engine(same, 4) as engine:
        engine.warm_up()
        assert texts_of([engine.submit(sound) for sound in sounds]) == transcribe_batch(model, sounds)
