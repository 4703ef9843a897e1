"""Reads what needs no decoding: 16 kHz mono 16-bit PCM, bare or in a WAV file, without starting a process."""

import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.audio.ffmpeg import SAMPLE_BYTES
from ml.errors import DecodingCancelledError
from ml.interfaces import SAMPLE_RATE

_HEAD_BYTES = 64 * 1024  # a header longer than this is not plain
_UNKNOWN_BYTES = 0x7FFF_0000  # lengths from here on mean that the writer did not know
_PCM, _EXTENSIBLE = 1, 0xFFFE
_PCM_SUBFORMAT = b"\x01\x00\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"
_FULL_SCALE = 32768.0  # s16 to [-1, 1)


@dataclass(frozen=True)
class PlainSamples:
    """Where the samples are in a file."""

    offset: int
    n_bytes: int


def plain_samples(descriptor: int, pcm_sample_rate: int | None) -> PlainSamples | None:
    """The samples of a file that is 16 kHz mono 16-bit PCM; None for every other and for any unusual header.

    `pcm_sample_rate` (Hz) says that the file is samples from its first byte. Moves the file's position.
    """
    size_bytes = os.fstat(descriptor).st_size
    if pcm_sample_rate is not None:
        return PlainSamples(0, size_bytes) if pcm_sample_rate == SAMPLE_RATE and size_bytes >= SAMPLE_BYTES else None
    os.lseek(descriptor, 0, os.SEEK_SET)
    return _in_wav(os.read(descriptor, _HEAD_BYTES), size_bytes)


def _in_wav(head: bytes, size_bytes: int) -> PlainSamples | None:
    if len(head) < 12 or head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    offset, is_plain = 12, False
    while offset + 8 <= len(head):
        name, length = struct.unpack_from("<4sI", head, offset)
        offset += 8
        if name == b"fmt ":
            is_plain = _is_plain_format(head[offset : offset + length])
        elif name == b"data":
            n_bytes = min(length, size_bytes - offset)
            usable = is_plain and 0 < length < _UNKNOWN_BYTES and n_bytes >= SAMPLE_BYTES
            return PlainSamples(offset, n_bytes) if usable else None
        offset += length + length % 2
    return None


def _is_plain_format(layout: bytes) -> bool:
    """Whether a `fmt ` chunk describes 16 kHz mono 16-bit PCM, and nothing but that."""
    if len(layout) < 16:
        return False
    kind, channels, rate, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", layout)
    if kind == _EXTENSIBLE:
        kind = _PCM if layout[24:40] == _PCM_SUBFORMAT and layout[18:20] == b"\x10\x00" else 0
    return bool((kind, channels, rate, frame_bytes, bits) == (_PCM, 1, SAMPLE_RATE, SAMPLE_BYTES, 16))


def read_blocks(
    descriptor: int, samples: PlainSamples, block_bytes: int, cancelled: threading.Event
) -> Iterator[NDArray[np.float32]]:
    """The samples as float32 blocks in [-1, 1). Raises DecodingCancelledError once `cancelled` is set."""
    os.lseek(descriptor, samples.offset, os.SEEK_SET)
    left = samples.n_bytes - samples.n_bytes % SAMPLE_BYTES
    while left > 0:
        if cancelled.is_set():
            raise DecodingCancelledError("Чтение записи отменено.")
        data = _read_exactly(descriptor, min(block_bytes, left))
        if not data:
            return
        left -= len(data)
        block = np.frombuffer(data, "<i2", count=len(data) // SAMPLE_BYTES).astype(np.float32)
        block /= _FULL_SCALE
        yield block


def _read_exactly(descriptor: int, n_bytes: int) -> bytes:
    pieces = []
    while n_bytes > 0 and (piece := os.read(descriptor, n_bytes)):
        pieces.append(piece)
        n_bytes -= len(piece)
    return b"".join(pieces)
