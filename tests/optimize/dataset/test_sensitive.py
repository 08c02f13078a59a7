"""Secrets are found by their shape and never shown; ordinary text is none."""

from __future__ import annotations

import pytest

from optimize.dataset.sensitive import find

# Put together here, so that no scanner takes this file for a leak.
SECRETS = [
    ("AWS access key", "AKIA" + "ABCDEFGHIJKLMNOP"),
    ("GitHub token", "ghp_" + "a1" * 18),
    ("GitLab token", "glpat-" + "x" * 20),
    ("Slack token", "xoxb-" + "1234567890-abc"),
    ("Google API key", "AIza" + "B" * 35),
    ("Stripe key", "sk_live_" + "c3" * 10),
    ("API key", "sk-" + "proj-" + "d4" * 15),
    ("Hugging Face token", "hf_" + "Q" * 34),
    ("JSON web token", "eyJ" + "a" * 12 + ".eyJ" + "b" * 12 + "." + "c" * 12),
    ("password or key", "hunter2x99"),
]


@pytest.mark.parametrize(("what", "secret"), SECRETS)
def test_a_secret_is_found_and_masked(what: str, secret: str) -> None:
    found = list(find(f'The password: "{secret}", keep it.' if what == "password or key" else f"see {secret} there"))
    assert [(one.kind, one.what) for one in found] == [("secret", what)]
    assert secret not in found[0].masked and secret[:-4] not in found[0].masked


def test_keys_and_addresses_with_passwords() -> None:
    (key,) = find("-----BEGIN " + "RSA PRIVATE KEY-----\nMIIE")
    assert key.what == "private key"
    (address,) = find("postgres://admin:" + "s3cretpw@db.internal/x")
    assert (address.kind, address.what) == ("secret", "password in an address")
    assert "s3cretpw" not in address.masked


@pytest.mark.parametrize(
    "text",
    [
        "The password is printed on the label.",
        "Enter the password and press the button twice.",
        "The token bucket refills every 10 seconds; serial HG2004117.",
        "Write to support@example.com or to a@b.example.",
        "see https://host:8080/path and 12@home",
        "The secret of success is patience.",
    ],
)
def test_ordinary_text_is_none(text: str) -> None:
    assert list(find(text)) == []


def test_an_address_is_masked() -> None:
    (found,) = find("Ask jane.doe@corp-mail.de today")
    assert (found.kind, found.masked) == ("email", "j…@c….de")
