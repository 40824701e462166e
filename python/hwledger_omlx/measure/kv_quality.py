"""`bench kv`, quality: what holding keys and values at fewer bits costs a model in perplexity, divergence and recall.

Scheme by scheme, bits by bits, keys and values apart and together, each against the same model in 16 bit; and `auto`
against the uniform policies at the same bytes. All of it is deterministic, so each is measured once.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hwledger_omlx.engine import model_folder
from hwledger_omlx.errors import HarnessError
from hwledger_omlx.measure.bars import Bar, Comparison, Result
from hwledger_omlx.measure.engine_bench import Ask, OnTurn
from hwledger_omlx.measure.harness import Contestant, Measure, Samples, Turn, measure_in_turns
from hwledger_omlx.measure.kv_points import FULL, RECOMMENDED, SCHEMES, Point, grid, point_of
from hwledger_omlx.measure.worker_process import WorkerProcess

PREDICTION, RECALL = "prediction", "recall"
AUTO_BITS = (4, 3, 2)
"""`auto` gets the bytes of the uniform affine policies of these bits. At 8 bits all policies are alike: what is left
there is the rounding of the logits to 16 bits."""
_WORKER = Path(__file__).with_name("kv_quality_worker.py")
_TIMEOUT_S = 7200.0
_KL_BAR = Bar.value_at_most(0.001)


@dataclass(frozen=True, slots=True)
class Measurement:
    """A point and what came of it; a row of the table."""

    point: Point
    perplexity: float
    mean_kl: float
    """In nats."""
    max_kl: float
    top1: float
    nbytes: float
    share: float
    """Of the bytes in 16 bit, scales, biases and norms included."""
    recalled: tuple[int, int] | None = None
    """Exact answers and questions; None where recall was not measured."""
    recalled_by_depth: tuple[tuple[float, int, int], ...] = ()

    @property
    def bits_per_number(self) -> float:
        """Of 16."""
        return 16 * self.share

    def as_json(self) -> dict[str, Any]:
        """The fields by name."""
        said = asdict(self)
        point = said.pop("point")
        return {**point, "side": self.point.side, "bits_per_number": self.bits_per_number, **said}


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What to measure."""

    model: str | Path
    windows: int = 4
    window_tokens: int = 1024
    points: Sequence[Point] | None = None
    """None for the whole grid."""
    recall_lengths: Sequence[int] = (512, 1024)
    recall_per_cell: int = 4
    """Questions at each of 7 depths and each length."""
    recall_bits: Sequence[int] = (8, 6, 5, 4, 3, 2)
    """Recall is asked at these bits, of keys and values together."""
    calibration_tokens: int = 1024
    """Of the held-out text behind the windows, for `auto`."""

    def run(self, on_turn: OnTurn | None = None) -> "QualityFound":
        """Measures in a process of its own.

        Raises:
            ModelError: no such model.
            HarnessError: the worker failed.
        """
        folder = model_folder.locate(self.model)
        points = grid(head_width(folder)) if self.points is None else list(self.points)
        options = {"model": str(folder.path), "windows": self.windows, "window_tokens": self.window_tokens}
        target = f"{_WORKER}:open_model"
        with WorkerProcess("quality", target, options, timeout_s=_TIMEOUT_S) as worker:
            return self.measure(worker.call, points, on_turn)

    def measure(self, ask: Ask, points: Sequence[Point], on_turn: OnTurn | None = None) -> "QualityFound":
        """Asks a worker for every point."""
        points = [FULL, *points]
        policies: dict[str, str] = {}
        contestants = [Contestant.of(each.name, self._turns(ask, each), once=True) for each in points]
        samples = measure_in_turns(contestants, cases=(PREDICTION, RECALL), rounds=1, warm_up=0, on_turn=on_turn)
        full_nbytes = samples.of(FULL.name, "nbytes")[0]
        found = [_measurement(samples, each, full_nbytes) for each in points]
        autos = self._autos(ask, found, policies, samples, on_turn)
        results = [*_bars(samples, found), *autos]
        return QualityFound(found, results, self._notes(found, policies))

    def _turns(self, ask: Ask, point: Point) -> Measure:
        dial = {"k": point.keys, "v": point.values}

        def one_turn(turn: Turn) -> Mapping[str, float]:
            if turn.case == PREDICTION:
                answer = dict(ask({"predict": dial}))
                answer.pop("policy", None)
                return answer
            if point.side not in ("", "K+V") or (point.side and point.bits not in self.recall_bits):
                return {}
            return _flat_recall(
                ask({"recall": dial, "lengths": list(self.recall_lengths), "per_cell": self.recall_per_cell})
            )

        return one_turn

    def _autos(
        self,
        ask: Ask,
        found: Sequence[Measurement],
        policies: dict[str, str],
        samples: Samples,
        on_turn: OnTurn | None,
    ) -> list[Result]:
        """`auto` at the bytes of uniform policies, each against the best uniform one that takes no more."""
        uniform = [each for each in found if each.point.side == "K+V"]
        budgets = [
            each for bits in AUTO_BITS for each in uniform if (each.point.scheme, each.point.bits) == ("affine", bits)
        ]
        if not budgets:
            return []
        if on_turn is not None:
            on_turn("auto", Turn(0, "calibrating", warm_up=False), 0, 1)
        ask({"calibrate": self.calibration_tokens})
        results = []
        for budget in budgets:
            name = f"auto:{budget.share:.6g}"
            if on_turn is not None:
                on_turn(name, Turn(0, PREDICTION, warm_up=False), 0, 1)
            answer = dict(ask({"predict": {"policy": name}}))
            policies[name] = str(answer.pop("policy"))
            samples.add(name, answer)
            best = min((each for each in uniform if each.nbytes <= budget.nbytes), key=lambda each: each.mean_kl)
            results.append(
                samples.compare(
                    Comparison(
                        name=f"KL, {name}, against the best uniform policy of its bytes ({best.point.name})",
                        measurement="mean_kl",
                        unit="nats",
                        better="lower",
                        contestant=name,
                        against=best.point.name,
                        quotient="value/against",
                        bar=Bar.ratio_at_most(1.0),
                    )
                )
            )
            results.append(
                Result(
                    name=f"bytes, {name}",
                    value=answer["nbytes"],
                    unit="B",
                    against=budget.nbytes,
                    ratio=answer["nbytes"] / budget.nbytes,
                    bar=Bar.ratio_at_most(1.0),
                    better="lower",
                    contestant=name,
                    against_contestant=budget.point.name,
                )
            )
        return results

    def _notes(self, found: Sequence[Measurement], policies: Mapping[str, str]) -> list[str]:
        tokens = self.windows * self.window_tokens
        notes = [
            f"Held-out text of {tokens:,} tokens in contexts of {self.window_tokens:,}, through the running caches in "
            "chunks of 256, so that attention sees what is held. KL is that of the next-token distribution to 16 bit; "
            "top-1 counts likeliest tokens that tie as equal. Bits a number and bytes are the caches' own: with "
            "scales, biases and norms.",
        ]
        if asked := next((each.recalled[1] for each in found if each.recalled), None):
            lengths = " and ".join(f"{length:,}" for length in self.recall_lengths)
            notes.append(f"Recall: {asked} questions about facts at 7 depths of contexts of {lengths} tokens, exact.")
        if any(each.point.scheme == RECOMMENDED for each in found):
            notes.append(
                f"The scheme recommended at about 4.5 bits, on which the bars are, is {RECOMMENDED}: keys by channel, "
                "values affine (KIVI). affine and rotated stand beside it without a bar."
            )
        if policies:
            notes.append(
                f"auto was calibrated on {self.calibration_tokens:,} other tokens. A mean KL below 0.01 is that of a "
                "few tokens in thousands, so with little text two policies may change places by chance."
            )
        return [*notes, *(f"{name} is {policy}." for name, policy in policies.items())]


