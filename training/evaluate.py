"""Measure the exported model with the package's own probes and print the tables of its card.

    python -m training.evaluate --model FOLDER --backend torch --per-cell 50
    python -m training.evaluate --model FOLDER --backend mlx --per-cell 2 --lengths 512,4096

The probes are imported from their folder alone, so that neither the engine nor the extension is needed.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path
from typing import Any

from training import answer

PACKAGE = Path(__file__).resolve().parent.parent / "python" / "hwledger_omlx"


def load_probes() -> Any:
    """The package `hwledger_omlx.probes`, without its parent."""
    sys.path.insert(0, str(PACKAGE))
    return importlib.import_module("probes")


def main() -> None:
    """Run the probes and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--backend", choices=("torch", "mlx"), default="torch")
    parser.add_argument("--per-cell", type=int, default=50)
    parser.add_argument("--lengths", default="512,1024,2048,4096,8000")
    parser.add_argument("--extra", action="store_true", help="also other shares of facts, and notes in the user turn")
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--report", type=Path, help="folder for the reports as JSON")
    arguments = parser.parse_args()
    probes = load_probes()
    model: answer.Answerer
    model = (
        answer.TorchAnswerer(arguments.model) if arguments.backend == "torch" else answer.MlxAnswerer(arguments.model)
    )
    lengths = [int(length) for length in arguments.lengths.split(",")]
    runs: list[dict[str, Any]] = [{"lengths": lengths, "per_cell": arguments.per_cell}]
    if arguments.extra:
        few = max(1, arguments.per_cell // 2)
        runs += [
            {"lengths": [4096], "per_cell": few, "seed": 1, **kind}
            for kind in ({"role": "user"}, {"fact_share": 0.1}, {"fact_share": 1.0})
        ]
    for number, run in enumerate(runs):
        begin = time.monotonic()
        report = probes.recall(model.answer, model.count, **run)
        print(
            f"\nrecall, {run}: {report.right}/{report.asked}, worst cell {report.worst:.3f}, "
            f"{time.monotonic() - begin:.0f} s\n{report.table()}",
            flush=True,
        )
        for miss in report.misses[:12]:
            print("miss:", miss, flush=True)
        if arguments.report:
            arguments.report.mkdir(parents=True, exist_ok=True)
            (arguments.report / f"recall-{number}.json").write_text(report.to_json() + "\n")
    for window in (256, 1024, 4096):
        windows = min(arguments.windows, max(1, arguments.windows * 1024 // window))
        found = probes.perplexity(model.log_probs, model.encode, window=window, windows=windows)
        print(f"perplexity, windows of {window}: {found.perplexity:.4f} over {found.tokens} tokens", flush=True)
    session = probes.run_session(probes.agent_session(), lambda conversation: model.answer([conversation])[0])
    print(f"agent session: {session.right}/{len(session.turns)}")
    for turn in session.turns:
        print(" ", turn, flush=True)


if __name__ == "__main__":
    main()
