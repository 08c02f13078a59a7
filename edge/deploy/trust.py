"""Whose signature counts: the trust file, and the check of an archive against it.

The time is the latest of three: the machine's clock, when the trust file was written, and the last signed time that
this box has seen. A clock that stands in 1970 makes no expired key valid again, and refuses no good one.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path

from edge.config import load
from edge.deploy.archive import Archive
from edge.deploy.signatures import Signature, key_id, seconds_of
from edge.errors import ConfigError, TrustError
from edge.files import write_atomic

SCHEMA = 1
TRUST = "trust.yaml"
"""Its name in a box's folder."""
SLACK_SEC = 24 * 3600.0
"""How far ahead of this machine's clock a signature may be dated."""


@dataclass(frozen=True)
class TrustedKey:
    name: str  # for a person
    public: str  # base64, 32 bytes
    not_before: str  # "2026-11-23T00:00:00Z"; a signature's own time must lie between the two
    not_after: str  # after it, nothing that the key signed is accepted

    def __post_init__(self) -> None:
        try:
            raw = base64.b64decode(self.public, validate=True)
        except binascii.Error:
            raw = b""
        if len(raw) != 32:
            raise ValueError("public must be the 32 bytes of an Ed25519 key in base64")
        for time in (self.not_before, self.not_after):
            seconds_of(time)

    @property
    def raw(self) -> bytes:
        return base64.b64decode(self.public)

    @property
    def id(self) -> str:
        return key_id(self.raw)


@dataclass(frozen=True)
class Revoked:
    key: str  # its id
    reason: str


@dataclass(frozen=True)
class Trust:
    """The trust file."""

    schema: int
    updated: str  # when it was written: it is at least that late
    keys: tuple[TrustedKey, ...]
    revoked: tuple[Revoked, ...] = ()  # whatever they signed, and whenever

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"schema {self.schema} is not known here, only {SCHEMA}: install a newer edge-slm")
        seconds_of(self.updated)
        if len({key.id for key in self.keys}) < len(self.keys):
            raise ValueError("one key stands twice")


@dataclass(frozen=True, slots=True)
class Verified:
    """A signature that counts."""

    name: str  # of the key
    key: str  # its id
    release: int
    signed: str


def read_trust(path: Path) -> Trust:
    """Read a trust file.

    :raises TrustError: there is no such file, or it is not in order.
    """
    if not path.is_file():
        raise TrustError(
            f"{path}: there is no trust file, so no signature counts. Put the signer's public key there "
            "(`edge bundle keygen` writes one), name another with --trusted, or say --allow-unsigned"
        )
    try:
        return load(Trust, path)
    except ConfigError as error:
        raise TrustError(f"the trust file cannot be used: {error}") from None


def write_trust(path: Path, trust: Trust) -> None:
    """Write a trust file."""
    from edge.config import to_yaml

    write_atomic(path, to_yaml(trust))


def check(archive: Archive, trust: Trust, *, now: float, seen: str | None = None) -> Verified:
    """The signature that counts, the one with the highest release number.

    :param now: the machine's clock, seconds since 1970.
    :param seen: the last signed time that this box has seen.
    :raises TrustError: none counts; says why.
    """
    known = {key.id: key for key in trust.keys}
    revoked = {one.key: one.reason for one in trust.revoked}
    floor = max(seconds_of(trust.updated), seconds_of(seen) if seen else 0.0)
    found: list[Verified] = []
    reasons: list[str] = []
    for one in archive.signatures.signatures:
        if one.key in revoked:
            reasons.append(f"key {one.key} is revoked: {revoked[one.key]}")
            continue
        if one.key not in known:
            reasons.append(f"key {one.key} is not in the trust file")
            continue
        key = known[one.key]
        if not _is_genuine(one, key, archive.digest):
            raise TrustError(f"{archive.path}: the signature by {key.name} ({key.id}) is wrong: it was changed")
        if reason := _untimely(one, key, now, floor):
            reasons.append(reason)
        else:
            found.append(Verified(key.name, key.id, one.release, one.signed))
    if not found:
        why = "; ".join(reasons) or "it is not signed"
        raise TrustError(f"{archive.path}: not trusted: {why}. Have it signed with a trusted key (`edge bundle sign`)")
    return max(found, key=lambda one: one.release)


def _is_genuine(one: Signature, key: TrustedKey, table: str) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(one.raw, one.message(table))
    except InvalidSignature:
        return False
    return True


def _untimely(one: Signature, key: TrustedKey, now: float, floor: float) -> str | None:
    signed, start, end = seconds_of(one.signed), seconds_of(key.not_before), seconds_of(key.not_after)
    if not start <= signed <= end:
        return f"{key.name} signed it on {one.signed}, outside of the key's time ({key.not_before} to {key.not_after})"
    if max(now, floor) > end:
        return f"the key of {key.name} expired on {key.not_after}"
    if now >= floor and signed > now + SLACK_SEC:  # a clock before the floor is known to be wrong
        return f"it was signed on {one.signed}, which is still to come: see to the clock of this machine"
    return None
