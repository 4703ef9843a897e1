"""Evaluation: error counts, manifests and reports."""

import json
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest

from ml.errors import UndecodableAudioError
from ml.evaluate import Report, evaluate, main, to_json, to_text
from ml.interfaces import RecognitionOptions
from ml.manifest import ManifestError, Sample, normalise, read_manifest
from ml.reliability import JudgedWord, bins, calibration_error, judge
from ml.transcript import Segment, Transcript, Word
from tests.support.waiting import HANG_LIMIT_S


class FakeModel:
    """Has transcripts by file name; any other file cannot be decoded."""

    def __init__(self, **texts: str) -> None:
        self._texts = texts

    def __call__(self, path: Path) -> Transcript:
        if path.stem not in self._texts:
            raise UndecodableAudioError("Звука нет")
        return Transcript((Segment(0.0, 10.0, self._texts[path.stem]),), audio_duration_s=10.0)


def samples(**texts: str) -> list[Sample]:
    return [Sample(f"{name}.wav", Path(f"{name}.wav"), text) for name, text in texts.items()]


def report_of(references: dict[str, str], transcripts: dict[str, str], *, merge_yo: bool = True) -> Report:
    return evaluate(samples(**references), FakeModel(**transcripts), merge_yo=merge_yo)


def test_errors_are_counted_over_all_files_together() -> None:
    report = report_of({"a": "раз два три", "b": "четыре"}, {"a": "раз два тра", "b": "четыре пять"})
    assert report.wer == pytest.approx(2 / 4)  # the mean over files would be 2/3
    assert report.cer == pytest.approx(6 / 17)  # one letter wrong, five too many with their space
    assert [(score.errors, score.words) for score in report.scores] == [(1, 3), (1, 1)]


def test_case_and_punctuation_do_not_count() -> None:
    report = report_of({"a": "Ну, что-то случилось - да?"}, {"a": "ну что то случилось да"})
    assert (report.wer, report.cer) == (0, 0)


def test_yo_counts_only_where_it_is_kept() -> None:
    references, transcripts = {"a": "ещё один"}, {"a": "еще один"}
    assert report_of(references, transcripts).wer == 0
    kept = report_of(references, transcripts, merge_yo=False)
    assert kept.wer == pytest.approx(1 / 2)
    assert "ё ≠ е" in to_text(kept, 0) and "ё = е" in to_text(report_of(references, transcripts), 0)


def test_letters_written_as_two_code_points_are_the_same_letters() -> None:
    assert normalise("и\u0306од е\u0308ж", merge_yo=False) == "йод ёж"


def test_words_recognised_in_silence_count_as_errors() -> None:
    report = report_of({"a": "раз два", "silence": ""}, {"a": "раз два", "silence": "три"})
    assert report.wer == pytest.approx(1 / 2)


def test_without_a_single_reference_word_there_is_no_error_rate() -> None:
    report = report_of({"silence": ""}, {"silence": "три"})
    assert (report.wer, report.cer) == (None, None)
    assert "WER: не определён" in to_text(report, 5)


def test_file_that_fails_is_named_and_its_words_are_missing() -> None:
    report = report_of({"a": "раз два", "broken": "три четыре"}, {"a": "раз два"})
    assert report.wer == pytest.approx(2 / 4)
    assert [score.audio for score in report.failures] == ["broken.wav"]
    assert "❌ broken.wav: Звука нет" in to_text(report, 0)


def test_worst_files_come_first_and_faultless_ones_not_at_all() -> None:
    report = report_of({"a": "раз", "b": "раз два", "c": "раз"}, {"a": "два", "b": "три", "c": "раз"})
    assert [score.audio for score in report.worst(5)] == ["b.wav", "a.wav"]
    assert [score.audio for score in report.worst(1)] == ["b.wav"]


def test_scores_keep_the_manifests_order_whichever_file_is_ready_first() -> None:
    second_done = threading.Event()

    def transcribe(path: Path) -> Transcript:
        if path.stem == "first":
            assert second_done.wait(HANG_LIMIT_S)
        else:
            second_done.set()
        return Transcript((Segment(0.0, 1.0, path.stem),), 1.0)

    report = evaluate(samples(first="first", second="second"), transcribe, jobs=2)
    assert [score.transcript for score in report.scores] == ["first", "second"]


def test_speed_is_audio_over_the_time_it_took() -> None:
    report = Report(0.0, 0.0, audio_duration_s=30.0, elapsed_s=2.0, merge_yo=True, scores=())
    assert report.rtfx == 15.0 and "RTFx: 15.0x" in to_text(report, 0)


def test_json_report_carries_figures_and_every_file() -> None:
    report = report_of({"a": "раз два"}, {"a": "раз"})
    figures = json.loads(to_json(report, Path("somewhere/test.tsv"), "borealis"))
    assert (figures["wer"], figures["manifest"], figures["model"]) == (0.5, "test.tsv", "borealis")
    assert figures["scores"][0]["transcript"] == "раз" and figures["rtfx"] == pytest.approx(report.rtfx)


