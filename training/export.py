"""Write the trained weights as a Hugging Face folder: bf16 safetensors, config.json, generation_config.json."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from training.model import Notes, Shape
from training.tokenizer import SPECIAL, VOCABULARY


def write_model(model: Notes, folder: Path) -> None:
    """Write weights and configuration; the tokenizer's files are written by training.tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.bfloat16().contiguous().cpu() for name, tensor in model.named_tensors().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    first = VOCABULARY - len(SPECIAL)
    end_of_text, im_end = first, first + 2
    config = model.shape.config() | {"bos_token_id": None, "eos_token_id": im_end, "pad_token_id": end_of_text}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    generation = {"do_sample": False, "eos_token_id": [im_end, end_of_text], "pad_token_id": end_of_text}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")


def read_model(folder: Path, *, float32: bool = False) -> Notes:
    """The model of such a folder."""
    tensors = load_file(folder / "model.safetensors")
    model = Notes(Shape(), float32=float32)
    with torch.no_grad():
        for name, target in model.named_tensors().items():
            target.copy_(tensors[name].float())
    return model
