"""The tiny model's words, and random sentences of them."""

from __future__ import annotations

from pathlib import Path
from random import Random

_FOLDER = Path(__file__).parent

UNITS = ["один", "два", "три", "четыре", "пять", "шесть", "семь", "восемь", "девять"]
TEENS = [
    "десять",
    "одиннадцать",
    "двенадцать",
    "тринадцать",
    "четырнадцать",
    "пятнадцать",
    "шестнадцать",
    "семнадцать",
    "восемнадцать",
    "девятнадцать",
]
TENS = ["двадцать", "тридцать", "сорок", "пятьдесят", "шестьдесят", "семьдесят", "восемьдесят", "девяносто"]
HUNDREDS = ["сто", "двести", "триста", "четыреста", "пятьсот", "шестьсот", "семьсот", "восемьсот", "девятьсот"]


def words() -> list[str]:
    """Every known word once, in the order of the lists."""
    text = (_FOLDER / "words.txt").read_text() + (_FOLDER / "numbers.txt").read_text()
    return list(dict.fromkeys(text.split()))


def number_phrase(random: Random) -> list[str]:
    """A number below two thousand in Russian words."""
    phrase: list[str] = []
    if random.random() < 0.2:
        phrase.append("тысяча")
    if random.random() < 0.6:
        phrase.append(random.choice(HUNDREDS))
    if random.random() < 0.25:
        return [*phrase, random.choice(TEENS)]
    if random.random() < 0.7:
        phrase.append(random.choice(TENS))
    if random.random() < 0.7 or not phrase:
        phrase.append(random.choice(UNITS))
    return phrase


def sentence(random: Random, known: list[str]) -> list[str]:
    """An utterance of known words in any order: 3-8 as a rule, fewer sometimes, numbers in between."""
    length = random.randint(1, 2) if random.random() < 0.08 else random.randint(3, 8)
    chosen: list[str] = []
    while len(chosen) < length:
        chosen += number_phrase(random) if random.random() < 0.08 else [random.choice(known)]
    return chosen[:length]
