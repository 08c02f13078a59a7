"""What the embedder and the reranker share: a tokenizer, and an ONNX Runtime session on one core."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.errors import EngineError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids"})
"""Of an encoder, each int64 (batch, tokens); the last is not in every model."""


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
