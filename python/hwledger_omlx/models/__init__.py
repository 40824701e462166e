"""Models shipped in the package. `NOTES` is the folder of the small Qwen3 model that recalls facts from notes."""

from pathlib import Path

__all__ = ["NOTES"]

NOTES: Path = Path(__file__).parent / "notes"
"""Folder of the model `notes`: weights, config, tokenizer, chat template and model card."""
