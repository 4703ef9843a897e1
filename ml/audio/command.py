"""Writes the ffmpeg command line that turns one untrusted file on standard input into 16 kHz mono PCM."""

from pathlib import Path

from ml.errors import InvalidSampleRateError

SAMPLE_RATE = 16_000  # Hz, what the model hears
SAMPLE_BYTES = 2  # s16le
MIN_PCM_SAMPLE_RATE = 1_000  # Hz
MAX_PCM_SAMPLE_RATE = 384_000  # Hz
PROTOCOLS = "fd"  # the one way to read anything: the descriptor the caller opened
# Demuxers, not file endings: ffmpeg looks at the content. Playlists (HLS, ffconcat) must never be among them, because
# they make ffmpeg open other files and addresses.
CONTAINERS = "mp3,wav,flac,ogg,aac,mov"


def decode_command(ffmpeg: Path, max_duration_s: float, pcm_sample_rate: int | None) -> list[str]:
    """Return the command; it decodes a second more than `max_duration_s`, so that excess can be told from the limit.

    `pcm_sample_rate` (Hz) marks the input as raw 16-bit little-endian mono PCM.

    Raises: InvalidSampleRateError.
    """
    guard = ["-nostdin", "-hide_banner", "-loglevel", "level+warning", "-threads", "1"]
    source = ["-protocol_whitelist", PROTOCOLS, *_input_format(pcm_sample_rate), "-fd", "0", "-i", "fd:"]
    choice = ["-map", "0:a:0", "-vn", "-sn", "-dn", "-t", f"{max_duration_s + 1:.3f}"]
    output = ["-ac", "1", "-ar", str(SAMPLE_RATE), "-f", "s16le", "-"]
    return [str(ffmpeg), *guard, *source, *choice, *output]


def _input_format(pcm_sample_rate: int | None) -> list[str]:
    if pcm_sample_rate is None:
        return ["-format_whitelist", CONTAINERS]
    if not MIN_PCM_SAMPLE_RATE <= pcm_sample_rate <= MAX_PCM_SAMPLE_RATE:
        raise InvalidSampleRateError(
            f"Частота дискретизации sample_rate = {pcm_sample_rate} Гц не подходит: для несжатого PCM "
            f"нужна от {MIN_PCM_SAMPLE_RATE} до {MAX_PCM_SAMPLE_RATE} Гц."
        )
    return ["-format_whitelist", "s16le", "-f", "s16le", "-ar", str(pcm_sample_rate), "-ac", "1"]
