"""The benchmark of real speech says of each goal whether it is reached, and finds lost sentences."""

from dataclasses import replace

from ml.benchmarks.goals import (
    AT_ONCE,
    BESIDE,
    IDLE,
    LONG,
    SENTENCES,
    Result,
    count_errors,
    goal_table,
    goals,
    lost_sentences,
    result_table,
)

SAID = ["Один два три четыре.", "Пять шесть семь восемь.", "Девять десять."]
RESULTS = {
    "long": Result(LONG, "service", (9.0, 10.0, 20.0), errors=20, words=100),
    "plain": Result(LONG, "transcribe", (30.0,), errors=21, words=100),
    "batched": Result(LONG, "batched", (11.0,), errors=20, words=100),
    "clips": Result(f"32 {AT_ONCE}", "service", (1.0,), errors=5, words=50),
    "clips, plain": Result(f"32 {AT_ONCE}", "transcribe", (4.0,), errors=5, words=50),
    "alone": Result(SENTENCES, "service", (30.0,), errors=19, words=100),
    "idle": Result(IDLE, "service", (0.4,)),
    "beside": Result(BESIDE, "service", (0.8, 0.9, 5.0)),
}


def missed(**changed: Result) -> list[str]:
    return [goal.name for goal in goals(list((RESULTS | changed).values())) if not goal.is_reached]


def test_all_goals_are_reached_at_their_limits() -> None:
    assert missed() == []


def test_each_goal_is_missed_where_its_figure_is_beyond_the_limit() -> None:
    long = RESULTS["long"]
    assert len(missed(long=replace(long, seconds=(10.6,)))) == 1  # against batched
    assert len(missed(long=replace(long, seconds=(16.0,)))) == 2  # against both
    assert len(missed(long=replace(long, errors=21))) == 2  # against batched and its sentences
    assert missed(long=replace(long, lost=1)) == ["lost sentences"]
    assert missed(long=replace(long, loops=True)) == ["loops in the text"]
    assert len(missed(clips=replace(RESULTS["clips"], seconds=(2.3,)))) == 1
    assert len(missed(beside=replace(RESULTS["beside"], seconds=(1.1,)))) == 1


def test_the_tables_state_every_figure_and_every_goal() -> None:
    found = goals(list(RESULTS.values()))
    assert result_table(list(RESULTS.values())).count("\n") == len(RESULTS)
    assert goal_table(found).count(" reached") == len(found)
    assert "NOT REACHED" in goal_table([replace(found[0], figure=1.9)])


def test_a_sentence_that_is_missing_in_the_transcript_is_lost() -> None:
    assert lost_sentences(SAID, "Один два три четыре пять, шесть, семь восемь! девять десять") == 0
    assert lost_sentences(SAID, "один два четыре девять десять") == 1
    assert lost_sentences(SAID, "один два четыре один два четыре один два четыре десять") == 1


def test_a_sentence_whose_words_are_misheard_is_not_lost() -> None:
    assert lost_sentences(SAID, "один два четыре петь шест сем восем девять десять") == 0


def test_errors_are_wrong_missing_and_additional_words() -> None:
    assert count_errors(SAID, ["один два три", "пять шесть семь восемь восемь", "девять одиннадцать"]) == (3, 10)
