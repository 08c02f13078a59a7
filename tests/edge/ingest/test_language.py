from __future__ import annotations

import pytest
import Stemmer

from edge.ingest.language import STEMMERS, UNKNOWN, detect
from edge.lexical import SNOWBALL

TEXTS = {
    "no": [
        "Hva betyr feilkode E17?",
        "Hvordan starter jeg gatewayen på nytt?",
        "Gatewayen må startes på nytt etter strømbrudd.",
        "Husk å lukke ventilen.",
        "Hvor mange porter har enheten?",
        "Vedlikehold hver sjette måned",
        "Når ble filteret sist byttet?",
        "Korleis startar eg maskina på nytt?",
        "Enheten varsler når temperaturen blir for høy, og vifta starter automatisk.",
        "Alle menneske er fødde til fridom og med same menneskeverd og menneskerettar.",
    ],
    "da": [
        "Hvad betyder fejlkode E17?",
        "Hvordan genstarter jeg gatewayen?",
        "Gatewayen skal genstartes efter strømsvigt.",
        "Sikringen sidder bag dækslet.",
        "Hvornår blev filteret sidst udskiftet?",
        "Enheden advarer, når temperaturen bliver for høj, og blæseren starter automatisk.",
        "Alle mennesker er født frie og lige i værdighed og rettigheder.",
    ],
    "sv": ["Vad betyder felkod E17?", "Glöm inte att stänga ventilen.", "Hur många portar har enheten?"],
    "de": [
        "Was bedeutet Fehlercode E17?",
        "Wie starte ich das Gateway neu?",
        "Wartung alle sechs Monate",
        "Nach einem Stromausfall muss das Gerät neu gestartet werden.",
    ],
    "en": [
        "What does error code E17 mean?",
        "Restart the device.",
        "code: E17; meaning: overheated; action: clean the fan",
        "All human beings are born free and equal in dignity and rights.",
    ],
    "fr": ["Comment redémarrer la passerelle ?"],
    "es": ["¿Qué significa el código de error E17?"],
    "ru": ["Устройство необходимо перезапустить."],
}


@pytest.mark.parametrize(("code", "text"), [(code, text) for code, texts in TEXTS.items() for text in texts])
def test_short_texts(code: str, text: str) -> None:
    assert detect(text) == code


@pytest.mark.parametrize(
    "text", ["", "   ", "12345 E17", "これは日本語の文章です。停電後は装置を再起動してください。", "x" * 3]
)
def test_what_cannot_be_told(text: str) -> None:
    assert detect(text) == UNKNOWN


def test_long_texts_are_sampled_all_over() -> None:
    german = " ".join(TEXTS["de"]) + " "
    assert detect("0123456789 " * 1000 + german * 300) == "de"


def test_every_language_has_its_stemmer() -> None:
    assert set(SNOWBALL.values()) <= set(Stemmer.algorithms())
    assert detect(TEXTS["de"][0]) in STEMMERS and UNKNOWN in STEMMERS
