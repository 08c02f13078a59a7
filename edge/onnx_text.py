"""What the embedder and the reranker share: a tokenizer, an ONNX Runtime session on one core, threads that use it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from edge.bundle import EMBEDDER_MODEL, EMBEDDER_TOKENIZER
from edge.errors import EngineError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids"})
"""Of an encoder, each int64 (batch, tokens); the last is not in every model."""


class TextModel:
    """A model of a bundle's folder that reads token ids and gives one output; a text alone, a core each.

    :param output: that it must have.
    :param what: it is, for messages: "embedder", "reranker".
    """

    def __init__(self, folder: Path, threads: int, output: str, what: str) -> None:
        self._output, self._what = output, what
        self._tokenizer = load_tokenizer(folder / EMBEDDER_TOKENIZER)
        self._session: Any = load_session(folder / EMBEDDER_MODEL)
        self._inputs = check_graph(self._session, folder, output, what)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=what)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the model's memory back; it cannot be used afterwards."""
        self._pool.shutdown(cancel_futures=True)
        self._session = None

    def _check_open(self) -> None:
        if self._session is None:
            raise EngineError(f"the {self._what} is closed")

    def _encode(self, text: str, *, special: bool = True) -> Encoding:
        return self._tokenizer.encode(clean(text), add_special_tokens=special)

    def _run(self, ids: list[int], types: list[int] | None = None) -> NDArray[np.float32]:
        """The output for one sequence; `types` of its tokens, 0 where None."""
        self._check_open()
        row = np.asarray([ids], dtype=np.int64)  # (1, t)
        of_type = np.zeros_like(row) if types is None else np.asarray([types], dtype=np.int64)
        feed: Mapping[str, NDArray[np.int64]] = {
            "input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": of_type
        }  # fmt: skip
        try:
            (given,) = self._session.run([self._output], {name: feed[name] for name in self._inputs})
        except Exception as error:
            raise EngineError(f"the {self._what} failed on {len(ids)} tokens: {error}") from error
        output: NDArray[np.float32] = given
        return output


def clean(text: str) -> str:
    """Text as the tokenizer takes it: a lone surrogate (a broken byte in a command line) is none; "?" keeps offsets."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def load_tokenizer(path: Path) -> Tokenizer:
    """A tokenizer that neither pads nor cuts.

    :raises EngineError: the file is missing or damaged.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise EngineError(f"{path}: cannot be loaded: {error}. Run `edge bundle verify`") from error
    tokenizer.no_padding()  # some files ask for padding to, and cutting at, 128 tokens
    tokenizer.no_truncation()
    return tokenizer


def load_session(path: Path) -> Any:
    """A session whose runs stay on the thread that asks for them: the caller runs several beside each other.

    :raises EngineError: the file is missing or damaged.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only; warnings would go to the user's stderr
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise EngineError(f"{path}: cannot be loaded: {error}. Run `edge bundle verify`") from error


def check_graph(session: Any, folder: Path, output: str, what: str) -> list[str]:
    """The names of the model's inputs, in their order.

    :raises EngineError: it wants others than an encoder has, or has no such output.
    """
    inputs = [spec.name for spec in session.get_inputs()]
    outputs = [spec.name for spec in session.get_outputs()]
    if unknown := set(inputs) - INPUTS:
        raise EngineError(f"{folder}: the model wants inputs that no {what} has: {', '.join(sorted(unknown))}")
    if output not in outputs:
        raise EngineError(f"{folder}: the model has no output {output} (it has {', '.join(outputs)})")
    return inputs
