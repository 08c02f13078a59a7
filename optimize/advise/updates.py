"""What an update of the documents costs: a tenth of them is read, cut and embedded anew in a copy of the index."""

from __future__ import annotations

import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from edge.box import Box
from edge.ingest.index import ingest

SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Update:
    """Of the index; a model that was trained on the documents must be trained again instead."""

    documents: int
    seconds: float


def reindex(documents: Path, box: Box, scratch: Path, seed: int) -> Update:
    """Forget a tenth of the documents and bring them in again, which is what replacing changed ones takes.

    :param box: its index holds `documents`; it is copied and left as it is.
    """
    copy = scratch / "updated.db"
    scratch.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(box.index_path, copy)
    with Box(box.bundle_path, copy, box.config) as other:
        store = other.open_store()
        sources = sorted(store.known())
        chosen = random.Random(seed).sample(sources, max(1, round(SHARE * len(sources))))
        other.embedder.embed_query("load the embedder before the clock starts")
        started = time.monotonic()
        store.remove(chosen)
        ingest([documents], store, other.embedder, other.config.ingest)
        seconds = time.monotonic() - started
    copy.unlink()
    return Update(len(chosen), seconds)
