"""A sentence, or a row of a table, to questions that it answers word for word (pure). English and German.

Each rule knows one shape of sentence well: what does not fit it exactly gives no question. A question must name what it
asks about, so subjects that are pronouns or say too little ("the device") give none either. The way from a statement to
a question follows Heilman and Smith, "Good Question! Statistical Ranking for Question Generation" (2010), without a
parser.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

LANGUAGES = ("en", "de")
_MOST_ANSWER_WORDS, _MOST_SUBJECT_WORDS = 12, 8


@dataclass(frozen=True, slots=True)
class Candidate:
    """A question and its answer, which stands in the sentence word for word."""

    rule: str
    question: str
    answer: str


_NUMBERS = {
    "en": "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty|thirty|forty|fifty|sixty",
    "de": "zwei|drei|vier|fünf|sechs|sieben|acht|neun|zehn|elf|zwölf|fünfzehn|zwanzig|dreißig|vierzig|fünfzig|sechzig",
}
_NUMBER = {language: rf"(?:[-+−]?\d[\d.,]*\d|[-+−]?\d|{words})" for language, words in _NUMBERS.items()}
_ABOUT = {
    "en": r"(?:about |around |roughly |approximately |up to |at least |at most |exactly |less than |more than )?",
    "de": r"(?:etwa |rund |ungefähr |ca\. |bis zu |mindestens |höchstens |genau |weniger als |mehr als )?",
}
_RANGE = {"en": r"(?: (?:to|and) ", "de": r"(?: (?:bis|und) "}
_QUANTITY = {
    language: rf"{_ABOUT[language]}{_NUMBER[language]}{_RANGE[language]}{_NUMBER[language]})?" for language in LANGUAGES
}
_UNIT = r"[^\W\d_%°][\w/²³]*|%|°[CF]?|€|\$"
_MONTHS = {
    "en": "January|February|March|April|May|June|July|August|September|October|November|December",
    "de": "Januar|Februar|März|April|Mai|Juni|Juli|August|September|Oktober|November|Dezember",
}
_DATE = {
    "en": rf"(?:\d{{1,2}} (?:{_MONTHS['en']})(?: \d{{4}})?|(?:{_MONTHS['en']})(?: \d{{1,2}},)? \d{{4}}|"
    r"\d{4}-\d{2}-\d{2}|(?:1[0-9]|20)\d{2})",
    "de": rf"(?:\d{{1,2}}\. (?:{_MONTHS['de']})(?: \d{{4}})?|(?:{_MONTHS['de']}) \d{{4}}|\d{{1,2}}\.\d{{1,2}}\.\d{{4}}|"
    r"(?:1[0-9]|20)\d{2})",
}
_NAME = r"(?:[A-ZÄÖÜ][\w.'’-]*)(?: (?:(?:of|the|de|van|von|der|and|&) )?[A-ZÄÖÜ][\w.'’-]*){0,5}"
_TIME = {
    "en": r"(?:seconds?|minutes?|hours?|days?|weeks?|months?|years?)",
    "de": r"(?:Sekunden?|Minuten?|Stunden?|Tagen?|Wochen?|Monaten?|Jahren?|Tage|Monate|Jahre)",
}
_IRREGULAR = "built|held|born|made|written|won|begun|founded|sent|sold|taken|given|shown|known|drawn|set|cut"

# Words that a subject never begins with: pronouns say nothing, and the others begin a clause or a phrase of place.
_NO_SUBJECT_EN = (
    "it this that these those they he she we you i there here what which who one some many most both each all any "
    "other others another such its their his her our my your if when while although because after before as in on "
    "at for to by with from during since until under over and or but so then thus however therefore also only not "
    "no never do note see it's where how why unless whether once like unlike according among today now long soon "
    "shortly later early table figure fig two three four five six seven eight nine ten most several few"
)
_NO_SUBJECT_DE = (
    "es dies dieser diese dieses diesen sie er wir ihr ich man hier dort dabei dadurch damit da was wer welche welcher "
    "welches einer eines einige viele alle andere anderer anderes sein seine ihre unsere wenn während weil obwohl nach "
    "vor als in im an am auf bei beim für zu zum zur mit von vom durch seit bis unter über und oder aber so dann also "
    "nur nicht kein keine jede jeder jedes beide bitte wie wo warum ob sobald falls"
)
_NO_SUBJECT = {"en": frozenset(_NO_SUBJECT_EN.split()), "de": frozenset(_NO_SUBJECT_DE.split())}
# Words that it never ends with: what follows belongs to it, or what stood before was a sentence of its own.
_NO_END_WORDS = "and or the a an of in on at to for by with from that which und oder der die das von in im auf mit"
_NO_END = frozenset(_NO_END_WORDS.split())
_INSIDE = {  # words that show a clause inside what should be a noun phrase
    "en": re.compile(
        r"[,;:()\"“”]|\b(?:that|which|who|whose|if|when|because|while|is|are|was|were|has|have|had|can|must|may|should|"
        r"will|would|not|it|they|this|these|there|lasts|takes|weighs|costs)\b", re.I),
    "de": re.compile(
        r"[,;:()\"„“”]|\b(?:dass|wenn|weil|ist|sind|war|waren|hat|haben|kann|muss|darf|soll|wird|werden|wurde|nicht|es|"
        r"dieser|diese|dieses|sich)\b", re.I),
}  # fmt: skip
# Answers that point elsewhere, carry a reference, or run on into another statement.
_LOOSE = re.compile(r"\[\d|\b(?:that of|of that|this|these|those)\b|\band (?:is|was|has|had|are|were)\b")
_NAMING = frozenset({"name", "title", "label", "bezeichnung", "titel"})  # keys that a question need not repeat
_NOTHING = frozenset(
    {"none", "n/a", "unknown", "null", "yes", "no", "true", "false", "keine", "ja", "nein", "unbekannt"}
)
_ARTICLES = {"en": ("the", "a", "an"), "de": ("der", "die", "das", "ein", "eine")}


def questions(sentence: str, language: str) -> Iterator[Candidate]:
    """The questions that one sentence answers; nothing in languages without rules."""
    text = sentence.strip()
    if language not in LANGUAGES or not text.endswith(".") or "\n" in text or not 4 <= len(text.split()) <= 40:
        return
    for rule, pattern, form in _RULES[language]:
        match = pattern.match(text)
        if match is None:
            continue
        parts = match.groupdict()
        subject, answer = parts["subject"], _trimmed(parts["answer"])
        if not names_something(subject, language, rule not in _BARE) or not _is_answer(answer, text):
            continue
        parts["subject"] = _lowered(subject, language)
        if rule in ("duration", "period", "often") and parts.get("verb", "")[-1:] == "s":
            parts["verb"] = parts["verb"][: -2 if parts["verb"].endswith("ches") else -1]
        question = " ".join(form.format(**{key: value or "" for key, value in parts.items()}).split())
        question = question.replace(" ?", "?")
        if answer.casefold() not in question.casefold():
            yield Candidate(rule, question[0].upper() + question[1:], answer)
            return


def row_questions(row: str, language: str) -> Iterator[Candidate]:
    """Questions about a row of a table, "key: value; key: value", by the value that names it: the first with a letter.

    The keys of headings made for programs ("installed_on") are read as words.
    """
    if language not in LANGUAGES:
        return
    cells = [cell.partition(": ") for cell in row.split("; ")]
    pairs = [(key.strip().replace("_", " "), value.strip()) for key, mark, value in cells if mark]
    if len(pairs) < 3 or len(pairs) != len(cells):
        return
    name_at = next((at for at, (_, value) in enumerate(pairs) if _is_name(value)), None)
    if name_at is None:
        return
    named, name = pairs[name_at]
    about = name if named.casefold() in _NAMING else f"{_lower_first(named)} {name}"
    for at, (key, value) in enumerate(pairs):
        if at == name_at or key.casefold() in ("", "id") or not _is_answer(value, row, most=30):
            continue
        if row.count(value) > 1 or value.casefold() in name.casefold() or value.casefold() in _NOTHING:
            continue  # which cell it came from could not be told, or the cell says nothing
        yield Candidate("row", _cell_question(key, about, language), value)


def _cell_question(key: str, about: str, language: str) -> str:
    if language == "de":
        return f"Was steht bei {about} unter „{key}“?"
    last = key.split()[-1].casefold()
    if last.endswith("ed") or last in ("on", "at", "by", "in", "of", "to", "from", "after", "before"):
        return f"What is given as “{_lower_first(key)}” for {about}?"
    plural = last.endswith("s") and not last.endswith(("ss", "us", "is", "news"))
    return f"What {'are' if plural else 'is'} the {_lower_first(key)} of {about}?"


def names_something(subject: str, language: str, asked_more: bool = False) -> bool:
    """Whether a question about this subject says what it is about to someone who has not read the text.

    It names something by a proper name, a number, or two words of content; German by a compound too.

    :param asked_more: the question says something of it ("How much does the gateway weigh?"): one noun will do.
    """
    words = subject.split()
    if not 1 <= len(words) <= _MOST_SUBJECT_WORDS or words[0].casefold().strip(",") in _NO_SUBJECT[language]:
        return False
    if _INSIDE[language].search(subject) or words[-1].casefold() in _NO_END or words[-1].endswith("ly"):
        return False
    if any(word in ("same", "similar", "other", "former", "latter") for word in words):
        return False  # than what?
    has_article = words[0].casefold() in _ARTICLES[language]
    rest = words[1:] if has_article else words
    if any(any(c.isdigit() for c in word) or (len(word) > 1 and word.isupper()) for word in rest):
        return True
    content = [word for word in rest if len(word) > 3]
    if len(content) >= 2 or (language == "de" and any(len(word) >= 11 for word in rest)):
        return True
    if asked_more and has_article and any(len(word) >= 5 for word in rest):
        return True
    return language == "en" and any(word[:1].isupper() for word in content)


def _is_name(value: str) -> bool:
    return any(c.isalpha() for c in value) and len(value) >= 3 and len(value.split()) <= 6


def _is_answer(answer: str, text: str, most: int = _MOST_ANSWER_WORDS) -> bool:
    if _LOOSE.search(answer) or not any(c.isalnum() for c in answer):
        return False
    return 0 < len(answer.split()) <= most and answer in text


def _trimmed(answer: str) -> str:
    """The answer without marks and words at its end that belong to what follows."""
    words = answer.strip().rstrip(".,;: ").split(" ")
    while len(words) > 1 and words[-1].casefold() in _NO_END:
        words.pop()
    return " ".join(words)


def _lowered(subject: str, language: str) -> str:
    """The subject inside a sentence: its first word keeps its capital where it looks like a name."""
    first, _, rest = subject.partition(" ")
    if not rest:
        return subject
    common = language == "en" and rest[:1].islower() and first[1:].islower() and not first.endswith(("'s", "’s"))
    return f"{first.lower()} {rest}" if common or first.casefold() in _ARTICLES[language] else subject


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _rules(language: str, shapes: tuple[tuple[str, str, str], ...]) -> tuple[tuple[str, re.Pattern[str], str], ...]:
    """Compile shapes in which <q> is a quantity, <u> its unit, <d> a date, <n> a name, <e> the rest of a clause."""
    pieces = {
        "<q>": _QUANTITY[language], "<u>": rf"(?:{_UNIT})(?: (?:{_UNIT}))?", "<d>": _DATE[language], "<n>": _NAME,
        "<e>": r"(?:[,;]? (?:and|und|at|bei|for|für|with|mit|when|wenn|on|in|per|by|bei|from|to|of|a|an)\b.*)?\.$",
        "<ed>": rf"(?:[a-z]+ed|{_IRREGULAR})", "<t>": _TIME[language],
    }  # fmt: skip
    compiled = []
    for rule, shape, form in shapes:
        for mark, piece in pieces.items():
            shape = shape.replace(mark, piece)
        compiled.append((rule, re.compile(shape), form))
    return tuple(compiled)


_S = r"^(?P<subject>[^,;:]+?) "
_IN = r"(?:in|on|at|near|behind|beside|under|above) "
_KEEPS = "keeps|stores|holds|saves|waits|runs|works|stays|sends|reads|checks|restarts|stops|opens|closes|remembers"
_DE_IN = r"(?:in|im|auf|an|am|neben|hinter|unter|über|vor|links|rechts|oben|unten) "
_DE_ED = r"(?:ge[a-zäöüß]+(?:t|en)|[a-zäöüß]+(?:iert|gestellt|geführt|öffnet|baut|gründet))"
_REST = r"(?:[,;]? .*)?\.$"
# Rule, shape, question. The first that fits a sentence gives its question.
_ENGLISH = (
    ("duration", _S + r"(?P<verb>takes|lasts) (?P<answer><q> ?<t>)<e>", "How long does {subject} {verb}?"),
    ("weight", _S + r"weighs (?P<answer><q> ?<u>)<e>", "How much does {subject} weigh?"),
    ("price", _S + r"costs (?P<answer>(?:[A-Z]{3} |[€$£])?<q>(?: ?<u>)?)<e>", "How much does {subject} cost?"),
    ("period", _S + rf"(?P<verb>{_KEEPS})(?P<object> [^,;:.]+?)? for (?P<answer><q> <t>)<e>",
     "For how long does {subject} {verb}{object}?"),
    ("often", _S + rf"(?P<verb>{_KEEPS})(?P<object> [^,;:.]+?)? (?P<answer>every (?:<q> )?<t>)<e>",
     "How often does {subject} {verb}{object}?"),
    ("often", _S + r"(?P<must>must|should) be (?P<verb><ed>) (?P<answer>every (?:<q> )?<t>)<e>",
     "How often {must} {subject} be {verb}?"),
    ("age", _S + r"was born (?:in|on) (?P<answer><d>)\b.*\.$", "When was {subject} born?"),
    ("date", _S + r"(?P<was>was|were) (?P<verb><ed>)(?P<middle> [^,;:.]+?)? (?:in|on) (?P<answer><d>)\b.*\.$",
     "When {was} {subject} {verb}{middle}?"),
    ("agent", _S + r"(?P<was>was|is|are|were) (?P<verb><ed>) by (?P<answer><n>)(?:[,;] .*| (?:in|on|at|for|to) .*)?\.$",
     "By whom or what {was} {subject} {verb}?"),
    ("place", _S + rf"(?P<was>is|are|was) (?:located|situated) (?P<answer>{_IN}[^,;]+)[,.].*$",
     "Where {was} {subject} located?"),
    ("place", _S + rf"stands? (?P<answer>{_IN}[^,;]+)\.$", "Where is {subject}?"),
    ("count", _S + r"(?:has|contains|includes) (?P<answer><q>) (?P<what>[a-z]+s)(?: [^,;]*)?[,.].*$",
     "How many {what} does {subject} have?"),
    ("value", _S + r"(?P<was>is|are|was|were) (?!one\b)(?P<answer><q>(?: ?<u>)?(?: (?:of|per) [^,;.]+)?)<e>",
     "What {was} {subject}?"),
    ("definition", _S + r"(?P<was>is|was) (?P<answer>(?:a|an) [^;:()]+?)(?:, (?:which|who|where)\b.*)?\.$",
     "What {was} {subject}?"),
    ("which", r"^(?P<subject>The [^,;:]+? (?:of|for|in) [^,;:]+?) (?P<was>is|was) (?P<answer><n>)\.$",
     "What {was} {subject}?"),
)  # fmt: skip
_GERMAN = (
    ("duration", _S + r"dauert (?P<answer><q> ?<u>)" + _REST, "Wie lange dauert {subject}?"),
    ("weight", _S + r"wiegt (?P<answer><q> ?<u>)" + _REST, "Wie viel wiegt {subject}?"),
    ("price", _S + r"kostet (?P<answer><q> ?<u>)" + _REST, "Wie viel kostet {subject}?"),
    ("value", _S + r"beträgt (?P<answer><q> ?<u>)" + _REST, "Wie viel beträgt {subject}?"),
    ("limit", _S + r"darf (?P<answer>höchstens <q> ?<u>) (?P<verb>betragen|lang sein|hoch sein|breit sein)\.$",
     "Wie viel darf {subject} höchstens {verb}?"),
    ("often", _S + r"ist (?P<answer>alle <q> <t>) fällig\.$", "Wie oft ist {subject} fällig?"),
    ("date", _S + rf"wurde (?:am|im Jahre?|im) (?P<answer><d>)(?P<middle> [^,;:.]+?)? (?P<verb>{_DE_ED})\.$",
     "Wann wurde {subject}{middle} {verb}?"),
    ("place", _S + rf"(?:befindet sich|liegt|sitzt|steht) (?P<answer>{_DE_IN}[^,;]+)\.$",
     "Wo befindet sich {subject}?"),
    ("count", _S + r"(?:hat|enthält|umfasst) (?P<answer><q>) (?P<what>[A-ZÄÖÜ][a-zäöüß]+)(?: [^,;]*)?[,.].*$",
     "Wie viele {what} hat {subject}?"),
    ("definition", _S + r"ist (?P<answer>(?:ein|eine) [^;:()]+?)(?:, (?:der|die|das)\b.*)?\.$", "Was ist {subject}?"),
)  # fmt: skip
_RULES = {"en": _rules("en", _ENGLISH), "de": _rules("de", _GERMAN)}
_BARE = frozenset({"value", "definition", "which"})
"""Rules whose question says nothing but its subject, which must say all the more."""
