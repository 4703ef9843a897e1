"""The output of the client: text, subtitles, table and JSON, in files that are complete or absent."""

import json
import os
import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from api.grpc.client import TranscriptionClient
from api.grpc.client.batch import Exit, Outcome
from api.grpc.client.cli import main
from api.grpc.client.console import Report
from api.grpc.client.files import Job
from api.grpc.client.formats import WRITERS, write_complete
from api.grpc.client.subtitles import CUE_CHARS, PAUSE_S, cues, split_text
from generated.v1.transcription_pb2 import SILENCE, TRANSCRIBED, Segment, TranscriptionResponse, Word
from tests.support.client_server import expected_text, serving, write_wav

SRT_TIME = r"\d\d:[0-5]\d:[0-5]\d,\d{3}"

sentences = st.lists(st.text("аб в.,", max_size=40), min_size=1, max_size=30).map(" ".join)


def response_of(*segments: Segment) -> TranscriptionResponse:
    text = " ".join(segment.text for segment in segments if segment.text)
    duration_s = segments[-1].end_s if segments else 0.0
    return TranscriptionResponse(success=True, transcript=text, audio_duration=duration_s, segments=segments)


def spoken(start_s: float, end_s: float, text: str) -> Segment:
    return Segment(start_s=start_s, end_s=end_s, text=text, status=TRANSCRIBED)


def silent(start_s: float, end_s: float) -> Segment:
    return Segment(start_s=start_s, end_s=end_s, status=SILENCE)


def test_subtitles_leave_out_silence_and_keep_the_times_of_short_segments() -> None:
    response = response_of(spoken(0, 2.5, "Раз."), silent(2.5, 59.9996), spoken(59.9996, 3661.25, "Два <b> & три"))
    assert WRITERS["srt"](response) == (
        "1\n00:00:00,000 --> 00:00:02,500\nРаз.\n\n2\n00:01:00,000 --> 01:01:01,250\nДва <b> & три\n\n"
    )
    assert WRITERS["vtt"](response) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:02.500\nРаз.\n\n00:01:00.000 --> 01:01:01.250\nДва &lt;b&gt; &amp; три\n"
    )


def test_long_segment_is_cut_at_a_sentence_into_readable_subtitles_that_share_its_time_by_letters() -> None:
    short, long = "а" * 20 + " " + "б" * 38 + ".", "в" * 9 + " г" * 35
    first, second = cues(response_of(spoken(10, 40, f"{short} {long}")))
    assert (first.text.split(), second.text.split()) == (short.split(), long.split())  # not after 70 letters: 60 and 79
    assert first.text.count("\n") == second.text.count("\n") == 1
    cut_ms = round(10_000 + 30_000 * len(short) / len(short + long))
    assert [first.start_ms, first.end_ms, second.start_ms, second.end_ms] == [10_000, cut_ms, cut_ms, 40_000]


@given(text=sentences, start_ms=st.integers(0, 10**7), length_ms=st.integers(1000, 30_000))
def test_subtitles_keep_every_word_within_the_segment_one_after_the_other(
    text: str, start_ms: int, length_ms: int
) -> None:
    segment = spoken(start_ms / 1000, (start_ms + length_ms) / 1000, text)
    parts = list(cues(response_of(segment)))
    assert " ".join(part.text for part in parts).split() == text.split()
    assert all(len(part.text) <= CUE_CHARS and part.text.count("\n") < 2 for part in parts)
    assert all(before.end_ms == after.start_ms for before, after in pairwise(parts))
    if parts:
        assert (parts[0].start_ms, parts[-1].end_ms) == (start_ms, start_ms + length_ms)


def timed(segment: Segment, *gaps_s: float, word_s: float = 0.25) -> Segment:
    """`segment` with times for its words: each takes `word_s` and follows the one before after the next of `gaps_s`."""
    start_s = segment.start_s
    for text, gap_s in zip(segment.text.split(), gaps_s, strict=True):
        start_s += gap_s
        segment.words.append(Word(text=text, start_s=start_s, end_s=start_s + word_s))
        start_s += word_s
    return segment


def test_subtitle_lasts_from_its_first_word_to_its_last_and_ends_at_a_pause() -> None:
    segment = timed(spoken(10, 20, "Раз, два. Три четыре."), 0.5, 0.25, PAUSE_S, PAUSE_S / 2)
    assert [(cue.start_ms, cue.end_ms, cue.text) for cue in cues(response_of(segment))] == [
        (10_500, 11_250, "Раз, два."),
        (12_250, 13_250, "Три четыре."),
    ]


@given(text=sentences, data=st.data())
def test_subtitles_of_timed_words_keep_every_word_and_its_time(text: str, data: st.DataObject) -> None:
    count = len(text.split())
    gaps_s = data.draw(st.lists(st.sampled_from([0.0, 0.25, PAUSE_S, 5.0]), min_size=count, max_size=count))
    segment = timed(spoken(3, 3 + count + sum(gaps_s), text), *gaps_s)
    segment.channel = data.draw(st.integers(0, 8))
    name = f"Канал {segment.channel}: " if segment.channel else ""
    words = iter(segment.words)
    for cue in cues(response_of(segment)):
        assert len(cue.text) <= CUE_CHARS and cue.text.count("\n") < 2 and cue.text.startswith(name.strip())
        held = [next(words) for _ in cue.text.replace("\n", " ").removeprefix(name).split()]
        assert (cue.start_ms, cue.end_ms) == (round(1000 * held[0].start_s), round(1000 * held[-1].end_s))
        assert all(after.start_s - before.end_s < PAUSE_S for before, after in pairwise(held))
    assert next(words, None) is None


