"""Sequences and rows of the KV cache: each token goes to the sequence that it was decoded for."""

from collections.abc import Callable
from collections.abc import Sequence as AbstractSequence

import numpy as np
import pytest
import torch

from ml.borealis import self_check
from ml.borealis.device_path import DevicePath
from ml.borealis.runner import BorealisRunner
from ml.borealis.sampler import Tokens
from ml.borealis.transfer import Arrived, HostEncoder, HostReadback
from ml.engine import continuous
from ml.engine.continuous import ContinuousScheduler
from ml.engine.request import Request
from tests.support.fake_models import LateReadback, certain

END, OTHER_END = 99, 98


class ScriptedDecoder:
    """Decodes for each chunk the tokens given for it, one a step, and the last again ever after."""

    prefill_length = 100

    def __init__(self, texts: list[list[int]]) -> None:
        self._texts = texts
        self._rows: dict[int, list[int]] = {}
        self.released: list[int] = []
        self.partial_steps: list[list[int]] = []
        self.prefills: list[list[int]] = []
        self.steps: list[tuple[int, int]] = []  # active rows and length

    def prefill(self, rows: list[int], audio: torch.Tensor, seeds: AbstractSequence[int | None]) -> Tokens:
        self.prefills.append(rows)
        self._rows |= {row: list(self._texts[int(number)]) for row, number in zip(rows, audio[:, 0, 0], strict=True)}
        return certain([self._next(row) for row in rows])

    def move(self, row: int, to: int) -> None:
        self._rows[to] = self._rows.pop(row)

    def release(self, row: int) -> None:
        self.released.append(row)

    def step(self, active: int, length: int) -> Tokens:
        self.steps.append((active, length))
        return certain([self._next(row) for row in range(active)])

    def step_rows(self, rows: list[int], length: int) -> Tokens:
        self.partial_steps.append(rows)
        return certain([self._next(row) for row in rows])

    def _next(self, row: int) -> int:
        left = self._rows.setdefault(row, [END])
        return left.pop(0) if len(left) > 1 else left[0]


class ScriptedModel:
    """Chunks called a, b, c…, each with a text of its own; texts are the tokens' numbers."""

    device = torch.device("cpu")
    eos_ids = frozenset({END, OTHER_END})
    encoder_workers = 1
    do_sample = False
    pauses = False

    def __init__(self, max_new_tokens: int, texts: dict[str, list[int]]) -> None:
        self.max_new_tokens = max_new_tokens
        self.names = list(texts)
        self.decoder = ScriptedDecoder(list(texts.values()))

    def watch_progress(self, on_progress: Callable[[], None]) -> None:
        pass

    def audio_embeddings(self, waveforms: torch.Tensor) -> torch.Tensor:
        return waveforms[:, :1, None]

    def make_decoder(self, slots: int) -> ScriptedDecoder:
        return self.decoder

    def decode(self, ids: AbstractSequence[AbstractSequence[int]]) -> list[str]:
        return [" ".join(map(str, tokens)) for tokens in ids]


class Bench:
    """A scheduler without a thread: requests are admitted and stepped by hand."""

    def __init__(self, slots: int, max_new_tokens: int = 10, **texts: list[int]) -> None:
        self.model = ScriptedModel(max_new_tokens, texts)
        self.decoder = self.model.decoder
        self.scheduler = ContinuousScheduler(BorealisRunner(self.model, slots))
        self.requests: dict[str, Request] = {}

    def admit(self, names: str, recording: str = "") -> None:
        """Encode and prefill these chunks, and decode a second token for every sequence."""
        self.start(names, recording)
        self.step()

    def start(self, names: str, recording: str = "") -> None:
        """Encode these chunks, each of a recording of its own or all of `recording`."""
        chunks = [np.array([self.model.names.index(name)], np.float32) for name in names]
        requests = [Request(chunk, recording or name, 0.0) for name, chunk in zip(names, chunks, strict=True)]
        self.requests |= dict(zip(names, requests, strict=True))
        self.scheduler.admit(requests)

    def step(self, times: int = 1) -> str:
        """Up to so many steps while there is anything to decode; the chunks that they finish."""
        before = {name for name, request in self.requests.items() if request.future.done()}
        for _ in range(times):
            if self.scheduler.in_flight:
                self.scheduler.advance()
        return "".join(name for name, request in self.requests.items() if request.future.done() and name not in before)

    @property
    def rows(self) -> str:
        """The chunks in decoding, in the order of their rows; for the assertions."""
        return "".join(str(sequence.request.recording_id) for sequence in self.scheduler._decoding())

    def text(self, name: str) -> str:
        return self.requests[name].future.result(0).text


