"""A registry that answers slowly, wrongly or not at all: an error that says so, and `out` as it was."""

from __future__ import annotations

import json
import random
import resource
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge.deploy.pack import Extras
from edge.deploy.registry.http import Http, Settings
from edge.deploy.registry.pace import Limit, Watch
from edge.deploy.registry.pull import Pulled, pull
from edge.deploy.registry.push import push
from edge.deploy.registry.reference import parse
from edge.deploy.registry.trouble import Trouble
from edge.errors import ArchiveError, RegistryError
from tests.edge.deploy.made import Shop
from tests.edge.deploy.wrong_registry import MANIFEST, Handler, WrongRegistry, cut_short, refuses, running, says

SETTINGS = Settings(timeout_sec=0.4, attempts=3, first_wait_sec=0.01, least_rate=1000.0, window_sec=0.3)
LARGE = random.Random(2).randbytes(2 * 2**20)
BLOBS, MANIFESTS = "GET .*/blobs/", "GET .*/manifests/"


class Stall:
    """A shop whose archive is in a registry, and a box that pulls it."""

    def __init__(self, registry: WrongRegistry, shop: Shop) -> None:
        self.registry, self.shop = registry, shop
        questions = shop.folder / "questions.json"
        questions.write_bytes(LARGE)
        self.path, self.out = shop.archive(1, extras=Extras(evaluation=(questions,))), shop.folder / "out.edge"
        self.pushed = push(self.path, parse(f"{registry.host}/a:1"), SETTINGS)
        self.manifest = json.loads(registry.manifests["a", "1"][0])
        self.large = self.manifest["layers"][-1]["digest"]
        registry.log.clear()

    def pull(self, name: str = "a:1", settings: Settings = SETTINGS) -> Pulled:
        return pull(parse(f"{self.registry.host}/{name}"), self.out, settings)

    def refused(self, message: str, name: str = "a:1") -> None:
        """The pull fails and changes nothing; the next one, with the registry in order again, succeeds."""
        self.out.write_bytes(b"the old one")
        with pytest.raises((RegistryError, ArchiveError), match=message) as caught:
            self.pull(name)
        assert "Traceback" not in str(caught.value)
        assert self.out.read_bytes() == b"the old one"
        assert not list(self.out.parent.glob(".out*")), "nothing half-written is left beside it"

    def recovers(self) -> Pulled:
        self.registry.faults.clear()
        got = self.pull()
        assert self.out.read_bytes() == self.path.read_bytes()
        return got


@pytest.fixture
def stall(registry: WrongRegistry, shop: Shop) -> Stall:
    return Stall(registry, shop)


