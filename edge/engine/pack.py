"""The two steps of `edge.engine.prepared` that load the model, each in a process of its own.

python -m edge.engine.pack PARENT pack SOURCE TARGET           save the graph with weights as this CPU wants them
python -m edge.engine.pack PARENT logits FOLDER [ADAPTER...]   print a digest of the logits for a fixed text
python -m edge.engine.pack PARENT trace FOLDER [ADAPTER...]    the same, and note in FOLDER what was read of its files
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from edge.files import write_atomic
from edge.machine import cores
from edge.mapped import USED
from edge.process import die_with

# Many kinds of tokens, and more of them than one block of any kernel takes.
PROBE = (
    "The gateway has two Ethernet ports (LAN1, LAN2), 24 V DC input and a relay rated for 2 A. Error E042: "
    "«Überspannung» - slå av strømmen før du åpner dekselet! https://example.org/a?b=1&c=[2] {x: 3.14159}\n\t"
    "Maintenance log, 2026-03-01: filter replaced; pressure 1.8 bar -> 2.1 bar; next service in 6 months. "
)


def pack(source: Path, target: Path) -> None:
    """Load a model folder's graph and save it with its weights prepacked, beside their original form."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime as ort

    name = json.loads((source / "genai_config.json").read_text(encoding="utf-8"))["model"]["decoder"]["filename"]
    options = ort.SessionOptions()
    options.intra_op_num_threads = cores()
    options.log_severity_level = 3  # it warns that the graph is for this machine only: so it is
    options.optimized_model_filepath = str(target / name)
    for key, value in {
        "session.optimized_model_external_initializers_file_name": f"{name}.data",
        "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
        "session.save_external_prepacked_constant_initializers": "1",
    }.items():
        options.add_session_config_entry(key, value)
    ort.InferenceSession(source / name, options, providers=["CPUExecutionProvider"])


def logits_digest(folder: Path, adapters: Sequence[Path] = (), *, trace: bool = False) -> str:
    """Hex sha256 of the logits after tokens read together, and after one read alone: other kernels, other layouts.

    :param adapters: files; the text is read without and with each.
    :param trace: write into `folder` which parts of its files that took, loading not counted.
    """
    from edge.engine.base import EngineOptions
    from edge.engine.genai import GenaiEngine

    named = {str(path): path for path in adapters}
    engine = GenaiEngine(folder, "", (), EngineOptions(context_tokens=512, threads=1), named)
    token_ids = engine.encode(PROBE)
    probed = hashlib.sha256()
    for adapter in (None, *named):
        probed.update(engine.probe(token_ids, adapter).tobytes())
    digest = probed.hexdigest()
    if trace and engine.mapped is not None:
        with contextlib.suppress(OSError):  # a kernel that does not keep track: the copy serves without the note
            engine.mapped.forget()
            engine.probe(token_ids[:1] * 64)  # one row of the embedding table: another prompt has others
            write_atomic(folder / USED, json.dumps(engine.mapped.used()))
    return digest


def main() -> None:
    parent, step, *paths = sys.argv[1:]
    die_with(int(parent))
    if step == "pack":
        pack(Path(paths[0]), Path(paths[1]))
    else:
        folder, *adapters = (Path(path) for path in paths)
        sys.stdout.write(logits_digest(folder, adapters, trace=step == "trace") + "\n")


if __name__ == "__main__":
    main()
