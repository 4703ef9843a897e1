"""Find the recordings in a file: usually one, but files are also joined end to end, and some state too short a length.

Everything here works on a stream, so that an upload is divided while it arrives just as the file is afterwards.
"""

from dataclasses import dataclass

MAX_PARTS = 100
MAX_ELEMENTS = 1_000_000  # read in one file: about two seconds' work; what follows belongs to the last part
OPEN_BYTES = 1 << 62  # the length of an element that goes on to the end of the file


@dataclass(frozen=True)
class Part:
    """One recording in a file.

    container: as `containers.identify` names it, or "pcm"
    start, end: its bytes; prefix: bytes that the decoder gets before them
    stated_end: where its own headers say that it ends; equal to `end` where they do not say
    samples_at: where its samples begin if they need no decoding, else -1
    needs_file: it cannot be read from a pipe
    leftover_bytes: what follows its stated end and is no part of its container
    """

    container: str
    start: int
    end: int
    stated_end: int
    prefix: bytes = b""
    samples_at: int = -1
    needs_file: bool = False
    leftover_bytes: int = 0


class Scanner:
    """Takes a file in pieces and finds its parts. This one takes any file for one part."""

    def __init__(self, container: str) -> None:
        self.container = container
        self.parts: list[Part] = []  # those whose end is known
        self.end = 0  # of what was fed
        self.start = 0  # of the part being read

    @property
    def safe(self) -> int:
        """The offset before which all bytes are known to belong to the parts, or to what lies between them."""
        return self.end

    @property
    def is_full(self) -> bool:
        """Whether the limit of parts is reached, so that no more are searched for."""
        return len(self.parts) >= MAX_PARTS

    @property
    def needs_file(self) -> bool:
        """Whether the part being read is known not to be readable from a pipe."""
        return False

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self.end += len(data)

    def skip_to(self, offset: int) -> None:
        """Pass over bytes that need not be read, up to `offset` at most."""

    def finish(self) -> list[Part]:
        """Return all parts: there are no more bytes."""
        self._add(self.end, self.end)
        return self.parts

    def _add(self, end: int, stated_end: int) -> None:
        """Note the part that ends at `end`, if there is anything in it."""
        if end > self.start:
            self.parts.append(self._part(Part(self.container, self.start, end, max(end, stated_end))))
        self.start = end

    def _part(self, part: Part) -> Part:
        """Return the part with what its container knows about it."""
        return part


class PcmScanner(Scanner):
    """Raw 16-bit samples: half a sample at the end is none."""

    def __init__(self) -> None:
        super().__init__("pcm")

    @property
    def safe(self) -> int:
        return self.end - self.end % 2

    def finish(self) -> list[Part]:
        self._add(self.safe, self.safe)
        return self.parts


class ElementScanner(Scanner):
    """A container made of elements that state their length: the base of those below."""

    _MAX_HEADER_BYTES = 32

    def __init__(self, container: str) -> None:
        super().__init__(container)
        self._at = 0  # where the next element begins
        self._window = b""  # the bytes from there on
        self._stopped = False  # no more elements can be found
        self._n_elements = 0

    @property
    def safe(self) -> int:
        return self.end if self._stopped else min(self.end, self._at)

    def feed(self, data: bytes) -> None:
        begin, self.end = self.end, self.end + len(data)
        if self._stopped or self._at >= self.end:
            return
        self._window += data[max(0, self._at - begin) :]
        self._walk(is_last=False)

    def skip_to(self, offset: int) -> None:
        self.end = max(self.end, offset if self._stopped else min(self._at, offset))

    def finish(self) -> list[Part]:
        if not self._stopped:
            self._walk(is_last=True)
        self._add(self.end, self._stated_end())
        return self.parts

    def _walk(self, is_last: bool) -> None:
        window, at = self._window, 0
        while at < len(window):
            header = window[at : at + self._MAX_HEADER_BYTES]
            length = self._element(header, is_last or len(header) == self._MAX_HEADER_BYTES)
            self._n_elements += 1
            if length == 0 or self._n_elements > MAX_ELEMENTS or self.is_full:
                self._stopped = True
                break
            if length is None:
                break
            at += length
            self._at += length
        self._window = b"" if self._stopped else window[at:]

    def _element(self, header: bytes, is_whole: bool) -> int | None:
        """Return the length of the element at `self._at`; 0 if there is none, None if more bytes are needed.

        OPEN_BYTES is the length of one that goes on to the end of the file.
        """
        raise NotImplementedError

    def _stated_end(self) -> int:
        if self._stopped or self._at >= OPEN_BYTES:
            return self.end
        return self.end + 1 if self._window else self._at  # an incomplete header also means that something is missing

    def _leftover_bytes(self, part: Part) -> int:
        """Return how much of the part follows its last element."""
        return max(0, part.end - max(self._at, part.start)) if self._stopped else 0

    def _begin_part(self) -> None:
        """Another recording begins with the element at `self._at`."""
        self._add(self._at, self._at)
