"""Who sits in which slot, and which token belongs to whom."""

import torch

from ml.borealis.cuda import HostReadback, make_readback
from ml.engine.slots import Seat, Slots
from tests.support.fake_models import LateReadback

END = 99
AUDIO = torch.zeros(5, 1, 1)


class ScriptedDecoder:
    """Says of each seated chunk the tokens given for it, one a step; rows that nobody sits in say the last again."""

    prefill_length = 100

    def __init__(self, **texts: list[int]) -> None:
        self._texts = {seed: list(text) for seed, text in enumerate(texts.values())}
        self._rows: dict[int, list[int]] = {}
        self.prefills: list[list[int]] = []
        self.steps: list[tuple[int, int]] = []  # active rows and length

    def prefill(self, rows: list[int], audio: torch.Tensor, seeds: list[int]) -> torch.Tensor:
        self.prefills.append(rows)
        assert len(audio) == len(rows)
        self._rows |= {row: list(self._texts[seed]) for row, seed in zip(rows, seeds, strict=True)}
        return torch.tensor([self._say(row) for row in rows])

    def move(self, row: int, to: int) -> None:
        self._rows[to] = self._rows.pop(row)

    def step(self, active: int, length: int) -> torch.Tensor:
        self.steps.append((active, length))
        return torch.tensor([self._say(row) for row in range(active)])

    def _say(self, row: int) -> int:
        left = self._rows.setdefault(row, [END])
        return left.pop(0) if len(left) > 1 else left[0]


def seat(slots: Slots[str], *recording_ids: str) -> None:
    """Seats recording_ids called a, b, c…, of whom the decoder knows the first text, the second, …"""
    slots.seat(
        recording_ids, AUDIO[: len(recording_ids)], [ord(recording_id) - ord("a") for recording_id in recording_ids]
    )


def names(seats: list[Seat[str]]) -> str:
    return "".join(seat.recording_id for seat in seats)


def run(slots: Slots[str], steps: int) -> list[Seat[str]]:
    """Up to so many steps, as long as there is anybody to step."""
    ended = []
    for _ in range(steps):
        if slots.occupied:
            slots.step()
        ended += slots.ended()
    return ended


def test_chunks_take_the_lowest_free_slots() -> None:
    decoder = ScriptedDecoder(a=[1, 2, 3, END], b=[END], c=[4, END], d=[5, END], e=[END])
    slots: Slots[str] = Slots(decoder, HostReadback(), 4, END, 10)
    seat(slots, "a", "b", "c")
    assert slots.free == 1
    assert names(slots.ended()) == "b"
    assert slots.free == 2
    seat(slots, "d", "e")
    assert decoder.prefills == [[0, 1, 2], [1, 3]]
    assert names(slots.occupied) == "adce"


def test_a_step_covers_the_highest_slot_and_the_furthest_position() -> None:
    decoder = ScriptedDecoder(a=[1] * 9, b=[2, 2, END], c=[3] * 9)
    slots: Slots[str] = Slots(decoder, HostReadback(), 4, END, 20)
    seat(slots, "a")
    run(slots, 2)
    seat(slots, "b", "c")
    assert names(run(slots, 2)) == "b"
    slots.leave(slots.occupied[1])
    run(slots, 1)
    assert decoder.steps == [(1, 101), (1, 102), (3, 103), (3, 104), (1, 105)]


def test_those_left_over_move_together_once_most_rows_are_empty() -> None:
    texts = {recording_id: [1, END] for recording_id in "abcdef"} | {"g": [1, 2, 3, 4, 5, END], "h": [6] * 9}
    decoder = ScriptedDecoder(**texts, i=[7] * 9)
    slots: Slots[str] = Slots(decoder, HostReadback(), 10, END, 9)
    slots.seat("abcdefgh", torch.zeros(8, 1, 1), range(8))
    assert names(run(slots, 1)) == "abcdef"
    run(slots, 1)
    assert names(slots.occupied) == "hg"
    seat_of_g = slots.occupied[1]
    slots.seat("i", AUDIO[:1], [8])
    assert [(seat.recording_id, seat.tokens) for seat in run(slots, 20)] == [
        ("g", [1, 2, 3, 4, 5]), ("h", [6] * 9), ("i", [7] * 9),
    ]  # fmt: skip
    assert seat_of_g.ended
    assert [active for active, _ in decoder.steps] == [8, 2, *[3] * 6, 1, 1]


