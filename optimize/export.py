"""What was fetched -> a Hugging Face folder in fp32: the parent that every build is made from and compared with.

A GGUF file is dequantized; a folder is loaded and saved again, so that every parent looks the same (one dtype, one
file layout, tokenizer and chat template beside the weights) and later stages need not know where it came from. What
families of models do differently in their chat templates is settled here too: see optimize.dialogue.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from edge.errors import BuildError, SourceError
from edge.files import write_atomic
from edge.machine import cores
from optimize import architectures, child, dialogue

TOOLS = ("torch", "transformers", "gguf", "safetensors", "tokenizers")
CHAT_TEMPLATE = dialogue.TEMPLATE


def export_parent(fetched: Path, out: Path, log_name: str) -> None:
    """Write config.json, model.safetensors (float32), tokenizer.json and chat_template.jinja into `out`.

    Runs in a process of its own: loading takes about twice the size of the fp32 weights, given back at its end.

    :param fetched: a GGUF file or a Hugging Face folder.
    :raises SourceError: the file is no GGUF file.
    :raises BuildError: the model cannot be built, cannot be loaded, or has no tokenizer or chat template.
    """
    if (config := fetched / "config.json").is_file():
        architectures.check(json.loads(config.read_text(encoding="utf-8")), fetched.name)
    if fetched.is_file() and _magic(fetched) != b"GGUF":
        raise SourceError(f"{fetched}: not a GGUF file")
    scratch = out / ".scratch"
    child.run("optimize.export", [str(fetched), str(out)], f"Reading {fetched.name}", log_name, scratch)
    shutil.rmtree(scratch, ignore_errors=True)
    if not (out / CHAT_TEMPLATE).is_file():
        raise BuildError(f"{fetched.name} brings no chat template; take an instruction-tuned model")


def needed_bytes(fetched: Path) -> int:
    """An upper bound for the bytes that the fp32 folder of this source takes."""
    if fetched.is_file():
        return 8 * fetched.stat().st_size  # 4 bits at least per weight in the file, 32 in the folder
    return 2 * sum(path.stat().st_size for path in fetched.rglob("*") if path.is_file()) + 2**20


def _magic(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(4)


def _main(fetched: Path, out: Path) -> None:
    child.die_with_parent()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(cores())
    if fetched.is_file():
        # the content-addressed name has no suffix, and the loader wants one
        link = out / "weights.gguf"
        link.symlink_to(fetched.resolve())
        given = {"pretrained_model_name_or_path": str(out), "gguf_file": link.name}
    else:
        given = {"pretrained_model_name_or_path": str(fetched)}
    tokenizer = AutoTokenizer.from_pretrained(**given)
    model = AutoModelForCausalLM.from_pretrained(**given, dtype=torch.float32)
    if fetched.is_file():
        link.unlink()
        # transformers refuses to save a model that was dequantized; a fresh one with the same weights it saves
        config, weights, generation = model.config, model.state_dict(), model.generation_config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        with torch.device("meta"):
            fresh = type(model)(config)
        fresh.load_state_dict(weights, assign=True)
        fresh.tie_weights()
        fresh.generation_config = generation
        model = fresh
    model.save_pretrained(out, max_shard_size="100GB")
    tokenizer.save_pretrained(out)
    dialogue.settle(out, tokenizer)
    # the path it was loaded from does not belong into what the next stage reads
    for path in (out / "config.json", out / "generation_config.json"):
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            content.pop("_name_or_path", None)
            write_atomic(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    import sys

    _main(Path(sys.argv[1]), Path(sys.argv[2]))
