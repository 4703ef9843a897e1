"""Find where a recording ends in each container, so that one joined to it is found (see parts.py)."""

from collections.abc import Iterator
from dataclasses import replace

from ml.audio.containers import AMR, ASF_HEADER, ASF_OBJECTS, EBML_HEADER, FLAC, ID3, MP4_BOXES
from ml.audio.parts import MAX_ELEMENTS, OPEN_BYTES, ElementScanner, Part, Scanner


class TagScanner(Scanner):
    """Bare frames (MP3, AAC, FLAC, AMR): a tag or a signature in the middle begins another recording.

    Tags are left out. The bytes of the pictures in them look like frames.
    """

    _HELD_BACK = 160  # a tag of 128 bytes at the end (ID3v1), or the beginning of any other
    _APE_BYTES = 32
    _SIGNATURE_BYTES = 10
    _MARKS = (b"ID3", b"APETAGEX", b"fLaC", b"#!AMR")

    def __init__(self) -> None:
        super().__init__("raw")
        self._window = bytearray()  # the last bytes, not safe yet
        self._tag_end = 0
        self._n_marks = 0

    @property
    def safe(self) -> int:
        return max(self.end - len(self._window), min(self._tag_end, self.end))

    def feed(self, data: bytes) -> None:
        self.end += len(data)
        self._window += data
        self._divide()
        if len(self._window) > self._HELD_BACK:
            del self._window[: -self._HELD_BACK]

    def finish(self) -> list[Part]:
        self._divide()
        self._close(self.end)
        return self.parts

    def _divide(self) -> None:
        """Divide at all marks in the window."""
        offset = self.end - len(self._window)
        for found in self._marks(max(self._tag_end - offset, 0)):
            length = self._tag_bytes(found)
            if length is None:  # incomplete
                return
            is_start = length == 0 and offset + found == self.start
            if length < 0 or is_start or self.is_full or offset + found < self._tag_end:
                continue
            self._close(offset + found)
            self.start = self._tag_end = offset + found + length

    def _marks(self, at: int) -> Iterator[int]:
        """Yield the places of all marks from `at` on, in order."""
        found = {mark: self._window.find(mark, at) for mark in self._MARKS}
        while (places := [place for place in found.values() if place >= 0]) and self._n_marks < MAX_ELEMENTS // 100:
            self._n_marks += 1
            first = min(places)
            yield first
            found |= {mark: self._window.find(mark, first + 1) for mark, place in found.items() if 0 <= place <= first}

    def _tag_bytes(self, at: int) -> int | None:
        """Return the length of the tag at `at`: 0 for the signature of a recording, -1 for neither, None for later."""
        head = bytes(self._window[at : at + self._APE_BYTES])
        if len(head) < (self._APE_BYTES if head.startswith(b"APE") else self._SIGNATURE_BYTES):
            return None
        if head.startswith(b"APE"):
            is_header = head[23] & 0x20
            return int.from_bytes(head[12:16], "little") + self._APE_BYTES if is_header else self._APE_BYTES
        if not ID3.match(head):
            return 0 if FLAC.match(head) or AMR.match(head) else -1
        size = 0
        for byte in head[6:10]:
            size = size << 7 | byte
        return 10 + size + (10 if head[5] & 0x10 else 0)

    def _close(self, end: int) -> None:
        before = self._window[: len(self._window) - (self.end - end)]
        is_tagged = before[-128:-125] == b"TAG"
        self._add(end - 128 if is_tagged else end, 0)


class OggScanner(ElementScanner):
    """Pages. A recording begins with the first pages of its streams, one after another (RFC 3533)."""

    _MAX_HEADER_BYTES = 27 + 255
    _BEGINS_STREAM = 2

    def __init__(self) -> None:
        super().__init__("ogg")
        self._has_content = False

    def _element(self, header: bytes, is_whole: bool) -> int | None:
        if not header.startswith(b"OggS\0"[: len(header)]):
            found = header.find(b"OggS", 1)
            return found if found > 0 else max(1, len(header) - 3)
        if len(header) < 27 or len(header) < 27 + header[26]:
            return None
        begins = bool(header[5] & self._BEGINS_STREAM)
        if begins and self._has_content:
            self._begin_part()
        self._has_content = not begins
        return 27 + header[26] + sum(header[27 : 27 + header[26]])


