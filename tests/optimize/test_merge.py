"""Merging: the sum is right, and an adapter for another base is refused before anything is loaded."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from edge.errors import BuildError
from edge.files import sha256_file
from optimize import merge
from optimize.finetune import ADAPTER, CARD, CONFIG, weights_digest
from optimize.finetune_recipe import AdapterSource, DataRecipe, FineTuneRecipe
from optimize.training import adapter
from optimize.training.model import Tuned

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
RECIPE = FineTuneRecipe(
    DataRecipe((Path("none"),)), max_tokens=512, rank=4, dtype="fp32", targets=("q_proj", "down_proj")
)


def made(tiny_llama: Path, folder: Path, method: Literal["lora", "dora"] = "lora") -> Tuned:
    import torch

    tuned = Tuned(tiny_llama, replace(RECIPE, method=method))
    for name, parameter in tuned.peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapter.write(tuned.state(), tuned.config(), "test/tiny", folder)
    return tuned


@pytest.fixture
def ready(tiny_llama: Path, tmp_path: Path) -> Path:
    made(tiny_llama, tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.process
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_merged_model_says_what_the_adapter_says(
    tiny_llama: Path, tmp_path: Path, method: Literal["lora", "dora"], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    monkeypatch.setenv("EDGE_CACHE", str(tmp_path / "cache"))
    tuned = made(tiny_llama, tmp_path / "adapter", method)
    out = tmp_path / "merged"
    out.mkdir()
    merge.merge(tiny_llama, "test/tiny", tmp_path / "adapter", out, "merge-test")
    assert {file.name for file in out.iterdir()} == {*(file.name for file in tiny_llama.iterdir()), "merged.json"}
    assert merge._shapes(out / "model.safetensors") == merge._shapes(tiny_llama / "model.safetensors")
    assert json.loads((out / "merged.json").read_text())["adapter_sha256"] == sha256_file(
        tmp_path / "adapter" / ADAPTER
    )
    tokens = torch.arange(3, 43)[None]
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)(tokens).logits
        with tuned.evaluating():
            live = tuned.base(tokens).logits
        before = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)(tokens).logits
    assert float((live - before).abs().max()) > 0.1
    assert float((merged - live).abs().max()) < 0.01, "float16 storage rounds by no more"


def test_adapter_is_stored_in_half_and_names_no_path(ready: Path) -> None:
    header = (ready / ADAPTER).read_bytes()[8:]
    assert b'"F16"' in header
    assert b'"F32"' not in header
    config = json.loads((ready / CONFIG).read_text())
    assert config["base_model_name_or_path"] == "test/tiny"
    assert str(ready.parent) not in (ready / CONFIG).read_text()


def test_what_half_cannot_hold_stays_whole(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    adapter.write({"big": torch.tensor([1e6]), "small": torch.tensor([0.5])}, {}, "b", tmp_path)
    stored = load_file(tmp_path / ADAPTER)
    assert (stored["big"].dtype, stored["small"].dtype) == (torch.float32, torch.float16)
    assert float(stored["big"]) == 1e6


def change(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_adapter_for_another_base_is_refused(tiny_llama: Path, ready: Path, tmp_path: Path) -> None:
    merge.check_fits(tiny_llama, "test/tiny", ready)
    with pytest.raises(BuildError, match="it names test/tiny, the recipe's base is other/base"):
        merge.check_fits(tiny_llama, "other/base", ready)
    other = tmp_path / "other"
    for size, message in (
        ({"hidden_size": 32}, "brings .* and the base's weight is"),
        ({"num_hidden_layers": 1}, "no layer"),
    ):
        write_llama(other, **size)
        with pytest.raises(BuildError, match=f"an adapter for another base.*{message}"):
            merge.check_fits(other, "test/tiny", ready)


def test_card_tells_other_weights_of_the_same_shape(tiny_llama: Path, ready: Path, tmp_path: Path) -> None:
    (ready / CARD).write_text(json.dumps({"base": {"weights_sha256": weights_digest(tiny_llama)}}))
    merge.check_fits(tiny_llama, "test/tiny", ready)
    write_llama(tmp_path / "other")
    with pytest.raises(BuildError, match="trained on other weights of test/tiny"):
        merge.check_fits(tmp_path / "other", "test/tiny", ready)
    (ready / CARD).write_text("{}")
    with pytest.raises(BuildError, match="is damaged"):
        merge.check_fits(tiny_llama, "test/tiny", ready)


def test_damaged_adapters_are_refused(tiny_llama: Path, ready: Path, tmp_path: Path) -> None:
    whole = (ready / ADAPTER).read_bytes()
    for content in (whole[:-100], whole[:50], b"", b"\xff" * 64):
        (ready / ADAPTER).write_bytes(content)
        with pytest.raises(BuildError, match="cannot be read"):
            merge.check_fits(tiny_llama, "test/tiny", ready)
    (ready / ADAPTER).write_bytes(whole)
    change(ready, CONFIG, use_dora=True)
    with pytest.raises(BuildError, match="do not agree"):
        merge.check_fits(tiny_llama, "test/tiny", ready)
    change(ready, CONFIG, use_dora=False, peft_type="IA3")
    with pytest.raises(BuildError, match="a IA3 adapter"):
        merge.check_fits(tiny_llama, "test/tiny", ready)
    (ready / CONFIG).unlink()
    with pytest.raises(BuildError, match="Take a whole adapter folder"):
        merge.check_fits(tiny_llama, "test/tiny", ready)


def test_pinned_adapter_is_checked(ready: Path, tmp_path: Path) -> None:
    right = sha256_file(ready / ADAPTER)
    assert merge.check_source(AdapterSource(ready, right)) == ready
    with pytest.raises(BuildError, match=f"has the sha256 {right}, the recipe pins 0000"):
        merge.check_source(AdapterSource(ready, "0" * 64))
    with pytest.raises(BuildError, match=r"no such file; adapter\.path"):
        merge.check_source(AdapterSource(tmp_path / "nowhere", right))


def test_digest_of_weights_does_not_depend_on_the_file(tiny_llama: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_file(
        dict(reversed(load_file(tiny_llama / "model.safetensors").items())), tmp_path / "model.safetensors", {"a": "b"}
    )
    assert sha256_file(tmp_path / "model.safetensors") != sha256_file(tiny_llama / "model.safetensors")
    assert weights_digest(tmp_path) == weights_digest(tiny_llama)


def write_llama(folder: Path, **values: Any) -> None:
    """A random Llama like the fixture's, but for `values` and its seed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(99)
    shape = {
        "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
    }  # fmt: skip
    LlamaForCausalLM(LlamaConfig(**{**shape, **values})).save_pretrained(folder)
