#!/usr/bin/env python3
"""Vector search by size of the index: time, recall@10 against the exact search, and private memory.

    scripts/bench_vectors.py CORPUS [--chunks N ...] [--json] [--bundle DIR]

CORPUS is the folder that scripts/make_corpus.py printed. Questions are its sentences that are in no index, embedded by
the bundle. Sizes above the number of real chunks are filled with perturbed copies of them, and the table says so. The
last lines are of the whole retrieval on the real index: embedding the question, both arms, scores, judging.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from _environment import environment
from numpy.typing import NDArray

from edge.box import Box
from edge.errors import EdgeError
from edge.files import write_atomic
from edge.retrieve import candidates, retrieve
from edge.store.chunks import Store
from edge.store.filters import Filter
from edge.store.recall import measure
from edge.store.resident import Resident
from edge.store.scale import scaled

SIZES = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 1_000_000)
QUESTIONS = 300
DEPTH = 10

# In a process of its own, so that what it holds is what the search holds. Prints private bytes before and after.
MEMORY = """
import sys
from pathlib import Path
import numpy as np
from edge.machine import private_bytes
from edge.store.chunks import Store
from edge.store.filters import Filter
from edge.store.search import Searcher
queries = np.load(sys.argv[2])
with Store.open(Path(sys.argv[1])) as store:
    searcher = Searcher(store, int(sys.argv[3]))
    searcher.statistics()
    before = private_bytes()
    peak = 0
    for query in queries:
        searcher.dense(query, 50, Filter())
        peak = max(peak, private_bytes())
print(before, peak)
"""


def question_vectors(corpus: Path, box: Box) -> tuple[list[str], NDArray[np.float32]]:
    """The first `QUESTIONS` held-out sentences and their vectors, which are kept beside them."""
    lines = (corpus / "queries.txt").read_text(encoding="utf-8").splitlines()[:QUESTIONS]
    made_of = f"{box.bundle.manifest.embedder.fingerprint}\n" + "\n".join(lines)
    kept = corpus / f"questions-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.npy"
    if not kept.exists():
        vectors = np.stack([box.embedder.embed_query(line) for line in lines])
        np.save(kept.with_suffix(".partial.npy"), vectors)
        kept.with_suffix(".partial.npy").replace(kept)
    found: NDArray[np.float32] = np.load(kept)
    return lines, found


def index_of(corpus: Path, source: Store, chunks: int) -> tuple[Store, int]:
    """The index of this size, made where there is none yet, and how many of its chunks are real."""
    path = corpus / f"scaled-{chunks}.db"
    real = min(chunks, source._rows("SELECT chunks FROM totals")[0][0])
    if path.exists():
        store = Store.open(path)
        if store._rows("SELECT chunks FROM totals")[0][0] == chunks:
            return store, real
        store.close()
        path.unlink()
    return scaled(source, path, chunks)


def search_figures(store: Store, real: int, queries: NDArray[np.float32]) -> dict[str, Any]:
    """Time and recall of the search by signs, and the time of the exact one, at one size."""
    chunks: int = store._rows("SELECT chunks FROM totals")[0][0]
    found = measure(store, queries, depth=DEPTH, exact_chunks=0)
    deep = measure(store, queries, depth=50, exact_chunks=0)
    started = time.perf_counter()
    Resident(store.connection).refresh()
    reading = time.perf_counter() - started
    return {
        "chunks": chunks,
        "real_chunks": real,
        f"recall_at_{DEPTH}": round(found.recall, 4),
        "recall_at_50": round(deep.recall, 4),
        "search_sec_p50": found.search_sec_p50,
        "search_sec_p95": float(np.percentile(found.search_sec, 95)),
        "search_at_50_sec_p50": deep.search_sec_p50,
        "exact_sec_p50": found.exact_sec_p50,
        "read_signs_sec": reading,
        "private_bytes": memory_of(store.path, queries),
    }


def memory_of(path: Path, queries: NDArray[np.float32]) -> int:
    """What searches add to the private memory of a process, at the most seen after one of them, in bytes."""
    file = path.with_suffix(".queries.npy")
    np.save(file, queries[:50])
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path), str(file), "0"], capture_output=True, text=True, check=True
    )
    file.unlink()
    before, peak = map(int, done.stdout.split())
    return peak - before


def retrieval_figures(store: Store, box: Box, questions: list[str]) -> dict[str, Any]:
    """The whole retrieval on the real index: candidates alone, and with judging; seconds, the question's vector in."""
    config, seconds = box.config.retrieve, {"candidates": [], "retrieve": []}  # type: dict[str, list[float]]
    for question in questions[:10]:
        retrieve(question, store, box.embedder, config)
    for question in questions[:100]:
        for name, ask in (("candidates", lambda q: candidates(q, store, box.embedder, config, Filter())),
                          ("retrieve", lambda q: retrieve(q, store, box.embedder, config))):  # fmt: skip
            started = time.perf_counter()
            ask(question)
            seconds[name].append(time.perf_counter() - started)
    started = time.perf_counter()
    for question in questions[:50]:
        box.embedder.embed_query(question)
    embedding = (time.perf_counter() - started) / 50
    return {
        "chunks": store._rows("SELECT chunks FROM totals")[0][0],
        "embed_question_sec_mean": embedding,
        "candidates_sec_p50": statistics.median(seconds["candidates"]),
        "retrieve_sec_p50": statistics.median(seconds["retrieve"]),
    }


