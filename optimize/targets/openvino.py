"""Intel's NPU, by OpenVINO: the model as OpenVINO's graph, in an ONNX file that hands it to the provider as it is.

    convert      Hugging Face folder -> OpenVINO's graph (IR) with integer weights, keys and values as its own state
    io_update    names and shapes as onnxruntime-genai wants them
    encapsulate  an ONNX graph of one node (EPContext) that names the IR; genai_config.json

All three are Olive's passes, run in the environment `openvino`. The IR is compiled for the NPU on the box, when it is
first loaded, with static shapes that `load_config` gives. Here it is compiled for the CPU and compared.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.bundle_targets import TargetEntry
from edge.config import to_plain
from edge.errors import BuildError, ConfigError
from edge.files import sha256_file, write_atomic
from optimize import environments, evaluate, head, olive_runner, openvino_runner, projection
from optimize.stages import Stage, code, digest_of
from optimize.targets import npu_gate, openvino_recipe
from optimize.targets.base import Made
from optimize.targets.openvino_recipe import OpenvinoRecipe

if TYPE_CHECKING:
    from optimize.build import Build
    from optimize.recipe import Recipe

ENVIRONMENT = "openvino"
PROVIDER, PACKAGE, PACKAGE_VERSION = "OpenVINOExecutionProvider", "onnxruntime-ep-openvino", "1.8.1"
"""What a box runs it with. 1.8.1 brings OpenVINO 2026.4, which the environment builds with."""
GRAPH = "openvino_model_dy"
_FILES = (f"{GRAPH}.onnx", f"{GRAPH}.xml", f"{GRAPH}.bin", "genai_config.json")
_OF_THE_CPU_FORM = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_WINDOW_TOKENS = 256  # read at once when it is compared


class OpenVino:
    name = "openvino"

    def check(self, recipe: Recipe) -> None:
        """See `optimize.targets.base.Target`."""
        wanted = _section(recipe)
        if wanted.context_tokens > recipe.model.context_tokens:
            raise ConfigError(
                f"openvino: prompt_tokens and answer_tokens make {wanted.context_tokens}, more than "
                f"model.context_tokens: {recipe.model.context_tokens}, which the CPU takes over with"
            )
        if recipe.adapters:
            raise ConfigError(
                "target openvino takes no adapters beside the model: merge one (adapter:), or build for cpu"
            )
        environments.interpreter(ENVIRONMENT)

    def make(self, build: Build, parent: Stage, model: Stage) -> tuple[Made, ...]:
        """See `optimize.targets.base.Target`."""
        recipe = _section(build.recipe)
        reads = {
            "parent": parent.digest,
            "tokenizer": {name: model.files[name] for name in _OF_THE_CPU_FORM},
            "recipe": {key: value for key, value in to_plain(recipe).items() if key != "gate"},
            "environment": environments.digest(ENVIRONMENT),
            "code": code(olive_runner, openvino_recipe) + _own_code(),
        }

        def work(out: Path) -> None:
            convert(parent.path, model.path, recipe, out, f"openvino-{digest_of(reads)[:12]}")

        made = build.stage("openvino", reads, work, needed_bytes=4 * (parent.path / "model.safetensors").stat().st_size)
        result = self._compared(build, parent, model, made, recipe.gate.tokens)
        gate = npu_gate.judge("the form for OpenVINO, run on the CPU,", result, recipe.gate)
        entry = TargetEntry(
            name=self.name,
            path=self.name,
            provider=PROVIDER,
            package=PACKAGE,
            package_version=PACKAGE_VERSION,
            context_tokens=recipe.context_tokens,
            chunk_tokens=0,
            min_assigned_share=1.0,  # one node, all or nothing
            weights_bytes=(made.path / f"{GRAPH}.bin").stat().st_size,
            provider_options=options(recipe),
            quantization={"weights": recipe.weights, "symmetric": recipe.symmetric, "group_size": recipe.group_size},
        )
        return (Made(made, entry, gate),)

    def tools(self) -> dict[str, str]:
        """The environment's pins of what decides the result."""
        wanted = ("nncf", "openvino", "optimum-intel")
        pins = environments.lock_file(ENVIRONMENT).read_text(encoding="utf-8").splitlines()
        found = dict(line.split("==") for line in pins if "==" in line and not line.startswith("#"))
        return {name: found[name] for name in wanted}

    def _compared(self, build: Build, parent: Stage, model: Stage, made: Stage, tokens: int) -> npu_gate.NpuResult:
        reference = build.reference(parent)
        reads = {
            "openvino": made.digest,
            "model": model.digest,
            "reference": reference.digest,
            "tokens": tokens,
            "environment": environments.digest(ENVIRONMENT),
            "code": code(openvino_runner, npu_gate, evaluate, projection, head) + _own_code(),
        }

        def work(out: Path) -> None:
            log = f"openvino-gate-{digest_of(reads)[:12]}"
            npu_gate.write(compare(made.path, model.path, reference.path, tokens, out, log), out)

        return npu_gate.read(build.stage("openvino-gate", reads, work, needed_bytes=2**30).path)


TARGET = OpenVino()