def words(**confidences: float | None) -> list[Word]:
    return [Word(text.replace("_", "-"), 0.0, 1.0, confidence) for text, confidence in confidences.items()]


def test_words_are_judged_at_their_place_in_the_reference() -> None:
    found = words(Ну=0.9, что_то=0.8, лишнее=0.4, два=None, тра=0.3)
    judged = judge(found, "ну что-то, два три", merge_yo=True)
    assert judged == tuple(
        JudgedWord(*pair) for pair in ((0.9, True), (0.8, True), (0.8, True), (0.4, False), (0.3, False))
    )
    assert judge([], "ну", merge_yo=True) == ()


def test_bins_hold_every_word_once() -> None:
    judged = [JudgedWord(confidence, confidence > 0.5) for confidence in (0.0, 0.29, 0.3, 0.5, 0.95, 1.0)]
    found = bins(judged)
    assert [(one.low, one.words) for one in found] == [(0.0, 2), (0.3, 1), (0.5, 1), (0.95, 2)]
    assert found[-1].share_right == 1 and found[-1].mean_confidence == pytest.approx(0.975)


def test_calibration_error_is_nothing_where_confidence_is_the_share_of_right_words() -> None:
    fair = [JudgedWord(0.75, number % 4 > 0) for number in range(8)]
    assert calibration_error(fair) == 0
    assert calibration_error([JudgedWord(1.0, False)] * 3) == 1


def test_reliability_table_needs_words_with_a_confidence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    class FakePipeline:
        def transcribe(self, file: object, options: RecognitionOptions) -> Transcript:
            asked.append(options.word_times)
            given = tuple(words(раз=0.97, два=0.6)) if options.word_times else ()
            return Transcript((Segment(0.0, 1.0, "раз два", words=given),), 1.0)

    monkeypatch.setattr("ml.evaluate.open_pipeline", lambda *_, **__: nullcontext(FakePipeline()))
    manifest = folder / "m.tsv"
    manifest.write_text("b.wav\tраз три\n", encoding="utf-8")
    assert main([str(manifest)]) == 0 and "Уверенность" not in capsys.readouterr().out
    assert main([str(manifest), "--reliability"]) == 0
    printed = capsys.readouterr().out
    assert "слов 2, верных 50.0%" in printed and "0.95 - 1.00      1       0.97   100.0%" in printed
    assert asked == [False, True]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "a.wav").touch()
    (tmp_path / "b.wav").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.tsv", "audio/a.wav\tраз, два\nb.wav\tтри\n"),
        ("m.tsv", "\ufeffaudio\ttext\r\naudio/a.wav\tраз, два\r\n\r\nb.wav\tтри\r\n"),
        ("m.jsonl", '{"audio": "audio/a.wav", "text": "раз, два"}\n\n{"text": "три", "audio": "b.wav", "n": 1}\n'),
    ],
)
def test_manifest_is_tsv_or_jsonl_with_paths_relative_to_it(folder: Path, name: str, content: str) -> None:
    manifest = folder / name
    manifest.write_bytes(content.encode())
    assert read_manifest(manifest) == [
        Sample("audio/a.wav", folder / "audio" / "a.wav", "раз, два"),
        Sample("b.wav", folder / "b.wav", "три"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("m.tsv", "b.wav\tтри\nb.wav три\n", "строка 2"),
        ("m.tsv", "b.wav\tтри\n\nnowhere.wav\tраз\n", "строка 3: нет файла nowhere.wav"),
        ("m.tsv", "\n", "ни одной записи"),
        ("m.tsv", "audio\ttext\n", "ни одной записи"),
        ("m.jsonl", '{"audio": "b.wav"}\n', "строка 1"),
        ("m.jsonl", '["b.wav", "три"]\n', "строка 1"),
        ("m.jsonl", '{"audio": "b.wav", "text": 3}\n', "строка 1"),
        ("m.jsonl", "{\n", "строка 1"),
    ],
)
def test_unusable_manifest_is_rejected_with_its_line(folder: Path, name: str, content: str, complaint: str) -> None:
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(ManifestError, match=complaint):
        read_manifest(folder / name)


def test_manifest_in_another_encoding_is_rejected(folder: Path) -> None:
    (folder / "m.tsv").write_bytes("b.wav\tтри\n".encode("cp1251"))
    with pytest.raises(ManifestError, match="UTF-8"):
        read_manifest(folder / "m.tsv")


def test_command_ends_with_2_and_one_line_on_a_bad_manifest(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "m.tsv").write_text("nowhere.wav\tтри\n", encoding="utf-8")
    assert main([str(folder / "m.tsv")]) == 2
    assert main([str(folder / "none.tsv")]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "nowhere.wav" in first and "none.tsv" in second
