"""The scripts around the peer: building llama.cpp, and measuring what its formats lose."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.files import cache

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "bench_peer_llamacpp.sh"
VERSION = re.search(r"^VERSION=(\S+)", SCRIPT.read_text(), re.MULTILINE)[1]  # type: ignore[index]

pytestmark = pytest.mark.process


def script(root: Path, *arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [SCRIPT, *arguments],
        env={**os.environ, "EDGE_CACHE": str(root), "PYTHON": sys.executable, "EDGE_OFFLINE": "1", **environment},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done


def prebuilt(root: Path) -> Path:
    """A cache in which llama.cpp counts as built for this CPU; its llama-quantize copies."""
    folder = root / "peer" / f"llama.cpp-{VERSION}"
    (folder / "bin").mkdir(parents=True)
    source = SCRIPT.read_text()
    lines = re.findall(r"^(?:VERSION=|SHA256=|FLAGS=\(|  -DLLAMA|stamp=).*", source, re.MULTILINE)
    made = subprocess.run(
        ["bash", "-c", "\n".join([*lines, 'echo "$stamp"'])], capture_output=True, text=True, check=True
    )
    (folder / "bin" / "STAMP").write_text(made.stdout)
    quantize = folder / "bin" / "llama-quantize"
    quantize.write_text('#!/bin/sh\n[ "$4" != Q4_0 ] || exit 1\ncp "$2" "$3"\n')
    quantize.chmod(0o755)
    return folder


def test_help_and_mistakes(tmp_path: Path) -> None:
    shown = script(tmp_path, "--help").stdout
    assert "usage: scripts/bench_peer_llamacpp.sh" in shown and "--formats" in shown
    assert "unknown argument --fast" in script(tmp_path, "--fast", code=2).stderr
    assert "--jobs needs a value" in script(tmp_path, "--jobs", code=2).stderr
    assert "set PYTHON" in script(tmp_path, code=1, PYTHON="/nowhere/python").stderr
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_it_says_what_to_put_where(tmp_path: Path) -> None:
    errors = script(tmp_path, code=1).stderr
    assert f"Put llama_cpp_python-{VERSION}.tar.gz into {tmp_path}/peer by hand" in errors


def test_a_source_package_with_another_hash_is_not_kept(tmp_path: Path) -> None:
    package = tmp_path / "peer" / f"llama_cpp_python-{VERSION}.tar.gz"
    package.parent.mkdir()
    package.write_bytes(b"tampered with")
    assert hashlib.sha256(b"tampered with").hexdigest() in script(tmp_path, code=1).stderr
    assert not package.exists()


def test_formats_are_made_once_and_whole(tmp_path: Path) -> None:
    if not list((cache() / "blobs").glob("*")):
        pytest.skip("the base weights are not in the cache")
    (tmp_path / "blobs").symlink_to(cache() / "blobs")
    folder = prebuilt(tmp_path)
    done = script(tmp_path, "--formats", "Q8_0")
    assert done.stdout.splitlines()[-1] == str(folder)
    (weights,) = (folder / "gguf").iterdir()
    assert sorted(path.name for path in weights.iterdir()) == ["F32.gguf", "Q8_0.gguf"]
    assert "quantizing" not in script(tmp_path, "--formats", "Q8_0").stderr
    assert "llama-quantize failed" in script(tmp_path, "--formats", "Q4_0", code=1).stderr
    assert not list(weights.glob("*.partial")) and not (weights / "Q4_0.gguf").exists()


def test_a_recipe_that_starts_from_no_gguf(tmp_path: Path) -> None:
    prebuilt(tmp_path)
    assert "no recipe 'nonsense'" in script(tmp_path, "--recipe", "nonsense", code=1).stderr


@pytest.fixture
def quality(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import bench_peer_quality

    return bench_peer_quality


def write_reference(path: Path, tokens: np.ndarray, logp: np.ndarray) -> None:
    """What llama-perplexity writes: log probabilities (windows, positions, vocabulary), each row in 16 bits."""
    windows, window = tokens.shape
    vocabulary = logp.shape[2]
    with path.open("wb") as stream:
        stream.write(b"_logits_" + np.array([window, vocabulary, windows], "<i4").tobytes())
        stream.write(tokens.astype("<i4").tobytes())
        for row in logp.reshape(-1, vocabulary):
            least = max(row.min(), row.max() - 16)
            scale = (row.max() - least) / 65535
            packed = np.rint(np.maximum(row - least, 0) / scale).astype("<u2")
            stream.write(np.array([scale, least], "<f4").tobytes() + packed.tobytes())
            stream.write(b"\0\0" * (vocabulary % 2))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def test_our_figures_are_those_of_the_peer_s_formulas(
    quality: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    monkeypatch.setattr(quality, "WINDOW", 16)
    tokens = rng.integers(0, 9, (3, 16))
    base, ours = rng.normal(size=(3, 16, 9)), rng.normal(size=(3, 16, 9))
    write_reference(tmp_path / "r.kld", tokens, log_softmax(base)[:, 8:-1])
    reference = quality.read_reference(tmp_path / "r.kld")
    assert reference.positions == 7 and (reference.tokens == tokens).all()
    rows = list(reference.rows())
    assert np.allclose(rows, log_softmax(base)[:, 8:-1], atol=2e-4)

    given = {tuple(window): logits for window, logits in zip(tokens, ours, strict=True)}
    monkeypatch.setattr(quality.evaluate, "teacher_forced", lambda _: lambda window: given[tuple(window)])
    found = quality.own_quality(tmp_path, reference, iter)
    p, q = log_softmax(base)[:, 8:-1], log_softmax(ours)[:, 8:-1]
    assert found["kl_nats"] == pytest.approx((np.exp(p) * (p - q)).sum(axis=2).mean(), rel=1e-3)
    followed = np.take_along_axis(q - p, tokens[:, 9:, None], axis=2)
    assert found["perplexity_ratio"] == pytest.approx(np.exp(-followed.mean()), rel=1e-3)
    assert found["top1_agreement"] == pytest.approx((p.argmax(axis=2) == q.argmax(axis=2)).mean())
    monkeypatch.setattr(
        quality.evaluate, "teacher_forced", lambda _: lambda w: base[[tuple(w) == tuple(t) for t in tokens]][0]
    )
    same = quality.own_quality(tmp_path, reference, iter)
    assert abs(same["kl_nats"]) < 1e-4 and same["top1_agreement"] == 1.0


def test_a_reference_that_is_none(quality: Any, tmp_path: Path) -> None:
    (tmp_path / "r.kld").write_bytes(b"GGUF and more")
    with pytest.raises(quality.PeerError, match="not what llama-perplexity writes"):
        quality.read_reference(tmp_path / "r.kld")


PRINTED = """
Mean PPL(Q)/PPL(base)         :   1.001234 ±   0.000600
Mean    KLD:   0.003613 ±   0.000123
Same top p: 96.863 ± 0.773 %
"""


def test_what_llama_perplexity_prints(quality: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = quality.Reference(Path("r"), np.zeros((1, 16)), 9, 0)
    monkeypatch.setattr(quality, "run_perplexity", lambda *_: PRINTED)
    assert quality.peer_quality(None, reference) == pytest.approx(
        {"kl_nats": 0.003613, "kl_nats_error": 0.000123, "perplexity_ratio": 1.001234, "top1_agreement": 0.96863}
    )
    monkeypatch.setattr(quality, "run_perplexity", lambda *_: "Segmentation fault")
    with pytest.raises(quality.PeerError, match="printed no kl_nats: Segmentation fault"):
        quality.peer_quality(None, reference)


def test_what_counts_as_not_worse(quality: Any) -> None:
    def row(format: str, kl: float, megabytes: int) -> dict[str, Any]:
        return {"format": format, "kl_nats": kl, "kl_nats_error": 1e-4, "weights_bytes": megabytes * 10**6,
                "perplexity_ratio": 1.0, "top1_agreement": 0.9}  # fmt: skip

    rows = {
        "edge": row("int8", 0.0040, 157),
        "llama.cpp F32": row("F32", 0.0, 540),
        "llama.cpp Q8_0": row("Q8_0", 0.0042, 145),
        "llama.cpp Q4_0": row("Q4_0", 0.3, 92),
    }
    assert quality.not_worse(rows) == ["Q8_0", "F32"]
    shown = quality.table({"rows": rows, "not_worse": ["Q8_0", "F32"]})
    assert "llama.cpp Q4_0" in shown and "not worse than ours (KL): Q8_0, F32" in shown
