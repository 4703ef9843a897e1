"""Makes recordings for the tests, good and bad, and checks that decoding them left nothing behind."""

import io
import struct
import subprocess
import tempfile
import threading
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from pydub import AudioSegment

from ml.audio.decoder import AudioDecoder
from ml.audio.highpass import HighPass
from ml.interfaces import SAMPLE_RATE, Waveform
from tests.support import process_stats

FFMPEG = Path(imageio_ffmpeg.get_ffmpeg_exe())
AudioSegment.converter = str(FFMPEG)

# name: file ending, container as ffmpeg calls it, options for writing, codec for pydub to read it with
_WRITING: dict[str, tuple[str, str, list[str], str]] = {
    "mp3": ("mp3", "mp3", ["-b:a", "64k"], "mp3"),
    "wav": ("wav", "wav", [], "pcm_s16le"),
    "flac": ("flac", "flac", [], "flac"),
    "ogg": ("ogg", "ogg", ["-c:a", "libvorbis"], "vorbis"),
    "opus": ("ogg", "ogg", ["-c:a", "libopus", "-b:a", "64k"], "opus"),
    "aac": ("aac", "adts", ["-b:a", "96k"], "aac"),
    "m4a": ("m4a", "ipod", ["-b:a", "96k"], "aac"),
    "m4a-index-first": ("m4a", "ipod", ["-b:a", "96k", "-movflags", "+faststart"], "aac"),
}
FORMATS = tuple(_WRITING)


def voice(duration_s: float, seed: int = 0, sample_rate: int = SAMPLE_RATE) -> Waveform:
    """Return a hum of harmonics below 3 kHz that swells and fades: no codec harms it, no two moments are alike."""
    random = np.random.default_rng(seed)
    times_s = np.arange(int(duration_s * sample_rate)) / sample_rate
    phase = 2 * np.pi * 140 * times_s + 35 * np.sin(2 * np.pi * 0.7 * times_s + random.uniform(0, 6))  # 115 to 165 Hz
    sound = sum(np.sin(k * phase + random.uniform(0, 6)) / k for k in range(1, 16))
    swell = 0.55 + 0.45 * np.sin(2 * np.pi * 1.3 * times_s + random.uniform(0, 6))
    return np.asarray(0.2 * sound * swell, np.float32)


def pcm(waveform: Waveform) -> bytes:
    """Return waveform (N,) as 16-bit little-endian samples."""
    return np.round(np.clip(waveform, -1, 1) * 32767).astype("<i2").tobytes()


def low_cut(waveform: Waveform) -> Waveform:
    """Return waveform (N,) without offset and infrasound, as the decoder gives it: their phase is changed as well."""
    filtered = HighPass(20, 2, SAMPLE_RATE, 40).push(waveform[None].astype(np.float64))
    return np.asarray(np.clip(filtered[0], -1, 1), np.float32)


def segment(waveform: Waveform, sample_rate: int = SAMPLE_RATE) -> AudioSegment:
    """Return waveform (N,) as pydub's mono segment."""
    return AudioSegment(pcm(waveform), sample_width=2, frame_rate=sample_rate, channels=1)


def encoded(recording: AudioSegment, name: str) -> bytes:
    """Return `recording` written in the format called `name` in FORMATS."""
    _, container, options, _ = _WRITING[name]
    with recording.export(io.BytesIO(), format=container, parameters=options) as file:
        return bytes(file.read())


def encode(recording: Path, folder: Path, name: str) -> Path:
    """Write the WAV file `recording` into `folder` in the format called `name` in FORMATS; return the new file."""
    path = folder / f"{recording.stem}-{name}.{_WRITING[name][0]}"
    with recording.open("rb") as file:
        path.write_bytes(encoded(AudioSegment.from_wav(file), name))
    return path


def decoded_by_pydub(audio_bytes: bytes, name: str) -> Waveform:
    """Return the 16 kHz mono waveform that pydub makes of a file in the format called `name`."""
    _, container, _, codec = _WRITING[name]
    container = {"adts": "aac", "ipod": "mov"}.get(container, container)
    recording = AudioSegment.from_file(io.BytesIO(audio_bytes), format=container, codec=codec)
    mono = recording.set_sample_width(2).set_channels(1).set_frame_rate(SAMPLE_RATE)
    return np.asarray(np.array(mono.get_array_of_samples()) / 32768, np.float32)


def wav_header(
    data_bytes: int, sample_rate: int = SAMPLE_RATE, channels: int = 1, riff_bytes: int = 0xFFFF_FFFF
) -> bytes:
    """Return the 44 bytes before 16-bit samples, true or not."""
    frame = (channels * 2) & 0xFFFF
    layout = struct.pack("<HHIIHH", 1, channels, sample_rate, (sample_rate * frame) & 0xFFFF_FFFF, frame, 16)
    head = b"RIFF" + struct.pack("<I", riff_bytes) + b"WAVEfmt " + struct.pack("<I", len(layout)) + layout
    return head + b"data" + struct.pack("<I", data_bytes)


