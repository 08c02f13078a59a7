"""Text to index terms, by language: case and accents folded, words stemmed, identifiers whole and in parts (pure).

The store indexes what `terms` returns, joined by spaces, so the database needs no tokenizer of its own to be opened.
A question is turned into terms once for every language that the index holds (`query`), because each document was
stemmed by its own. Stemming is Snowball's (https://snowballstem.org), through PyStemmer.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files

import yaml

VERSION = "1"  # counts up when the terms of the same text change: an index of another version is refused

# ISO 639-1 -> Snowball algorithm. A language that is absent here is folded, not stemmed.
SNOWBALL = {
    "ar": "arabic", "ca": "catalan", "cs": "czech", "da": "danish", "de": "german", "el": "greek", "en": "english",
    "eo": "esperanto", "es": "spanish", "et": "estonian", "eu": "basque", "fa": "persian", "fi": "finnish",
    "fr": "french", "ga": "irish", "hi": "hindi",
    "hu": "hungarian", "hy": "armenian", "id": "indonesian", "it": "italian", "lt": "lithuanian", "nb": "norwegian",
    "ne": "nepali", "nl": "dutch", "nn": "norwegian", "no": "norwegian", "pl": "polish", "pt": "portuguese",
    "ro": "romanian", "ru": "russian", "sr": "serbian", "sv": "swedish", "ta": "tamil", "tr": "turkish",
    "yi": "yiddish",
}  # fmt: skip

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_MARKS = "\u0300-\u036f\u064b-\u065f\u0900-\u0963\u0966-\u0e4f"  # vowel signs belong to the word
_WORD = rf"(?:[^\W_{_CJK}]|[{_MARKS}])+"
# A run of words glued by single marks ("GW-200", "192.168.1.1", "don't", "/etc/hosts"), or a run of CJK characters.
_TOKEN = re.compile(rf"{_WORD}(?:[-._:/'’+@]{_WORD})*|[{_CJK}]+")
_FIRST_CJK = re.compile(f"[{_CJK}]")
_PART = re.compile(_WORD)
_APOSTROPHE = re.compile(r"['’]\w{1,2}$")
# What Unicode does not decompose but readers type without: ø, æ, ß, ...
_FOLD = str.maketrans({"ø": "o", "æ": "ae", "œ": "oe", "ß": "ss", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"})


def terms(text: str, language: str) -> list[str]:
    """The index terms of a text in reading order; a glued token gives its parts, then itself as a whole.

    Parts glued between digits keep a mark ("192.168.1.1" is "192_168_1_1"), others are joined ("E-17" is "e17", which
    the spelling "E17" also is).
    """
    return [term for token in _tokens(text) for term in _terms_of(token, language)]


@dataclass(frozen=True, slots=True)
class Query:
    """A question as documents of one language would spell it."""

    terms: tuple[str, ...]  # distinct, without stop words
    pairs: tuple[tuple[str, str], ...]  # distinct neighbours, at most one of them a stop word


def query(question: str, language: str) -> Query:
    """The terms of a question under the stemming of `language`, whatever language it is asked in.

    Where nothing but stop words was asked, they are kept: a search for "to be" is still a search.
    """
    tokens = _tokens(question)
    stops = _stop_words_of(tokens)
    everything = [(term, token in stops) for token in tokens for term in _terms_of(token, language)]
    kept = dict.fromkeys(term for term, is_stop in everything if not is_stop)
    pairs = dict.fromkeys((a, b) for (a, x), (b, y) in itertools.pairwise(everything) if not (x and y))
    return Query(tuple(kept or dict.fromkeys(term for term, _ in everything)), tuple(pairs))


def _stop_words_of(tokens: list[str]) -> frozenset[str]:
    """The list that knows most of the question's words: one list only, since "war" and "die" are no English ones."""
    lists = _all_stop_words()
    return max(lists.values(), key=lambda words: sum(token in words for token in tokens))


def fold(word: str) -> str:
    """A lower-case word without accents: "blåbær" is "blabaer", "größe" is "grosse"."""
    if word.isascii():
        return word
    decomposed = unicodedata.normalize("NFKD", word)
    return "".join(c for c in decomposed if not unicodedata.combining(c)).translate(_FOLD)


@cache
def _all_stop_words() -> dict[str, frozenset[str]]:
    content = files("edge").joinpath("stopwords.yaml").read_text(encoding="utf-8")
    lists: dict[str, str] = yaml.safe_load(content)
    return {language: frozenset(words.split()) for language, words in lists.items()}


def _tokens(text: str) -> list[str]:
    found = _TOKEN.findall(unicodedata.normalize("NFKC", text).lower())
    return [token if token.isalnum() else _APOSTROPHE.sub("", token) for token in found]


@lru_cache(maxsize=20_000)
def _terms_of(token: str, language: str) -> tuple[str, ...]:
    if _FIRST_CJK.match(token):
        return tuple(_bigrams(token))
    stem = _stemmer(language)
    parts = _PART.findall(token)
    found = [*(fold(stem(part)) for part in parts), *([_whole(parts)] if len(parts) > 1 else [])]
    return tuple(term for term in found if term)  # a mark that stands alone leaves nothing


@cache
def _stemmer(language: str) -> Callable[[str], str]:
    if language not in SNOWBALL:
        return str
    import Stemmer

    stem: Callable[[str], str] = Stemmer.Stemmer(SNOWBALL[language]).stemWord
    return stem


def _whole(parts: list[str]) -> str:
    whole = parts[0]
    for part in parts[1:]:
        whole += ("_" if whole[-1].isdigit() and part[0].isdigit() else "") + part
    return fold(whole)


def _bigrams(run: str) -> list[str]:
    """Pairs of neighbouring characters: these scripts do not part words by spaces."""
    return [run[i : i + 2] for i in range(len(run) - 1)] if len(run) > 1 else [run]
