"""Damages recordings as broken programs, bad disks and attackers do."""

import struct
from functools import cache
from pathlib import Path

from hypothesis import strategies as st

SEEDS = tuple(sorted((Path(__file__).parent / "seeds").glob("*.bin")))
# Limits of the numbers in headers, and the numbers just beyond them.
NUMBERS = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_0000, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)
HEADER_BYTES = 600


@cache
def seed(path: Path) -> bytes:
    """Return a recording of the folder seeds."""
    return path.read_bytes()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a recording of the folder seeds with one to four mutations."""
    audio_bytes = seed(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        mutate = draw(st.sampled_from((_overwrite, _set_number, _cut_end, _cut_out, _insert, _repeat, _join)))
        audio_bytes = mutate(draw, audio_bytes)
    return audio_bytes


def arbitrary() -> st.SearchStrategy[bytes]:
    """Draw any bytes, with the beginning of a container or without."""
    magics = (
        b"",
        b"RIFF\0\0\0\0WAVE",
        b"RIFF\xff\xff\xff\xffWAVEfmt ",
        b"OggS",
        b"OggS\0\2",
        b"fLaC",
        b"ID3",
        b"\xff\xf1",
        b"\xff\xfb\x90\x64",
        b"\0\0\0\x18ftypM4A ",
        b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff",
        b"FORM\0\0\0\x40AIFFCOMM",
        b"caff\0\1\0\0desc",
        b"#!AMR\n",
        bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),
    )
    return st.builds(bytes.__add__, st.sampled_from(magics), st.binary(max_size=400))


def _place(draw: st.DrawFn, audio_bytes: bytes) -> int:
    """Draw an offset in a recording, more often in its header."""
    last = len(audio_bytes)
    return draw(st.integers(0, min(last, HEADER_BYTES)) | st.integers(0, last))


def _overwrite(draw: st.DrawFn, audio_bytes: bytes) -> bytes:
    place, junk = _place(draw, audio_bytes), draw(st.binary(min_size=1, max_size=16))
    return audio_bytes[:place] + junk + audio_bytes[place + len(junk) :]


def _set_number(draw: st.DrawFn, audio_bytes: bytes) -> bytes:
    layout = draw(st.sampled_from(("<H", ">H", "<I", ">I")))
    number = draw(st.sampled_from(NUMBERS)) & (256 ** struct.calcsize(layout) - 1)
    place = _place(draw, audio_bytes)
    return audio_bytes[:place] + struct.pack(layout, number) + audio_bytes[place + struct.calcsize(layout) :]


def _cut_end(draw: st.DrawFn, audio_bytes: bytes) -> bytes:
    return audio_bytes[: _place(draw, audio_bytes)]


def _cut_out(draw: st.DrawFn, audio_bytes: bytes) -> bytes:
    start, end = sorted((_place(draw, audio_bytes), _place(draw, audio_bytes)))
    return audio_bytes[:start] + audio_bytes[end:]


def _insert(draw: st.DrawFn, audio_bytes: bytes) -> bytes:
    place = _place(draw, audio_bytes)
    return audio_bytes[:place] + draw(st.binary(min_size=1, max_size=300)) + audio_bytes[place:]


def _repeat(draw: st.DrawFn, audio_bytes: bytes) -> bytes:
    start, end = sorted((_place(draw, audio_bytes), _place(draw, audio_bytes)))
    return (audio_bytes[:end] + audio_bytes[start:])[:40_000]


def _join(draw: st.DrawFn, audio_bytes: bytes) -> bytes:
    return (audio_bytes + seed(draw(st.sampled_from(SEEDS))))[:40_000]
