"""Recognises answers of Whisper to audio in which nothing is said: music, breaths, knocks, noise."""

import re

# Whisper states how probable it is that a chunk holds no speech, and how probable its tokens are. Whisper base on 27
# chunks of speech of 2 s and more, also at 5 dB of noise or at -30 dB: no speech at most 0.68, tokens at least 0.57. On
# 48 chunks of noise, hum, breaths, knocks and music: no speech at least 0.23; tokens below 0.26 but for stock phrases
# and for loops, whose rounds make each other probable.
MIN_NO_SPEECH = 0.2
MAX_PROBABILITY = 0.35
# Of a single word the same figures say nothing: cut out of its sentence it has a no-speech probability of up to 0.81.
MIN_DURATION_S = 2.0
SURE_NO_SPEECH = 0.85  # at this probability the tokens need not be as improbable
SURE_PROBABILITY = 0.7
LOOP_NO_SPEECH = 0.5  # at this probability a text that repeats itself is not speech
LOOP_ROUNDS = 4  # times that its words come, in the mean
# What subtitles, on which Whisper was trained, say where nobody speaks. As a whole answer it is not speech.
_STOCK_PHRASE = re.compile(
    r"редактор субтитров.*|субтитры (сделал|создавал|подогнал|делал).*|[А-ЯЁ\s,-]*(МУЗЫКА|АПЛОДИСМЕНТЫ|СМЕХ|ВЫСТРЕЛЫ)",
)


def is_no_speech(text: str, no_speech: float, probability: float, duration_s: float) -> bool:
    """Whether `text` answers a chunk without speech.

    `no_speech` is the model's probability of that, `probability` the mean one of the text's tokens.
    """
    bare = text.strip(" .!…[]()*♪")
    if _STOCK_PHRASE.fullmatch(bare) or _STOCK_PHRASE.fullmatch(bare.lower()):
        return True
    if no_speech > SURE_NO_SPEECH and probability < SURE_PROBABILITY:
        return True
    if duration_s < MIN_DURATION_S:
        return False
    if no_speech > LOOP_NO_SPEECH and _is_loop(text):
        return True
    return no_speech > MIN_NO_SPEECH and probability < MAX_PROBABILITY


def _is_loop(text: str) -> bool:
    words = text.lower().replace("-", " ").split()
    return len(words) >= LOOP_ROUNDS * len(set(words)) > 0