@dataclass(frozen=True, slots=True)
class QualityFound:
    """What a run found."""

    measurements: Sequence[Measurement]
    results: Sequence[Result]
    notes: Sequence[str] = field(default_factory=tuple)


def head_width(folder: model_folder.ModelFolder) -> int:
    """Numbers of a key, by which the grid chooses its groups.

    Raises:
        HarnessError: the model's config does not say.
    """

    config = json.loads((folder.path / "config.json").read_text(encoding="utf-8"))
    with suppress(KeyError):
        config = config["text_config"]
    width = config.get("head_dim") or config.get("hidden_size", 0) // max(1, config.get("num_attention_heads", 1))
    if not width:
        raise HarnessError(f"config.json of {folder.model_id} does not say how wide its keys are")
    return int(width)


def _flat_recall(answer: Mapping[str, Any]) -> dict[str, float]:
    measured = {"asked": float(answer["asked"]), "right": float(answer["right"])}
    measured["accuracy"] = answer["right"] / answer["asked"]
    for depth, right, asked in answer["by_depth"]:
        measured |= {f"right {depth}": float(right), f"asked {depth}": float(asked)}
    return measured


def _measurement(samples: Samples, point: Point, full_nbytes: float) -> Measurement:
    measured = {name: values[0] for name, values in samples.values[point.name].items()}
    made = Measurement(
        point,
        perplexity=measured["perplexity"],
        mean_kl=measured["mean_kl"],
        max_kl=measured["max_kl"],
        top1=measured["top1"],
        nbytes=measured["nbytes"],
        share=measured["nbytes"] / full_nbytes,
    )
    if "asked" not in measured:
        return made
    depths = [name.removeprefix("right ") for name in measured if name.startswith("right ")]
    by_depth = tuple((float(at), int(measured[f"right {at}"]), int(measured[f"asked {at}"])) for at in depths)
    return replace(made, recalled=(int(measured["right"]), int(measured["asked"])), recalled_by_depth=by_depth)


def _bars(samples: Samples, found: Sequence[Measurement]) -> list[Result]:
    points = [each.point for each in found]
    results = []
    for bits, kl_bar, recall_bar in ((8, _KL_BAR, Bar.ratio_at_least(1.0)), (4, None, Bar.ratio_at_least(0.99))):
        for scheme in SCHEMES:
            point = point_of(points, scheme, bits)
            if point is None:
                continue
            is_barred = bits == 8 or scheme == RECOMMENDED
            held = next(each.bits_per_number for each in found if each.point == point)
            label = f"{point.name} ({held:.2f} bits a number)"

            def line(what: str, measurement: str, unit: str, bar: Bar | None, **more: Any) -> Result:
                given = {"better": "lower", "contestant": point.name, **more}  # noqa: B023
                return samples.compare(
                    Comparison(name=f"{what}, {label}", measurement=measurement, unit=unit, bar=bar, **given)  # noqa: B023
                )

            results.append(line("KL", "mean_kl", "nats", kl_bar))
            perplexity_bar = Bar.ratio_at_most(1.01) if bits == 4 and is_barred else None
            against = {"against": FULL.name, "quotient": "value/against"}
            results.append(line("perplexity", "perplexity", "", perplexity_bar, **against))
            if "accuracy" in samples.values[point.name]:
                recall = {**against, "better": "higher"}
                results.append(line("recall", "accuracy", "", recall_bar if is_barred else None, **recall))
    return results
