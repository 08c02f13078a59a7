"""ONNX Runtime GenAI through its C interface, as far as the engine uses it. The only file that knows the library.

The package's Python binding gives out numpy arrays, and importing numpy takes 8.5 MiB of private memory in a process
that has no other use for it: on a box of 256 MiB, the difference between weights that stay and weights that are read
from disk again for each token. What the functions mean stands in the library's own header, ort_genai_c.h.

A call does not hold Python's global lock. The library's objects are not made for several threads all the same.

:raises RuntimeError: (all of it) what the library refuses, in its words.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import weakref
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library is loaded

_NAMES = {  # of the runtime, as a pattern, and of the library
    "darwin": ("libonnxruntime*.dylib", "libonnxruntime-genai.dylib"),
    "win32": ("onnxruntime.dll", "onnxruntime-genai.dll"),
}
_RESULTS: dict[str, Any] = {  # of the functions that do not return an error, or nothing
    "OgaResultGetError": ctypes.c_char_p,
    "OgaSequencesGetSequenceCount": ctypes.c_size_t,
    "OgaSequencesGetSequenceData": ctypes.POINTER(ctypes.c_int32),
    "OgaGenerator_GetSequenceCount": ctypes.c_size_t,
    "OgaGenerator_GetSequenceData": ctypes.POINTER(ctypes.c_int32),
    "OgaGenerator_IsDone": ctypes.c_bool,
    "OgaGenerator_TokenCount": ctypes.c_size_t,
}
_ELEMENTS = {1: "float32", 10: "float16"}
"""ONNXTensorElementDataType -> name of the numpy type, of what logits can be."""


class _Object:
    """Something of the library's, destroyed with this, and before whatever it was made from.

    :param kind: as in OgaDestroyKIND.
    :param create: the function that makes it, which gets `arguments` and where to put it.
    """

    def __init__(self, kind: str, create: str, *arguments: Any) -> None:
        pointer = ctypes.c_void_p()
        _call(create, *arguments, ctypes.byref(pointer))
        self._as_parameter_ = pointer
        self._made_from = arguments
        weakref.finalize(self, _function(f"OgaDestroy{kind}"), pointer)  # what is left at exit goes last made first


class Config(_Object):
    """A model folder's configuration."""

    def __init__(self, folder: str) -> None:
        super().__init__("Config", "OgaCreateConfig", folder.encode())

    def overlay(self, text: str) -> None:
        """Set what a JSON object says over what the folder says."""
        _call("OgaConfigOverlay", self, text.encode())


class Tokenizer(_Object):
    def __init__(self, config: Config) -> None:
        super().__init__("Tokenizer", "OgaCreateTokenizerFromConfig", config)

    def encode(self, text: str) -> list[int]:
        sequences = _Object("Sequences", "OgaCreateSequences")
        _call("OgaTokenizerEncode", self, text.encode(), sequences)
        count = _function("OgaSequencesGetSequenceCount")(sequences, _size(0))
        return list(_function("OgaSequencesGetSequenceData")(sequences, _size(0))[:count])

    def decode(self, token_ids: Sequence[int]) -> str:
        text = ctypes.c_void_p()
        _call("OgaTokenizerDecode", self, _tokens(token_ids), _size(len(token_ids)), ctypes.byref(text))
        return _taken(text)

    def apply_chat_template(self, messages: str, *, template: str) -> str:
        """The prompt for messages (JSON), up to where the answer begins."""
        text = ctypes.c_void_p()
        _call(
            "OgaTokenizerApplyChatTemplate",
            *(self, template.encode(), messages.encode(), None, ctypes.c_bool(True), ctypes.byref(text)),
        )
        return _taken(text)

    def create_stream(self) -> TokenizerStream:
        return TokenizerStream(self)