def wav(waveform: Waveform, sample_rate: int = SAMPLE_RATE) -> bytes:
    """Return waveform (N,) as a proper WAV file, without ffmpeg."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(sample_rate)
        writer.writeframes(pcm(waveform))
    return file.getvalue()


def voice_wav(duration_s: float, seed: int = 0, sample_rate: int = SAMPLE_RATE) -> bytes:
    """Return voice() of these arguments as a WAV file."""
    return wav(voice(duration_s, seed, sample_rate), sample_rate)


def opus_bomb(duration_s: float) -> bytes:
    """Return an Ogg file of one-byte Opus packets, 60 ms of nothing each: 10 hours in 1.3 MB."""
    head = b"OpusHead" + struct.pack("<BBHIhB", 1, 1, 0, 16_000, 0, 0)
    tags = b"OpusTags" + struct.pack("<I", 4) + b"test" + struct.pack("<I", 0)
    pages = [_ogg_page(head, [len(head)], 0, 0, first=True), _ogg_page(tags, [len(tags)], 0, 1)]
    packet, n_packets = b"\x18", 255
    for number in range(2, 2 + int(duration_s / (n_packets * 0.06))):
        granule = (number - 1) * n_packets * 2880  # 48 kHz samples so far
        pages.append(_ogg_page(packet * n_packets, [1] * n_packets, granule, number))
    return b"".join(pages)


def _ogg_page(payload: bytes, lengths: list[int], granule: int, number: int, first: bool = False) -> bytes:
    def page(checksum: int) -> bytes:
        head = struct.pack("<4sBBqIIIB", b"OggS", 0, 2 * first, granule, 7, number, checksum, len(lengths))
        return head + bytes(lengths) + payload

    return page(_ogg_checksum(page(0)))


def _ogg_checksum(data: bytes) -> int:
    checksum = 0
    for byte in data:
        checksum = ((checksum << 8) & 0xFFFF_FFFF) ^ _OGG_TABLE[(checksum >> 24) ^ byte]
    return checksum


def _ogg_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = ((value << 1) ^ (0x04C1_1DB7 if value & 0x8000_0000 else 0)) & 0xFFFF_FFFF
        table.append(value)
    return table


_OGG_TABLE = _ogg_table()


def made_by_ffmpeg(*arguments: str) -> bytes:
    """Return what ffmpeg writes to its standard output when given these arguments."""
    command = [str(FFMPEG), "-nostdin", "-loglevel", "error", *arguments, "-"]
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True).stdout


def converted(inputs: Sequence[bytes], *options: str) -> bytes:
    """Return what ffmpeg makes of these recordings with these options, in a file that it may go back in."""
    with tempfile.TemporaryDirectory() as folder:
        words = []
        for number, audio_bytes in enumerate(inputs):
            path = Path(folder) / f"{number}.in"
            path.write_bytes(audio_bytes)
            words += ["-i", str(path)]
        written = Path(folder) / "out"
        command = [str(FFMPEG), "-nostdin", "-loglevel", "error", *words, *options, str(written)]
        subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
        return written.read_bytes()


def decode_file(
    decoder: AudioDecoder, audio_bytes: bytes, pcm_sample_rate: int | None = None, separate_channels: bool = False
) -> tuple[list[Waveform], tuple[str, ...]]:
    """Return the blocks and warnings of a recording that is decoded from a file."""
    with tempfile.TemporaryFile() as file:
        file.write(audio_bytes)
        with decoder.open(file, pcm_sample_rate, None, separate_channels) as decoding:
            return list(decoding), decoding.warnings


def decode_both_ways(
    decoder: AudioDecoder, audio_bytes: bytes, pcm_sample_rate: int | None = None, separate_channels: bool = False
) -> tuple[Waveform, tuple[str, ...]]:
    """Return the waveform and the warnings of a recording, having checked that a file and an upload give the same."""
    blocks, warnings = decode_file(decoder, audio_bytes, pcm_sample_rate, separate_channels)
    uploaded, upload_warnings = decode_upload(decoder, audio_bytes, pcm_sample_rate, separate_channels)
    assert [block.shape for block in blocks] == [block.shape for block in uploaded]
    assert all(np.array_equal(one, other) for one, other in zip(blocks, uploaded, strict=True))
    assert warnings == upload_warnings
    return np.concatenate(blocks, axis=-1), warnings


def similarity(waveform: Waveform, sound: Waveform) -> float:
    """Return the correlation of waveform (N,) with sound (n,), shifted to where they are most alike."""
    size = len(waveform) + len(sound)
    product = np.fft.irfft(np.fft.rfft(waveform, size) * np.conj(np.fft.rfft(sound, size)), size)
    return float(product.max() / np.sqrt(np.sum(np.square(waveform)) * np.sum(np.square(sound))))


def decode_upload(
    decoder: AudioDecoder,
    audio_bytes: bytes,
    pcm_sample_rate: int | None = None,
    separate_channels: bool = False,
    piece_bytes: int = 10_007,
) -> tuple[list[Waveform], tuple[str, ...]]:
    """Return the blocks and warnings of a recording that is decoded while it is uploaded, in pieces of this size."""
    with tempfile.TemporaryFile() as file, decoder.open_pipe(pcm_sample_rate, None, separate_channels) as decoding:

        def upload() -> None:
            for start in range(0, len(audio_bytes), piece_bytes):
                piece = audio_bytes[start : start + piece_bytes]
                file.write(piece)
                decoding.feed(piece)
            decoding.end(file)

        thread = threading.Thread(target=upload, name="upload")
        thread.start()
        try:
            return list(decoding), decoding.warnings
        finally:
            decoding.close()
            thread.join()


def nothing_left_behind(tmp_path: Path) -> Iterator[None]:
    """Fixture body: after the test there are no more processes, threads, descriptors or temporary files than before."""
    default_folder, before = tempfile.tempdir, process_stats.held()
    folder = tmp_path / "temporary"
    folder.mkdir()
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = default_folder
    process_stats.wait_until_released(lambda: process_stats.held() - before)
    assert list(folder.iterdir()) == []
