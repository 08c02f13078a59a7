"""llama.cpp as a peer: found, or said how to build it; stand-ins for its programs, and itself where it is built."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from edge.bench import llamacpp
from edge.bench.llamacpp import Build, find, serving
from edge.bench.text import Sample
from edge.errors import PeerError
from edge.files import cache

BASE = "b179c9523d0e6a0f" + "0" * 48

SERVER = """
import http.server, json, sys
port = int(sys.argv[sys.argv.index("--port") + 1])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'{"status": "ok"}')
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200); self.end_headers()
        def event(data): self.wfile.write(b"data: " + json.dumps(data).encode() + b"\\n\\n")
        for token in range(body["n_predict"]):
            event({"content": "x", "tokens": [token], "stop": False})
        cached = 2 if body["cache_prompt"] else 0
        n = len(body["prompt"]) - cached
        event({"stop": True, "timings": {"cache_n": cached, "prompt_n": n, "prompt_ms": 10.0, "predicted_n": 99}})
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def install(root: Path, version: str = "0.3.36", **programs: str) -> Path:
    """A build whose programs are Python scripts."""
    folder = root / "peer" / f"llama.cpp-{version}"
    (folder / "bin").mkdir(parents=True)
    for name, source in ({"server": SERVER} | programs).items():
        file = folder / "bin" / f"llama-{name}"
        file.write_text(f"#!{sys.executable}\n{source}")
        file.chmod(0o755)
    weights = folder / "gguf" / BASE[:16]
    weights.mkdir(parents=True)
    for format in ("F32", "Q8_0"):
        (weights / f"{format}.gguf").write_bytes(b"GGUF")
    return folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path))
    return tmp_path


def build(root: Path, **programs: str) -> Build:
    install(root, **programs)
    return find(BASE, "Q8_0", 2, 10.0)


def test_what_to_run_where_it_is_not_built(root: Path) -> None:
    with pytest.raises(PeerError, match=r"not built.*scripts/bench_peer_llamacpp\.sh"):
        find(BASE, "Q8_0", 2, 10.0)
    install(root)
    with pytest.raises(PeerError, match=r"only in F32, Q8_0; to add one, .* --formats Q5_1"):
        find(BASE, "Q5_1", 2, 10.0)
    with pytest.raises(PeerError, match="no weights from the base of this bundle"):
        find("f" * 64, "Q8_0", 2, 10.0)


def test_the_newest_build_is_taken(root: Path) -> None:
    install(root, "0.3.9")
    install(root, "0.3.36")
    assert find(BASE, "Q8_0", 2, 10.0).version == "0.3.36"


@pytest.mark.process
def test_a_server_gets_token_ids_and_is_gone_afterwards(root: Path) -> None:
    with serving(build(root), 256) as server:
        timing = server.generate(Sample((5, 6, 7), "ignored"), 9)
        again = server.generate(Sample((5, 6, 7), "ignored"), 9, reuse=True)
        pid = server.pid
    assert timing.prompt_tokens == 3 and timing.cached_tokens == 0 and timing.prefill_sec == 0.01
    assert timing.completion_tokens == 9  # what arrived, not what it says with the end of the turn
    assert again.cached_tokens == 2 and again.prefill_tok_per_sec == pytest.approx(1 / 0.01)
    assert not Path(f"/proc/{pid}/stat").exists()


@pytest.mark.process
def test_a_server_that_does_not_start_shows_its_log(root: Path) -> None:
    broken = build(root, server="import sys; sys.exit('cannot allocate')")
    with pytest.raises(PeerError, match="does not start: cannot allocate"), serving(broken, 256):
        pass


@pytest.mark.process
@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import sys; sys.exit('illegal instruction')", "illegal instruction"),
        ("print('not json')", "no results that can be read"),
        ("print('[]')", "other results"),
        ("print('[{\"n_prompt\": 64}]')", "no results that can be read"),
        ('print(\'[{"n_prompt": 64, "avg_ts": 0}, {"n_prompt": 0, "avg_ts": 1}]\')', "other results"),
    ],
)
def test_llama_bench_that_prints_nonsense(root: Path, program: str, message: str) -> None:
    with pytest.raises(PeerError, match=message):
        llamacpp.bench(build(root, bench=program), (64,), 8)


@pytest.mark.process
def test_llama_bench_and_llama_cli(root: Path) -> None:
    tests = [{"n_prompt": 64, "avg_ts": 500.5}, {"n_prompt": 0, "avg_ts": 50}]
    cli = "import sys, time; print('logo'); print('> why?'); time.sleep(0.2); print('because'); time.sleep(9)"
    made = build(root, bench=f"print({json.dumps(tests)!r})", cli=cli)
    assert llamacpp.bench(made, (64,), 8) == {"prefill_64": 500.5, "decode": 50.0}
    assert 0.2 < llamacpp.cold_start_sec(made, "why?", "Answer.") < 8


@pytest.mark.process
@pytest.mark.model
def test_the_real_one_answers_the_same_token_ids() -> None:
    found = sorted((cache() / "peer").glob("llama.cpp-*/gguf/*/Q8_0.gguf"))
    if not found:
        pytest.skip("llama.cpp is not built here: scripts/bench_peer_llamacpp.sh")
    real = find(found[0].parent.name, "Q8_0", 1, 120.0)
    with serving(real, 256) as server:
        timing = server.generate(Sample(tuple(range(100, 140)), ""), 4)
    assert timing.prompt_tokens == 40 and 1 <= timing.completion_tokens <= 4 and timing.cached_tokens == 0
