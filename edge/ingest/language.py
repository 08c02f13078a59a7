"""Which language a text is in, among those that the lexical search can stem (Snowball, through PyStemmer).

py3langid (naive Bayes over byte n-grams, about 140 languages) narrowed down to those with a stemmer. Its model takes
about 75 MB of private memory and a second to load, so documents are judged in the parser process.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Any

from edge.lexical import SNOWBALL

STEMMERS = frozenset(SNOWBALL) - {"nb", "nn"}
"""ISO 639-1 codes; Norwegian in either form is "no"."""

UNKNOWN = "en"
"""What is answered where a text does not tell."""

_NORWEGIAN = frozenset({"no", "nb", "nn"})
_SCRIPTS = ("LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "ARABIC", "DEVANAGARI", "TAMIL")
_SAMPLES, _SAMPLE_CHARS = 4, 2000
_LEAST = 0.3  # probability below which a text is too short or too strange to tell
_LEAST_LETTERS = 4
_WORD = re.compile(r"[^\W\d_]+")

# What one of Danish and Norwegian writes and the other does not: function words, which short texts hold as well.
_DANISH_WORDS = (
    "af efter hvad hvornår meget mere mig dig sig nogen noget nogle blev bliver blive gør igen uden mellem nu "
    "tilbage bruge bruges fejl hedder uge uger op ud mod sidder gennem"
)
_DANISH = frozenset(_DANISH_WORDS.split())
_BOKMAL_OR_NYNORSK_WORDS = (
    "av etter hva mye mer meg deg seg noen noe ble blir bli gjør igjen uten mellom nå tilbake brukes feil "
    "heter uke uker opp ut mot sitter gjennom ikkje eg ein eit korleis kva kvar kvifor frå vere sjå dei"
)
_BOKMAL_OR_NYNORSK = frozenset(_BOKMAL_OR_NYNORSK_WORDS.split())
_DANISH_PART = re.compile(r"[eø]j(?![aouæø])|tion(?:en|er|erne)?$")
_NORWEGIAN_PART = re.compile(r"øy|sjon(?:en|er|ene)?$")


@functools.lru_cache(maxsize=1)
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages((STEMMERS | _NORWEGIAN) & set(identifier.labels))
    return identifier


def detect(text: str) -> str:
    """The ISO 639-1 code of a text's language, one of `STEMMERS`; `UNKNOWN` where it cannot be told.

    The same text always gives the same answer. Looks at a few stretches of a long text, not at all of it.
    """
    sample = _sample(text)
    if not _readable(sample):
        return UNKNOWN
    chances: dict[str, float] = {}
    for label, chance in _identifier().rank(sample):
        code = "no" if label in _NORWEGIAN else label
        chances[code] = chances.get(code, 0.0) + chance
    best = max(chances, key=lambda code: chances[code])
    if best in ("no", "da"):
        chance = chances["no"] + chances["da"]
        return _norwegian_or_danish(sample, chances) if chance >= _LEAST else UNKNOWN
    return best if chances[best] >= _LEAST else UNKNOWN


def _sample(text: str) -> str:
    if len(text) <= _SAMPLES * _SAMPLE_CHARS:
        return text
    stride = (len(text) - _SAMPLE_CHARS) // (_SAMPLES - 1)
    return "\n".join(text[index * stride : index * stride + _SAMPLE_CHARS] for index in range(_SAMPLES))


def _readable(sample: str) -> bool:
    """Whether most letters are of a script that a language with a stemmer is written in."""
    letters = [char for char in sample if char.isalpha()][:500]
    known = sum(unicodedata.name(char, "").startswith(_SCRIPTS) for char in letters)
    return len(letters) >= _LEAST_LETTERS and known * 2 > len(letters)


def _norwegian_or_danish(sample: str, chances: dict[str, float]) -> str:
    danish = norwegian = 0
    for word in _WORD.findall(sample.lower()):
        danish += word in _DANISH or bool(_DANISH_PART.search(word))
        norwegian += word in _BOKMAL_OR_NYNORSK or bool(_NORWEGIAN_PART.search(word))
    if danish != norwegian:
        return "da" if danish > norwegian else "no"
    return "da" if chances.get("da", 0.0) > chances.get("no", 0.0) else "no"
