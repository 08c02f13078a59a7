"""Pushing and pulling where the registry does its part: what moves, what does not, and what is the same after it."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from edge.cli.bundle import bundle
from edge.cli.deploy import deploy
from edge.deploy.install import Options
from edge.deploy.pack import Extras, add_signature
from edge.deploy.registry.http import Settings
from edge.deploy.registry.layout import layers_of
from edge.deploy.registry.pull import Pulled, install_from, pull, releases_of
from edge.deploy.registry.push import Pushed, push
from edge.deploy.registry.reference import is_meant, parse
from edge.deploy.table import Entry, Table
from edge.deploy.unpack import unpack_to
from edge.errors import ArchiveError, DeployError, RegistryError, TrustError, UsageError
from tests.edge.deploy.made import NOW, FakeHost, Shop, check_box, snapshot
from tests.edge.deploy.wrong_registry import WrongRegistry, refuses

SETTINGS = Settings(timeout_sec=5, attempts=3, first_wait_sec=0.01)
LARGE = random.Random(1).randbytes(3 * 2**19)


def evaluation(shop: Shop, data: bytes = LARGE) -> Extras:
    """What makes an archive large: one file of some MiB."""
    path = shop.folder / "questions.json"
    path.write_bytes(data)
    return Extras(evaluation=(path,))


def large(shop: Shop, version: int, data: bytes = LARGE) -> Path:
    return shop.archive(version, extras=evaluation(shop, data))


def pushed(registry: WrongRegistry, path: Path, name: str = "shop/fake:1", **more: str) -> Pushed:
    return push(path, parse(f"{registry.host}/{name}"), SETTINGS, **more)


def pulled(registry: WrongRegistry, out: Path, name: str = "shop/fake:1", **more: object) -> Pulled:
    return pull(parse(f"{registry.host}/{name}"), out, SETTINGS, **more)  # type: ignore[arg-type]


def test_what_is_pulled_is_what_was_pushed(registry: WrongRegistry, shop: Shop, nobody: Path) -> None:
    path, out = large(shop, 1), shop.folder / "out" / "1.edge"
    sent = pushed(registry, path)
    assert (sent.is_signed, sent.reused_bytes, sent.sent_layers) == (True, 0, sent.layers)
    got = pulled(registry, out)
    assert out.read_bytes() == path.read_bytes()
    assert (got.digest, got.archive) == (sent.digest, sent.archive)
    assert (got.fetched_bytes, got.fetched_layers) == (sent.sent_bytes, sent.layers)
    assert pulled(registry, shop.folder / "new", f"shop/fake@sha256:{sent.digest}").reused_bytes == 0
    unpack_to(path, shop.folder / "same")
    assert snapshot(shop.folder / "new") == snapshot(shop.folder / "same")
    assert [one.name for one in nobody.iterdir()] == ["lock"], "nothing is kept twice"
    with pytest.raises(UsageError, match="is there already"):
        pulled(registry, shop.folder / "new")


def test_same_input_same_digest_from_file_folder_and_release(registry: WrongRegistry, shop: Shop) -> None:
    path = large(shop, 1)
    first = pushed(registry, path)
    unpack_to(path, shop.folder / "folder")
    shop.install(path)
    for source in (path, shop.folder / "folder", releases_of(shop.root)[0]):
        again = pushed(registry, source, "shop/fake:again")
        assert again.digest == first.digest
        assert (again.sent_layers, again.reused_bytes) == (0, first.sent_bytes - again.sent_bytes)
    pushed(registry, shop.bundle(1), "shop/fake:unsigned")
    pulled(registry, shop.folder / "unsigned.edge", "shop/fake:unsigned")
    assert (shop.folder / "unsigned.edge").read_bytes() == shop.unsigned(1).read_bytes()


def test_the_manifest_is_one_that_others_read(registry: WrongRegistry, shop: Shop) -> None:
    sent = pushed(registry, large(shop, 1))
    data, kind = registry.manifests["shop/fake", f"sha256:{sent.digest}"]
    manifest = json.loads(data)
    assert kind == manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["artifactType"] == "application/vnd.edge-slm.archive.v1"
    assert manifest["config"]["digest"] == f"sha256:{sent.archive}", "the config is what gets signed"
    titles = [layer["annotations"]["org.opencontainers.image.title"] for layer in manifest["layers"]]
    assert titles == [
        "edge.sig.json",
        "bundle.tar",
        "bundle/embedder.tar",
        "bundle/model.tar",
        "sbom.tar",
        "evaluation/questions.json",
    ]
    stored = registry.blobs["shop/fake"]
    assert all(len(stored[layer["digest"]]) == layer["size"] for layer in manifest["layers"])


def test_a_new_part_moves_alone(registry: WrongRegistry, shop: Shop) -> None:
    first, out = large(shop, 1), shop.folder / "out.edge"
    pushed(registry, first)
    pulled(registry, out)
    other = LARGE[::-1]
    second = shop.archive(1, release=2, extras=replace(evaluation(shop, other), probe=probe(shop)))
    sent = pushed(registry, second, "shop/fake:2")
    assert len(other) < sent.sent_bytes < len(other) + 10_000
    assert sent.sent_layers == 2  # the evaluation set, and the probe that was not there before
    got = pulled(registry, out, "shop/fake:2")  # what is there is what it replaces
    assert out.read_bytes() == second.read_bytes()
    assert got.fetched_layers == 2
    assert got.fetched_bytes == sent.sent_bytes
    assert got.reused_bytes == sent.reused_bytes


def probe(shop: Shop) -> Path:
    path = shop.folder / "probe.yaml"
    path.write_text("questions:\n- question: Is it on?\n")
    return path


def test_layers_are_shared_out_by_part() -> None:
    big = 2**20
    paths = {
        "bundle/NOTICE.md": 1, "bundle/adapters/a.onnx_adapter": big, "bundle/adapters/b/small": 1,
        "bundle/manifest.yaml": 1, "bundle/model/genai_config.json": 1, "bundle/model/model.onnx.data": big,
        "bundle/model/tokenizer.json": big - 1, "bundle/prompts/de.txt": 1, "config.yaml": 1, "index.db": big,
        "licences/MIT": 1, "sbom.cdx.json": 1,
    }  # fmt: skip
    files = tuple(Entry(path, size, "0" * 64) for path, size in paths.items())
    found = {layer.title: [one.path for one in layer.files] for layer in layers_of(Table(1, "", "", "0", (), files))}
    assert found == {
        "bundle.tar": ["bundle/NOTICE.md", "bundle/manifest.yaml"],
        "bundle/adapters.tar": ["bundle/adapters/b/small"],
        "bundle/model.tar": ["bundle/model/genai_config.json", "bundle/model/tokenizer.json"],
        "bundle/prompts.tar": ["bundle/prompts/de.txt"],
        "config.tar": ["config.yaml"],
        "licences.tar": ["licences/MIT"],
        "sbom.tar": ["sbom.cdx.json"],
        "bundle/adapters/a.onnx_adapter": ["bundle/adapters/a.onnx_adapter"],
        "bundle/model/model.onnx.data": ["bundle/model/model.onnx.data"],
        "index.db": ["index.db"],
    }


def test_mounted_from_another_repository(registry: WrongRegistry, shop: Shop) -> None:
    first = pushed(registry, large(shop, 1))
    other = pushed(registry, large(shop, 1), "other:1", mount_from="shop/fake")
    assert (other.digest, other.sent_layers) == (first.digest, 0)
    assert other.mounted_bytes > len(LARGE)
    assert not registry.asked("PUT /v2/other/blobs")
    third = pushed(registry, large(shop, 1), "third:1", mount_from="nothing/there")
    assert (third.mounted_bytes, third.sent_layers) == (0, third.layers)


def test_what_is_on_the_box_is_not_fetched(registry: WrongRegistry, shop: Shop) -> None:
    shop.install(large(shop, 1))
    second = large(shop, 2)
    sent = pushed(registry, second)
    got = pulled(registry, shop.folder / "a.edge", reuse=releases_of(shop.root))
    assert got.fetched_bytes < 20_000 < len(LARGE) < got.reused_bytes
    assert got.fetched_layers == 2  # bundle.tar with the manifest, and the sbom
    assert got.layers == sent.layers
    file = releases_of(shop.root)[0] / "evaluation" / "questions.json"
    file.write_bytes(LARGE[:-1] + b"?")  # damaged since
    got = pulled(registry, shop.folder / "b.edge", reuse=[*releases_of(shop.root), shop.folder / "no such folder"])
    assert got.fetched_bytes > len(LARGE)
    assert (shop.folder / "b.edge").read_bytes() == second.read_bytes() == (shop.folder / "a.edge").read_bytes()


def test_installed_from_a_registry(registry: WrongRegistry, shop: Shop) -> None:
    pushed(registry, large(shop, 1))
    reference, host = parse(f"{registry.host}/shop/fake:1"), FakeHost()
    installed, got = install_from(reference, shop.root, Options(), SETTINGS, host=host)
    assert (installed.name, installed.verified and installed.verified.release) == (got.archive, 1)
    assert check_box(shop.root, ["1.0.0"])
    pushed(registry, large(shop, 2))
    before = len(registry.log)
    _, got = install_from(reference, shop.root, Options(), SETTINGS, host=host)
    assert got.reused_bytes > len(LARGE) > got.fetched_bytes
    assert check_box(shop.root, ["2.0.0"])
    assert len(registry.log) - before == 5  # manifest, table, signatures, and the two layers that changed
    again, got = install_from(reference, shop.root, Options(), SETTINGS, host=host)
    assert (again.smoke, got.fetched_layers) == (None, 0)


def test_refused_before_anything_large_is_fetched(registry: WrongRegistry, shop: Shop) -> None:
    shop.install(shop.archive(5))
    before = snapshot(shop.root)
    unsigned = shop.unsigned(6, evaluation(shop))
    refusals: dict[str, tuple[Path, FakeHost]] = {
        "not signed": (unsigned, FakeHost()),
        "release 3, and this box has had release 5": (large(shop, 3), FakeHost()),
        "free, and .* are needed": (large(shop, 7), FakeHost(free=2**20)),
    }
    for number, (message, (path, host)) in enumerate(refusals.items()):
        pushed(registry, path, f"shop/fake:{number}")
        reference = parse(f"{registry.host}/shop/fake:{number}")
        fetched = len(registry.log)
        with pytest.raises(DeployError, match=rf"{message}.*The box serves release"):
            install_from(reference, shop.root, Options(), SETTINGS, host=host)
        digests = [line for line in registry.log[fetched:] if line.startswith("GET /v2/shop/fake/blobs")]
        assert len(digests) <= 5, "table, signatures, and at most what the checks read"
    assert snapshot(shop.root) == before
    broken = pushed(registry, large(shop, 8), "shop/fake:8")
    registry.wrong(f"GET .*/blobs/sha256:(?!{broken.archive})", refuses(500))
    with pytest.raises(RegistryError, match=r"answers 500.*The box serves release"):
        install_from(parse(f"{registry.host}/shop/fake:8"), shop.root, Options(), SETTINGS, host=FakeHost())
    assert snapshot(shop.root) == before


def test_a_damaged_source_moves_no_tag(registry: WrongRegistry, shop: Shop) -> None:
    pushed(registry, large(shop, 1))
    held = dict(registry.manifests)
    data = bytearray(large(shop, 2, LARGE[::-1]).read_bytes())
    data[-len(LARGE) // 2] ^= 1
    (shop.folder / "bad.edge").write_bytes(data)
    with pytest.raises(ArchiveError, match=r"questions\.json"):
        pushed(registry, shop.folder / "bad.edge")
    assert registry.manifests == held
    with pytest.raises(ArchiveError, match="neither an archive that was unpacked"):
        pushed(registry, shop.folder)
    for name in ("shop/fake", f"shop/fake@sha256:{'0' * 64}"):
        with pytest.raises(UsageError, match="needs a tag"):
            pushed(registry, shop.archive(1), name)


def test_signatures_travel(registry: WrongRegistry, shop: Shop) -> None:
    path = large(shop, 1)
    first = pushed(registry, path)
    add_signature(path, shop.key, 9, NOW)
    second = pushed(registry, path)
    assert (second.archive, second.sent_layers) == (first.archive, 0)
    assert second.digest != first.digest
    pulled(registry, shop.folder / "x.edge")
    assert shop.install(shop.folder / "x.edge").verified.release == 9  # type: ignore[union-attr]
    pulled(registry, shop.folder / "y.edge", f"shop/fake@sha256:{first.digest}")
    with pytest.raises(TrustError, match="has had release 9"):
        shop.install(shop.folder / "y.edge")


@pytest.mark.parametrize(
    ("text", "shown", "is_loopback"),
    [
        ("registry.example/a:1", "registry.example/a:1", False),
        ("oci://registry.example:5000/a/b_c/d-e:V1.0", "registry.example:5000/a/b_c/d-e:V1.0", False),
        ("localhost/a", "localhost/a:latest", True),
        ("127.0.0.1:80/a", "127.0.0.1:80/a:latest", True),
        ("[::1]:80/a:x", "[::1]:80/a:x", True),
        ("10.0.0.1:80/a:x", "10.0.0.1:80/a:x", False),
        ("localhost.example:80/a:x", "localhost.example:80/a:x", False),
        (f"r.example/a:1@sha256:{'0a' * 32}", f"r.example/a@sha256:{'0a' * 32}", False),
    ],
)
def test_references(text: str, shown: str, is_loopback: bool) -> None:
    found = parse(text)
    assert (str(found), found.is_loopback) == (shown, is_loopback)


@pytest.mark.parametrize(
    "text",
    ["", "a:1", "name/a:1", "http://r.example/a:1", "r.example/A:1", "r.example/a:", "r.example/a/../b:1",
     "r.example/a b", "r.example/a@sha256:12", "user@r.example/a:1", "r.example/a?x:1", "r.example:5000000/a:1",
     "/r.example/a:1", f"r.example/{'a' * 256}:1", "r.example/a:1\n"],
)  # fmt: skip
def test_no_references(text: str) -> None:
    with pytest.raises(UsageError, match="names nothing in a registry"):
        parse(text)


def test_a_file_is_not_taken_for_a_reference() -> None:
    assert is_meant("registry.example/a:1")
    assert is_meant("oci://registry.example/a")
    for name in ("box.d/support.edge", "/media/stick/a:1", "support.edge", "./localhost/a:1", "a/b:1"):
        assert not is_meant(name)


def run(command: click.Command, *arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(one) for one in arguments], catch_exceptions=False)


def test_the_commands(
    registry: WrongRegistry, shop: Shop, edge_home: Path, monkeypatch: pytest.MonkeyPatch, nobody: Path
) -> None:
    monkeypatch.setattr("edge.deploy.host.ThisHost", lambda *_: FakeHost())
    (shop.root / "trust.yaml").rename(edge_home / "trust.yaml")
    name, out = f"{registry.host}/shop/fake:1", shop.folder / "out.edge"
    first = run(bundle, "push", large(shop, 1), name).stdout
    assert "sent 1.5 MiB in 5 of 5 layers, 0 B were there" in first
    assert first.splitlines()[1].startswith("sha256:")
    told = json.loads(run(bundle, "push", shop.bundle(1), name + "u", "--mount-from", "shop/fake", "--json").stdout)
    assert (told["is_signed"], told["sent_layers"]) == (False, 0)
    assert "nobody has signed it" in run(bundle, "push", shop.bundle(1), name + "u").stderr
    assert "fetched 1.5 MiB in 5 of 5 layers" in run(bundle, "pull", name, "-o", out).stdout
    assert "1.5 MiB were here" in run(bundle, "pull", name, "-o", out).stdout
    assert out.read_bytes() == shop.folder.joinpath("1.edge").read_bytes()
    shown = run(deploy, "install", name).stdout
    assert "fetched 1.5 MiB in 5 of 5 layers" in shown
    assert "is served" in shown
    done = json.loads(run(deploy, "install", f"oci://{name}", "--json").stdout)
    assert done["pulled"]["fetched_layers"] == 0
    got = json.loads(run(bundle, "pull", name, "-o", shop.folder / "folder", "--json", "--limit-rate", "1GiB").stdout)
    assert (got["fetched_layers"], got["archive"]) == (0, done["name"])  # the release on this box has it all
    for wrong, message in {"1KiB": "16.0 KiB a second or more", "fast": "is no size"}.items():
        with pytest.raises(UsageError, match=message):
            run(bundle, "pull", name, "-o", out, "--limit-rate", wrong)
    with pytest.raises(UsageError, match="no name of a repository"):
        run(bundle, "push", out, name, "--mount-from", "a:1")
