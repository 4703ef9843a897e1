"""Read what the decoder process writes: 16-bit samples of all tracks with their times, as a Matroska stream.

Matroska carries any number of tracks, each with its own number of channels, through one pipe. Only the elements that
ffmpeg writes for uncompressed sound are read (RFC 9559); all others are skipped.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# Elements whose content is more elements, and those that are read.
_SEGMENT, _TRACKS, _TRACK, _AUDIO, _CLUSTER = 0x18538067, 0x1654AE6B, 0xAE, 0xE1, 0x1F43B675
_CONTAINERS = frozenset((_SEGMENT, _TRACKS, _TRACK, _AUDIO, _CLUSTER))
_TRACK_NUMBER, _CHANNELS, _LANGUAGE, _LANGUAGE_BCP47 = 0xD7, 0x9F, 0x22B59C, 0x22B59D
_CLUSTER_TIME, _SIMPLE_BLOCK = 0xE7, 0xA3
_MAX_HEADER_BYTES = 12  # of an element: 4 of its id and 8 of its length
_MAX_ELEMENT_BYTES = 16 * 1024 * 1024

Samples = NDArray[np.int16]


class PacketError(ValueError):
    """The stream is not what ffmpeg writes."""


@dataclass
class Track:
    """An audio track: its number in the stream, its channels and its language ("und" where it has none)."""

    number: int = 0
    channels: int = 1
    language: str = "und"


@dataclass
class Packet:
    """Samples (C, n) of the track `track` (counted from 0), the first one at `time_ms`."""

    track: int
    time_ms: int
    samples: Samples


@dataclass
class PacketParser:
    """Takes the stream in pieces of any size; `tracks` is complete with the first packet."""

    tracks: list[Track] = field(default_factory=list)
    _rest: bytes = b""
    _to_skip: int = 0
    _cluster_ms: int = 0

    def feed(self, data: bytes) -> Iterator[Packet]:
        """Take the next bytes and yield the packets that are now complete.

        Raises: PacketError.
        """
        skipped = min(self._to_skip, len(data))
        self._to_skip -= skipped
        data, at = self._rest + data[skipped:], 0
        while at < len(data):
            header = _element_header(data, at)
            if header is None:
                break
            name, start, length = header
            if name in _CONTAINERS:
                if name == _TRACK:
                    self.tracks.append(Track())
                at = start
            elif name in (_TRACK_NUMBER, _CHANNELS, _LANGUAGE, _LANGUAGE_BCP47, _CLUSTER_TIME, _SIMPLE_BLOCK):
                if not 0 <= length <= _MAX_ELEMENT_BYTES:
                    raise PacketError("an element of impossible length")
                if start + length > len(data):
                    break
                at = start + length
                if name == _SIMPLE_BLOCK:
                    yield self._packet(data[start:at])
                else:
                    self._take(name, data[start:at])
            else:
                if length < 0:
                    raise PacketError("an unknown element without an end")
                at = start + length
        self._rest = data[at:]
        self._to_skip += max(0, at - len(data))

    def _take(self, name: int, content: bytes) -> None:
        if name == _CLUSTER_TIME:
            self._cluster_ms = int.from_bytes(content)
            return
        if not self.tracks:
            raise PacketError("a property without its track")
        if name == _TRACK_NUMBER:
            self.tracks[-1].number = int.from_bytes(content)
        elif name == _CHANNELS:
            self.tracks[-1].channels = int.from_bytes(content)
        else:
            self.tracks[-1].language = content.rstrip(b"\0").decode("ascii", "replace")

    def _packet(self, content: bytes) -> Packet:
        number, at = _number(content, 0)
        index = next((index for index, track in enumerate(self.tracks) if track.number == number), -1)
        if index < 0 or at + 3 > len(content) or self.tracks[index].channels < 1:
            raise PacketError("a block of no known track")
        time_ms = self._cluster_ms + int.from_bytes(content[at : at + 2], signed=True)
        channels = self.tracks[index].channels
        samples = np.frombuffer(
            content, "<i2", offset=at + 3, count=(len(content) - at - 3) // 2 // channels * channels
        )
        return Packet(index, time_ms, samples.reshape(-1, channels).T)


def _element_header(data: bytes, at: int) -> tuple[int, int, int] | None:
    """Return the element's id, where its content starts and its length (-1 if unknown); None if it is incomplete."""
    id_bytes = 9 - data[at].bit_length()
    if id_bytes > 4:
        raise PacketError("no element")
    if at + id_bytes >= len(data) or at + id_bytes + 9 - data[at + id_bytes].bit_length() > len(data):
        if len(data) - at >= _MAX_HEADER_BYTES:
            raise PacketError("no length")
        return None
    length, start = _number(data, at + id_bytes)
    is_unknown = length == (1 << 7 * (start - at - id_bytes)) - 1
    return int.from_bytes(data[at : at + id_bytes]), start, -1 if is_unknown else length


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Return the number of variable length (RFC 8794, section 4) that begins at `at`, and where it ends."""
    if at >= len(data) or not data[at]:
        raise PacketError("no number")
    n_bytes = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + n_bytes])
    return value & ((1 << 7 * n_bytes) - 1), at + n_bytes
