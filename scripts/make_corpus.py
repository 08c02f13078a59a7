#!/usr/bin/env python3
"""An index of real text at scale: Debian's documentation packages, read, cut and embedded as `edge ingest` does it.

    scripts/make_corpus.py [--chunks N] [--package NAME ...] [--folder DIR ...] [--out DIR] [--bundle DIR]

Packages are downloaded with apt-get and unpacked, never installed; man pages are rendered with `man` where there is
one. `--folder` takes folders of documents instead, for systems without apt-get. One file in 40 is held out: its
sentences are the queries (`queries.txt`), so no query stands in the index. Files go in by the order of their names'
hashes, so the first N chunks are a fair part of everything. Killed, it goes on where it was. The folder is named after
the digest of the packages, the embedder and the chunker, below `EDGE_CACHE`; its path is the last line printed.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edge.box import Box
from edge.errors import DocumentError, EdgeError
from edge.files import cache, sha256_file, write_atomic
from edge.ingest.index import Indexer, IngestReport, chunker_id
from edge.ingest.read import Reader
from edge.sentences import sentences
from edge.store.chunks import Store

PACKAGES = (
    "python3.11-doc", "debian-handbook", "debian-reference-en", "debian-policy", "developers-reference",
    "postgresql-doc-15", "git-doc", "bash-doc", "zsh-doc", "manpages", "manpages-dev", "perl-doc",
    "linux-doc-6.1", "cppreference-doc-en-html", "sqlite3-doc", "python-django-doc", "apache2-doc", "r-doc-html",
    "nodejs-doc", "python-scipy-doc", "octave-doc", "postfix-doc", "bind9-doc", "exim4-doc-html", "qtbase5-doc-html",
    "erlang-doc", "python-sympy-doc", "systemd", "valgrind",
)  # fmt: skip
HELD_OUT = 40  # one file in so many gives queries instead of chunks
QUERIES = 2000
QUERY_WORDS = (6, 30)
MAX_FILE_BYTES = 2 * 2**20  # a single huge page should not be a large part of the whole
ENDINGS = {".html", ".htm", ".xhtml", ".txt", ".md"}
MAN_PAGE = re.compile(r"/man/man\d[^/]*/[^/]+\.\d[^/.]*(\.gz)?$")
# Lists of links, copies of pages in another form or language, and licences, which are the same text in every package.
NOISE = re.compile(
    r"(genindex|/search|searchindex|modindex|/contents|changelog|copyright|license|_sources/|_static/|_modules/|XREF"
    r"|/NEWS|AUTHORS|-members\.html$|\.(?!en)[a-z]{2}\.(html|md|txt)$|/translations/|/manual/(?!en/)[a-z-]{2,5}/"
    r"|/(?!en)[a-z]{2}-[A-Z]{2,4}/|\.rst(\.gz|\.txt)?$|/devicetree/bindings/)"
)


def fetch(names: Iterable[str], folder: Path) -> list[Path]:
    """The packages as .deb files; one that this system's archive does not have is left out and said to be."""
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Path] = []
    for name in names:
        stored = sorted(folder.glob(f"{name}_*.deb"))
        if not stored:
            done = subprocess.run(
                ["apt-get", "download", name], cwd=folder, capture_output=True, text=True, check=False
            )
            if done.returncode:
                say(f"{name}: not in this system's archive, left out")
                continue
            stored = sorted(folder.glob(f"{name}_*.deb"))
        found += stored[-1:]
    return found


def unpack(package: Path, folder: Path) -> Path:
    """A package's files as documents with an ending that has a reader, in a folder of their own."""
    target = folder / package.stem
    if target.exists():
        return target
    partial, raw = (folder / f"{package.stem}.{state}" for state in ("partial", "raw"))
    for old in (partial, raw):
        shutil.rmtree(old, ignore_errors=True)
    raw.mkdir(parents=True)
    subprocess.run(["dpkg-deb", "-x", str(package), str(raw)], check=True)
    wanted = [path for path in sorted(raw.rglob("*")) if path.is_file() and not path.is_symlink()]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda path: place(path, path.relative_to(raw), partial), wanted))
    partial.mkdir(exist_ok=True)
    shutil.rmtree(raw)
    partial.replace(target)
    return target


def place(path: Path, name: Path, folder: Path) -> None:
    """Copy one file as a reader of the project takes it, unless it is noise."""
    whole = f"/{name.as_posix()}"
    plain = name.with_suffix("") if name.suffix == ".gz" else name
    if NOISE.search(whole) or path.stat().st_size > MAX_FILE_BYTES:
        return
    if MAN_PAGE.search(whole):
        data, plain = render(path), plain.with_name(plain.name + ".txt")
    elif plain.suffix.lower() in ENDINGS:
        data = gzip.decompress(path.read_bytes()) if name.suffix == ".gz" else path.read_bytes()
    else:
        return
    if len(data) > 200:
        (folder / plain).parent.mkdir(parents=True, exist_ok=True)
        (folder / plain).write_bytes(data)


