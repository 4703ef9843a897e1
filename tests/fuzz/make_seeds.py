"""Writes the recordings that fuzzing starts from: `python -m tests.fuzz.make_seeds`."""

from pathlib import Path

from tests.support import audio as media

SEEDS = Path(__file__).parent / "seeds"
DURATION_S = 0.4
MAX_BYTES = 20 * 1024


def main() -> None:
    """Write one recording for each format, and a WAV with chunks before its samples."""
    recording = media.segment(media.voice(DURATION_S))
    contents = {f"{name}.bin": media.encoded(recording, name) for name in media.FORMATS}
    plain = media.wav(media.voice(DURATION_S))
    contents["wav-with-parts.bin"] = plain[:36] + b"LIST\x06\0\0\0abcdef" + b"odd \x03\0\0\0abc\0" + plain[36:]
    for name, content in contents.items():
        assert len(content) < MAX_BYTES, name
        (SEEDS / name).write_bytes(content)


if __name__ == "__main__":
    main()
