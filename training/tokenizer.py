"""The tokenizer: training of the byte-level BPE, its chat template, and a fast encoder for generated ASCII text.

python -m training.tokenizer OUT_FOLDER
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from training import chats
from training.words import Sampler

VOCABULARY = 4096
SPECIAL = (
    chats.END_OF_TEXT,
    chats.IM_START,
    chats.IM_END,
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
WORD = r"'s| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
ASCII_WORD = re.compile(r"'s| ?[A-Za-z]+|[0-9]| ?[^\sA-Za-z0-9]+|\s+")

CHAT_TEMPLATE = """\
{%- set head = messages[0].content if messages and messages[0].role == 'system' else '' -%}
{%- set rest = messages[1:] if messages and messages[0].role == 'system' else messages -%}
{%- macro text(content) -%}
{%- if content is string -%}{{ content }}
{%- elif content -%}{%- for part in content -%}{%- if part.type == 'text' -%}{{ part.text }}{%- endif -%}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- if tools or head -%}
{{- '<|im_start|>system\\n' + text(head) -}}
{%- if tools -%}
{%- if head -%}{{- '\\n\\n' -}}{%- endif -%}
{{- 'Tools you may call, one JSON object a line:\\n' -}}
{%- for tool in tools -%}{{- (tool | tojson) + '\\n' -}}{%- endfor -%}
{{- 'To call one, write <tool_call>{"name": NAME, "arguments": OBJECT}</tool_call>.' -}}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in rest -%}
{%- if message.role == 'tool' -%}
{{- '<|im_start|>user\\n<tool_response>\\n' + text(message.content) + '\\n</tool_response><|im_end|>\\n' -}}
{%- else -%}
{{- '<|im_start|>' + message.role + '\\n' + text(message.content) -}}
{%- for call in message.tool_calls or [] -%}
{%- set called = call.function if call.function is defined else call -%}
{{- '<tool_call>{"name": "' + called.name + '", "arguments": ' -}}
{{- called.arguments if called.arguments is string else (called.arguments | tojson) -}}
{{- '}</tool_call>' -}}
{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def train(sequences: int = 700, length: int = 12000) -> Tokenizer:
    """Train the BPE on text of the train side of the split; the same call gives the same tokenizer."""
    texts: list[str] = []

    def keep(text: str) -> list[int]:
        texts.append(text)
        return [0] * (len(text) // 4)

    for seed in range(sequences):
        chats.sequence(Sampler(f"tokenizer/{seed}", "train"), length // 4, keep, dict.fromkeys(SPECIAL, 0))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL[:3]])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in SPECIAL[3:]])
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, context: int) -> None:
    """Write the files that transformers and mlx-lm read."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": chats.IM_END,
        "pad_token": chats.END_OF_TEXT,
        "unk_token": None,
        "add_bos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


class Encoder:
    """Encodes ASCII text without special tokens: every word once through the tokenizer, then from a table."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.table: dict[str, list[int]] = {}
        self.special = {token: tokenizer.token_to_id(token) for token in SPECIAL}

    def __call__(self, text: str) -> list[int]:
        """Token ids of the text, the same that the tokenizer gives."""
        table = self.table
        ids: list[int] = []
        for word in ASCII_WORD.findall(text):
            known = table.get(word)
            if known is None:
                known = self.tokenizer.encode(word, add_special_tokens=False).ids
                if len(table) > 400_000:
                    table.clear()
                table[word] = known
            ids += known
        return ids


if __name__ == "__main__":
    save(train(), Path(sys.argv[1]), 8192)