REFUSALS = {
    "unknown tag": (MANIFESTS, refuses(404), r"a:1: there is no such thing; see to name and tag \(made up\)"),
    "forbidden": (MANIFESTS, refuses(403), "does not allow that, to nobody in particular"),
    "who": (MANIFESTS, refuses(401, WWW_Authenticate='Basic realm="x"'), "wants to know who you are: log in"),
    "who, in an unknown way": (MANIFESTS, refuses(401, WWW_Authenticate="Negotiate"), "wants to know who you are"),
    "too many requests": (MANIFESTS, refuses(429, Retry_After="0"), r"it answers 429 .*\(3 times in a row\)"),
    "come back tomorrow": (MANIFESTS, refuses(429, Retry_After="86400"), "asks to wait 86400 s"),
    "broken": (MANIFESTS, refuses(500), r"it answers 500 .*3 times"),
    "blob gone": (BLOBS, refuses(404), r"edge\.json: there is no such thing"),
    "blob broken": (BLOBS, refuses(503), "it answers 503"),
    "teapot": (MANIFESTS, says(418, b"<html>"), "it answers 418"),
    "a page": (MANIFESTS, says(200, b"<html>hello</html>", Content_Type="text/html"), "is no manifest"),
    "a page of 5 MiB": (MANIFESTS, says(200, bytes(5 * 2**20)), "more than 4 MiB"),
    "an index": (MANIFESTS, says(200, b'{"mediaType":"application/vnd.oci.image.index.v1+json"}'), "index of several"),
    "an index by header": (
        MANIFESTS, says(200, b'{"schemaVersion":2}', Content_Type="application/vnd.oci.image.index.v1+json"),
        "index of several",
    ),
    "an image": (
        MANIFESTS, says(200, b'{"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{}}'),
        "not a bundle but 'application/vnd.docker",
    ),
    "a chart": (
        MANIFESTS,
        says(200, b'{"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json"}}', Content_Type=MANIFEST),
        "not a bundle but 'application/vnd.cncf",
    ),
    "a later version": (
        MANIFESTS, says(200, b'{"artifactType":"application/vnd.edge-slm.archive.v2"}', Content_Type=MANIFEST),
        "by a newer edge-slm",
    ),
    "no layers": (
        MANIFESTS, says(200, b'{"artifactType":"application/vnd.edge-slm.archive.v1"}', Content_Type=MANIFEST),
        "manifest is damaged",
    ),
    "an endless way": (MANIFESTS, says(307, Location="/v2/a/manifests/1"), "from one address to the next"),
    "another table": (BLOBS, says(200, b"{}"), r"edge\.json: it would send 2 bytes where its manifest says"),
    "nonsense": (MANIFESTS, lambda handler: handler.wfile.write(b"nonsense\r\n\r\n"), "the connection broke"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSALS)
def test_refused(stall: Stall, kind: str) -> None:
    pattern, act, message = REFUSALS[kind]
    stall.registry.wrong(pattern, act)
    stall.refused(message)
    if kind == "come back tomorrow":
        assert len(stall.registry.log) == 1
    assert stall.recovers().fetched_layers == 5


def test_another_manifest_than_asked_for(stall: Stall) -> None:
    good, kind = stall.registry.manifests["a", "1"]
    stall.registry.wrong(MANIFESTS, says(200, good.replace(b"fake", b"Fake"), Content_Type=kind))
    stall.refused("a manifest with another digest", f"a@sha256:{stall.pushed.digest}")
    stall.registry.faults.clear()
    stall.registry.wrong(MANIFESTS, says(200, good, Docker_Content_Digest="sha256:" + "0" * 64))
    stall.refused("a manifest with another digest, .* than 000000000000")


@pytest.mark.parametrize("number", range(5))
def test_a_layer_with_another_content(stall: Stall, number: int, nobody: Path) -> None:
    """One bit, in each layer; in one whose digest the table has, and in those that only the manifest names."""
    layer = stall.manifest["layers"][number]
    digest = layer["digest"]
    data = bytearray(stall.registry.blobs["a"][digest])
    data[len(data) // 2] ^= 1
    stall.registry.wrong(f"GET .*{digest}", says(200, bytes(data)))
    stall.refused(r"another digest than its manifest says")
    assert (
        not (nobody / digest.removeprefix("sha256:")).exists()
        or not (nobody / digest.removeprefix("sha256:")).stat().st_size
    )
    assert stall.registry.asked(f"GET .*{digest}") == 1, "it is not fetched over and over"
    stall.recovers()


def lie(stall: Stall, change: Callable[[dict[str, object]], None], name: str = "a:1") -> None:
    manifest = json.loads(stall.registry.manifests["a", "1"][0])
    change(manifest)
    stall.registry.put("a", name.partition(":")[2], json.dumps(manifest).encode())


LIES: dict[str, tuple[Callable[[dict], None], str]] = {  # type: ignore[type-arg]
    "size": (lambda m: m["layers"][-1].update(size=5), "does not fit its table"),
    "another file": (lambda m: m["layers"][-1].update(digest="sha256:" + "0" * 64), "does not fit its table"),
    "a layer less": (lambda m: m["layers"].pop(), "does not fit its table"),
    "a layer more": (lambda m: m["layers"].append(m["layers"][-1]), "does not fit its table"),
    "exchanged": (lambda m: m["layers"].insert(1, m["layers"].pop(2)), "does not fit its table"),
    "no signatures": (lambda m: m["layers"].pop(0), "not what `edge bundle push` puts first"),
    "huge table": (lambda m: m["config"].update(size=2**40), "larger than any can be"),
    "a digest of another kind": (lambda m: m["config"].update(digest="md5:12"), "damaged"),
    "a size that is none": (lambda m: m["config"].update(size="5"), "damaged"),
    "no config": (lambda m: m.pop("config"), "damaged"),
    "layers that are none": (lambda m: m.update(layers=5), "damaged"),
}


@pytest.mark.parametrize("kind", LIES)
def test_a_manifest_that_lies(stall: Stall, kind: str) -> None:
    change, message = LIES[kind]
    lie(stall, change, "a:lie")
    stall.refused(message, "a:lie")
    assert not stall.registry.asked(f"GET .*{stall.large}"), "found before anything large was fetched"


def test_a_part_that_lies(stall: Stall) -> None:
    """The tar of a part is as the manifest says, and not as the table does."""
    fake = bytes(stall.manifest["layers"][1]["size"])
    digest = stall.registry.put("a", "x", fake)
    stall.registry.blobs["a"][digest] = fake
    lie(stall, lambda m: m["layers"][1].update(digest=digest), "a:lie")  # type: ignore[index]
    stall.refused("bundle/NOTICE.md is not what it was", "a:lie")


def test_cut_short_it_goes_on_where_it_was(stall: Stall) -> None:
    stall.registry.wrong(f"GET .*{stall.large}", cut_short(700_000), times=2)
    got = stall.pull()
    assert stall.out.read_bytes() == stall.path.read_bytes()
    ranges = [headers.get("Range") for headers in stall.registry.headers if "Range" in headers]
    assert ranges == ["bytes=700000-", "bytes=1400000-"]
    assert len(LARGE) < got.fetched_bytes < len(LARGE) + 40_000, "no byte came twice"


def test_cut_short_for_good_the_next_pull_goes_on(stall: Stall, nobody: Path) -> None:
    stall.registry.wrong(f"GET .*{stall.large}", cut_short(500_000), times=1)
    stall.registry.wrong(f"GET .*{stall.large}", cut_short(0))
    stall.refused(
        r"(cut short after 500,000 of 2,097,152 bytes|connection broke).*3 times in a row.* moved so far is kept"
    )
    assert (nobody / stall.large.removeprefix("sha256:")).stat().st_size == 500_000
    got = stall.recovers()
    assert (got.resumed_bytes > 500_000, got.fetched_bytes) == (True, len(LARGE) - 500_000 + small(stall))
    assert [one.name for one in nobody.iterdir()] == ["lock"]


def small(stall: Stall) -> int:
    """What a pull fetches each time."""
    blobs = (stall.manifest["config"], stall.manifest["layers"][0])
    return len(stall.registry.manifests["a", "1"][0]) + sum(int(blob["size"]) for blob in blobs)


def test_what_an_earlier_try_left_is_not_believed(stall: Stall, nobody: Path) -> None:
    part = nobody / stall.large.removeprefix("sha256:")
    for left in (LARGE[:1000] + b"?" * 1000, LARGE + b"?", LARGE[:-1] + b"?"):
        nobody.mkdir(parents=True, exist_ok=True)
        part.write_bytes(left)
        stall.pull()
        assert stall.out.read_bytes() == stall.path.read_bytes()
        stall.out.unlink()


def test_a_registry_without_ranges(stall: Stall) -> None:
    stall.registry.has_ranges = False
    stall.registry.wrong(f"GET .*{stall.large}", cut_short(700_000), times=1)
    got = stall.pull()
    assert stall.out.read_bytes() == stall.path.read_bytes()
    assert got.fetched_bytes > len(LARGE) + 700_000


def test_another_part_than_asked_for(stall: Stall) -> None:
    stall.registry.wrong(f"GET .*{stall.large}", cut_short(700_000), times=1)
    stall.registry.wrong(f"GET .*{stall.large}", says(206, LARGE[1:], Content_Range="bytes 1-2097151/2097152"))
    stall.refused("another part of it than was asked for")
    stall.recovers()


def test_longer_than_it_may_be(stall: Stall) -> None:
    def act(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()  # no length: as long as it likes
        handler.wfile.write(LARGE + b"more")
        handler.close_connection = True

    stall.registry.wrong(f"GET .*{stall.large}", act)
    stall.refused("longer than its manifest says")
    stall.recovers()


def test_it_says_nothing(stall: Stall) -> None:
    stall.registry.wrong(MANIFESTS, lambda handler: time.sleep(0.6), times=3)
    stall.refused(r"it said nothing for 0 s \(3 times in a row\)")
    stall.recovers()


def test_it_crawls(stall: Stall) -> None:
    """A byte now and then is no silence, and no progress either."""
    over = threading.Event()

    def act(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(LARGE)))
        handler.end_headers()
        for start in range(60):
            if over.is_set():
                break
            try:
                handler.wfile.write(LARGE[start : start + 1])
            except OSError:
                break
            time.sleep(0.05)
        handler.close_connection = True

    stall.registry.wrong(f"GET .*{stall.large}", act, times=1)
    stall.registry.wrong(f"GET .*{stall.large}", refuses(500))
    stall.refused("answers 500")
    assert stall.registry.asked(f"GET .*{stall.large}") >= 2, "given up, and asked again"
    over.set()
    stall.recovers()


def test_nobody_is_there(stall: Stall) -> None:
    with running() as other:
        gone = other.host
    with pytest.raises(RegistryError, match=r"no connection: .*refused \(3 times in a row\)"):
        pull(parse(f"{gone}/a:1"), stall.out, SETTINGS)
    with pytest.raises(RegistryError, match="cannot be resolved"):
        pull(parse("registry.invalid/a:1"), stall.out, SETTINGS)


def test_sent_elsewhere_without_our_name(stall: Stall, monkeypatch: pytest.MonkeyPatch) -> None:
    """Storage of another host gets the request, and not who we are."""
    monkeypatch.setenv("EDGE_REGISTRY_USER", "me")
    monkeypatch.setenv("EDGE_REGISTRY_PASSWORD", "secret")
    stall.registry.authorization = "Basic bWU6c2VjcmV0"
    with running() as storage:
        storage.blobs["a"] = stall.registry.blobs["a"]
        elsewhere = f"http://{storage.host}/v2/a/blobs/{stall.large}"
        stall.registry.wrong(f"GET .*{stall.large}", says(307, Location=elsewhere))
        stall.pull()
        assert [headers.get("Authorization") for headers in storage.headers] == [None]
        assert stall.registry.headers[-1]["Authorization"].startswith("Basic")
    assert stall.out.read_bytes() == stall.path.read_bytes()


def test_never_without_tls_over_a_network() -> None:
    http = Http("registry.example", plain=False, settings=SETTINGS)
    with (
        pytest.raises(RegistryError, match=r"without TLS: http://storage.example/x\. Where that is meant, say --plain"),
        http.ask("GET", "http://storage.example/x?key=1", {}, "x"),
    ):
        raise AssertionError("it was asked")


def test_no_room(stall: Stall, monkeypatch: pytest.MonkeyPatch, nobody: Path) -> None:
    with monkeypatch.context() as small_disk:
        small_disk.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
        stall.refused(r"1\.0 MiB free, and .* are needed: .*Nothing was fetched")
    assert not stall.registry.asked(f"GET .*{stall.large}")
    with largest_file(2**20):
        stall.refused("cannot be kept, and what was fetched was removed again. Free some room")
    assert [one.name for one in nobody.iterdir()] == ["lock"]
    stall.recovers()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing more than that fails (EFBIG), as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_cache_that_cannot_be_written(stall: Stall, nobody: Path) -> None:
    nobody.parent.mkdir()
    nobody.write_text("a file")
    stall.refused("cannot be written: .* EDGE_CACHE names another folder")


def test_an_upload_that_fails(stall: Stall) -> None:
    other = stall.shop.archive(2, extras=Extras(evaluation=(stall.shop.folder / "questions.json",)))
    held = dict(stall.registry.manifests)
    stall.registry.wrong("PUT .*/uploads/", refuses(500), times=2)  # passes
    push(other, parse(f"{stall.registry.host}/b:1"), SETTINGS)
    for pattern, act, message in (
        ("POST ", refuses(403), "does not allow that"),
        ("POST ", says(202), "does not say where to upload to"),
        ("PUT .*/uploads/", refuses(507), "answers 507"),
        ("PUT .*/uploads/", refuses(413), "answers 413"),
        ("PUT .*/manifests/", refuses(400), r"c:1: it answers 400 \(made up\)"),
        ("PUT .*/manifests/", says(201, Docker_Content_Digest="sha256:" + "0" * 64), "keeps another manifest"),
        ("HEAD ", says(500), "answers 500"),
    ):
        stall.registry.faults.clear()
        stall.registry.blobs.pop("c", None)
        stall.registry.wrong(pattern, act)
        with pytest.raises(RegistryError, match=message):
            push(other, parse(f"{stall.registry.host}/c:1"), SETTINGS)
    assert stall.registry.manifests.keys() - held.keys() == {("b", "1"), ("b", next(iter_digests(stall.registry)))}


def iter_digests(registry: WrongRegistry) -> Iterator[str]:
    return (tag for name, tag in registry.manifests if name == "b" and tag != "1")


def test_the_limit_holds() -> None:
    now, slept = [0.0], [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        slept[0] += seconds

    limit = Limit(2**20, clock=lambda: now[0], sleep=sleep)
    for _ in range(160):
        limit.passed(2**16)
    assert now[0] == pytest.approx(10.0, abs=0.3)
    now[0] += 100.0  # the other side paused: not made up for
    for _ in range(16):
        limit.passed(2**16)
    assert now[0] == pytest.approx(111.0, abs=0.6)
    Limit(None, clock=lambda: now[0], sleep=sleep).passed(2**40)
    assert slept[0] == pytest.approx(11.0, abs=0.6)


def test_the_limit_holds_both_ways(stall: Stall) -> None:
    slow = Settings(rate=4 * 2**20)
    started = time.monotonic()
    stall.pull(settings=slow)
    assert time.monotonic() - started > 0.8 * (len(LARGE) / slow.rate - 0.25)  # type: ignore[operator]
    started = time.monotonic()
    push(stall.path, parse(f"{stall.registry.host}/slow:1"), slow)
    assert time.monotonic() - started > 0.8 * (len(LARGE) / slow.rate - 0.25)  # type: ignore[operator]


def test_the_watch() -> None:
    now = [0.0]
    watch = Watch(100.0, 10.0, "it", clock=lambda: now[0])
    for _ in range(50):
        now[0] += 1.0
        watch.passed(100)
    with pytest.raises(Trouble, match="it came too slowly: 990 bytes in 10 s"):
        for _ in range(20):
            now[0] += 1.0
            watch.passed(99)
