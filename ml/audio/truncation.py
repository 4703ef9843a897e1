"""Tells whether a file stops before its own headers say it should, where ffmpeg passes over that in silence."""

import os
import struct
from collections.abc import Callable

from ml.audio import mpeg

_HEAD_BYTES = 64 * 1024
_MAX_PARTS = 40_000  # looked at in one file; 4 h of MP4 in fragments of 1 s have 28,800
_OGG_PAGE_BYTES = 65_307  # the longest page there can be
_OGG_HEADER_BYTES = 27
# Programs that write WAV into a pipe cannot know the length: they put 0, 0xFFFFFFFF or something near 0x7FFFFFFF.
_UNKNOWN_WAV_BYTES = 0x7FFF_0000
_MP4_BOXES = frozenset(
    (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"sidx", b"mfra", b"meta", b"uuid")
)
_ID3_HEADER_BYTES = 10
_MP3_TAIL_BYTES = 16 * mpeg.LONGEST_FRAME_BYTES

ReadAt = Callable[[int, int], bytes]


def ends_early(descriptor: int) -> bool:
    """Return whether a WAV, Ogg, MP4 or MP3 file was cut short; False for every other kind. Moves the file's position.

    Of an MP3 without a count of its bytes, and of a fragmented MP4, only a cut inside a frame or a part shows.
    """
    size_bytes = os.fstat(descriptor).st_size

    def read_at(offset: int, n_bytes: int) -> bytes:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, n_bytes)

    magic = read_at(0, 12)
    if magic[:4] in (b"RIFF", b"RF64") and magic[8:] == b"WAVE":
        return _wav_ends_early(read_at, size_bytes)
    if magic[:4] == b"OggS":
        return _ogg_ends_early(read_at, size_bytes)
    if magic[4:8] in _MP4_BOXES:
        return _mp4_ends_early(read_at, size_bytes)
    return _mp3_ends_early(read_at, size_bytes)


def _wav_ends_early(read_at: ReadAt, size_bytes: int) -> bool:
    offset, long_length = 12, 0
    for _ in range(_MAX_PARTS):
        head = read_at(offset, 24)
        if len(head) < 8:
            break
        name, length = struct.unpack_from("<4sI", head)
        offset += 8
        if name == b"ds64" and len(head) == 24:  # RF64: where 32 bits do not suffice
            (long_length,) = struct.unpack_from("<Q", head, 16)
        elif name == b"data":
            known = long_length or (length if length < _UNKNOWN_WAV_BYTES else 0)
            return known > 0 and offset + known > size_bytes
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


def _mp4_ends_early(read_at: ReadAt, size_bytes: int) -> bool:
    """Return whether a box goes on beyond the end. What follows the boxes and is none may be a tag of any kind."""
    offset = 0
    for _ in range(_MAX_PARTS):
        head = read_at(offset, 16)
        if len(head) < 8 or head[4:8] not in _MP4_BOXES:
            return False
        (length,) = struct.unpack_from(">I", head)
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack_from(">Q", head, 8)
        if length < 8:  # 0: to the end, wherever that is
            return False
        offset += length
        if offset >= size_bytes:
            return bool(offset > size_bytes)
    return False


def _mp3_ends_early(read_at: ReadAt, size_bytes: int) -> bool:
    start = _after_id3(read_at)
    if start > size_bytes:
        return True
    head = read_at(start, _HEAD_BYTES)
    first = mpeg.first_frame(head)
    if first is None:
        return False
    if stated_bytes := mpeg.stated_bytes(head[first : first + mpeg.LONGEST_FRAME_BYTES]):
        return start + first + stated_bytes > size_bytes
    tail_start = max(start + first, size_bytes - _MP3_TAIL_BYTES)
    return mpeg.last_frame_is_cut(read_at(tail_start, _MP3_TAIL_BYTES))


def _after_id3(read_at: ReadAt) -> int:
    """Return where the sound begins: after the tags, pictures among them, that many programs put before it."""
    offset = 0
    for _ in range(_MAX_PARTS):
        head = read_at(offset, _ID3_HEADER_BYTES)
        if head[:3] != b"ID3" or len(head) < _ID3_HEADER_BYTES:
            break
        size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        offset += _ID3_HEADER_BYTES + size
    return offset
