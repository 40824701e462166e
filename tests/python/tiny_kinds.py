"""Tiny random models of the kinds that take or make something else than text, each made from a config.

Their architectures are mlx-vlm's and mlx-audio's: Qwen2-VL for images, Whisper for transcripts, Soprano for speech.
"""

import base64
import io
import json
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% else %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def vision(folder: Path) -> Path:
    """A Qwen2-VL with 2 layers for text and 2 for images."""
    from mlx_vlm.models import qwen2_vl

    special = ["<|pad|>", "<|im_start|>", "<|im_end|>", "<|eos|>", "<|vision_start|>", "<|vision_end|>"]
    special += ["<|image_pad|>", "<|video_pad|>"]
    settings = {"tokenizer_class": "Qwen2Tokenizer", "unk_token": "<|pad|>", "processor_class": "Qwen2VLProcessor"}
    ids = _tokenizer(
        folder, special, {**settings, "eos_token": "<|eos|>", "pad_token": "<|pad|>", "chat_template": _CHAT}
    )
    image = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 4, "mlp_ratio": 2, "patch_size": 14}
    config: dict[str, Any] = {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": len(ids),
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": ids["<|eos|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_config": {"model_type": "qwen2_vl", **image, "spatial_merge_size": 2, "temporal_patch_size": 2},
    }
    _write(folder, "config.json", config)
    sizes = {"min_pixels": 784, "max_pixels": 50176, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
    kinds = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor"}
    _write(folder, "preprocessor_config.json", {**kinds, **sizes, "image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    made = qwen2_vl.ModelConfig.from_dict(config)
    made.text_config = qwen2_vl.TextConfig.from_dict(config)
    made.vision_config = qwen2_vl.VisionConfig.from_dict(config["vision_config"])
    return _weights(folder, qwen2_vl.Model(made), scale=0.2)


def transcription(folder: Path) -> Path:
    """A Whisper with one layer on each side, which knows English alone."""
    from mlx_audio.stt.models.whisper.whisper import Model, ModelDimensions

    tasks = "endoftext startoftranscript en translate transcribe startoflm startofprev nospeech notimestamps".split()
    special = [f"<|{task}|>" for task in tasks] + [f"<|{index * 0.02:.2f}|>" for index in range(1501)]
    settings = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), "<|endoftext|>")
    ids = _tokenizer(folder, special, {**settings, "tokenizer_class": "WhisperTokenizer"})
    sound = {"feature_size": 80, "sampling_rate": 16000, "hop_length": 160, "chunk_length": 30, "n_fft": 400}
    _write(folder, "preprocessor_config.json", {"feature_extractor_type": "WhisperFeatureExtractor", **sound})
    config = {"architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper", "n_mels": 80}
    config |= {"n_audio_ctx": 1500, "n_audio_state": 16, "n_audio_head": 2, "n_audio_layer": 1, "n_vocab": len(ids)}
    config |= {"n_text_ctx": 32, "n_text_state": 16, "n_text_head": 2, "n_text_layer": 1}
    _write(folder, "config.json", config)
    return _weights(folder, Model(ModelDimensions.from_dict(config)))


def speech(folder: Path) -> Path:
    """A Soprano whose language model has one layer; mlx-audio gives its decoder 14 M numbers."""
    from mlx_audio.tts.models.soprano.soprano import Model, ModelConfig

    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|eos|>", "pad_token": "[STOP]"}
    ids = _tokenizer(folder, ["[STOP]", "[TEXT]", "[START]", "<|eos|>"], settings)
    config: dict[str, Any] = {
        "architectures": ["SopranoForTTS"],
        "model_type": "soprano",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "vocab_size": len(ids),
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "sample_rate": 32000,
    }
    _write(folder, "config.json", config)
    return _weights(folder, Model(ModelConfig.from_dict({**config, "model_path": str(folder)})), mx.float16)


def wav(seconds: float = 1.0, hertz: float = 440.0) -> bytes:
    """A WAV file with a tone in it."""
    tone = np.sin(np.arange(int(16000 * seconds)) * (2 * np.pi * hertz / 16000)) * 8000
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(16000)
        writer.writeframes(tone.astype("<i2").tobytes())
    return file.getvalue()


def picture(colour: str) -> dict[str, Any]:
    """A content part with a picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (56, 56), colour).save(file, "PNG")
    return {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"},
    }


def _tokenizer(folder: Path, special: Sequence[str], settings: dict[str, Any]) -> dict[str, int]:
    folder.mkdir(parents=True, exist_ok=True)
    ids = {token: index for index, token in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), *special])}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(folder, "tokenizer_config.json", {"model_max_length": 512, **settings})
    _write(folder, "vocab.json", ids)
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return ids


def _weights(folder: Path, model: Any, dtype: Any = mx.float32, *, scale: float = 0.05) -> Path:
    draw = np.random.default_rng(0)
    arrays = {
        name: mx.array(draw.standard_normal(old.shape, np.float32) * scale if old.ndim > 1 else np.array(old)).astype(
            dtype
        )
        for name, old in tree_flatten(model.parameters())
    }
    mx.save_safetensors(str(folder / "model.safetensors"), arrays, metadata={"format": "mlx"})
    return folder


def _write(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
