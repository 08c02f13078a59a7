"""Secrets and e-mail addresses in training data: what a model learns, it may say to anyone. Shown masked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["secret", "email"]

# What makes each of these a secret is its shape, as its issuer documents it; the last ones are told by what is said
# before them, so they must look random: see `_looks_random`.
_SECRETS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("private key", re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----")),
    ("AWS access key", re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")),
    ("GitHub token", re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})\b")),
    ("GitLab token", re.compile(r"\bglpat-[A-Za-z0-9_-]{20,}")),
    ("Slack token", re.compile(r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}")),
    ("Google API key", re.compile(r"\bAIza[0-9A-Za-z_-]{35}")),
    ("Stripe key", re.compile(r"\b[rs]k_(?:live|test)_[0-9A-Za-z]{16,}")),
    ("API key", re.compile(r"\bsk-(?:[a-z]+-)*[A-Za-z0-9_-]{20,}")),
    ("Hugging Face token", re.compile(r"\bhf_[A-Za-z]{30,}\b")),
    ("JSON web token", re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}")),
    ("password in an address", re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@]+:(?P<secret>[^\s/@]{3,})@")),
)
_NAMED = re.compile(
    r"(?i)\b(?:api[_ -]?key|access[_ -]?token|auth[_ -]?token|secret(?:[_ -]?key)?|client[_ -]?secret|bearer|"
    r"password|passwd|passwort|kennwort)\b[\"']?\s*(?:[:=]|is\b|ist\b|\s)\s*[\"']?(?P<secret>[^\s\"'<>]{8,})"
)
_EMAIL = re.compile(r"\b[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}\b")
# Reserved for documentation: RFC 2606, RFC 6761.
_EXAMPLES = re.compile(r"(?i)@(?:[\w.-]+\.)?(?:example\.(?:com|org|net)|example|test|invalid|localhost)$")


@dataclass(frozen=True, slots=True)
class Sensitive:
    """Something that should not be learned."""

    kind: Kind
    what: str  # "AWS access key", "e-mail address"
    masked: str


def find(text: str) -> Iterator[Sensitive]:
    """Secrets, then e-mail addresses; addresses of reserved example domains are none."""
    taken: list[tuple[int, int]] = []
    for what, pattern in _SECRETS:
        for match in pattern.finditer(text):
            taken.append(match.span())
            secret = match["secret"] if "secret" in pattern.groupindex else match.group()
            yield Sensitive("secret", what, "-----BEGIN…" if what == "private key" else mask(secret))
    for match in _NAMED.finditer(text):
        start, end = match.span("secret")
        secret = match["secret"].rstrip(".,;:)]}")
        if _looks_random(secret) and not any(a < end and start < b for a, b in taken):
            yield Sensitive("secret", "password or key", mask(secret))
    for match in _EMAIL.finditer(text):
        if not _EXAMPLES.search(match.group()) and not any(a < match.end() and match.start() < b for a, b in taken):
            name, _, domain = match.group().rpartition("@")
            yield Sensitive("email", "e-mail address", f"{name[0]}…@{domain[0]}….{domain.rpartition('.')[2]}")


def mask(secret: str) -> str:
    """Its first characters, at most four and a quarter of it, and how long it is."""
    return f"{secret[: min(4, len(secret) // 4)]}… ({len(secret)} characters)"


def _looks_random(text: str) -> bool:
    """Whether digits and letters stand mixed: words of a sentence after "password" are no secrets."""
    kinds = (any(c.isdigit() for c in text), any(c.isalpha() for c in text))
    return all(kinds) and not re.fullmatch(r"[A-Za-z]+\d{1,2}|[\d.,]+[A-Za-z]{1,3}", text)
