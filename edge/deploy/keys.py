"""The signer's private key: a PEM file (PKCS #8) that only its owner may read."""

from __future__ import annotations

import base64
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from edge.deploy.signatures import raw_public, text_of
from edge.deploy.trust import SCHEMA, Trust, TrustedKey, write_trust
from edge.errors import TrustError, UsageError
from edge.files import write_atomic

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

DAYS = 730


def generate(path: Path, name: str, now: float, days: int = DAYS) -> tuple[TrustedKey, Path]:
    """Make a key, and beside it a trust file that names its public half; returns both.

    :param name: of the key, for a person.
    :param now: seconds since 1970; the key is valid from then on.
    :raises UsageError: there is such a file already.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    trust_path = path.with_name(f"{path.name}.trust.yaml")
    for taken in (path, trust_path):
        if taken.exists():
            raise UsageError(f"{taken} is there already: a key is never overwritten; name another file")
    key = Ed25519PrivateKey.generate()
    public = base64.b64encode(raw_public(key)).decode("ascii")
    trusted = TrustedKey(name, public, text_of(now), text_of(now + days * 86400))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        write_atomic(path, pem, mode=0o600)
        write_trust(trust_path, Trust(SCHEMA, text_of(now), (trusted,)))
    except OSError as error:
        raise UsageError(f"{error.filename or path}: cannot be written: {error.strerror}") from None
    return trusted, trust_path


def read_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key.

    :raises TrustError: it cannot be read, is no Ed25519 key, or others may read it.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise TrustError(f"{path}: others may read this private key: `chmod 600` it, and consider it known to them")
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise TrustError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise TrustError(f"{path}: no private key in PEM without a password: `edge bundle keygen` makes one") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise TrustError(f"{path}: a key of another kind; signatures are Ed25519: `edge bundle keygen` makes one")
    return key
