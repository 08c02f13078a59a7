"""`/v1/rerank` of a real daemon with a cross-encoder in its bundle; test_daemon_openai.py has one without."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from _daemon import Daemon, Reply

from edge import bundle
from edge.files import sha256_file
from tests.fakes import write_seal
from tests.rerankers import section_of, write_tiny_reranker

pytestmark = [pytest.mark.model, pytest.mark.process]

TEXTS = ["The lamp is red.", "Hold the button for ten seconds.", {"text": "A button."}]


def test_best_first_and_what_it_refuses(sample_home: Path, tmp_path: Path) -> None:
    with_reranker(sample_home / "bundle", tmp_path / "bundle")
    shutil.copy(sample_home / "index.db", tmp_path / "index.db")
    with Daemon(environment={**os.environ, "EDGE_HOME": str(tmp_path)}) as daemon:

        def ranked(**more: Any) -> Any:
            return daemon.call("POST", "/v1/rerank", {"query": "Which button?", "documents": TEXTS, **more})

        found = ranked(return_documents=True)
        assert [(one["index"], one["relevance_score"]) for one in found["results"]] == [(1, 5.0), (2, 4.0), (0, 0.0)]
        assert found["results"][1]["document"] == {"text": "A button."}
        assert found["model"] == "tiny-reranker" and found["usage"]["total_tokens"] == 3 * (3 + 3) + 5 + 7 + 3
        (best,) = ranked(top_n=1, model="edge", documents=["button " * 40])["results"]
        assert best["truncated"] is True and "document" not in best
        for more, status in (
            ({"query": " "}, 400), ({"query": "word " * 17}, 400), ({"model": "other"}, 404),
            ({"rank_fields": []}, 400), ({"documents": []}, 400), ({"top_n": 0}, 400),
        ):  # fmt: skip
            with pytest.raises(Reply) as refused:
                ranked(**more)
            assert refused.value.status == status, (more, refused.value.body)


def with_reranker(source: Path, target: Path) -> None:
    """A copy of a bundle with a tiny cross-encoder in it."""
    shutil.copytree(source, target)
    write_tiny_reranker(target / "reranker", {"button": 4.0, "seconds": 1.0})
    plain, section = bundle.load(source).manifest, section_of()
    files = dict(plain.files)
    for path in sorted((target / "reranker").iterdir()):
        files[f"reranker/{path.name}"] = bundle.FileEntry(sha256_file(path), path.stat().st_size)
    schema = bundle.schema_of(plain.targets, section)
    write_seal(target, dataclasses.replace(plain, schema=schema, files=files, reranker=section))
    bundle.verify(target)