@pytest.fixture(autouse=True)
def unhurried(unhurried: None) -> None:
    """Steps and encoder batches as the tests ask for them."""


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens arrive three steps late, as from a GPU."""
    monkeypatch.setattr(
        self_check,
        "plain_path",
        lambda model, decoder: DevicePath(HostEncoder(model.audio_embeddings), decoder, LateReadback()),
    )


def test_sequences_take_the_lowest_vacant_rows() -> None:
    bench = Bench(4, a=[1] * 9, b=[END], c=[4] * 9, d=[5] * 9, e=[6] * 9)
    bench.admit("abc")
    assert bench.rows == "ac"
    bench.admit("de")
    assert bench.decoder.prefills == [[0, 1, 2], [1, 3]]
    assert bench.rows == "adce"


def test_a_step_covers_the_highest_row_and_the_furthest_position() -> None:
    bench = Bench(4, a=[1] * 9, b=[2, 2, END], c=[3] * 9)
    bench.admit("a")
    bench.step()
    bench.admit("bc")
    assert bench.step() == "b"
    bench.requests["c"].future.cancel()
    bench.step(2)
    assert bench.decoder.steps == [(1, 101), (1, 102), (3, 103), (3, 104), (3, 105), (1, 106)]


def test_sequences_move_together_once_most_rows_are_vacant() -> None:
    texts = {name: [1, END] for name in "abcdef"} | {"g": [1, 2, 3, 4, 5, END], "h": [6] * 9}
    bench = Bench(10, 9, **texts, i=[7] * 9)
    bench.admit("abcdefgh")
    bench.step()
    assert bench.rows == "hg"
    bench.admit("i")
    bench.step(20)
    assert [bench.text(name) for name in "ghi"] == ["1 2 3 4 5", " ".join("6" * 9), " ".join("7" * 9)]
    assert [active for active, _ in bench.decoder.steps][:3] == [8, 2, 3]


@pytest.mark.usefixtures("late")
def test_tokens_under_way_reach_a_sequence_that_has_moved_meanwhile() -> None:
    bench = Bench(3, a=[1, END], b=[2, END], c=[3, 4, 5, 6, 7, 8, 9, END])
    bench.admit("abc")
    bench.step(12)
    assert [bench.text(name) for name in "abc"] == ["1", "2", "3 4 5 6 7 8 9"]
    assert (3, 104) in bench.decoder.steps and (1, 105) in bench.decoder.steps


def test_a_text_is_as_long_as_the_limit_at_most_and_an_end_at_the_limit_is_one() -> None:
    bench = Bench(3, 3, a=[1] * 20, b=[2, 2, END], c=[3, 3, 3, END])
    bench.admit("abc")
    assert bench.step() == "abc"
    found = [bench.requests[name].future.result(0) for name in "abc"]
    assert [(each.text, each.finish_reason.value) for each in found] == [
        ("1 1 1", "length"), ("2 2", "stop"), ("3 3 3", "length"),
    ]  # fmt: skip


def test_urgent_sequences_are_stepped_by_themselves_three_times_out_of_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuous, "URGENT_STEPS", 3)
    bench = Bench(8, a=[1, 2, 3, 4, 5, 6, END], b=[7, 8, END], c=[9, END], d=[5, 6, 7, 8, END])
    bench.admit("abc", "file")
    bench.step(2)
    assert bench.decoder.partial_steps == [[0]] * 3
    bench.admit("d", "clip")
    assert bench.decoder.steps == [(4, 104)]
    bench.step(20)
    assert [bench.text(name) for name in "abcd"] == ["1 2 3 4 5 6", "7 8", "9", "5 6 7 8"]


def test_any_of_the_ends_ends_a_text() -> None:
    bench = Bench(2, a=[1, END, 5], b=[2, OTHER_END, 6])
    bench.admit("ab")
    bench.step()
    assert [bench.text(name) for name in "ab"] == ["1", "2"]


def test_a_row_is_released_when_its_sequence_finishes_or_is_evicted() -> None:
    bench = Bench(3, a=[1, END], b=[2] * 9, c=[3] * 9)
    bench.admit("abc")
    assert bench.decoder.released == [0]
    bench.requests["b"].future.cancel()
    bench.step()
    assert bench.decoder.released == [0, 1]


@pytest.mark.usefixtures("late")
def test_tokens_decoded_before_the_end_was_read_go_to_no_sequence() -> None:
    bench = Bench(2, a=[1, END, 7, 7, 7, 7, 7], b=[2, 2, 2, 2, 2, 2, END], c=[5, 6, END])
    bench.admit("ab")
    assert bench.step(3) == "a"
    bench.admit("c")  # in the row for which three steps are still under way
    assert bench.decoder.prefills == [[0, 1], [0]]
    bench.step(8)
    assert [bench.text(name) for name in "abc"] == ["1", "2 2 2 2 2 2", "5 6"]


@pytest.mark.usefixtures("late")
def test_an_evicted_sequence_takes_no_more_tokens() -> None:
    bench = Bench(2, a=[1, END], b=[2, 2, END])
    bench.start("ab")
    bench.requests["a"].future.cancel()
    bench.step(7)
    assert bench.requests["a"].future.cancelled()
    assert bench.text("b") == "2 2"
    assert bench.scheduler.stats.chunks == 1


@pytest.mark.usefixtures("late")
def test_clearing_forgets_what_is_under_way() -> None:
    bench = Bench(3, a=[1, END], b=[2, 3, 4, END])
    bench.admit("ab")
    assert [request.recording_id for request in bench.scheduler.clear()] == ["a", "b"]
    assert bench.scheduler.in_flight == []
    bench.admit("b")
    bench.step(8)
    assert bench.text("b") == "2 3 4"


def test_on_the_host_tokens_arrive_at_once_in_order_and_only_once() -> None:
    readback: HostReadback[str] = HostReadback()
    tokens = certain([1, 2])
    readback.put(tokens, "first")
    tokens.ids.add_(10)  # the next step's, in the same memory
    readback.put(Tokens(tokens.ids[:1], tokens.probabilities[:1]), "second")
    assert readback.get() == [Arrived([1, 2], [1.0, 1.0], "first"), Arrived([11], [1.0], "second")]
    assert readback.get() == []
    readback.put(tokens, "third")
    readback.clear()
    assert readback.get() == []