class TokenizerStream(_Object):
    """Tokens to text one by one; a character that is not whole yet is held back."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__("TokenizerStream", "OgaCreateTokenizerStream", tokenizer)

    def decode(self, token_id: int) -> str:
        text = ctypes.c_char_p()  # the stream's own, until the next call
        _call("OgaTokenizerStreamDecode", self, ctypes.c_int32(token_id), ctypes.byref(text))
        return (text.value or b"").decode(errors="replace")


class Model(_Object):
    def __init__(self, config: Config) -> None:
        super().__init__("Model", "OgaCreateModelFromConfig", config)


class Adapters(_Object):
    def __init__(self, model: Model) -> None:
        super().__init__("Adapters", "OgaCreateAdapters", model)

    def load(self, file: str, name: str) -> None:
        _call("OgaLoadAdapter", self, file.encode(), name.encode())


class GeneratorParams(_Object):
    def __init__(self, model: Model) -> None:
        super().__init__("GeneratorParams", "OgaCreateGeneratorParams", model)

    def set_search_options(self, options: Mapping[str, float | bool]) -> None:
        """Options of the `search` object in genai_config.json."""
        for name, value in options.items():
            if isinstance(value, bool):
                _call("OgaGeneratorParamsSetSearchBool", self, name.encode(), ctypes.c_bool(value))
            else:
                _call("OgaGeneratorParamsSetSearchNumber", self, name.encode(), ctypes.c_double(value))

    def set_speculative_options(self, options: Mapping[str, int]) -> None:
        for name, value in options.items():
            _call("OgaGeneratorParamsSetSpeculativeNumber", self, name.encode(), ctypes.c_double(value))

    def set_guidance(self, kind: str, text: str) -> None:
        """:param kind: json_schema, regex or lark_grammar."""
        _call("OgaGeneratorParamsSetGuidance", self, kind.encode(), text.encode(), ctypes.c_bool(False))


class Generator(_Object):
    """One sequence of tokens, with its keys and values."""

    def __init__(self, model: Model, params: GeneratorParams) -> None:
        super().__init__("Generator", "OgaCreateGenerator", model, params)

    def set_active_adapter(self, adapters: Adapters, name: str) -> None:
        _call("OgaSetActiveAdapter", self, adapters, name.encode())
        self._adapters = adapters

    def append_tokens(self, token_ids: Sequence[int]) -> None:
        _call("OgaGenerator_AppendTokens", self, _tokens(token_ids), _size(len(token_ids)))

    def generate_next_token(self) -> None:
        """One step: a token, or several where a draft was right."""
        _call("OgaGenerator_GenerateNextToken", self)

    def is_done(self) -> bool:
        return bool(_function("OgaGenerator_IsDone")(self))

    def rewind_to(self, length: int) -> None:
        _call("OgaGenerator_RewindTo", self, _size(length))

    def tokens_from(self, start: int) -> list[int]:
        """The sequence without its first `start` tokens."""
        count = _function("OgaGenerator_GetSequenceCount")(self, _size(0))
        return list(_function("OgaGenerator_GetSequenceData")(self, _size(0))[start:count])

    def last_logits(self) -> NDArray[np.float32]:
        """Logits of the next token, (vocabulary,). The only thing here that needs numpy."""
        import numpy as np

        tensor = _Object("Tensor", "OgaGenerator_GetLogits", self)
        rank, kind, data = ctypes.c_size_t(), ctypes.c_int(), ctypes.c_void_p()
        _call("OgaTensorGetShapeRank", tensor, ctypes.byref(rank))
        shape = (ctypes.c_int64 * rank.value)()
        _call("OgaTensorGetShape", tensor, shape, rank)
        _call("OgaTensorGetType", tensor, ctypes.byref(kind))
        _call("OgaTensorGetData", tensor, ctypes.byref(data))
        element = np.dtype(_ELEMENTS[kind.value])
        rows, vocabulary = shape[rank.value - 2], shape[rank.value - 1]
        start = (data.value or 0) + (rows - 1) * vocabulary * element.itemsize
        return np.frombuffer(ctypes.string_at(start, vocabulary * element.itemsize), element).astype(np.float32)


def register_execution_provider_library(provider: str, path: str) -> None:
    _function("OgaRegisterExecutionProviderLibrary")(provider.encode(), path.encode())


_size = ctypes.c_size_t


def _tokens(token_ids: Sequence[int]) -> ctypes.Array[ctypes.c_int32]:
    return (ctypes.c_int32 * len(token_ids))(*token_ids)


def _taken(text: ctypes.c_void_p) -> str:
    """A string that the library made for the caller."""
    try:
        return ctypes.string_at(text.value or 0).decode(errors="replace") if text.value else ""
    finally:
        _function("OgaDestroyString")(text)


def _call(name: str, *arguments: Any) -> None:
    """Call a function that returns null, or what went wrong.

    :raises RuntimeError: it went wrong.
    """
    if result := _function(name)(*arguments):
        failure = ctypes.c_void_p(result)
        said = _function("OgaResultGetError")(failure) or b""
        _function("OgaDestroyResult")(failure)
        raise RuntimeError(said.decode(errors="replace"))


@cache
def _function(name: str) -> Any:
    function = getattr(_library(), name)
    nothing = name.startswith(("OgaDestroy", "OgaRegister", "OgaShutdown"))
    function.restype = None if nothing else _RESULTS.get(name, ctypes.c_void_p)
    return function


@cache
def _library() -> ctypes.CDLL:
    """The shared library in the installed package, after the runtime that it is to use.

    :raises ImportError: one of the packages is missing.
    """
    runtime_name, name = _NAMES.get(sys.platform, ("libonnxruntime.so*", "libonnxruntime-genai.so"))
    runtime = next((_folder("onnxruntime") / "capi").glob(runtime_name), None)
    if runtime is None:
        raise ImportError(f"{_folder('onnxruntime')} has no {runtime_name}: install onnxruntime again")
    os.environ["ORT_LIB_PATH"] = str(runtime)
    if sys.platform == "win32":
        os.add_dll_directory(str(runtime.parent))
    else:
        ctypes.CDLL(str(runtime))  # found by its name from then on
    library = ctypes.CDLL(str(_folder("onnxruntime_genai") / name))
    library.OgaShutdown.restype = None
    atexit.register(library.OgaShutdown)  # before the first `weakref.finalize`, so it runs after all of them
    return library


def _folder(package: str) -> Path:
    """Where a package is installed. It is not imported: its modules would take memory."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"no package {package}: install it with `pip install {package.replace('_', '-')}`")
    return Path(spec.submodule_search_locations[0])
