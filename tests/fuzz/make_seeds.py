"""Writes the recordings that fuzzing starts from: `python -m tests.fuzz.make_seeds`."""

from pathlib import Path

from tests.support import audio as media

SEEDS = Path(__file__).parent / "seeds"
DURATION_S = 0.4
MAX_BYTES = 20 * 1024
# Those that ffmpeg writes with these options, beside media.FORMATS.
CONTAINERS = {
    "webm": ["-c:a", "libopus", "-f", "webm"],
    "webm-live": ["-c:a", "libopus", "-f", "webm", "-live", "1"],
    "matroska-flac": ["-c:a", "flac", "-f", "matroska"],
    "mp4-fragments": ["-c:a", "aac", "-f", "mp4", "-movflags", "frag_keyframe+empty_moov"],
    "mov-alac": ["-c:a", "alac", "-f", "mov"],
    "3gp-amr": ["-ar", "8000", "-c:a", "libopencore_amrnb", "-f", "3gp"],
    "aiff": ["-ar", "8000", "-f", "aiff"],
    "caf": ["-c:a", "adpcm_ima_qt", "-f", "caf"],
    "amr": ["-ar", "8000", "-c:a", "libopencore_amrnb", "-f", "amr"],
    "wma": ["-c:a", "wmav2", "-f", "asf"],
}


def main() -> None:
    """Write one recording for each format, a WAV with chunks before its samples, two tracks and two recordings."""
    recording = media.segment(media.voice(DURATION_S))
    contents = {f"{name}.bin": media.encoded(recording, name) for name in media.FORMATS}
    plain = media.wav(media.voice(DURATION_S))
    contents["wav-with-parts.bin"] = plain[:36] + b"LIST\x06\0\0\0abcdef" + b"odd \x03\0\0\0abc\0" + plain[36:]
    contents |= {f"{name}.bin": media.converted([plain], *options) for name, options in CONTAINERS.items()}
    half = media.wav(media.voice(DURATION_S / 2, sample_rate=8000), 8000)
    contents["two-tracks.bin"] = media.converted(
        [plain, half], "-map", "0", "-map", "1", "-c:a", "libopus", "-f", "matroska"
    )
    contents["wav-joined.bin"] = half + half
    contents["ogg-joined.bin"] = media.converted([half], "-c:a", "libopus", "-f", "ogg") * 2
    for name, content in contents.items():
        assert len(content) < MAX_BYTES, name
        (SEEDS / name).write_bytes(content)


if __name__ == "__main__":
    main()