def render(page: Path) -> bytes:
    """A man page as text; nothing where there is no `man`, or the page only points to another one."""
    settings = {**os.environ, "MANWIDTH": "100", "MAN_KEEP_FORMATTING": "", "GROFF_NO_SGR": "1", "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(["man", "-l", str(page)], env=settings, capture_output=True, check=False)
    except FileNotFoundError:
        return b""
    return re.sub(rb".\x08", b"", done.stdout)


def read_order(folders: Iterable[Path]) -> list[tuple[int, Path]]:
    """Every file with a number from the hash of its name within its package, in the order of these numbers."""
    files = [(number_of(f"{folder.name}/{path.relative_to(folder)}"), path)
             for folder in folders for path in folder.rglob("*") if path.is_file()]  # fmt: skip
    return sorted(files)


def number_of(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])


def fill(store: Store, box: Box, files: Iterable[Path], wanted: int) -> None:
    """Ingest files until the index holds `wanted` chunks, with a line of progress each half a minute."""
    known = store.known()
    have: int = store.connection.execute("SELECT count(*) FROM chunks").get
    report = IngestReport()
    indexer = Indexer(store, box.embedder, box.config.ingest.chunk, report)
    said = time.monotonic()
    with Reader(box.config.ingest) as reader:
        for path in files:
            if have + report.chunks >= wanted:
                return
            if path.as_posix() in known:
                continue
            try:
                for document in reader.read(path, language="en"):
                    indexer.put(document, "{}")
            except DocumentError as error:
                report.failed.append((str(path), str(error)))
            if time.monotonic() - said > 30:
                said = time.monotonic()
                say(f"{have + report.chunks} of {wanted} chunks, {report.chunks_per_sec:.0f}/s, "
                    f"{len(report.failed)} files could not be read")  # fmt: skip
    say(f"the packages hold only {have + report.chunks} chunks: name more with --package or --folder")


def held_out_queries(box: Box, files: Iterable[Path], count: int) -> list[str]:
    """Sentences of files that are not in the index, drawn with a seed, no two of them the same."""
    drawn = random.Random(0)
    found: set[str] = set()
    with Reader(box.config.ingest) as reader:
        for path in files:
            try:
                texts = [document.text for document in reader.read(path, language="en")]
            except DocumentError:
                continue
            usable = sorted({line for text in texts for line in _sentences(text)})
            found.update(drawn.sample(usable, min(len(usable), 20)))  # of each file: many files, not one long one
    ordered = sorted(found)
    return drawn.sample(ordered, min(len(ordered), count))


def _sentences(text: str) -> Iterator[str]:
    low, high = QUERY_WORDS
    for start, end in sentences(text):
        words = text[start:end].split()
        letters = sum(character.isalpha() or character == " " for character in text[start:end])
        if low <= len(words) <= high and letters > 0.9 * (end - start):
            yield " ".join(words)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def make(arguments: argparse.Namespace, box: Box) -> Path:
    """Fetch, unpack, hold out, ingest; returns the folder with `index.db`, `queries.txt` and `corpus.json`."""
    if shutil.which("apt-get") and shutil.which("dpkg-deb") and (arguments.package or not arguments.folder):
        packages = fetch(arguments.package or PACKAGES, cache() / "corpus" / "packages")
    else:
        packages = []
    if not packages and not arguments.folder:
        raise EdgeError("there is no apt-get here: name folders of documents with --folder")
    section, chunker = box.bundle.manifest.embedder, chunker_id(box.config.ingest.chunk)
    contents = {package.name: sha256_file(package) for package in packages}
    contents |= {str(folder): "" for folder in arguments.folder}
    made_of = {"packages": contents, "embedder": section.fingerprint, "chunker": chunker, "held_out": HELD_OUT}
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
    out: Path = arguments.out or cache() / "corpus" / digest
    folders = [unpack(package, cache() / "corpus" / "files") for package in packages] + arguments.folder
    files = read_order(folders)
    say(f"{len(files)} files of {len(folders)} packages and folders")
    if not (out / "queries.txt").exists():
        lines = held_out_queries(box, [path for number, path in files if number % HELD_OUT == 0], QUERIES)
        write_atomic(out / "queries.txt", "".join(f"{line}\n" for line in lines))
    with Store.open(out / "index.db", create=True, fingerprint=section.fingerprint, dim=section.dim,
                    chunker=chunker) as store:  # fmt: skip
        fill(store, box, [path for number, path in files if number % HELD_OUT], arguments.chunks)
        made_of["chunks"] = store.connection.execute("SELECT count(*) FROM chunks").get
        made_of["documents"] = store.connection.execute("SELECT count(*) FROM documents").get
    write_atomic(out / "corpus.json", json.dumps(made_of, indent=1) + "\n")
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=100_000, help="how many chunks the index shall hold")
    parser.add_argument("--package", action="append", help="a Debian package, instead of the list in this script")
    parser.add_argument("--folder", action="append", type=Path, default=[], help="a folder of documents")
    parser.add_argument("--out", type=Path, help="where the index and the queries go")
    parser.add_argument("--bundle", type=Path, help="the bundle whose embedder is used")
    arguments = parser.parse_args()
    try:
        with Box.open(bundle=arguments.bundle, index=None, config=None) as box:
            print(make(arguments, box))
    except EdgeError as error:
        say(f"error: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