def options(recipe: OpenvinoRecipe) -> dict[str, str]:
    """The provider's options, as genai_config.json has them."""
    shapes = {"MAX_PROMPT_LEN": str(recipe.prompt_tokens), "MIN_RESPONSE_LEN": str(recipe.answer_tokens)}
    needed = {"device_type": "NPU", "enable_causallm": "True", "load_config": json.dumps({"NPU": shapes})}
    return {**needed, **recipe.provider_options}


def convert(parent: Path, model: Path, recipe: OpenvinoRecipe, out: Path, log_name: str) -> None:
    """Write the NPU's form of `parent` into `out`, a folder for onnxruntime-genai.

    :param model: the CPU form, whose tokenizer and chat template both have.
    :raises BuildError: Olive failed, or wrote something else than such a folder.
    """
    scratch = out / ".scratch"
    scratch.mkdir()
    weights: dict[str, Any] = {"weight_format": recipe.weights, "sym": recipe.symmetric}
    if recipe.weights == "int4":
        weights |= {"group_size": recipe.group_size, "ratio": 1.0}
    task = "text-generation-with-past"
    passes = {
        "convert": {
            "type": "OpenVINOOptimumConversion",
            "extra_args": {"device": "cpu", "task": task, "disable_convert_tokenizer": True},
            "ov_quant_config": weights,
        },
        "io_update": {"type": "OpenVINOIoUpdate", "static": False, "reuse_cache": True},
        "encapsulate": {
            "type": "OpenVINOEncapsulation",
            "target_device": "npu",
            "keep_ov_dynamic_dims": True,
            "reuse_cache": True,
        },
    }
    built = olive_runner.run_workflow(
        {"type": "HfModel", "model_path": str(parent), "task": task},
        passes,
        scratch,
        log_name,
        provider=PROVIDER,
        python=environments.interpreter(ENVIRONMENT),
    )
    folder = built if built.is_dir() else built.parent
    for name in _FILES:
        if not (folder / name).is_file():
            raise BuildError(f"OpenVINO's tools wrote no {name}; this kind of model is not supported by them")
        (folder / name).replace(out / name)
    shutil.rmtree(scratch)
    for name in _OF_THE_CPU_FORM:
        shutil.copyfile(model / name, out / name)
    _settle(out, model, recipe)
    check_structure(out)


def check_structure(folder: Path) -> None:
    """Check that the parts of the NPU's form fit together.

    The ONNX graph is one node for the provider, names a file that is there, and has the inputs and outputs that
    genai_config.json names.

    :raises BuildError: they do not.
    """
    import onnx

    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]["decoder"]
    graph = onnx.load(folder / config["filename"]).graph
    if [node.op_type for node in graph.node] != ["EPContext"]:
        raise BuildError(f"{folder / config['filename']} is not one node for the provider")
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in graph.node[0].attribute}
    source, context = attributes.get("source", b"").decode(), attributes.get("ep_cache_context", b"").decode()
    if source != PROVIDER or not (folder / context).is_file():
        raise BuildError(f"{folder / config['filename']} names {context!r} for {source!r}, which is not there")
    there = {port.name for port in (*graph.input, *graph.output)}
    named = {*config["inputs"].values(), *config["outputs"].values()}
    if not named <= there:
        raise BuildError(f"genai_config.json names {', '.join(sorted(named - there))}, which the graph does not have")


def compare(made: Path, model: Path, reference: Path, tokens: int, out: Path, log_name: str) -> npu_gate.NpuResult:
    """Run the NPU's form with OpenVINO on the CPU, and compare it with the CPU form and with the parent.

    :param reference: what `evaluate.read_parent` wrote.
    :raises BuildError: it cannot be read or run.
    """
    import numpy as np

    windows = npu_gate.windows(reference, tokens, _WINDOW_TOKENS)
    scratch = out / ".scratch"
    scratch.mkdir()
    python = environments.interpreter(ENVIRONMENT)
    openvino_runner.run(made, f"{GRAPH}.xml", windows, scratch, log_name, python)
    logits = np.load(scratch / openvino_runner.LOGITS, mmap_mode="r")
    of_window = {window.tobytes(): index for index, window in enumerate(windows)}
    found = npu_gate.compare(model, reference, windows, lambda window: np.array(logits[of_window[window.tobytes()]]))
    shutil.rmtree(scratch)
    return found


def _section(recipe: Recipe) -> OpenvinoRecipe:
    if recipe.openvino is None:
        raise ConfigError("target openvino needs a section openvino: configs/optimize/npu-openvino.yaml has one")
    return recipe.openvino


def _settle(out: Path, model: Path, recipe: OpenvinoRecipe) -> None:
    """Lengths, options and ends of an answer, as the recipe and the CPU form have them."""
    config = json.loads((out / "genai_config.json").read_text(encoding="utf-8"))
    of_cpu = json.loads((model / "genai_config.json").read_text(encoding="utf-8"))
    config["search"]["max_length"] = recipe.context_tokens
    config["model"]["decoder"]["session_options"]["provider_options"] = [{"OpenVINO": options(recipe)}]
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        config["model"][key] = of_cpu["model"][key]
    write_atomic(out / "genai_config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")


def _own_code() -> str:
    return sha256_file(Path(__file__))
