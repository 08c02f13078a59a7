#!/usr/bin/env python3
"""What the peer's formats lose against fp32, beside what our bundle loses: a speed-up counts at equal quality only.

    scripts/bench_peer_quality.py [--answers FILE.json] [--formats Q8_0 Q4_0 ...] [--json] [--out FILE]

Needs llama.cpp as scripts/bench_peer_llamacpp.sh builds it, and the extra `optimize`. Both sides are compared with the
same file: the next-token distributions of the base weights in fp32 (llama-perplexity --kl-divergence-base) over the
text of the quality gate (optimize/data/gate), in windows of 512 tokens, at the positions of their second halves.
  kl_nats           mean KL divergence from fp32 to the build, natural logarithm; kl_nats_error is its standard error
  perplexity_ratio  perplexity of the build / of fp32
  top1_agreement    share of positions with the same most likely token
With --answers, a file in SQuAD format: each context becomes a document of a temporary index, questions drawn with a
seed go the way of `edge ask`, and both sides answer the same token ids.
  f1                mean token F1 of what the model writes, against the best of the annotated answers
The last line says which formats are not worse than ours.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _environment
import _squad
import numpy as np

from edge.bench import llamacpp
from edge.bench.llamacpp import Build
from edge.bench.side import OwnSide, Side
from edge.bench.text import Sample
from edge.box import Box
from edge.cli.common import console
from edge.errors import EdgeError, PeerError
from edge.files import cache, write_atomic
from edge.prompt import build as build_prompt
from optimize import evaluate
from optimize.scores import f1

FORMATS = ("Q8_0", "Q6_K", "Q4_K_M", "Q4_0")
WINDOW = 512  # tokens
_LEAST = -16.0  # log probability below which llama-perplexity's file holds nothing
_OUTPUT = {
    "kl_nats": r"Mean\s+KLD:\s*(-?[\d.]+)",
    "kl_nats_error": r"Mean\s+KLD:\s*-?[\d.]+\s*±\s*([\d.]+)",
    "perplexity_ratio": r"Mean PPL\(Q\)/PPL\(base\)\s*:\s*([\d.]+)",
    "top1_agreement": r"Same top p:\s*([\d.]+)",
}


@dataclass(frozen=True)
class Reference:
    """The file of `llama-perplexity --kl-divergence-base`."""

    path: Path
    tokens: Any  # int32 (windows, WINDOW)
    vocabulary: int
    start: int  # byte at which the rows begin

    @property
    def positions(self) -> int:
        """Of each window: the second half but for the last token, which nothing follows."""
        return int(self.tokens.shape[1]) - 1 - int(self.tokens.shape[1]) // 2

    def rows(self) -> Iterator[Any]:
        """Log probabilities of one window after the other, float32 (positions, vocabulary); `_LEAST` is none.

        A row is two float32, scale and least log probability, and a uint16 for each token (tools/perplexity).
        """
        width = 4 + 2 * ((self.vocabulary + 1) // 2)
        with self.path.open("rb") as stream:
            stream.seek(self.start)
            for _ in self.tokens:
                data = stream.read(2 * width * self.positions)
                packed = np.frombuffer(data, "<u2").reshape(self.positions, width)
                scale, least = np.ascontiguousarray(packed[:, :4]).view("<f4").T
                yield packed[:, 4 : 4 + self.vocabulary] * scale[:, None] + least[:, None]


def read_reference(path: Path) -> Reference:
    """Read the head of a reference.

    :raises PeerError: it is none.
    """
    with path.open("rb") as stream:
        head = stream.read(20)
        if len(head) < 20 or not head.startswith(b"_logits_"):
            raise PeerError(f"{path}: not what llama-perplexity writes")
        window, vocabulary, count = (int(number) for number in np.frombuffer(head[8:], "<i4"))
        tokens = np.frombuffer(stream.read(4 * window * count), "<i4").reshape(count, window)
        return Reference(path, tokens, vocabulary, stream.tell())


def write_reference(build: Build, path: Path, windows: int) -> Reference:
    """Let llama-perplexity read the gate's text with the fp32 weights; about 25 MB a window."""
    text = path.with_suffix(".txt")
    text.write_text(evaluate.gate_text(), encoding="utf-8")
    run_perplexity(build, "-f", str(text), "--chunks", str(windows), "--kl-divergence-base", str(path))
    return read_reference(path)


