"""The format of a request is named by the ending of its file name, by an extension or by a media type."""

import pytest

from services.transcription.errors import UnsupportedFormatError
from services.transcription.request import AudioInfo


def is_supported(filename: str = "recording", format_name: str = "") -> bool:
    try:
        AudioInfo(filename, format_name, 0).check()
    except UnsupportedFormatError:
        return False
    return True


@pytest.mark.parametrize(
    "ending",
    [
        *("mp3", "MP3", "mpga", "wav", "wave", "flac", "aac", "ogg", "oga", "opus", "m4a", "m4b", "mp4", "mov", "3gp"),
        *("webm", "mka", "mkv", "aiff", "aif", "caf", "amr", "wma", "asf"),
    ],
)
def test_file_name_with_an_ending_that_the_decoder_takes_is_supported(ending: str) -> None:
    assert is_supported(f"запись.{ending}")


@pytest.mark.parametrize(
    "format_name",
    [
        *(
            "mp3",
            "MP3",
            ".mp3",
            " wav ",
            "audio/mpeg",
            "Audio/MPEG",
            "audio/mp3",
            "audio/wav",
            "audio/x-wav",
            "audio/wave",
        ),
        *("audio/vnd.wave", "audio/webm;codecs=opus", "audio/webm; codecs=opus", "video/webm", "audio/ogg;codecs=opus"),
        *("audio/mp4", "audio/x-m4a", "video/mp4", "video/quicktime", "audio/3gpp", "audio/amr", "audio/amr-wb"),
        *("audio/flac", "audio/x-flac", "audio/aac", "audio/aacp", "audio/opus", "audio/x-aiff", "audio/x-caf"),
        *("audio/x-ms-wma", "video/x-ms-asf", "audio/x-matroska", "application/ogg"),
    ],
)
def test_format_may_be_an_extension_or_a_media_type(format_name: str) -> None:
    assert is_supported(format_name=format_name)


@pytest.mark.parametrize(
    "format_name", ["", "exe", "text/plain", "text/mp3", "image/webm", "audio/", "audio/midi", "/", ";"]
)
def test_other_formats_are_not_supported(format_name: str) -> None:
    assert not is_supported(format_name=format_name)


def test_either_name_suffices() -> None:
    assert is_supported("a.bin", "audio/webm;codecs=opus") and is_supported("a.webm", "application/octet-stream")


@pytest.mark.parametrize("format_name", ["audio/pcm;rate=8000", "audio/pcm"])
def test_raw_pcm_is_named_by_its_format_alone(format_name: str) -> None:
    """A rate in the media type would be lost."""
    assert AudioInfo("a", "pcm", 0).pcm_sample_rate == 16_000
    assert AudioInfo("a", format_name, 0).pcm_sample_rate is None and not is_supported("a", format_name)
