"""What a registry can be asked: manifests and blobs. Answers are checked, and what may pass is tried again.

Source: OCI Distribution Specification 1.1; the token flow is Docker's "Registry v2 authentication via central service".
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self, TypeVar
from urllib.parse import urlencode, urljoin, urlsplit

from edge.deploy.registry import credentials
from edge.deploy.registry.http import Answer, Body, Http, Settings, refused, take
from edge.deploy.registry.reference import Reference
from edge.deploy.registry.trouble import Trouble
from edge.errors import RegistryError

MAX_MANIFEST_BYTES = 4 * 2**20  # what registries take, by the specification
MAX_TOKEN_BYTES = 2**16
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CHALLENGE = re.compile(r'([A-Za-z_]+)="((?:[^"\\]|\\.)*)"')
T = TypeVar("T")


class Client:
    """One repository of a registry; `with` closes its connections."""

    def __init__(self, reference: Reference, settings: Settings | None = None, *, pushes: bool = False) -> None:
        self.settings = settings or Settings()
        self.reference = reference
        plain = reference.is_loopback if self.settings.plain_http is None else self.settings.plain_http
        self._http = Http(reference.registry, plain=plain, settings=self.settings)
        self._base = f"{self._http.origin}/v2/{reference.name}"
        self._pushes, self._known = pushes, credentials.find(reference.registry)
        self._authorization: str | None = None
        self._more_scopes: list[str] = []
        self._token_givers: dict[str, Http] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for http in (self._http, *self._token_givers.values()):
            http.close()

    # -- reading -----------------------------------------------------------------------------------------------------

    def manifest(self) -> tuple[bytes, str, str]:
        """The manifest that the reference names: its bytes, what the registry calls its type, its digest (hex).

        :raises RegistryError: it cannot be had, is too large, or has not the digest that was asked for.
        """
        what = self.reference.short

        def once() -> tuple[bytes, str, str]:
            # Other types are asked for too: a registry that has only such would say that there is nothing.
            accept = {"Accept": f"{MANIFEST}, application/vnd.oci.image.index.v1+json, */*;q=0.1"}
            with self._ask("GET", f"{self._base}/manifests/{self.reference.wanted}", accept, what) as answer:
                if answer.status != 200:
                    raise self._refused(answer, what)
                data = take(answer.pieces, MAX_MANIFEST_BYTES)
                if data is None:
                    raise RegistryError(f"{self._http.origin}: {what}: a manifest of more than 4 MiB: not one of ours")
                length = answer.headers.get("Content-Length")
                if length is not None and length != str(len(data)):
                    raise Trouble(f"{what}: the manifest was cut short")
                kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
                told = answer.headers.get("Docker-Content-Digest")
            digest = hashlib.sha256(data).hexdigest()
            wrong = self.reference.digest not in (None, digest) or (told or "").lower() not in ("", f"sha256:{digest}")
            if wrong:
                wanted = self.reference.digest or str(told)
                raise RegistryError(
                    f"{self._http.origin}: {what}: it sent a manifest with another digest, {digest[:12]}, than "
                    f"{wanted.removeprefix('sha256:')[:12]}: damaged on the way, or changed by somebody. Try again"
                )
            return data, kind, digest

        return self.again(once)

    @contextmanager
    def blob(self, digest: str, size: int, offset: int, what: str) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Bytes of a blob as they come, from `offset` on if the registry can do that, and where they begin.

        :param digest: hex; whether the bytes have it is for the caller to see.
        :raises Trouble, RegistryError: see `Http.ask`.
        """
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self._ask("GET", f"{self._base}/blobs/sha256:{digest}", headers, what) as answer:
            if answer.status not in (200, 206):
                raise self._refused(answer, what)
            start = 0
            if answer.status == 206:
                start = offset
                if answer.headers.get("Content-Range", "").replace(" ", "") != f"bytes{offset}-{size - 1}/{size}":
                    raise RegistryError(f"{self._http.origin}: {what}: it sent another part of it than was asked for")
            length = answer.headers.get("Content-Length")
            if length is not None and length != str(size - start):
                raise RegistryError(
                    f"{self._http.origin}: {what}: it would send {length} bytes where its manifest says {size - start}"
                )
            yield start, answer.pieces

    # -- writing -----------------------------------------------------------------------------------------------------

    def has_blob(self, digest: str, size: int, what: str) -> bool:
        """Whether the registry has a blob in this repository.

        :raises RegistryError: it does not say.
        """

        def once() -> bool:
            with self._ask("HEAD", f"{self._base}/blobs/sha256:{digest}", {}, what) as answer:
                if answer.status in (404, 400):
                    return False
                if answer.status != 200:
                    raise self._refused(answer, what)
                return answer.headers.get("Content-Length") in (None, str(size))

        return self.again(once)

    def put_blob(self, digest: str, body: Body, what: str, mount_from: str | None = None) -> bool:
        """Upload a blob, or have the registry take it from another repository of its own; returns whether it did.

        :raises RegistryError: the registry does not take it.
        """
        query = urlencode({"mount": f"sha256:{digest}", "from": mount_from}) if mount_from else ""
        if mount_from:
            self._more_scopes = [f"repository:{mount_from}:pull"]

        def once() -> bool:
            nothing = Body(0, lambda: iter(()))
            with self._ask("POST", f"{self._base}/blobs/uploads/?{query}", {}, what, nothing) as start:
                if start.status == 201 and mount_from:
                    return True
                if start.status != 202:
                    raise self._refused(start, what)
                place = self._location(start, what)
            mark = "&" if urlsplit(place).query else "?"
            place += f"{mark}{urlencode({'digest': f'sha256:{digest}'})}"
            with self._ask("PUT", place, {}, what, body) as done:
                if done.status not in (200, 201, 204):
                    raise self._refused(done, what)
            return False

        return self.again(once)

    def put_manifest(self, data: bytes) -> str:
        """Upload the manifest under the tag; returns its digest (hex).

        :raises RegistryError: the registry does not take it, or has changed it.
        """
        what, digest = self.reference.short, hashlib.sha256(data).hexdigest()

        def once() -> str:
            body = Body(len(data), lambda: iter((data,)), MANIFEST)
            with self._ask("PUT", f"{self._base}/manifests/{self.reference.wanted}", {}, what, body) as answer:
                if answer.status not in (200, 201, 204):
                    raise self._refused(answer, what)
                told = answer.headers.get("Docker-Content-Digest", f"sha256:{digest}")
            if told != f"sha256:{digest}":
                raise RegistryError(f"{self._http.origin}: {what}: it keeps another manifest than it was sent")
            return digest

        return self.again(once)

    # -- how ---------------------------------------------------------------------------------------------------------

    def again(self, once: Callable[[], T]) -> T:
        """Do it, and where it fails in a way that may pass, again.

        :raises RegistryError: it failed as often as it may.
        """
        for attempt in range(1, self.settings.attempts + 1):
            try:
                return once()
            except Trouble as trouble:
                self.wait(trouble, attempt)
        raise AssertionError("`wait` gives up before")

    def wait(self, trouble: Trouble, attempt: int) -> None:
        """Wait before attempt number `attempt` + 1.

        :raises RegistryError: there shall be none.
        """
        if attempt >= self.settings.attempts:
            times = f" ({attempt} times in a row)" if attempt > 1 else ""
            raise RegistryError(f"{self._http.origin}: {trouble}{times}. Try again; what was moved so far is kept")
        time.sleep(max(trouble.wait_sec or 0.0, self.settings.first_wait_sec * 2 ** (attempt - 1)))

    @contextmanager
    def _ask(
        self, method: str, url: str, headers: dict[str, str], what: str, body: Body | None = None
    ) -> Iterator[Answer]:
        """A request as somebody: where the registry asks who we are, it is told once."""
        for is_last in (False, True):
            mine = {**headers, "Authorization": self._authorization} if self._authorization else headers
            with self._http.ask(method, url, mine, what, body) as answer:
                challenge = answer.headers.get("WWW-Authenticate", "")
                if answer.status != 401 or is_last or not self._http.is_own(answer.url):
                    yield answer
                    return
                if not self._introduce(challenge, what):
                    raise self._refused(answer, what)

    def _introduce(self, challenge: str, what: str) -> bool:
        """Find the Authorization that the registry asks for; False: we have nothing to offer."""
        scheme, _, rest = challenge.strip().partition(" ")
        if scheme.lower() == "basic" and self._known is not None:
            self._authorization = self._known.basic
            return True
        if scheme.lower() != "bearer":
            return False
        said = {key.lower(): value for key, value in _CHALLENGE.findall(rest)}
        realm = urljoin(self._http.origin, said.get("realm", ""))
        actions = "pull,push" if self._pushes else "pull"
        scopes = [f"repository:{self.reference.name}:{actions}", *self._more_scopes]
        asked = [("scope", one) for one in scopes] + ([("service", said["service"])] if "service" in said else [])
        self._authorization = f"Bearer {self._token(realm, asked, what)}"
        return True

    def _token(self, realm: str, asked: list[tuple[str, str]], what: str) -> str:
        known, headers, body, method = self._known, {}, None, "GET"
        url = f"{realm}{'&' if urlsplit(realm).query else '?'}{urlencode(asked)}"
        if known is not None and known.refresh_token:
            form = [("grant_type", "refresh_token"), ("refresh_token", known.refresh_token), ("client_id", "edge-slm")]
            scopes = " ".join(value for key, value in asked if key == "scope")
            data = urlencode([*form, *(one for one in asked if one[0] != "scope"), ("scope", scopes)]).encode()
            method, url = "POST", realm
            body = Body(len(data), lambda: iter((data,)), "application/x-www-form-urlencoded")
        elif known is not None:
            headers = {"Authorization": known.basic}
        with self._token_http(realm).ask(method, url, headers, what, body) as answer:
            if answer.status != 200:
                raise self._refused(answer, what)
            text = take(answer.pieces, MAX_TOKEN_BYTES)
        try:
            found = json.loads(text or b"")
            return str(found.get("token") or found["access_token"])
        except (ValueError, KeyError, AttributeError, RecursionError):
            raise RegistryError(f"{self._http.origin}: {what}: it asked for a token, and its giver gave none") from None

    def _token_http(self, realm: str) -> Http:
        """The giver of tokens may be another host, and is told who we are: over TLS wherever the registry has it."""
        if self._http.is_own(realm):
            return self._http
        host, plain = urlsplit(realm).netloc, self._http.origin.startswith("http:")
        if host not in self._token_givers:
            self._token_givers[host] = Http(host, plain=plain, settings=self.settings)
        return self._token_givers[host]

    def _location(self, answer: Answer, what: str) -> str:
        location = answer.headers.get("Location")
        if not location:
            raise RegistryError(f"{self._http.origin}: {what}: it does not say where to upload to")
        return urljoin(answer.url, location)

    def _refused(self, answer: Answer, what: str) -> Trouble | RegistryError:
        return refused(answer, self._http.origin, what, source=self._known.source if self._known else None)
