"""Decode steps captured as CUDA graphs, so that a step costs one launch."""

from collections.abc import Sequence

import torch

from ml.borealis.decoder import SlotDecoder
from ml.borealis.sampler import Tokens

ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # rows stepped together
LENGTH_BUCKET = 128  # positions
WARM_UP_STEPS = 3  # eager steps before a capture, for kernels that choose themselves on first use


class GraphedDecoder:
    """A SlotDecoder whose steps are captured once and replayed, so that a step costs one launch.

    A capture sees fixed shapes only: rows and key length are rounded up to their buckets. Vacant rows are decoded as
    well, to no effect, and keys beyond a row's position are masked in either case.
    Source: PyTorch's notes on CUDA graphs (torch.cuda.graph, shared memory pools, side-stream warm-up).
    """

    def __init__(self, decoder: SlotDecoder) -> None:
        self._decoder = decoder
        self.prefill_length = decoder.prefill_length
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Tokens]] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._device = decoder.tokens.device
        self._stream = torch.cuda.Stream(self._device)  # one for all: cuBLAS keeps a workspace for every stream

    def prefill(self, rows: list[int], audio: torch.Tensor, seeds: Sequence[int | None]) -> Tokens:
        """See SlotDecoder; not captured, its shapes follow the batch's size."""
        return self._decoder.prefill(rows, audio, seeds)

    def audio_attention(
        self, rows: list[int], tokens: Sequence[Sequence[int]], heads: Sequence[tuple[int, int]]
    ) -> torch.Tensor:
        """See SlotDecoder; not captured."""
        return self._decoder.audio_attention(rows, tokens, heads)

    def move(self, row: int, to: int) -> None:
        """See SlotDecoder; between two replays, on their stream."""
        self._decoder.move(row, to)

    def release(self, row: int) -> None:
        """See SlotDecoder."""
        self._decoder.release(row)

    def step(self, active: int, length: int) -> Tokens:
        """See SlotDecoder; not replayed while single rows are sampled.

        The result's memory belongs to the graph: read it before the bucket's next step.
        """
        if self._decoder.sampler.any_row_sampled:
            return self._decoder.step(active, length)
        bucket = self._bucket(active, length)
        if bucket not in self._graphs:
            self._graphs[bucket] = self._capture(*bucket)
        graph, tokens = self._graphs[bucket]
        graph.replay()
        return tokens

    def step_rows(self, rows: list[int], length: int) -> Tokens:
        """See SlotDecoder; not captured."""
        return self._decoder.step_rows(rows, length)

    def capture_all(self) -> None:
        """Capture every bucket, largest first so that the others share its memory."""
        lengths = range(self._decoder.capacity, self.prefill_length, -LENGTH_BUCKET)
        for rows in sorted({min(rows, self._decoder.slots) for rows in ROW_BUCKETS}, reverse=True):
            for length in lengths:
                bucket = self._bucket(rows, length)
                self._graphs[bucket] = self._capture(*bucket)

    def _bucket(self, active: int, length: int) -> tuple[int, int]:
        rows = next(rows for rows in ROW_BUCKETS if rows >= active)
        steps = -(-(length - self.prefill_length) // LENGTH_BUCKET)  # rounded up
        full = self.prefill_length + steps * LENGTH_BUCKET
        return min(rows, self._decoder.slots), min(full, self._decoder.capacity)

    def _capture(self, rows: int, length: int) -> tuple[torch.cuda.CUDAGraph, Tokens]:
        """Record one step. Steps write to the cache and move the positions: both are put back."""
        decoder = self._decoder
        tokens, positions = decoder.tokens.clone(), decoder.positions.clone()
        try:
            with torch.cuda.device(self._device):
                self._stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(self._stream):
                    for _ in range(WARM_UP_STEPS):
                        decoder.step(rows, length)
                torch.cuda.current_stream().wait_stream(self._stream)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                    result = decoder.step(rows, length)
        finally:
            decoder.tokens.copy_(tokens)
            decoder.positions.copy_(positions)
        return graph, result