def test_words_that_do_not_spell_the_text_are_no_base_for_its_subtitles() -> None:
    segment = spoken(0, 4, "раз два три")
    segment.words.append(Word(text="раз", start_s=1, end_s=2))
    assert WRITERS["srt"](response_of(segment)) == "1\n00:00:00,000 --> 00:00:04,000\nраз два три\n\n"


def test_subtitles_of_channels_are_in_the_order_of_time() -> None:
    question = timed(spoken(0, 12, "Где? Там?"), 1, 8)
    answer = timed(spoken(0, 12, "Здесь."), 4)
    question.channel, answer.channel = 2, 1
    assert [cue.text for cue in cues(response_of(answer, question))] == [
        "Канал 2: Где?",
        "Канал 1: Здесь.",
        "Канал 2: Там?",
    ]


def test_word_longer_than_two_lines_stays_whole() -> None:
    assert split_text("а " + "я" * 200 + " б") == ["а", "я" * 200, "б"]


def test_text_cannot_break_the_syntax_of_subtitles() -> None:
    response = response_of(spoken(0, 1, "одна\n\n2\n00:00:00,000 --> 00:00:09,000 другая"))
    for form in ("srt", "vtt"):
        written = WRITERS[form](response)
        assert written.count("-->") == 1 and "\n\n2\n" not in written.partition("одна")[2]


def test_response_without_segments_becomes_one_subtitle() -> None:
    response = TranscriptionResponse(success=True, transcript="Раз два.", audio_duration=3.5)
    assert WRITERS["srt"](response) == "1\n00:00:00,000 --> 00:00:03,500\nРаз два.\n\n"


def test_silence_alone_makes_no_subtitle() -> None:
    response = response_of(silent(0, 5))
    assert (WRITERS["text"](response), WRITERS["srt"](response), WRITERS["vtt"](response)) == ("\n", "", "WEBVTT\n")


def test_table_has_a_row_for_every_segment_and_no_stray_tab() -> None:
    table = WRITERS["tsv"](response_of(spoken(0, 1.5, "раз\tдва\nтри"), silent(1.5, 4)))
    assert table == (
        "start_s\tend_s\tstatus\ttext\tchannel\tconfidence\twords\n"
        "0.000\t1.500\tTRANSCRIBED\tраз два три\t0\t\t\n1.500\t4.000\tSILENCE\t\t0\t\t\n"
    )


@pytest.mark.parametrize("flags", [[], ["--stream"]])
def test_json_is_the_whole_response(tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    recording = write_wav(tmp_path / "a.wav", seconds=8)
    with serving(model_chunk_duration=3) as port:
        assert main([str(recording), "--address", f"127.0.0.1:{port}", "--format", "json", *flags]) == 0
        with TranscriptionClient(f"127.0.0.1:{port}") as client:
            expected = client.transcribe(recording)
    printed = capsys.readouterr().out
    response = json_format.Parse(printed, TranscriptionResponse())
    assert response.transcript == expected.transcript and response.segments == expected.segments
    assert len(response.segments) > 1 and response.HasField("stage_times") and response.HasField("stats")
    assert json.loads(printed)["error_message"] == ""  # empty fields are there, too


def test_command_prints_subtitles_of_what_the_server_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = write_wav(tmp_path / "a.wav", seconds=3)
    with serving() as port:
        assert main([str(recording), "--address", f"127.0.0.1:{port}", "--format", "srt"]) == 0
    assert re.fullmatch(rf"1\n{SRT_TIME} --> {SRT_TIME}\n{expected_text(recording)}\n\n", capsys.readouterr().out)


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be replaced there")
def test_reader_of_an_output_that_is_replaced_sees_the_old_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_complete(path, "старое\n")
    with path.open(encoding="utf-8") as reader:
        write_complete(path, "новое\n")
        assert reader.read() == "старое\n"
    assert path.read_text(encoding="utf-8") == "новое\n"


def test_output_that_cannot_be_completed_leaves_the_old_one_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_complete(path, "старое\n")
    with pytest.raises(UnicodeEncodeError):
        write_complete(path, "новое \udcff")
    assert path.read_bytes() == "старое\n".encode() and list(tmp_path.iterdir()) == [path]


def test_output_may_have_a_name_of_the_maximal_length(tmp_path: Path) -> None:
    path = tmp_path / ("ы" * 125 + ".txt")  # 254 bytes
    write_complete(path, "текст\n")
    assert path.read_text(encoding="utf-8") == "текст\n" and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes and links")
def test_pipe_is_written_to_and_a_link_is_followed(tmp_path: Path) -> None:
    pipe, link, target = tmp_path / "pipe", tmp_path / "link", tmp_path / "target"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_complete(pipe, "текст\n")
        assert os.read(reader, 100).decode() == "текст\n" and pipe.is_fifo()
    finally:
        os.close(reader)
    target.write_text("старое\n", encoding="utf-8")
    link.symlink_to(target)
    write_complete(link, "новое\n")
    assert link.is_symlink() and target.read_text(encoding="utf-8") == "новое\n"


def test_transcript_after_a_file_that_was_skipped_is_printed_nevertheless(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (Job(tmp_path / name, None) for name in ("1.wav", "2.wav"))
    report = Report([first, second], WRITERS["text"], is_single=False)
    report.add(Outcome(second, Exit.DONE, response_of(spoken(0, 1, "второй"))))
    report.print_summary()
    assert capsys.readouterr().out == "второй\n"
