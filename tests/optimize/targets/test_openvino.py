"""The target openvino: what it refuses, what it writes, and what it makes of a tiny model where its tools are there."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edge.errors import BuildError, ConfigError
from optimize import environments, openvino_runner
from optimize.recipe import AdapterRecipe, Recipe, load_recipe
from optimize.targets import get, openvino
from optimize.targets.openvino_recipe import OpenvinoRecipe


@pytest.fixture
def recipe() -> Recipe:
    return load_recipe("npu-openvino")


def made(folder: Path, **attributes: Any) -> Path:
    """What Olive writes, without weights."""
    names = ("input_ids", "attention_mask", "position_ids", "beam_idx")
    inputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [-1, -1]) for name in names]
    output = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [-1, -1, 520])
    given = {"source": "OpenVINOExecutionProvider", "ep_cache_context": f"{openvino.GRAPH}.xml", **attributes}
    node = onnx.helper.make_node("EPContext", list(names), ["logits"], domain="com.microsoft", **given)
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", inputs, [output])), folder / "m.onnx")
    (folder / f"{openvino.GRAPH}.xml").write_text("<net/>")
    wanted = {"inputs": {name: name for name in names[:3]}, "outputs": {"logits": "logits"}, "filename": "m.onnx"}
    (folder / "genai_config.json").write_text(json.dumps({"model": {"decoder": wanted}}))
    return folder


def test_recipe_without_its_section_is_refused(recipe: Recipe) -> None:
    with pytest.raises(ConfigError, match=r"npu-openvino\.yaml has one"):
        get("openvino").check(replace(recipe, openvino=None))


def test_context_longer_than_the_fallback_has_is_refused(recipe: Recipe) -> None:
    with pytest.raises(ConfigError, match=r"make 2128, more than model\.context_tokens: 2048"):
        get("openvino").check(replace(recipe, openvino=OpenvinoRecipe(prompt_tokens=2000)))


def test_adapters_beside_the_model_are_refused(recipe: Recipe) -> None:
    beside = {"support": AdapterRecipe(path=Path("a"), sha256="0" * 64)}
    with pytest.raises(ConfigError, match="merge one"):
        get("openvino").check(replace(recipe, adapters=beside))


def test_environment_that_is_not_there_is_named(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_CACHE", str(tmp_path))
    with pytest.raises(BuildError, match=r"make_environment\.py openvino"):
        get("openvino").check(recipe)


@pytest.mark.parametrize(
    "wrong", [{"group_size": 128}, {"weights": "int4", "group_size": 7}, {"answer_tokens": 0}, {"prompt_tokens": 8}]
)
def test_recipe_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        OpenvinoRecipe(**wrong)


def test_provider_is_told_the_static_shapes() -> None:
    found = openvino.options(OpenvinoRecipe(prompt_tokens=512, answer_tokens=64, provider_options={"cache_dir": "c"}))
    assert found["device_type"] == "NPU"
    assert found["cache_dir"] == "c"
    assert json.loads(found["load_config"]) == {"NPU": {"MAX_PROMPT_LEN": "512", "MIN_RESPONSE_LEN": "64"}}


def test_tools_of_the_environment_are_in_the_manifest() -> None:
    found = get("openvino").tools()
    assert found.keys() == {"nncf", "openvino", "optimum-intel"}
    assert all(version[0].isdigit() for version in found.values())


def test_parts_that_fit_are_passed(tmp_path: Path) -> None:
    openvino.check_structure(made(tmp_path))


@pytest.mark.parametrize(
    "wrong", [{"source": "QNNExecutionProvider"}, {"ep_cache_context": "other.xml"}, {"ep_cache_context": ""}]
)
def test_graph_for_another_provider_or_without_its_file_is_refused(tmp_path: Path, wrong: dict[str, str]) -> None:
    with pytest.raises(BuildError, match="which is not there"):
        openvino.check_structure(made(tmp_path, **wrong))


def test_input_that_the_graph_lacks_is_named(tmp_path: Path) -> None:
    folder = made(tmp_path)
    config = json.loads((folder / "genai_config.json").read_text())
    config["model"]["decoder"]["inputs"]["position_ids"] = "positions"
    (folder / "genai_config.json").write_text(json.dumps(config))
    with pytest.raises(BuildError, match="names positions"):
        openvino.check_structure(folder)


@pytest.mark.process
def test_tiny_model_goes_the_whole_way(tiny_llama: Path, tmp_path: Path) -> None:
    """Converted, encapsulated, its IR run by OpenVINO on the CPU: the logits are those of PyTorch, but for rounding."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        python = environments.interpreter("openvino")
    except BuildError as error:
        pytest.skip(str(error))
    built = tmp_path / "cpu"
    built.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(tiny_llama / name, built / name)
    of_cpu = {"model": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}}
    (built / "genai_config.json").write_text(json.dumps(of_cpu))
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    out.mkdir()
    scratch.mkdir()
    openvino.convert(tiny_llama, built, OpenvinoRecipe(prompt_tokens=192, answer_tokens=64), out, "tiny-openvino")
    config = json.loads((out / "genai_config.json").read_text())
    assert config["search"]["max_length"] == 256
    assert config["model"]["eos_token_id"] == 2
    windows = np.arange(20, 148, dtype=np.int64).reshape(2, 64)
    found = openvino_runner.run(out, f"{openvino.GRAPH}.xml", windows, scratch, "tiny-openvino-run", python)
    assert found["states"] == 4, "keys and values of two layers"
    logits = np.load(scratch / openvino_runner.LOGITS)
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()
    with torch.inference_mode():
        wanted = model(torch.from_numpy(windows)).logits.numpy()
    assert (logits.argmax(axis=2) == wanted.argmax(axis=2)).mean() > 0.85
