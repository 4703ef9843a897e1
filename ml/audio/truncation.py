"""Tells whether a file stops before its own headers say it should, where ffmpeg passes over that in silence."""

import os
import struct
from collections.abc import Callable

_HEAD_BYTES = 64 * 1024
_OGG_PAGE_BYTES = 65_307  # the longest page there can be
_OGG_HEADER_BYTES = 27
# Programs that write WAV into a pipe cannot know the length: they put 0, 0xFFFFFFFF or something near 0x7FFFFFFF.
_UNKNOWN_WAV_BYTES = 0x7FFF_0000

ReadAt = Callable[[int, int], bytes]


def ends_early(descriptor: int) -> bool:
    """Return whether a WAV or Ogg file was cut short; False for every other kind. Moves the file's position."""
    size_bytes = os.fstat(descriptor).st_size

    def read_at(offset: int, n_bytes: int) -> bytes:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, n_bytes)

    magic = read_at(0, 12)
    if magic[:4] == b"RIFF" and magic[8:] == b"WAVE":
        return _wav_ends_early(read_at, size_bytes)
    if magic[:4] == b"OggS":
        return _ogg_ends_early(read_at, size_bytes)
    return False


def _wav_ends_early(read_at: ReadAt, size_bytes: int) -> bool:
    head = read_at(0, _HEAD_BYTES)
    offset = 12
    while offset + 8 <= len(head):
        name, length = struct.unpack_from("<4sI", head, offset)
        offset += 8
        if name == b"data":
            return 0 < length < _UNKNOWN_WAV_BYTES and bool(offset + length > size_bytes)
        offset += length + length % 2
    return False


def _ogg_ends_early(read_at: ReadAt, size_bytes: int) -> bool:
    """Return whether the last page is incomplete. A missing end-of-stream mark alone is common and harmless."""
    start = max(0, size_bytes - _OGG_PAGE_BYTES - _OGG_HEADER_BYTES)
    tail = read_at(start, size_bytes - start)
    page = tail.rfind(b"OggS\0")
    if page < 0:
        return True
    header = tail[page : page + _OGG_HEADER_BYTES]
    if len(header) < _OGG_HEADER_BYTES:
        return True
    n_lengths = header[-1]
    lengths = tail[page + _OGG_HEADER_BYTES :][:n_lengths]
    return len(lengths) < n_lengths or page + _OGG_HEADER_BYTES + n_lengths + sum(lengths) > len(tail)
