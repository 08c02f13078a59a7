"""Writes tests/golden/embedder.npz: vectors of the default recipe's embedder, made by its PyTorch original.

    python scripts/make_golden_vectors.py

Run it when the default recipe names another embedder; the file is what tests/edge/test_embed.py compares with.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

import numpy as np

from edge.files import write_atomic
from optimize import embedder_gate, sources
from optimize.recipe import DEFAULT, load_recipe

TARGET = Path(__file__).resolve().parents[1] / "tests" / "golden" / "embedder.npz"
TEXTS = (
    "The valve must be closed before the pump is started.",
    "How long is the reset button held to restore the factory settings?",
    "error E41: no signal from the flow meter, check the cable and the terminal block",
    "The company was founded in 1897 and moved to the harbour after the fire of 1921. " * 6,
    "Das Ventil muss geschlossen sein, bevor die Pumpe gestartet wird.",
    "Wie lange hält die Batterie des Gateways bei einem Stromausfall?",
    "Die Gewährleistung gilt nicht für Schäden durch Frost.",
    "Ventilen må være stengt før pumpen startes.",
    "Hvor ofte skal luftfilteret skiftes?",
    "Garantien dekker ikke skader som skyldes frost.",
    "naïve café, 20 °C ± 0.5, §4(b) – “quoted” … 漢字 🙂",
    "a",
)


def main() -> int:
    recipe = load_recipe(DEFAULT).embedder
    origin = embedder_gate.Reference(sources.fetch(recipe.source), recipe.pooling, recipe.max_tokens)
    with tempfile.TemporaryDirectory() as scratch:
        texts = [recipe.document_prefix + text for text in TEXTS]
        vectors = embedder_gate.reference_vectors(origin, texts, Path(scratch), "golden")
    content = io.BytesIO()
    np.savez_compressed(content, texts=np.array(TEXTS), vectors=vectors)
    write_atomic(TARGET, content.getvalue())
    print(f"{TARGET}: {len(TEXTS)} texts, {vectors.shape[1]} dimensions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
