"""Whose signature counts, and until when."""

from __future__ import annotations

import base64
import dataclasses
from pathlib import Path

import pytest

from edge.deploy.archive import Archive
from edge.deploy.keys import generate, read_key
from edge.deploy.pack import add_signature
from edge.deploy.signatures import seconds_of, text_of
from edge.deploy.trust import Revoked, Trust, Verified, check, read_trust, write_trust
from edge.errors import TrustError, UsageError
from tests.edge.deploy.made import DAY, NOW, Shop


def trust_of(shop: Shop, **changes: object) -> Trust:
    return dataclasses.replace(read_trust(shop.root / "trust.yaml"), **changes)  # type: ignore[arg-type]


def judge(path: Path, trust: Trust, now: float = NOW, seen: str | None = None) -> Verified:
    with Archive.open(path) as archive:
        return check(archive, trust, now=now, seen=seen)


def test_signed_by_a_trusted_key(shop: Shop) -> None:
    found = judge(shop.archive(1, release=7), trust_of(shop))
    assert found == Verified("shop", shop.trusted.id, 7, "2026-11-23T10:00:00Z")


def test_unsigned_and_unknown_key(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(TrustError, match=r"not trusted: it is not signed\. Have it signed"):
        judge(shop.unsigned(1), trust_of(shop))
    generate(tmp_path / "other", "other", NOW - DAY)
    add_signature(shop.folder / "1.edge", tmp_path / "other", 1, NOW)
    with pytest.raises(TrustError, match="is not in the trust file"):
        judge(shop.folder / "1.edge", trust_of(shop))
    add_signature(shop.folder / "1.edge", shop.key, 1, NOW)  # rotation: one that is known is enough
    assert judge(shop.folder / "1.edge", trust_of(shop)).name == "shop"


def test_signature_of_another_archive(shop: Shop) -> None:
    one, two = shop.archive(1), shop.archive(2)
    with Archive.open(one) as first, Archive.open(two) as second:
        second.signatures = dataclasses.replace(second.signatures, signatures=first.signatures.signatures)
        with pytest.raises(TrustError, match=r"signature by shop .* is wrong: it was changed"):
            check(second, trust_of(shop), now=NOW)


@pytest.mark.parametrize("change", [{"release": 99}, {"signed": "2026-11-23T10:00:01Z"}, {"signature": "AAAA"}])
def test_everything_in_a_signature_is_signed(shop: Shop, change: dict[str, object]) -> None:
    with Archive.open(shop.archive(1)) as archive:
        (made,) = archive.signatures.signatures
        changed = dataclasses.replace(made, **change)  # type: ignore[arg-type]
        archive.signatures = dataclasses.replace(archive.signatures, signatures=(changed,))
        with pytest.raises(TrustError, match="is wrong"):
            check(archive, trust_of(shop), now=NOW)


def test_revoked_key(shop: Shop) -> None:
    trust = trust_of(shop, revoked=(Revoked(shop.trusted.id, "the laptop was stolen"),))
    with pytest.raises(TrustError, match="is revoked: the laptop was stolen"):
        judge(shop.archive(1), trust)


def test_expired_key(shop: Shop) -> None:
    path, trust = shop.archive(1), trust_of(shop)
    judge(path, trust, NOW + 98 * DAY)
    with pytest.raises(TrustError, match="the key of shop expired on"):
        judge(path, trust, NOW + 100 * DAY)
    with pytest.raises(TrustError, match="outside of the key's time"):
        judge(shop.archive(1, now=NOW - 2 * DAY), trust)
    with pytest.raises(TrustError, match="outside of the key's time"):
        judge(shop.archive(1, now=NOW + 100 * DAY), trust, NOW + 99.5 * DAY)


def test_clock_in_1970(shop: Shop) -> None:
    path, trust = shop.archive(1), trust_of(shop)
    assert judge(path, trust, now=100.0).release == 1
    assert judge(path, trust, now=100.0, seen=text_of(NOW + DAY)).release == 1
    with pytest.raises(TrustError, match="expired"):  # the box has seen a later signature
        judge(path, trust, now=100.0, seen=text_of(NOW + 100 * DAY))
    with pytest.raises(TrustError, match="expired"):  # the trust file was written later
        judge(path, dataclasses.replace(trust, updated=text_of(NOW + 100 * DAY)), now=100.0)


def test_signature_from_the_future(shop: Shop) -> None:
    path = shop.archive(1, now=NOW + 3 * DAY)
    with pytest.raises(TrustError, match="still to come: see to the clock of this machine"):
        judge(path, trust_of(shop))
    assert judge(path, trust_of(shop), NOW + 2.5 * DAY).release == 1


def test_trust_file_that_is_missing_or_wrong(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(TrustError, match=r"no trust file, so no signature counts.*--allow-unsigned"):
        read_trust(tmp_path / "none.yaml")
    path = shop.root / "trust.yaml"
    text = path.read_text()
    for bad, message in {
        text.replace("schema: 1", "schema: 2"): "schema 2 is not known",
        text + "more: 1\n": "unknown key 'more'",
        text.replace(shop.trusted.public, "AAAA"): "32 bytes of an Ed25519 key",
        text.replace(shop.trusted.not_after, "soon"): "does not match format",
        "[": "not YAML",
    }.items():
        path.write_text(bad)
        with pytest.raises(TrustError, match=message):
            read_trust(path)


def test_trust_file_round_trip(shop: Shop, tmp_path: Path) -> None:
    trust = trust_of(shop, revoked=(Revoked("0" * 16, "lost"),))
    write_trust(tmp_path / "t.yaml", trust)
    assert read_trust(tmp_path / "t.yaml") == trust
    assert seconds_of(trust.updated) == NOW - DAY


def test_private_key_is_kept_to_its_owner(shop: Shop, tmp_path: Path) -> None:
    assert shop.key.stat().st_mode & 0o777 == 0o600
    assert base64.b64decode(shop.trusted.public) == read_key(shop.key).public_key().public_bytes_raw()
    with pytest.raises(UsageError, match="never overwritten"):
        generate(shop.key, "again", NOW)
    shop.key.chmod(0o640)
    with pytest.raises(TrustError, match="others may read this private key: `chmod 600`"):
        read_key(shop.key)
    (tmp_path / "text").write_text("hello")
    (tmp_path / "text").chmod(0o600)
    with pytest.raises(TrustError, match="edge bundle keygen"):
        read_key(tmp_path / "text")


def test_release_number_that_cannot_be(shop: Shop) -> None:
    for number in (-1, 2**53):
        with pytest.raises(UsageError, match="must be from 0"):
            shop.archive(1, release=number)
