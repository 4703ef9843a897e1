"""Find the ffmpeg program, and build the command line of its confined child process."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from ml.errors import DecoderUnavailableError, InvalidSampleRateError
from ml.interfaces import SAMPLE_RATE

SAMPLE_BYTES = 2  # s16le
MIN_PCM_SAMPLE_RATE = 1_000  # Hz
MAX_PCM_SAMPLE_RATE = 384_000  # Hz
PROTOCOLS = "fd"  # the child can read its standard input and nothing else
# Demuxers, not file endings: ffmpeg looks at the content. Playlists (HLS, ffconcat) must never be among them, because
# they make ffmpeg open other files and addresses.
CONTAINERS = "mp3,wav,flac,ogg,aac,mov,matroska,aiff,caf,amr,asf"
MAX_TRACKS = 8  # read of one recording
# Samples that the child may hold while a track has not begun: 17 minutes of one channel.
_MAX_WAITING_BYTES = 32 * 1024 * 1024
PROBE_TIMEOUT_S = 30.0
# What a program needs to load its libraries. The rest of the environment (tokens, keys) stays out of the child.
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")


def child_environment() -> dict[str, str]:
    """Return the smallest environment in which ffmpeg starts."""
    # Without it glibc reserves 64 MiB of address space for each thread, of which there are three a track.
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {"MALLOC_ARENA_MAX": "1"}


def creation_flags() -> int:
    """Return the flags for `subprocess` that keep a console window from opening on Windows; 0 elsewhere."""
    if sys.platform == "win32":
        return subprocess.CREATE_NO_WINDOW
    return 0


def find_ffmpeg(configured: str | None = None) -> Path:
    """Return the ffmpeg to use, after checking that it runs and can read from a file descriptor.

    `configured` is the value of FFMPEG_BINARY, a path or a name on the PATH; without it the binary of the
    imageio-ffmpeg package is taken.

    Raises: DecoderUnavailableError.
    """
    ffmpeg = _configured(configured) if configured else _bundled()
    if "fd" not in _input_protocols(ffmpeg):
        raise DecoderUnavailableError(
            "Найденный ffmpeg слишком старый: он не умеет читать из файлового дескриптора (протокол fd). "
            "Установите пакет: pip install imageio-ffmpeg, либо укажите в FFMPEG_BINARY ffmpeg 6.0 или новее."
        )
    return ffmpeg


def _configured(configured: str) -> Path:
    found = shutil.which(configured)
    if found is None:
        raise DecoderUnavailableError(
            "Настройка FFMPEG_BINARY указывает на файл, которого нет или который нельзя запустить. Исправьте её "
            "или уберите, установив пакет: pip install imageio-ffmpeg."
        )
    return Path(found)


def _bundled() -> Path:
    try:
        import imageio_ffmpeg

        return Path(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise DecoderUnavailableError(
            "Нет ffmpeg, без которого не прочитать аудио. Установите пакет: pip install imageio-ffmpeg, "
            "либо укажите путь к ffmpeg в настройке FFMPEG_BINARY."
        ) from error


def _input_protocols(ffmpeg: Path) -> set[str]:
    try:
        answer = subprocess.run(
            [ffmpeg, "-hide_banner", "-protocols"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=PROBE_TIMEOUT_S,
            env=child_environment(),
            creationflags=creation_flags(),
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise DecoderUnavailableError(
            "Найденный ffmpeg не запускается на этой машине. Установите пакет: pip install imageio-ffmpeg, "
            "либо укажите рабочий ffmpeg в настройке FFMPEG_BINARY."
        ) from error
    inputs = answer.stdout.decode(errors="replace").partition("Output:")[0]
    return set(inputs.split())


def decode_command(
    ffmpeg: Path,
    max_duration_s: float,
    pcm_sample_rate: int | None,
    without: Iterable[int] = (),
    max_tracks: int = MAX_TRACKS,
) -> list[str]:
    """Return the command line: standard input to 16-bit samples of all audio tracks at 16 kHz, as Matroska.

    It decodes one second more than `max_duration_s`, so that an excess is seen as one. `pcm_sample_rate` (Hz) marks the
    input as raw 16-bit little-endian mono PCM. Streams numbered `without`, and tracks over `max_tracks`, are left out.
    """
    guard = ["-nostdin", "-hide_banner", "-loglevel", "level+warning", "-threads", "1", "-filter_threads", "1"]
    source = ["-protocol_whitelist", PROTOCOLS, *_input_format(pcm_sample_rate), "-fd", "0", "-i", "fd:"]
    # One track more than is read, to know that there are more.
    optional = range(1, max_tracks + 1 if max_tracks == MAX_TRACKS else max_tracks)
    tracks = ["-map", "0:a:0", *(word for number in optional for word in ("-map", f"0:a:{number}?"))]
    left_out = [word for number in without for word in ("-map", f"-0:{number}")]
    # Packets of 0.1 s: a codec's own of 20 ms take five times as long to read.
    samples = ["-af", f"aresample={SAMPLE_RATE},asetnsamples=n={SAMPLE_RATE // 10}:p=0", "-c:a", "pcm_s16le"]
    extent = ["-vn", "-sn", "-dn", "-map_metadata:g", "-1", "-map_chapters", "-1", "-t", f"{max_duration_s + 1:.3f}"]
    output = ["-muxing_queue_data_threshold", str(_MAX_WAITING_BYTES), "-flush_packets", "1", "-f", "matroska", "-"]
    return [str(ffmpeg), *guard, *source, *tracks, *left_out, *extent, *samples, *output]


def check_pcm_sample_rate(pcm_sample_rate: int | None) -> None:
    """Raise InvalidSampleRateError for a rate in Hz that raw PCM cannot have; None is no rate."""
    if pcm_sample_rate is not None and not MIN_PCM_SAMPLE_RATE <= pcm_sample_rate <= MAX_PCM_SAMPLE_RATE:
        raise InvalidSampleRateError(
            f"Частота дискретизации sample_rate = {pcm_sample_rate} Гц не подходит: для несжатого PCM "
            f"нужна от {MIN_PCM_SAMPLE_RATE} до {MAX_PCM_SAMPLE_RATE} Гц."
        )


def _input_format(pcm_sample_rate: int | None) -> list[str]:
    if pcm_sample_rate is None:
        return ["-format_whitelist", CONTAINERS]
    return ["-format_whitelist", "s16le", "-f", "s16le", "-ar", str(pcm_sample_rate), "-ac", "1"]
