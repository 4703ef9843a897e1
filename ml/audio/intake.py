"""Divide a file, or an upload while it arrives, into its recordings."""

import os
from dataclasses import dataclass, field

from ml.audio.containers import HEAD_BYTES, identify, signature
from ml.audio.parts import Part, PcmScanner, Scanner
from ml.audio.scanners import AsfScanner, ChunkScanner, MatroskaScanner, Mp4Scanner, OggScanner, TagScanner
from ml.audio.wav import WavScanner

_READ_BYTES = 1024 * 1024
_MIN_HEAD_BYTES = 64  # enough for every signature that matters


@dataclass(frozen=True)
class Layout:
    """The recordings in a file, and whether there may be more than were looked for."""

    parts: tuple[Part, ...]
    has_more: bool


def scan(descriptor: int, is_pcm: bool) -> Layout:
    """Return the layout of a file; `is_pcm`: it is said to be raw PCM. Moves the file's position."""
    size = os.lseek(descriptor, 0, os.SEEK_END)
    os.lseek(descriptor, 0, os.SEEK_SET)
    scanner = scanner_for(os.read(descriptor, HEAD_BYTES), is_pcm)
    while scanner.end < size:
        os.lseek(descriptor, scanner.end, os.SEEK_SET)
        data = os.read(descriptor, _READ_BYTES)
        if not data:
            break
        scanner.feed(data)
        scanner.skip_to(size)
    parts = scanner.finish()
    return Layout(tuple(parts), scanner.is_full)


def scanner_for(head: bytes, is_pcm: bool) -> Scanner:
    """Return a scanner for a file with these first bytes; a signature in them outweighs `is_pcm`."""
    container = signature(head) if is_pcm else identify(head)
    match container:
        case "":
            return PcmScanner()
        case "wav":
            return WavScanner()
        case "ogg":
            return OggScanner()
        case "mp4":
            return Mp4Scanner()
        case "matroska":
            return MatroskaScanner()
        case "aiff" | "caf":
            return ChunkScanner(container)
        case "asf":
            return AsfScanner()
        case _:
            return TagScanner()


@dataclass
class Intake:
    """Passes on the bytes of the first recording of an upload, and holds back those that may not be its own."""

    is_pcm: bool
    _scanner: Scanner | None = None
    _held: bytearray = field(default_factory=bytearray)
    _passed: int = 0  # the offset at which the bytes held begin

    @property
    def container(self) -> str:
        """The container of the first recording, once something was passed on."""
        return self._scanner.container if self._scanner else ""

    @property
    def has_begun(self) -> bool:
        """Whether anything has come."""
        return self._scanner is not None or bool(self._held)

    @property
    def is_over(self) -> bool:
        """Whether the first recording has ended, or cannot be read as it comes."""
        return self._scanner is not None and (bool(self._scanner.parts) or self._scanner.needs_file)

    @property
    def _is_withheld(self) -> bool:
        """Whether the first recording has not ended and cannot be read as it comes."""
        return self._scanner is not None and not self._scanner.parts and self._scanner.needs_file

    def push(self, data: bytes) -> bytes:
        """Take the next bytes and return those that are now known to belong to the first recording."""
        self._held += data
        if self._scanner is None:
            if len(self._held) < _MIN_HEAD_BYTES:
                return b""
            self._scanner = scanner_for(bytes(self._held), self.is_pcm)
            data = bytes(self._held)
        self._scanner.feed(data)
        return b"" if self._is_withheld else self._pass(self._scanner)

    def finish(self) -> bytes:
        """Return the last bytes of the first recording."""
        if self._scanner is None:
            self._scanner = scanner_for(bytes(self._held), self.is_pcm)
            self._scanner.feed(bytes(self._held))
        self._scanner.finish()
        return self._pass(self._scanner)

    def _pass(self, scanner: Scanner) -> bytes:
        start, end = scanner.start, scanner.safe
        if scanner.parts:
            start, end = scanner.parts[0].start, scanner.parts[0].end
        skipped = min(max(start - self._passed, 0), len(self._held))
        n_bytes = max(end - self._passed, skipped)
        passed = bytes(self._held[skipped:n_bytes])
        del self._held[:n_bytes]
        self._passed += min(n_bytes, len(passed) + skipped)
        if scanner.parts:
            self._held.clear()
        return passed
