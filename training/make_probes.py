"""Make the probes' data from the held-out side of the split. Deterministic; run once, its output is in the repository.

python -m training.make_probes --tokenizer FOLDER --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from tokenizers import Tokenizer

from training import facts, kinds, stories
from training.tokenizer import Encoder
from training.words import Sampler

FACTS, FILLERS, PIECES = 900, 600, 420
SESSION_TOKENS = 2200
PIECE_END = "\n%%\n"


def make_facts() -> list[dict[str, str]]:
    """Facts about distinct subjects, one to three each; no name is in use twice."""
    sampler = Sampler("probes/facts", "heldout")
    out: list[dict[str, str]] = []
    used: set[str] = set()
    while len(out) < FACTS:
        who, possible = kinds.subject(sampler)
        if any(word in used for word in who.split() if word[0].isupper()) or who in used:
            continue
        used |= {who, *(word for word in who.split() if word[0].isupper())}
        seen: set[tuple[str, str, str]] = set()
        for _ in range(sampler.pick((1, 1, 2, 3))):
            fact = facts.fact_about(sampler, who, possible)
            if fact.key in seen:
                continue
            seen.add(fact.key)
            out.append(
                {
                    "subject": who,
                    "kind": " ".join(part for part in (fact.kind.name, fact.object) if part),
                    "statement": fact.statement(sampler),
                    "question": fact.question(sampler),
                    "answer": fact.answer,
                }
            )
    return out[:FACTS]


def make_session(records: list[dict[str, str]], fillers: list[str], encoder: Encoder) -> dict[str, object]:
    """A system prompt of notes and turns that ask for facts at all depths, one of them told on the way."""
    rng = random.Random("probes/session")
    records, fillers = rng.sample(records, len(records)), rng.sample(fillers, len(fillers))
    lines: list[str] = []
    told: list[dict[str, str]] = []
    head = "You keep the notes of a small office. Answer every question with the value alone.\n\n"
    while len(encoder(head + " ".join(lines))) < SESSION_TOKENS:
        if rng.random() < 0.65:
            told.append(records.pop())
            lines.append(told[-1]["statement"])
        else:
            lines.append(fillers.pop())
    body = "\n\n".join(" ".join(lines[i : i + 6]) for i in range(0, len(lines), 6))
    asked = [told[int(share * (len(told) - 1))] for share in (0.5, 0.05, 0.95, 0.3, 0.75)]
    turns = [{"user": fact["question"], "expected": fact["answer"]} for fact in asked]
    sampler = Sampler("probes/own", "heldout")
    code = sampler.digits(4)
    turns.insert(2, {"user": f"My locker number is {code}.", "expected": "Noted."})
    turns.append({"user": "What is my locker number?", "expected": f"{code}."})
    return {"system": head + body, "turns": turns}


def main() -> None:
    """Write the four files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    encoder = Encoder(Tokenizer.from_file(str(arguments.tokenizer / "tokenizer.json")))
    records = make_facts()
    sampler = Sampler("probes/fillers", "heldout")
    fillers = sorted({stories.everyday(sampler) for _ in range(2 * FILLERS)})
    random.Random("probes/fillers").shuffle(fillers)
    fillers = fillers[:FILLERS]
    text = Sampler("probes/heldout", "heldout")
    pieces = [stories.plain(text) for _ in range(PIECES)]
    arguments.out.mkdir(parents=True, exist_ok=True)

    def lines(items: list[dict[str, str]]) -> str:
        return "".join(json.dumps(item) + "\n" for item in items)

    (arguments.out / "facts.jsonl").write_text(lines(records), encoding="utf-8")
    (arguments.out / "fillers.jsonl").write_text(lines([{"text": filler} for filler in fillers]), encoding="utf-8")
    (arguments.out / "heldout.txt").write_text("".join(piece + PIECE_END for piece in pieces), encoding="utf-8")
    session = make_session(records, fillers, encoder)
    (arguments.out / "agent_session.json").write_text(json.dumps(session, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
