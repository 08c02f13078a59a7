"""The only door to Olive. `run_workflow(config, ...)` runs one in a process of its own and returns its output folder.

Olive 0.13 swallows many errors of its passes, so success is what `has_output_model()` says, and its cache knows nothing
of package versions, so every run gets a cache of its own. Its ModelBuilder pass was written for an older
onnxruntime-genai than 0.18; `adapted` bridges the two and refuses versions that it was not written for.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge.errors import BuildError
from edge.files import write_atomic
from optimize import architectures, child

TOOLS = ("olive-ai", "onnxruntime-genai", "onnxruntime", "onnx", "onnx-ir", "torch", "transformers")
SHIM_VERSIONS = {"olive-ai": "0.13.", "onnxruntime-genai": "0.18."}
_NO_OUTPUT = 3
_RESULT = "result.json"


def run_workflow(
    input_model: dict[str, Any],
    passes: dict[str, Any],
    scratch: Path,
    log_name: str,
    data_configs: list[dict[str, Any]] | None = None,
    *,
    provider: str = "CPUExecutionProvider",
    python: Path | None = None,
) -> Path:
    """Run Olive passes over a model on the CPU and return the file or folder of the output model, below `scratch`.

    :param input_model: Olive's `input_model`, e.g. {"type": "HfModel", "model_path": ...}.
    :param passes: Olive's `passes`, name -> {"type": ..., options}.
    :param scratch: an existing folder; Olive's cache and output go there.
    :param data_configs: Olive's `data_configs`, which a pass may name.
    :param provider: ONNX Runtime's, that the passes write for.
    :param python: of another environment (`optimize.environments`), which has Olive too.
    :raises BuildError: a pass failed, whether Olive said so or not; names the log.
    """
    versions = "-".join(importlib.metadata.version(name) for name in SHIM_VERSIONS)
    config = {
        "input_model": input_model,
        "systems": {
            "box": {
                "type": "LocalSystem",
                "accelerators": [{"device": "cpu", "execution_providers": [provider]}],
            }
        },
        "passes": passes,
        "data_configs": data_configs or [],
        "host": "box",
        "target": "box",
        "output_dir": str(scratch / "output"),
        "cache_dir": str(scratch / f"cache-{versions}"),
        "clean_cache": True,  # failures are cached too
        "evaluate_input_model": False,
        "log_severity_level": 1,
    }
    write_atomic(scratch / "job.json", json.dumps(config, indent=2))
    (scratch / _RESULT).unlink(missing_ok=True)
    what = f"Olive ({', '.join(options['type'] for options in passes.values())})"
    child.run("optimize.olive_runner", [str(scratch / "job.json")], what, log_name, scratch, python=python)
    return Path(json.loads((scratch / _RESULT).read_text(encoding="utf-8"))["model_path"])


def check_versions() -> None:
    """:raises BuildError: Olive or onnxruntime-genai is not a version that the adapter was written for."""
    for package, wanted in SHIM_VERSIONS.items():
        found = importlib.metadata.version(package)
        if not found.startswith(wanted):
            raise BuildError(
                f"{package} {found} is installed; the adapter between Olive and onnxruntime-genai was written for "
                f"{wanted}x. Run pip install 'edge-slm[optimize]' to get the versions that fit"
            )


def adapted(builder: Any) -> Callable[..., Any]:
    """genai 0.18's `create_model` as older callers call it: options checked and named as 0.18 has them, and the model's
    configuration in the form that it reads.

    :param builder: the module `onnxruntime_genai.models.builder`.
    """
    architectures.fit_builder(builder)
    original = builder.create_model
    names = ("block_size", "accuracy_level", "is_symmetric", "op_types_to_quantize", "nodes_to_exclude", "algo_config")
    renamed = {f"int4_{name}": name for name in names}

    def create_model(
        model_name: str, input_path: str, output_dir: str, precision: Any, execution_provider: str, cache_dir: str,
        **options: Any,
    ) -> Any:  # fmt: skip
        options = {renamed.get(key, key): value for key, value in options.items()}
        plain = getattr(precision, "value", precision)
        builder.check_extra_options(model_name, input_path, output_dir, plain, execution_provider, cache_dir, options)
        architectures.fit(options["hf_details"]["hf_config"])
        return original(model_name, input_path, output_dir, plain, execution_provider, cache_dir, **options)

    return create_model


def _adapt_model_builder() -> None:
    """Let Olive's ModelBuilder pass call genai 0.18."""
    import onnxruntime_genai.models.builder as builder
    from olive.passes.onnx.model_builder import ModelBuilder

    check_versions()
    builder.create_model = adapted(builder)
    ModelBuilder.maybe_patch_quant = staticmethod(lambda: None)


def _main(job: Path) -> int:
    child.die_with_parent()
    child.quiet()
    config = json.loads(job.read_text(encoding="utf-8"))
    if any(options["type"] == "ModelBuilder" for options in config["passes"].values()):
        _adapt_model_builder()
    from olive.workflows import run

    output = run(config)
    if not output.has_output_model():
        sys.stderr.write("Olive ended without an output model: a pass failed, see above\n")
        return _NO_OUTPUT
    write_atomic(job.with_name(_RESULT), json.dumps({"model_path": str(output.get_best_candidate().model_path)}))
    return 0


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1])))
