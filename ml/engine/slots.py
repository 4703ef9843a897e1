"""Who sits in which slot: chunks are seated, stepped together, and leave one by one as they end."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import torch

from ml.borealis.cuda import Readback

T = TypeVar("T")

SPARSE = 2  # times as many rows as chunks in a step: then the chunks move together


class Decoder(Protocol):
    """What the slots need of a decoder; SlotDecoder is one."""

    prefill_length: int

    def prefill(self, rows: list[int], audio: torch.Tensor, seeds: Sequence[int | None]) -> torch.Tensor:
        """Seats chunks in `rows`; their first tokens."""

    def step(self, active: int, length: int) -> torch.Tensor:
        """One token more for each of the first `active` rows."""

    def move(self, row: int, to: int) -> None:
        """Has who sits in `row` go on in `to`."""


@dataclass(eq=False)
class Seat(Generic[T]):
    """One chunk in its slot."""

    row: int
    recording_id: T
    position: int  # where its next key goes, steps under way counted
    tokens: list[int] = field(default_factory=list)
    ended: bool = False
    unfinished: bool = False  # ended by the limit on tokens


class Slots(Generic[T]):
    """Up to `count` chunks in decoding. A seat is free again the moment its chunk's end is read."""

    def __init__(
        self, decoder: Decoder, readback: Readback[list[tuple[int, Seat[T]]]], count: int, eos_id: int, max_tokens: int
    ) -> None:
        self._decoder = decoder
        self._readback = readback
        self._eos_id = eos_id
        self._max_tokens = max_tokens
        self._seats: list[Seat[T] | None] = [None] * count

    @property
    def free(self) -> int:
        """How many more chunks can be seated."""
        return self._seats.count(None)

    @property
    def occupied(self) -> list[Seat[T]]:
        """The seats taken."""
        return [seat for seat in self._seats if seat]

    def seat(self, recording_ids: Sequence[T], audio: torch.Tensor, seeds: Sequence[int | None]) -> None:
        """Seats `recording_ids`, whose audio embeddings are `audio` (b, 375, H), in the lowest free slots."""
        rows = [row for row, seat in enumerate(self._seats) if seat is None][: len(recording_ids)]
        tokens = self._decoder.prefill(rows, audio, seeds)
        seats = [
            Seat(row, recording_id, self._decoder.prefill_length)
            for row, recording_id in zip(rows, recording_ids, strict=True)
        ]
        self._readback.put(tokens, list(enumerate(seats)))
        for seat in seats:  # nothing may fail from here on: who is not seated is tried again
            self._seats[seat.row] = seat

    def step(self) -> None:
        """Starts decoding one token more for everybody seated."""
        self._close_ranks()
        seats = self.occupied
        tokens = self._decoder.step(seats[-1].row + 1, 1 + max(seat.position for seat in seats))
        for seat in seats:
            seat.position += 1
        self._readback.put(tokens, [(seat.row, seat) for seat in seats])

    def ended(self) -> list[Seat[T]]:
        """Those whose end has been read since the last call, their seats free again."""
        ended = []
        for tokens, seats in self._readback.get():
            for column, seat in seats:
                if not seat.ended and self._take_token(seat, tokens[column]):
                    self.leave(seat)
                    ended.append(seat)
        return ended

    def leave(self, seat: Seat[T]) -> None:
        """Frees the seat; what is still being decoded for it is ignored."""
        seat.ended = True
        if self._seats[seat.row] is seat:
            self._seats[seat.row] = None

    def clear(self) -> list[T]:
        """Frees every seat, and forgets what is still being decoded; those who sat there."""
        self._readback.forget()
        seats = self.occupied
        for seat in seats:
            self.leave(seat)
        return [seat.recording_id for seat in seats]

    def _close_ranks(self) -> None:
        """Moves the hindmost to the front once most rows of a step would be nobody's: a step costs by its rows."""
        seats = self.occupied
        count = len(seats)
        if seats[-1].row < SPARSE * count:
            return
        vacant = [row for row in range(count) if not self._seats[row]]
        outside = [seat for seat in reversed(seats) if seat.row >= count]  # as many as vacant
        for to, seat in zip(vacant, outside, strict=True):
            self._decoder.move(seat.row, to)
            self._seats[seat.row], self._seats[to] = None, seat
            seat.row = to

    def _take_token(self, seat: Seat[T], token: int) -> bool:
        """Adds `token` to the seat's; whether it was the last."""
        if token != self._eos_id:
            seat.tokens.append(token)
        seat.unfinished = token != self._eos_id and len(seat.tokens) >= self._max_tokens
        return token == self._eos_id or seat.unfinished
