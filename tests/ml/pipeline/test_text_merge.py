"""Texts of chunks, each written without knowing the one before, read as one."""

import pytest

from ml.pipeline.text_merge import continue_words, join_words, merge_overlap
from ml.pipeline.words import text_of
from ml.transcript import Word


def words(text: str, start_s: float = 0.0) -> tuple[Word, ...]:
    """The words of `text`, a second each."""
    return tuple(Word(word, start_s + place, start_s + place + 1) for place, word in enumerate(text.split()))


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        (["Сегодня хороший", "день."], "Сегодня хороший день."),
        (["  Раз,\nдва ", "", " три.  "], "Раз, два три."),
        (["Я думаю,", "Что он прав."], "Я думаю, что он прав."),
        (["Мы поехали", "В Москву."], "Мы поехали в Москву."),
        (["Вчера приехал", "Иван."], "Вчера приехал Иван."),  # it may be a name
        (["Это", "США."], "Это США."),
        (["Раз.", "два."], "Раз. Два."),
        (["Скажите, как...", "пройти к метро?"], "Скажите, как... пройти к метро?"),
        (["Он не пришёл…", "Мы ждали."], "Он не пришёл… Мы ждали."),
        (["Он спросил: «Где?»", "и ушёл."], "Он спросил: «Где?» И ушёл."),
        (["хлеб, молоко и т. д.", "и всё"], "хлеб, молоко и т. д. и всё"),
        (["Раз", ", два"], "Раз два"),
        (["Раз.", "."], "Раз."),
        (["— Да.", "— Нет."], "— Да. — Нет."),
        (["казань тысяча триста", "снег при"], "казань тысяча триста снег при"),
        (["Вопрос:", "Что делать?"], "Вопрос: Что делать?"),
        ([], ""),
        (["", ""], ""),
    ],
)
def test_texts_read_as_one(texts: list[str], joined: str) -> None:
    assert text_of(join_words(map(words, texts))) == joined


def test_first_text_keeps_its_beginning() -> None:
    assert text_of(continue_words("", words("и вот  он"))) == "и вот он"


@pytest.mark.parametrize(
    ("before", "overlap", "after", "mended"),
    [
        (
            "раз два три чет",
            "два три четыре пять шесть",
            "ыре пять шесть семь",
            ("раз два три четыре", "пять шесть семь"),
        ),
        (
            "Раз два три чет.",
            "Два три, четыре. Пять шесть.",
            "Ыре пять шесть семь.",
            ("Раз два три, четыре.", "Пять шесть семь."),
        ),
        ("раз два три", "два три пять шесть", "пять шесть семь", ("раз два три", "пять шесть семь")),
        ("да да да да", "да да да да", "да да да", ("да да да да", "да да да")),
        ("раз два три", "", "четыре пять", ("раз два три", "четыре пять")),
        ("", "три четыре", "четыре пять", ("", "четыре пять")),
        ("раз два три", "совсем другое", "четыре пять", ("раз два три", "четыре пять")),
        ("раз два три", "два три и ещё много других слов потом четыре", "четыре", ("раз два три", "четыре")),
    ],
)
def test_cut_in_a_word_is_mended_where_the_texts_meet_and_else_left_alone(
    before: str, overlap: str, after: str, mended: tuple[str, str]
) -> None:
    left, right = merge_overlap(words(before), words(overlap), words(after))
    assert (text_of(left), text_of(right)) == mended


def test_words_keep_their_times_when_a_cut_is_mended() -> None:
    before, overlap, after = (
        words("Раз два три чет."),
        words("Два три четыре пять шесть.", 1),
        words("ыре Пять шесть", 4),
    )
    left, right = merge_overlap(before, overlap, after)
    assert [(word.text, word.start_s) for word in left] == [("Раз", 0), ("два", 1), ("три", 2), ("четыре", 3)]
    assert [(word.text, word.start_s) for word in right] == [("пять", 4), ("шесть", 6)]


def test_punctuation_dropped_at_the_beginning_of_a_text_takes_no_time_of_another_word() -> None:
    (word,) = continue_words("Раз", words("… , Два"))
    assert (word.text, word.start_s) == ("Два", 2)
