"""Recognises answers of Whisper to audio in which nothing is said: music, breaths, knocks, noise."""

import re

# Whisper states how probable it is that a chunk holds no speech, and how probable its tokens are. Whisper base on 45
# chunks of speech (some at 5 dB of noise, some at -30 dB): no speech at most 0.36, tokens at least 0.50. On 60 chunks
# of noise, hum, breaths, knocks and music: no speech at least 0.34; tokens below 0.35 but for stock phrases.
MIN_NO_SPEECH = 0.3
MAX_PROBABILITY = 0.35
# Of a single word the same figures say nothing: cut out of its sentence it has a no-speech probability of up to 0.81.
MIN_DURATION_S = 2.0
SURE_NO_SPEECH = 0.85  # at this probability the tokens need not be as improbable
SURE_PROBABILITY = 0.7
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
    return duration_s >= MIN_DURATION_S and no_speech > MIN_NO_SPEECH and probability < MAX_PROBABILITY
