"""Read the headers of MP3 frames: their lengths, and the total length that the first frame states."""

import struct

HEADER_BYTES = 4
LONGEST_FRAME_BYTES = 1441  # 320 kbit/s at 32 kHz, padded
_SURE_FRAMES = 3  # in a row: a single match may be audio data
# kbit/s of layer III by the header's index; 0 (free format) leaves the length open, 15 is invalid
_KBITS_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBITS_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_SAMPLE_RATES = (44_100, 48_000, 32_000)  # Hz, of MPEG 1; MPEG 2 has the halves and 2.5 the quarters
_VBRI_OFFSET = HEADER_BYTES + 32


def frame_bytes(data: bytes, at: int) -> int:
    """Return the length in bytes of the MP3 frame whose header is at `at`; 0 where there is no header."""
    if at < 0 or at + HEADER_BYTES > len(data) or data[at] != 0xFF:
        return 0
    second, third = data[at + 1], data[at + 2]
    version, layer = second >> 3 & 3, second >> 1 & 3  # 3 is MPEG 1, 2 is 2, 0 is 2.5; 1 is layer III
    kbits_index, rate_index, padding = third >> 4, third >> 2 & 3, third >> 1 & 1
    if second < 0xE0 or version == 1 or layer != 1 or kbits_index in (0, 15) or rate_index == 3:
        return 0
    sample_rate = _SAMPLE_RATES[rate_index] >> {3: 0, 2: 1, 0: 2}[version]
    if version == 3:
        return 144_000 * _KBITS_1[kbits_index] // sample_rate + padding
    return 72_000 * _KBITS_2[kbits_index] // sample_rate + padding


def first_frame(data: bytes) -> int | None:
    """Return the offset of the first of several consecutive frames of one kind in `data`; None without any."""
    at = data.find(0xFF)
    while at >= 0:
        place = at
        for _ in range(_SURE_FRAMES):
            length = frame_bytes(data, place)
            if not length or data[place + 1] != data[at + 1]:
                break
            place += length
        else:
            return at
        at = data.find(0xFF, at + 1)
    return None


def stated_bytes(frame: bytes) -> int:
    """Return the total length in bytes of all frames, as stated in the first frame; 0 where it is not stated.

    The field is in the tag called Xing or Info, or in the older one called VBRI.
    """
    is_mpeg_1, is_mono = frame[1] >> 3 & 3 == 3, frame[3] >> 6 == 3
    at = HEADER_BYTES + ((17 if is_mono else 32) if is_mpeg_1 else (9 if is_mono else 17))
    tag, flags = frame[at : at + 4], frame[at + 7 : at + 8]
    if tag in (b"Xing", b"Info") and flags and flags[0] & 2:
        return _number(frame, at + (12 if flags[0] & 1 else 8))
    if frame[_VBRI_OFFSET : _VBRI_OFFSET + 4] == b"VBRI":
        return _number(frame, _VBRI_OFFSET + 10)
    return 0


def _number(frame: bytes, at: int) -> int:
    field = frame[at : at + 4]
    return int(struct.unpack(">I", field)[0]) if len(field) == 4 else 0


def last_frame_is_cut(tail: bytes) -> bool:
    """Return whether the last frame in `tail`, the end of a file, is incomplete. Tags after the frames are ignored."""
    at = first_frame(tail)
    while at is not None and at < len(tail):
        length = frame_bytes(tail, at)
        if not length:
            return False
        at += length
    return at is not None and at > len(tail)
