"""Tell how much of a recording is missing by what its own headers state."""

from collections.abc import Callable
from dataclasses import dataclass

from ml.audio import mpeg
from ml.audio.containers import FLAC
from ml.audio.parts import Part

_HEAD_BYTES = 64 * 1024
_PADDING_BYTES = 64
_MAX_TAG_BYTES = 4096
_MAX_TAG_SHARE = 0.1
_TAIL_BYTES = 16 * mpeg.LONGEST_FRAME_BYTES
_PAGES = "ogg"  # how much follows an incomplete page is not known

ReadAt = Callable[[int, int], bytes]


@dataclass(frozen=True)
class Statement:
    """What a recording states about itself.

    is_cut: it breaks off before its end
    missing_share: bytes missing for each byte that is there, 0 where it is not known
    duration_s: its whole duration, 0 where it is not stated
    is_padded: it ends in zeros, of which a decoder may make a last packet that is none
    has_leftover: much follows what it states to be its end
    """

    is_cut: bool = False
    missing_share: float = 0.0
    duration_s: float = 0.0
    is_padded: bool = False
    has_leftover: bool = False


def statement(read_at: ReadAt, part: Part) -> Statement:
    """Return what `part` states; `read_at(offset, n)` returns bytes of its file."""
    if part.container == "raw":
        return _of_frames(read_at, part)
    missing_bytes = part.stated_end - part.end
    share = 0.0 if part.container == _PAGES else missing_bytes / max(1, part.end - part.start)
    return Statement(missing_bytes > 0, share, has_leftover=_has_leftover(read_at, part))


def _has_leftover(read_at: ReadAt, part: Part) -> bool:
    """Return whether more than padding and tags follows the stated end."""
    if part.leftover_bytes < max(_MAX_TAG_BYTES, _MAX_TAG_SHARE * (part.end - part.start)):
        return False
    return any(read_at(part.end - part.leftover_bytes, _HEAD_BYTES))


def _of_frames(read_at: ReadAt, part: Part) -> Statement:
    head = read_at(part.start, min(_HEAD_BYTES, part.end - part.start))
    if FLAC.match(head) and len(head) >= 26:
        return Statement(duration_s=_flac_duration_s(head))
    first = mpeg.first_frame(head)
    if first is None:
        return Statement()
    tail_start = max(part.start + first, part.end - _TAIL_BYTES)
    tail = read_at(tail_start, part.end - tail_start)
    is_padded = tail.endswith(bytes(_PADDING_BYTES))
    if stated_bytes := mpeg.stated_bytes(head[first : first + mpeg.LONGEST_FRAME_BYTES]):
        there_bytes = part.end - part.start - first
        missing_bytes = max(0, stated_bytes - there_bytes)
        return Statement(missing_bytes > 0, missing_bytes / there_bytes, is_padded=is_padded)
    return Statement(mpeg.last_frame_is_cut(tail), is_padded=is_padded)


def _flac_duration_s(head: bytes) -> float:
    """Return the duration that the first metadata block states (RFC 9639, section 8.2); 0 where it is not known."""
    fields = int.from_bytes(head[18:26])  # 20 bits of sample rate, 3 of channels, 5 of width, 36 of number of samples
    sample_rate, n_samples = fields >> 44, fields & ((1 << 36) - 1)
    return n_samples / sample_rate if sample_rate else 0.0
