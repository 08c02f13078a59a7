"""The signatures of an archive: Ed25519 (RFC 8032) over the digest of its table, a release number and the time.

They stand in the archive's second file, `edge.sig.json`. The release number only grows, so that an old release which
somebody signed in good faith cannot be put in place of a newer one.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from edge.errors import ArchiveError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SCHEMA = 1
MAX_SIGNATURES = 16
MAX_SIGNATURES_BYTES = 16 * 2**10
MAX_RELEASE = 2**53 - 1  # what JSON readers agree on
_SUBJECT = b"edge-slm archive signature 1\n"
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_KEY_ID = re.compile(r"[0-9a-f]{16}")
_DAMAGED = "its signatures are damaged. Copy the archive again from where it came"


@dataclass(frozen=True, slots=True)
class Signature:
    key: str  # id of the public key, 16 hex digits
    release: int
    signed: str  # ISO 8601, UTC, to the second
    signature: str  # base64, 64 bytes

    def message(self, table: str) -> bytes:
        """The bytes that are signed; `table` is the sha256 of the table of contents."""
        said = {"key": self.key, "release": self.release, "signed": self.signed, "table": table}
        return _SUBJECT + json.dumps(said, sort_keys=True).encode("ascii")

    @property
    def raw(self) -> bytes:
        """The signature's bytes; not base64 gives none that could be right."""
        try:
            return base64.b64decode(self.signature, validate=True)
        except binascii.Error:
            return b""


@dataclass(frozen=True, slots=True)
class Signatures:
    schema: int
    table: str  # sha256 of the table of contents: damage is found in an unsigned archive too
    signatures: tuple[Signature, ...] = ()

    def to_bytes(self) -> bytes:
        """As they stand in the archive."""
        plain = dataclasses.asdict(self)
        return (json.dumps(plain, indent=1, ensure_ascii=True) + "\n").encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Self:
        """Read them from an archive.

        :raises ArchiveError: they are damaged, or of a newer schema.
        """
        try:
            plain: Any = json.loads(data)
            schema = plain["schema"]
            if type(schema) is int and schema > SCHEMA:
                raise ArchiveError(f"{name}: signatures of the newer schema {schema}. Update edge-slm here")
            signatures = tuple(Signature(**one) for one in plain["signatures"])
            found = cls(schema, plain["table"], signatures)
        except (ValueError, RecursionError, KeyError, TypeError):
            raise ArchiveError(f"{name}: {_DAMAGED}") from None
        if len(signatures) > MAX_SIGNATURES or not all(_is_sound(one) for one in signatures):
            raise ArchiveError(f"{name}: {_DAMAGED}")
        if found.to_bytes() != data:
            raise ArchiveError(f"{name}: {_DAMAGED}")
        return found


def sign(table: str, key: Ed25519PrivateKey, release: int, now: float) -> Signature:
    """Sign an archive.

    :param table: sha256 of the table of contents.
    :param now: seconds since 1970.
    """
    signed = datetime.fromtimestamp(now, UTC).strftime(_TIME)
    unsigned = Signature(key_id(raw_public(key)), release, signed, "")
    made = base64.b64encode(key.sign(unsigned.message(table))).decode("ascii")
    return dataclasses.replace(unsigned, signature=made)


def raw_public(key: Ed25519PrivateKey) -> bytes:
    """The public key's 32 bytes."""
    return key.public_key().public_bytes_raw()


def key_id(public: bytes) -> str:
    """16 hex digits that stand for a public key."""
    return hashlib.sha256(public).hexdigest()[:16]


def seconds_of(time: str) -> float:
    """Seconds since 1970 of a time such as 2026-11-23T10:00:00Z.

    :raises ValueError: it is none.
    """
    return datetime.strptime(time, _TIME).replace(tzinfo=UTC).timestamp()


def text_of(seconds: float) -> str:
    """The reverse of `seconds_of`."""
    return datetime.fromtimestamp(seconds, UTC).strftime(_TIME)


def _is_sound(one: Signature) -> bool:
    if not all(isinstance(text, str) for text in (one.key, one.signed, one.signature)):
        return False
    try:
        seconds_of(one.signed)
    except ValueError:
        return False
    return bool(_KEY_ID.fullmatch(one.key)) and type(one.release) is int and 0 <= one.release <= MAX_RELEASE