class Mp4Scanner(ElementScanner):
    """Boxes (ISO/IEC 14496-12). The index, `moov`, is entered down to the handlers of its tracks.

    A file is read from a pipe only if its index comes first and has one audio track: several may lie one after another.
    """

    _ENTERED = frozenset((b"moov", b"trak", b"mdia"))

    def __init__(self) -> None:
        super().__init__("mp4")
        self._boxes: list[bytes] = []  # which of index and samples come first in this part
        self._index_end = 0
        self._n_tracks = 0

    @property
    def needs_file(self) -> bool:
        return self._boxes[:1] == [b"mdat"] or self._n_tracks > 1

    def _element(self, header: bytes, is_whole: bool) -> int | None:
        if len(header) < 24 and not is_whole:
            return None
        name, length, start = header[4:8], int.from_bytes(header[:4]), 8
        is_in_index = self._at < self._index_end
        if len(header) < 8 or (name not in MP4_BOXES and not is_in_index):
            return 0
        if length == 1:
            length, start = int.from_bytes(header[8:16]), 16
        if is_in_index:
            return self._in_index(name, header[16:20], length, start)
        if name == b"ftyp" and self._boxes:
            self._begin_part()
            self._boxes, self._n_tracks = [], 0
        if name in (b"moov", b"moof", b"mdat") and len(self._boxes) < 2:
            self._boxes.append(name)
        if name == b"moov" and length >= start:
            self._index_end = self._at + length
            return start
        if length == 0:
            return OPEN_BYTES
        return length if length >= start else 0

    def _in_index(self, name: bytes, handler: bytes, length: int, start: int) -> int:
        if name == b"hdlr" and handler == b"soun":
            self._n_tracks += 1
        rest_bytes = self._index_end - self._at
        if not start <= length <= rest_bytes:  # damaged: the rest of the index is passed over
            return rest_bytes
        return start if name in self._ENTERED else length

    def _stated_end(self) -> int:
        return max(super()._stated_end(), self._index_end)

    def _part(self, part: Part) -> Part:
        return replace(part, needs_file=self.needs_file, leftover_bytes=self._leftover_bytes(part))


class MatroskaScanner(ElementScanner):
    """Elements of EBML (RFC 8794). Segments and clusters are entered: live ones do not state their length."""

    _SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675

    def __init__(self) -> None:
        super().__init__("matroska")
        self._segment_end = 0
        self._has_segment = False

    def _element(self, header: bytes, is_whole: bool) -> int | None:
        if len(header) < 12 and not is_whole:
            return None
        id_bytes = 9 - header[0].bit_length()
        if id_bytes > 4 or len(header) <= id_bytes or not header[id_bytes]:
            return 0
        size_bytes = 9 - header[id_bytes].bit_length()
        start = id_bytes + size_bytes
        if start > len(header):
            return None
        length = int.from_bytes(header[id_bytes:start]) & ((1 << 7 * size_bytes) - 1)
        is_open = length == (1 << 7 * size_bytes) - 1
        if header[:id_bytes] == EBML_HEADER and self._has_segment:
            self._begin_part()
            self._segment_end, self._has_segment = 0, False
        name = int.from_bytes(header[:id_bytes])
        if name == self._SEGMENT:
            self._has_segment = True
            self._segment_end = 0 if is_open else self._at + start + length
        if name in (self._SEGMENT, self._CLUSTER):
            return start
        return 0 if is_open else start + length

    def _stated_end(self) -> int:
        return max(self._segment_end, self.end if self._stopped else super()._stated_end())


class ChunkScanner(ElementScanner):
    """AIFF and CAF: the first is one chunk, the second a header of 8 bytes and chunks with long lengths."""

    def _element(self, header: bytes, is_whole: bool) -> int | None:
        if len(header) < 12 and not is_whole:
            return None
        name = header[:4]
        if name in (b"FORM", b"caff") and self._at > self.start:
            self._begin_part()
        if name == b"caff":
            return 8
        if name == b"FORM":
            length = int.from_bytes(header[4:8])
            return 8 + length + length % 2 if 0 < length < 0x7FFF_0000 else OPEN_BYTES
        length = int.from_bytes(header[4:12], signed=True)
        if self.container != "caf" or not name.isalnum():
            return 0
        return 12 + length if length >= 0 else OPEN_BYTES

    def _part(self, part: Part) -> Part:
        return replace(part, leftover_bytes=self._leftover_bytes(part))


class AsfScanner(ElementScanner):
    """Objects: an identifier of 16 bytes and a length."""

    def __init__(self) -> None:
        super().__init__("asf")

    def _element(self, header: bytes, is_whole: bool) -> int | None:
        if len(header) < 24 and not is_whole:
            return None
        if header[:16] == ASF_HEADER and self._at > self.start:
            self._begin_part()
        if header[:16] != ASF_HEADER and header[:16] not in ASF_OBJECTS:
            return 0
        length = int.from_bytes(header[16:24], "little")
        return length if length >= 24 else OPEN_BYTES

    def _part(self, part: Part) -> Part:
        return replace(part, leftover_bytes=self._leftover_bytes(part))
