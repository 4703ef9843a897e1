"""Remove the low frequencies of a stream of samples, frame by frame, to the same bits however the stream arrives.

A Butterworth filter of even order as a cascade of biquads (Robert Bristow-Johnson's cookbook formulas), written as one
state space: x' = A x + B u, y = C x + D u. The response to a whole frame is then a product of matrices, which numpy
computes at once, and only the state goes from frame to frame. The products are kept so small that BLAS computes each on
one thread: its threads would wait for one another longer than the work takes.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


_GROUP_FRAMES = 100  # times 40 x 40 is below the 262,144 products from which OpenBLAS uses more threads


class HighPass:
    """A high-pass filter and its state for each channel of one recording.

    What precedes the first sample is taken to be a constant of the same value, so that an offset makes no click. Later
    samples never change the output of earlier ones, not even by rounding.
    """

    def __init__(self, cutoff_hz: float, order: int, sample_rate: int, frame_samples: int) -> None:
        """`order` is even; -3 dB at `cutoff_hz` and 6 dB an octave for each order below it."""
        self._frame_samples = frame_samples
        self._response = _response(cutoff_hz, order, sample_rate, frame_samples)
        self._state: Matrix | None = None  # (C, S)

    def push(self, samples: NDArray[np.floating]) -> Matrix:
        """Return samples (C, N) filtered. Only the last of all pushes may hold a broken frame."""
        n_channels, n_samples = samples.shape
        if n_samples == 0:
            return np.zeros((n_channels, 0))
        response, n_groups = self._response, -(-n_samples // (_GROUP_FRAMES * self._frame_samples))
        n_frames = n_groups * _GROUP_FRAMES
        frames = np.zeros((n_channels, n_frames * self._frame_samples))
        frames[:, :n_samples] = samples
        groups = frames.reshape(n_channels, n_groups, _GROUP_FRAMES, self._frame_samples)  # (C, G, 100, L)
        frames = groups.reshape(n_channels, n_frames, self._frame_samples)  # (C, F, L)
        state = samples[:, :1] * response.settled if self._state is None else self._state  # (C, S)
        states = np.concatenate([state[:, None], frames @ response.input_to_state], axis=1)  # (C, 1 + F, S)
        # Prefix sums by doubling: after each round, every state holds the inputs of twice as many frames before it.
        reach, power = 1, response.state_to_state
        while reach <= n_frames:
            states[:, reach:] += states[:, :-reach] @ power
            reach, power = 2 * reach, power @ power
        self._state = states[:, -1].copy()
        filtered: Matrix = (groups @ response.input_to_output).reshape(frames.shape)
        filtered += states[:, :-1] @ response.state_to_output
        return filtered.reshape(n_channels, -1)[:, :n_samples]


@dataclass(frozen=True)
class _Response:
    """What a frame of L samples (a row) and the state of S numbers (a row) before it turn into."""

    input_to_output: Matrix  # (L, L)
    input_to_state: Matrix  # (L, S)
    state_to_output: Matrix  # (S, L)
    state_to_state: Matrix  # (S, S)
    settled: Matrix  # (S,), the state after an endless input of 1


@cache
def _response(cutoff_hz: float, order: int, sample_rate: int, frame_samples: int) -> _Response:
    a, b, c, d = _state_space(cutoff_hz, order, sample_rate)
    powers = [np.eye(order)]  # of a
    for _ in range(frame_samples):
        powers.append(a @ powers[-1])
    impulse = [d, *(float(c @ power @ b) for power in powers[: frame_samples - 1])]
    input_to_output = np.zeros((frame_samples, frame_samples))
    for row in range(frame_samples):
        input_to_output[row, row:] = impulse[: frame_samples - row]
    return _Response(
        input_to_output,
        input_to_state=np.stack([power @ b for power in powers[frame_samples - 1 :: -1]]),
        state_to_output=np.stack([c @ power for power in powers[:frame_samples]], axis=1),
        state_to_state=powers[frame_samples].T,
        settled=np.asarray(np.linalg.solve(np.eye(order) - a, b), np.float64),
    )


def _state_space(cutoff_hz: float, order: int, sample_rate: int) -> tuple[Matrix, Matrix, Matrix, float]:
    """Return A (S, S), B (S,), C (S,) and D of the cascade; S is the order."""
    a, b, c, d = np.zeros((0, 0)), np.zeros(0), np.zeros(0), 1.0
    angle = 2 * math.pi * cutoff_hz / sample_rate
    for number in range(order // 2):
        q = 1 / (2 * math.cos(math.pi * (2 * number + 1) / (2 * order)))
        alpha = math.sin(angle) / (2 * q)
        b0 = (1 + math.cos(angle)) / 2 / (1 + alpha)
        a1, a2 = -2 * math.cos(angle) / (1 + alpha), (1 - alpha) / (1 + alpha)
        own_a, own_b = np.array([[-a1, 1.0], [-a2, 0.0]]), np.array([-2 * b0 - a1 * b0, b0 - a2 * b0])
        own_c = np.array([1.0, 0.0])
        a = np.block([[a, np.zeros((len(b), 2))], [np.outer(own_b, c), own_a]])
        b, c, d = np.concatenate([b, own_b * d]), np.concatenate([b0 * c, own_c]), b0 * d
    return a, b, c, d