def show(result: dict[str, Any]) -> str:
    """The figures as a table; times in milliseconds."""
    lines = [f"{'chunks':>9} {'real':>7} {'recall@10':>9} {'@50':>7} {'p50 ms':>7} {'p95':>6} {'50 best':>7} "
             f"{'exact':>7} {'read':>6} {'MiB':>6}"]  # fmt: skip
    for row in result["search"]:
        ms = {key: 1000 * value for key, value in row.items() if key.endswith(("_p50", "_p95", "_sec"))}
        lines.append(
            f"{row['chunks']:>9} {row['real_chunks']:>7} {row['recall_at_10']:>9.4f} {row['recall_at_50']:>7.4f} "
            f"{ms['search_sec_p50']:>7.2f} {ms['search_sec_p95']:>6.2f} {ms['search_at_50_sec_p50']:>7.2f} "
            f"{ms['exact_sec_p50']:>7.1f} {ms['read_signs_sec']:>6.1f} {row['private_bytes'] / 2**20:>6.1f}"
        )
    whole = {key: 1000 * value for key, value in result["retrieval"].items() if "_sec" in key}
    lines.append(
        f"the whole retrieval of a question, {result['retrieval']['chunks']} real chunks, ms: its vector "
        f"{whole['embed_question_sec_mean']:.1f}, with candidates {whole['candidates_sec_p50']:.1f}, "
        f"judged {whole['retrieve_sec_p50']:.1f}"
    )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder made by scripts/make_corpus.py")
    parser.add_argument("--chunks", type=int, action="append", help=f"sizes, instead of {SIZES}")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--bundle", type=Path, help="the bundle whose embedder is used")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"environment": environment(), "questions": QUESTIONS, "search": []}
    try:
        with (
            Box.open(bundle=arguments.bundle, index=None, config=None) as box,
            Store.open(arguments.corpus / "index.db", fingerprint=box.bundle.manifest.embedder.fingerprint) as source,
        ):
            questions, queries = question_vectors(arguments.corpus, box)
            for chunks in arguments.chunks or SIZES:
                store, real = index_of(arguments.corpus, source, chunks)
                with store:
                    result["search"].append(search_figures(store, real, queries))
                print(f"{chunks} chunks done", file=sys.stderr)
            result["retrieval"] = retrieval_figures(source, box, questions)
    except EdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if arguments.out:
        write_atomic(arguments.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result) if arguments.json else show(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
