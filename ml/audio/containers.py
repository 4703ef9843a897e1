"""Recognise containers by their first bytes: those that are decoded, and by name those that are not."""

import re

HEAD_BYTES = 4096  # enough to recognise any container
MP4_BOXES = frozenset(
    b"ftyp styp moov moof mdat free skip wide sidx mfra meta uuid pnot PICT udta pdin ssix prft emsg".split()
)
ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_OBJECTS = frozenset(
    map(
        bytes.fromhex,
        (
            "3626b2758e66cf11a6d900aa0062ce6c",  # data
            "90080033b1e5cf1189f400a0c90349cb",  # simple index
            "d329e2d6da35d111903400a0c90349be",  # index
            "f803b1fead12644c840f2a1d2f7ad48c",  # media object index
            "d03fb73c4a0c3d488953edf7b6228f0c",  # timecode index
        ),
    )
)
EBML_HEADER = b"\x1a\x45\xdf\xa3"
ID3 = re.compile(rb"ID3[\x02-\x04][\x00-\x09][\x00\x10\x20\x40\x80\xc0\xe0][\x00-\x7f]{4}", re.DOTALL)
FLAC = re.compile(rb"fLaC[\x00\x80]\0\0\x22", re.DOTALL)
AMR = re.compile(rb"#!AMR(?:-WB)?(?:_MC1\.0)?\n", re.DOTALL)

# Signatures long enough that no samples look like them by chance.
_SIGNATURES = (
    ("wav", re.compile(rb"(?:RIFF|RF64|BW64)....WAVE[a-zA-Z0-9 _]{4}", re.DOTALL)),
    ("ogg", re.compile(rb"OggS\0[\x00-\x07]", re.DOTALL)),
    ("raw", FLAC),
    ("raw", ID3),
    ("mp4", re.compile(rb"\0\0..ftyp|\0\0\0\x08wide.{4}mdat", re.DOTALL)),
    ("matroska", re.compile(re.escape(EBML_HEADER))),
    ("aiff", re.compile(rb"FORM....AIF[FC]", re.DOTALL)),
    ("caf", re.compile(rb"caff\x00\x01", re.DOTALL)),
    ("raw", AMR),
    ("asf", re.compile(re.escape(ASF_HEADER))),
)
_REFUSED = (
    ("AVI", re.compile(rb"RIFF....AVI ", re.DOTALL)),
    ("MPEG-TS", re.compile(rb"G.{187}G.{187}G|.{4}G.{191}G.{191}G", re.DOTALL)),
    ("MPEG-PS", re.compile(rb"\0\0\x01\xba", re.DOTALL)),
    ("FLV", re.compile(rb"FLV\x01", re.DOTALL)),
    ("RealMedia", re.compile(rb"\.RMF|\.ra\xfd", re.DOTALL)),
    ("LATM (LOAS)", re.compile(rb"\x56[\xe0-\xff]", re.DOTALL)),
    ("AC-3", re.compile(rb"\x0b\x77", re.DOTALL)),
    ("DTS", re.compile(rb"\x7f\xfe\x80\x01", re.DOTALL)),
    ("Monkey's Audio", re.compile(rb"MAC ")),
    ("WavPack", re.compile(rb"wvpk")),
    ("True Audio", re.compile(rb"TTA[12]")),
    ("DSD", re.compile(rb"DSD |FRM8")),
    ("Sun AU", re.compile(rb"\.snd")),
    ("Wave64", re.compile(rb"riff\x2e\x91\xcf\x11", re.DOTALL)),
    ("Creative VOC", re.compile(rb"Creative Voice File")),
    ("MIDI", re.compile(rb"MThd")),
    ("ZIP", re.compile(rb"PK\x03\x04")),
    ("RAR", re.compile(rb"Rar!")),
    ("7-Zip", re.compile(rb"7z\xbc\xaf", re.DOTALL)),
    ("gzip", re.compile(rb"\x1f\x8b\x08", re.DOTALL)),
    ("PDF", re.compile(rb"%PDF")),
    ("HTML", re.compile(rb"\s*<(?:!doctype html|html)", re.IGNORECASE)),
    ("M3U", re.compile(rb"(?:\xef\xbb\xbf)?#EXTM3U")),
    ("PLS", re.compile(rb"\[playlist\]", re.IGNORECASE)),
    ("ASX", re.compile(rb"<asx", re.IGNORECASE)),
    ("ffconcat", re.compile(rb"ffconcat ")),
    ("JPEG", re.compile(rb"\xff\xd8\xff", re.DOTALL)),
    ("PNG", re.compile(rb"\x89PNG", re.DOTALL)),
    ("GIF", re.compile(rb"GIF8")),
)


def signature(head: bytes) -> str:
    """Return the container whose unmistakable signature `head` begins with; "" for any other bytes."""
    return next((name for name, pattern in _SIGNATURES if pattern.match(head)), "")


def identify(head: bytes) -> str:
    """Return the container of a recording with these first bytes.

    One of wav, ogg, mp4, matroska, aiff, caf, asf; "raw" for all else: frames of MP3, AAC, FLAC or AMR, or unknown.
    """
    return signature(head) or ("mp4" if head[4:8] in MP4_BOXES else "raw")


def refused_name(head: bytes) -> str:
    """Return the name of a known container that is not decoded; "" for any other bytes."""
    return next((name for name, pattern in _REFUSED if pattern.match(head)), "")
