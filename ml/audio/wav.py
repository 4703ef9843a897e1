"""Read the structure of WAV files: their format, and what follows the samples."""

import re
from dataclasses import dataclass, replace

from ml.audio.parts import OPEN_BYTES, ElementScanner, Part
from ml.interfaces import SAMPLE_RATE

_UNKNOWN_BYTES = 0x7FFF_0000  # a program that writes into a pipe states 0, 0xFFFFFFFF or something from here on
_PCM, _EXTENSIBLE = 1, 0xFFFE
_PCM_SUBFORMAT = b"\x01\x00\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"
_BLOCK_CODECS = frozenset((1, 2, 3, 6, 7, 0x11, 0x31, _EXTENSIBLE))  # PCM, ADPCM, float, A-law, mu-law, IMA, GSM
_MAX_BLOCK_BYTES = 8192
_NEGLIGIBLE_BYTES = 66  # more than a frame of GSM; of any other codec, less than 10 ms
_RIFF = re.compile(rb"(?:RIFF|RF64|BW64)....WAVE", re.DOTALL)
_CHUNK_NAME = re.compile(rb"[A-Za-z0-9_][A-Za-z0-9_. -]{3}")
_TAG = re.compile(rb"TAG|ID3|APETAGEX|LYRICSBEGIN")
# Chunks that programs write after the samples. A name that is none of these may be samples that look like one.
_TRAILERS = frozenset(
    b"LIST id3 ID3 bext iXML fact cue smpl JUNK junk PAD FLLR PEAK levl axml _PMX DISP inst plst acid cart afsp".split()
)


@dataclass(frozen=True)
class WavFormat:
    """The content of a `fmt ` chunk."""

    content: bytes = b""

    def _field(self, at: int, n_bytes: int) -> int:
        return int.from_bytes(self.content[at : at + n_bytes], "little")

    def whole(self, n_bytes: int) -> int:
        """Return how many of `n_bytes` are whole blocks: samples of all channels, or the frames of a codec."""
        block_bytes = self._field(12, 2) if self._field(0, 2) in _BLOCK_CODECS else 1
        return n_bytes - n_bytes % block_bytes if 0 < block_bytes <= _MAX_BLOCK_BYTES else n_bytes

    @property
    def is_plain(self) -> bool:
        """Whether it is 16 kHz mono 16-bit PCM, and nothing but that."""
        kind = self._field(0, 2)
        if kind == _EXTENSIBLE:
            kind = _PCM if self.content[24:40] == _PCM_SUBFORMAT and self._field(18, 2) == 16 else 0
        fields = (kind, self._field(2, 2), self._field(4, 4), self._field(12, 2), self._field(14, 2))
        return fields == (_PCM, 1, SAMPLE_RATE, 2, 16)

    def header(self) -> bytes:
        """Return a header for samples of this format without a stated length."""
        length = len(self.content).to_bytes(4, "little")
        padded = self.content + bytes(len(self.content) % 2)
        return b"RIFF\xff\xff\xff\xffWAVEfmt " + length + padded + b"data\xff\xff\xff\xff"


class WavScanner(ElementScanner):
    """Chunks. After the samples there may be another recording, chunks of text, or more samples than were stated."""

    _MAX_HEADER_BYTES = 64  # a `fmt ` chunk with all that is read of it

    def __init__(self) -> None:
        super().__init__("wav")
        self._format = WavFormat()
        self._prefix = b""
        self._long_bytes = 0  # RF64: the length of the samples where 32 bits do not suffice
        self._samples_at = self._samples_end = -1
        self._is_beyond = False  # the part is closed; what follows its samples is being looked at

    @property
    def safe(self) -> int:
        if self._samples_at < 0 or self._is_beyond:
            return super().safe
        return self._samples_at + self._format.whole(min(self.end, self._samples_end) - self._samples_at)

    def finish(self) -> list[Part]:
        if not self._stopped:
            self._walk(is_last=True)
        if self._is_beyond and self._at > self.end and self._last_name not in _TRAILERS:
            self._continue(self._last_at, OPEN_BYTES)  # no chunk is as long as that: these are samples
        if self._samples_at < 0:
            self._add(self.end, self.end)
        elif not self._is_beyond:
            self._close()
        return self.parts

    def _element(self, header: bytes, is_whole: bool) -> int | None:
        if len(header) < self._MAX_HEADER_BYTES and not is_whole:
            return None
        if self._samples_at >= 0:
            return self._element_after_samples(header)
        name, length = header[:4], int.from_bytes(header[4:8], "little")
        if _RIFF.match(header):
            return 12
        if len(header) < 8 or self._at == self.start:
            return 0
        if name == b"data":
            known_bytes = self._long_bytes or (length if length < _UNKNOWN_BYTES else 0)
            self._samples_at = self._at + 8
            self._samples_end = self._samples_at + (known_bytes or OPEN_BYTES)
            return 8 + (known_bytes or OPEN_BYTES)
        if name == b"fmt ":
            self._format = WavFormat(header[8 : 8 + length])
        elif name == b"ds64":
            self._long_bytes = int.from_bytes(header[16:24], "little")
        return 8 + length + length % 2

    def _element_after_samples(self, header: bytes) -> int:
        if not self._is_beyond:
            self._close()
        self._last_at, self._last_name = self._at, header[:4].rstrip()
        length = int.from_bytes(header[4:8], "little")
        if _RIFF.match(header):
            self._samples_at, self._is_beyond, self._prefix, self._long_bytes = -1, False, b"", 0
            self.start = self._at
            return 12
        if header[:4] == b"data":
            self._continue(self._at + 8, length)
            return 8 + length
        if _CHUNK_NAME.match(header):
            return 8 + length + length % 2
        if self._at == self._samples_end and _CHUNK_NAME.match(header, 1):
            return 1  # the byte that makes the number of bytes before it even
        if _TAG.match(header):
            return 0
        self._continue(self.start, OPEN_BYTES)  # closing has left `start` behind the last whole block
        return OPEN_BYTES

    def _continue(self, start: int, n_bytes: int) -> None:
        """More samples of the same recording begin at `start`."""
        self.start = self._samples_at = start
        self._samples_end = start + n_bytes
        self._prefix = self._format.header()
        self._is_beyond = False

    def _close(self) -> None:
        """Close the part at the last whole block of its samples."""
        samples_bytes = self._format.whole(min(self.end, self._samples_end) - self._samples_at)
        missing_bytes = max(0, self._samples_end - self.end) if self._samples_end < OPEN_BYTES else 0
        # Some programs state the length of the whole file as that of the samples, or round it up.
        is_miscounted = missing_bytes in range(_NEGLIGIBLE_BYTES) or missing_bytes == self._samples_at - self.start
        end = self._samples_at + samples_bytes
        self._add(end, end if is_miscounted else self._samples_end)
        self._is_beyond = True

    def _part(self, part: Part) -> Part:
        samples_at = self._samples_at if self._format.is_plain else -1
        return replace(part, prefix=self._prefix, samples_at=samples_at)