def test_tokens_under_way_reach_who_has_moved_meanwhile() -> None:
    decoder = ScriptedDecoder(a=[1, END], b=[2, END], c=[3, 4, 5, 6, 7, 8, 9, END])
    slots: Slots[str] = Slots(decoder, LateReadback(), 3, END, 10)
    seat(slots, "a", "b", "c")
    assert {seat.recording_id: seat.tokens for seat in run(slots, 12)} == {
        "a": [1],
        "b": [2],
        "c": [3, 4, 5, 6, 7, 8, 9],
    }
    assert (3, 104) in decoder.steps and (1, 105) in decoder.steps


def test_those_who_end_together_leave_together_with_their_tokens() -> None:
    decoder = ScriptedDecoder(a=[1, 2, END], b=[3, 4, END], c=[5, 6, 7, END])
    slots: Slots[str] = Slots(decoder, HostReadback(), 3, END, 10)
    seat(slots, "a", "b", "c")
    assert run(slots, 1) == []
    assert [(seat.recording_id, seat.tokens) for seat in run(slots, 1)] == [("a", [1, 2]), ("b", [3, 4])]
    assert [(seat.recording_id, seat.tokens) for seat in run(slots, 1)] == [("c", [5, 6, 7])]
    assert slots.free == 3


def test_a_text_is_as_long_as_the_limit_at_most_and_an_end_at_the_limit_is_one() -> None:
    decoder = ScriptedDecoder(a=[1] * 20, b=[2, 2, END], c=[3, 3, 3, END])
    slots: Slots[str] = Slots(decoder, HostReadback(), 3, END, 3)
    seat(slots, "a", "b", "c")
    ended = run(slots, 2)
    assert {seat.recording_id: seat.tokens for seat in ended} == {"a": [1] * 3, "b": [2, 2], "c": [3] * 3}


def test_tokens_decoded_before_the_end_was_read_belong_to_nobody() -> None:
    decoder = ScriptedDecoder(a=[1, END, 7, 7, 7, 7, 7], b=[2, 2, 2, 2, 2, 2, END], c=[5, 6, END])
    slots: Slots[str] = Slots(decoder, LateReadback(), 2, END, 10)
    seat(slots, "a", "b")
    (first,) = run(slots, 4)
    assert (first.recording_id, first.tokens) == ("a", [1])
    seat(slots, "c")  # in the slot for which three steps are still under way
    assert decoder.prefills == [[0, 1], [0]]
    assert {seat.recording_id: seat.tokens for seat in run(slots, 8)} == {"b": [2] * 6, "c": [5, 6]}
    assert first.tokens == [1]


def test_who_left_is_not_heard_of_again() -> None:
    slots: Slots[str] = Slots(ScriptedDecoder(a=[1, END], b=[2, 2, END]), LateReadback(), 2, END, 10)
    seat(slots, "a", "b")
    slots.leave(slots.occupied[0])
    assert slots.free == 1
    assert names(run(slots, 6)) == "b"


def test_leaving_twice_does_not_unseat_the_next() -> None:
    slots: Slots[str] = Slots(ScriptedDecoder(a=[1, END], b=[2, END]), HostReadback(), 1, END, 10)
    seat(slots, "a")
    (first,) = slots.occupied
    slots.leave(first)
    seat(slots, "b")
    slots.leave(first)
    assert names(slots.occupied) == "b"


def test_clearing_frees_all_and_forgets_what_is_under_way() -> None:
    slots: Slots[str] = Slots(ScriptedDecoder(a=[1, END], b=[2, 3, 4, END]), LateReadback(), 3, END, 10)
    seat(slots, "a", "b")
    slots.step()
    assert slots.clear() == ["a", "b"]
    assert slots.free == 3
    assert slots.ended() == []
    seat(slots, "b")
    (second,) = run(slots, 8)
    assert second.tokens == [2, 3, 4]


def test_on_the_host_tokens_arrive_at_once_in_order_and_only_once() -> None:
    readback: HostReadback[str] = HostReadback()
    tokens = torch.tensor([1, 2])
    readback.put(tokens, "first")
    tokens += 10  # the next step's, in the same memory
    readback.put(tokens[:1], "second")
    assert readback.get() == [([1, 2], "first"), ([11], "second")]
    assert readback.get() == []
    readback.put(tokens, "third")
    readback.forget()
    assert readback.get() == []


def test_the_host_s_readback_is_for_the_cpu() -> None:
    assert isinstance(make_readback(torch.device("cpu"), 4), HostReadback)
