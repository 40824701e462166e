"""Train the model on generated text, through stages of growing length, for a given time.

    python -m training.train --tokenizer FOLDER --out FOLDER --stages 576:2,1152:2,2304:2,4608:3 [--resume FOLDER]

A stage is LENGTH:MINUTES. Writes the fp32 weights and the optimizers' state in three files (to go on from with
--resume) and the bf16 model in Hugging Face layout. Needs one CUDA GPU of 80 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from training import chats
from training.export import write_model
from training.model import Notes, Shape
from training.optimizer import Muon
from training.stream import Stream, make
from training.tokenizer import Encoder

TOKENS = 147_456
"""Tokens of a step, whatever the length: 576 * 256 = 4608 * 32 = 9216 * 16."""

ROLE_WEIGHTS = {chats.TEXT: 1.0, chats.CONTEXT: 0.3, chats.REPLY: 1.0, chats.ANSWER: 5.0, chats.UNKNOWN: 3.0}


def exact_answers(model: Notes, encoder: Encoder, length: int, count: int) -> dict[str, float]:
    """Share of answers given exactly (greedily, end mark included) and perplexity of plain text, on the held-out side.

    Teacher forcing: a greedy answer is exact if and only if every token of it is the likeliest after the right ones.
    """
    right = {chats.ANSWER: 0, chats.UNKNOWN: 0}
    asked = {chats.ANSWER: 0, chats.UNKNOWN: 0}
    loss, plain = 0.0, 0
    group = max(1, TOKENS // length)
    pairs = [make(encoder, f"check/{length}/{i}", "heldout", length) for i in range(count)]
    pairs = [pair for pair in pairs if len(pair[0]) == length + 1]
    for start in range(0, len(pairs), group):
        ids = torch.from_numpy(np.stack([p[0] for p in pairs[start : start + group]]).astype(np.int64)).cuda()
        with torch.no_grad():
            logits = model.logits(model(ids[:, :-1]))
        hits = (logits.argmax(-1) == ids[:, 1:].reshape(-1)).view(len(ids), length).cpu().numpy()
        losses = torch.nn.functional.cross_entropy(logits, ids[:, 1:].reshape(-1), reduction="none")
        losses_here = losses.view(len(ids), length).cpu().numpy()
        for row, (_, roles) in enumerate(pairs[start : start + group]):
            wanted = roles[1:]
            edges = np.flatnonzero(np.diff(wanted)) + 1
            for begin, end in zip([0, *edges], [*edges, length], strict=True):
                role = int(wanted[begin])
                if role in right and end < length:
                    asked[role] += 1
                    right[role] += int(hits[row, begin:end].all())
            text = wanted == chats.TEXT
            loss += float(losses_here[row][text].sum())
            plain += int(text.sum())
    return {
        "answers": right[chats.ANSWER] / max(1, asked[chats.ANSWER]),
        "asked": asked[chats.ANSWER],
        "unknown": right[chats.UNKNOWN] / max(1, asked[chats.UNKNOWN]),
        "perplexity": float(np.exp(loss / max(1, plain))),
    }


def save_state(model: Notes, muon: Muon, adam: torch.optim.Optimizer, out: Path) -> None:
    """Write all that --resume needs, in three files of at most 16 MiB."""
    out.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    big = ("gate", "up", "down")
    torch.save({name: value for name, value in state.items() if name in big}, out / "weights-1.pt")
    torch.save({name: value for name, value in state.items() if name not in big}, out / "weights-2.pt")
    torch.save({"muon": [b.bfloat16() for b in muon.buffers], "adam": adam.state_dict()}, out / "optimizers.pt")


def load_state(model: Notes, muon: Muon, adam: torch.optim.Optimizer, folder: Path) -> None:
    """Read what save_state wrote."""
    state = torch.load(folder / "weights-1.pt") | torch.load(folder / "weights-2.pt")
    model.load_state_dict(state)
    optimizers = torch.load(folder / "optimizers.pt")
    for buffer, saved in zip(muon.buffers, optimizers["muon"], strict=True):
        buffer.copy_(saved)
    adam.load_state_dict(optimizers["adam"])


def train(arguments: argparse.Namespace) -> None:
    """Run all stages, check and save."""
    stages = [
        (int(length), 60 * float(minutes))
        for length, minutes in (stage.split(":") for stage in arguments.stages.split(","))
    ]
    torch.manual_seed(arguments.seed)
    torch.set_float32_matmul_precision("high")
    encoder = Encoder(Tokenizer.from_file(str(arguments.tokenizer / "tokenizer.json")))
    workers = max(1, (os.cpu_count() or 2) - 1)
    stream = Stream(arguments.tokenizer, seed=arguments.seed, length=stages[0][0], workers=workers)
    model = Notes(Shape()).cuda()
    model.compile_parts()
    matrices = model.matrices()
    others = [p for p in model.parameters() if not any(p is matrix for matrix in matrices)]
    muon = Muon(matrices)
    adam = torch.optim.AdamW(others, lr=arguments.adam_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    if arguments.resume:
        load_state(model, muon, adam, arguments.resume)
    table = torch.tensor([ROLE_WEIGHTS[role] for role in range(5)]).cuda()
    total = sum(seconds for _, seconds in stages)
    begin = time.monotonic()
    step = tokens = 0
    end = 0.0
    log: list[dict[str, float]] = []
    for index, (length, seconds) in enumerate(stages):
        end += seconds
        first = True
        while (now := time.monotonic() - begin) < end:
            if index + 1 < len(stages) and end - now < arguments.ahead:
                stream.prepare(stages[index + 1][0])
            progress = now / total
            factor = min(1.0, (step + 1) / arguments.warmup)
            if progress > arguments.decay_from:
                factor *= max(0.01, (1 - progress) / (1 - arguments.decay_from))
            ids_here, roles_here = stream.batch(length, TOKENS // length)
            ids = torch.from_numpy(ids_here.astype(np.int32)).pin_memory().cuda(non_blocking=True).long()
            roles = torch.from_numpy(roles_here).pin_memory().cuda(non_blocking=True).long()
            weights = table[roles[:, 1:].reshape(-1)]
            loss = model.loss(model(ids[:, :-1]), ids[:, 1:].reshape(-1), weights) / weights.sum()
            loss.backward()
            muon.step(arguments.muon_rate * factor)
            for group in adam.param_groups:
                group["lr"] = arguments.adam_rate * factor
            adam.step()
            adam.zero_grad(set_to_none=True)
            step += 1
            tokens += TOKENS
            if step % 200 == 0 or first:
                first = False
                line = {
                    "step": step,
                    "length": length,
                    "seconds": round(time.monotonic() - begin, 1),
                    "loss": round(float(loss.detach()), 4),
                    "tokens_per_s": round(tokens / (time.monotonic() - begin)),
                    "repeated": round(stream.repeated / max(1, stream.made + stream.repeated), 3),
                }
                log.append(line)
                print(json.dumps(line), flush=True)
            if step % arguments.check_every == 0:
                print(length, json.dumps(exact_answers(model, encoder, length, TOKENS // length)), flush=True)
    save_state(model, muon, adam, arguments.out / "state")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    model._before, model._after, model._loss = Notes(Shape())._before, Notes(Shape())._after, Notes(Shape())._loss
    write_model(model, arguments.out / "model")
    (arguments.out / "log.json").write_text(json.dumps({"tokens": tokens, "steps": step, "log": log}) + "\n")
    for length in (576, 1152, 2304, 4608, 9216):
        print("held out", length, json.dumps(exact_answers(model, encoder, length, 2 * TOKENS // length)), flush=True)
    print("tokens", tokens, "steps", step, "peak memory", torch.cuda.max_memory_allocated(), flush=True)
    stream.close()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stages", default="576:2,1152:1.5,2304:2,4608:3.5")
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--muon-rate", type=float, default=0.02)
    parser.add_argument("--adam-rate", type=float, default=3e-3)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--decay-from", type=float, default=0.6)
    parser.add_argument("--ahead", type=float, default=12.0, help="seconds before a stage to start making its text")
    parser.add_argument("--check-every", type=int, default=500)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