def run_perplexity(build: Build, *arguments: str) -> str:
    """What llama-perplexity prints.

    :raises PeerError: it fails.
    """
    command = [build.program("llama-perplexity"), "-m", str(build.gguf), "-c", str(WINDOW), "-b", str(WINDOW)]
    done = subprocess.run(
        [*command, "-t", str(build.threads), *arguments], capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode != 0:
        raise PeerError(f"llama-perplexity failed: {' '.join((done.stdout + done.stderr).split())[-600:]}")
    return done.stdout + done.stderr


def peer_quality(build: Build, reference: Reference) -> dict[str, float]:
    """The figures of one format.

    :raises PeerError: llama-perplexity prints them not.
    """
    printed = run_perplexity(build, "--kl-divergence-base", str(reference.path), "--kl-divergence")
    found: dict[str, float] = {}
    for name, pattern in _OUTPUT.items():
        match = re.search(pattern, printed)
        if match is None:
            raise PeerError(f"llama-perplexity printed no {name}: {' '.join(printed.split())[-400:]}")
        found[name] = float(match[1])
    found["top1_agreement"] /= 100
    return found


def own_quality(folder: Path, reference: Reference, show: Callable[[Any], Any]) -> dict[str, float]:
    """The same figures of our build, by the same formulas, at the same positions.

    :param folder: of the model inside the bundle.
    """
    logits = evaluate.teacher_forced(folder)
    first = WINDOW // 2
    kl: list[float] = []
    parent = ours = same = 0.0
    for tokens, base in zip(show(reference.tokens), reference.rows(), strict=True):
        of_build = logits(tokens.astype(np.int64))[first:-1].astype(np.float64)
        of_build -= of_build.max(axis=1, keepdims=True)
        of_build -= np.log(np.exp(of_build).sum(axis=1, keepdims=True))
        kl += np.where(base > _LEAST, np.exp(base) * (base - of_build), 0.0).sum(axis=1).tolist()
        at = np.arange(len(base)), tokens[first + 1 :]
        parent -= float(base[at].sum())
        ours -= float(of_build[at].sum())
        same += int((base.argmax(axis=1) == of_build.argmax(axis=1)).sum())
    count = len(kl)
    return {
        "kl_nats": statistics.fmean(kl),
        "kl_nats_error": statistics.stdev(kl) / math.sqrt(count),
        "perplexity_ratio": math.exp((ours - parent) / count),
        "top1_agreement": same / count,
    }


def questions(path: Path, box: Box, limit: int, seed: int) -> list[tuple[Sample, list[str]]]:
    """Prompts as `edge ask` builds them, each with the annotated answers."""
    documents, asked = _squad.read(path)
    texts = {document.source: document.text for document in documents}
    drawn = random.Random(seed).sample([question for question in asked if question.spans], limit)
    section, answer = box.bundle.manifest.embedder, box.config.answer
    with tempfile.TemporaryDirectory(prefix="edge-quality-") as folder:
        box.index_path = Path(folder) / "index.db"
        store, _ = _squad.build(
            box.index_path, documents, box.embedder, box.config, fingerprint=section.fingerprint, dim=section.dim
        )
        store.close()
        found = []
        for question in drawn:
            prompt = build_prompt(
                question.text, box.retrieve(question.text), box.engine,
                budget_tokens=box.engine.context_tokens - answer.max_tokens, max_passages=answer.max_passages,
                special_tokens=box.bundle.manifest.model.special_tokens,
            )  # fmt: skip
            golds = [texts[question.source][start:end] for start, end in question.spans]
            found.append((Sample(prompt.token_ids, prompt.text), golds))
        box.store.close()
    return found


def answers_f1(side: Side, asked: list[tuple[Sample, list[str]]], max_tokens: int) -> float:
    """The mean F1 of what a side writes."""
    scores = []
    for prompt, golds in asked:
        text = side.generate(prompt, max_tokens).text
        scores.append(f1(text, golds))
    return statistics.fmean(scores)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All rows: name -> figures."""
    from rich.progress import track

    def show(items: Any) -> Any:
        return track(items, console=console(), description="ours")

    with Box.open(bundle=arguments.bundle, index=None, config=arguments.config) as box:
        manifest = box.bundle.manifest
        rows: dict[str, dict[str, Any]] = {}
        builds = {
            name: llamacpp.find(manifest.model.base.sha256, name, box.threads, 600.0)
            for name in ("F32", *arguments.formats)
        }
        asked = questions(arguments.answers, box, arguments.limit, arguments.seed) if arguments.answers else []
        with tempfile.TemporaryDirectory(prefix=".quality-", dir=cache() / "peer") as folder:
            reference = write_reference(builds["F32"], Path(folder) / "fp32.kld", arguments.windows)
            rows["edge"] = {
                "format": manifest.model.precision,
                "weights_bytes": manifest.memory.weights_bytes,
                **own_quality(box.bundle.path / manifest.model.path, reference, show),
            }
            for name, build in builds.items():
                print(f"llama.cpp {name}", file=sys.stderr)
                weights = {"format": name, "weights_bytes": build.gguf.stat().st_size}
                rows[f"llama.cpp {name}"] = weights | peer_quality(build, reference)
            positions = len(reference.tokens) * reference.positions
        if asked:
            limit = box.config.answer.max_tokens
            rows["edge"]["f1"] = answers_f1(OwnSide(box.engine, asked[0][0]), asked, limit)
            box.engine.close()
            for name in arguments.formats:  # fp32 would take as long as all others together
                print(f"llama.cpp {name} answers", file=sys.stderr)
                with llamacpp.serving(builds[name], box.config.answer.context_tokens) as server:
                    rows[f"llama.cpp {name}"]["f1"] = answers_f1(server, asked, limit)
    return {
        "environment": _environment.environment(),
        "bundle": box.bundle.digest,
        "positions": positions,
        "questions": len(asked),
        "seed": arguments.seed,
        "rows": {name: {key: _short(value) for key, value in row.items()} for name, row in rows.items()},
        "not_worse": not_worse(rows),
    }


def not_worse(rows: dict[str, dict[str, Any]]) -> list[str]:
    """The formats whose divergence is at most ours and two standard errors of the difference, the smallest first."""
    ours = rows["edge"]
    formats = []
    for row in rows.values():
        error = math.hypot(row["kl_nats_error"], ours["kl_nats_error"])
        if row is not ours and row["kl_nats"] <= ours["kl_nats"] + 2 * error:
            formats.append(row)
    return [row["format"] for row in sorted(formats, key=lambda row: row["weights_bytes"])]


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def table(result: dict[str, Any]) -> str:
    lines = [f"{'':18}{'MB':>6}{'KL, nats':>20}{'perplexity':>13}{'top-1':>8}{'F1':>8}"]
    for name, row in result["rows"].items():
        f1 = f"{row['f1']:8.3f}" if "f1" in row else f"{'-':>8}"
        lines.append(
            f"{name:18}{row['weights_bytes'] / 1e6:6.0f}{row['kl_nats']:11.5f} ±{row['kl_nats_error']:.5f}"
            f"{'x':>7}{row['perplexity_ratio']:.4f}"
            f"{row['top1_agreement']:8.3f}{f1}"
        )
    lines.append(f"not worse than ours (KL): {', '.join(result['not_worse']) or 'none'}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), metavar="FORMAT", help="of llama.cpp")
    parser.add_argument("--windows", type=int, default=30, help="windows of 512 tokens to read, at most")
    parser.add_argument("--answers", type=Path, metavar="FILE.json", help="compare answers too, on this file")
    parser.add_argument("--limit", type=int, default=80, help="questions to ask")
    parser.add_argument("--seed", type=int, default=0, help="draws them")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help="write that object here too")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--config", type=Path)
    arguments = parser.parse_args()
    try:
        result = measure(arguments)
    except EdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if arguments.out:
        write_atomic(arguments.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result) if arguments.json else table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
