"""`bench kv`, codecs: what ours lose and how fast they are, against codecs and published numbers that are not ours.

Everything in one run, on two threads where it is about speed: each thread with runs of 256 tokens of its own, as the
store encodes blocks. Rates are bytes of 16-bit numbers a second, whichever way they go.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwledger_omlx.measure.bars import Bar, Comparison, Result
from hwledger_omlx.measure.engine_bench import Ask, OnTurn
from hwledger_omlx.measure.harness import Contestant, Measure, Samples, Turn, measure_in_turns
from hwledger_omlx.measure.kv_codec_kinds import LIVE, MLX, NATIVE, TURBOQUANT
from hwledger_omlx.measure.worker_process import WorkerProcess

MEMCPY = "memcpy"
_WORKER = Path(__file__).with_name("kv_codecs_worker.py")
_TIMEOUT_S = 1800.0

SPEED: tuple[tuple[str, str], ...] = (
    ("affine:8:64", "float16"),
    ("affine:8:64", "bfloat16"),
    ("affine:4:64", "float16"),
    ("affine:4:64", "bfloat16"),
    ("rotated:4", "bfloat16"),
    ("rotated:3.5", "bfloat16"),
    ("channel:4:64", "bfloat16"),
    ("lossless", "bfloat16"),
)
"""Codecs and types of numbers whose speed is measured."""
_RUNS = {MEMCPY: 64, NATIVE: 64, MLX: 32, TURBOQUANT: 8}
"""Of 512 KiB each, that a contestant does at a time."""
_AFFINE_BARS = {"encode": Bar.ratio_at_least(8.0), "decode": Bar.ratio_at_least(16.0)}
_ROTATED_BAR = Bar.ratio_at_least(30.0)

LLOYD_MAX = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497}
"""Least mean squared error of a scalar codebook for the normal distribution: J. Max, Quantizing for Minimum Distortion,
IRE Transactions on Information Theory 6 (1960), table I."""
PUBLISHED = {1: "0.36", 2: "0.117", 3: "0.03", 4: "0.009"}
"""As TurboQuant's theorem 1 gives it (arXiv 2504.19874): these numbers, written with one to three digits."""
_DISTORTION_BAR = Bar.ratio_at_most(1.02)

IDENTICAL = tuple(
    (f"affine:{bits}:{group}", dtype)
    for dtype in ("float16", "bfloat16", "float32")
    for bits in (8, 6, 5, 4, 3, 2)
    for group in (32, 64, 128)
)
OUTLIERS: tuple[tuple[str, str, str, Bar | None], ...] = (
    (LIVE, "affine:4:64", "affine 4 (MLX's)", None),
    (LIVE, "rotated:4", "rotated 4, live", None),
    (TURBOQUANT, "rotated:4", "mlx-vlm TurboQuant 4", None),
    (TURBOQUANT, "rotated:3", 'mlx-vlm TurboQuant "3.5" (its keys have 3 bits)', None),
    (LIVE, "channel:4:64", "channel 4, live", Bar.value_at_most(0.12)),
    (NATIVE, "rotated:4", "rotated 4, at rest", None),
    (NATIVE, "channel:4:64", "channel 4, at rest", Bar.value_at_most(0.12)),
)
SIZES = ("affine:4:64", "rotated:4", "channel:4:64")
_NOTES = (
    "Distortion: mean of squared error over squared length, normal vectors of 128 numbers, against the Lloyd-Max "
    "optimum for the normal distribution (0.3634, 0.1175, 0.03454, 0.009497), which a scalar codebook undercuts by no "
    f"more than so short vectors allow. TurboQuant publishes it as {', '.join(PUBLISHED.values())}: at 3 and 4 bits "
    "rounded down.",
    "Outliers: keys with 4 of 128 channels scaled 10 to 30 times and shifted; the error is that of the other channels. "
    'mlx-vlm\'s "3.5 bits" are 3 for keys and 4 for values.',
    "Speed: two threads in every contestant, runs of 256 tokens of 8 heads of 128 numbers, memory touched before; "
    "bytes of 16-bit numbers. Ours are the Rust codecs at rest.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Codecs:
    """What to measure."""

    rounds: int = 5
    speed: Sequence[tuple[str, str]] = SPEED
    identical: Sequence[tuple[str, str]] = IDENTICAL

    def run(self, on_turn: OnTurn | None = None) -> tuple[list[Result], list[str]]:
        """Results and notes.

        Raises:
            HarnessError: the worker failed.
        """
        with WorkerProcess("codecs", f"{_WORKER}:open_codecs", timeout_s=_TIMEOUT_S) as worker:
            return self.measure(worker.call, on_turn)

    def measure(self, ask: Ask, on_turn: OnTurn | None = None) -> tuple[list[Result], list[str]]:
        """Asks a worker for everything."""
        return [*self._losses(ask, on_turn), *self._speeds(ask, on_turn)], list(_NOTES)

    def _losses(self, ask: Ask, on_turn: OnTurn | None) -> list[Result]:
        """What does not vary: one turn each."""
        asked: dict[str, dict[str, Any]] = {}
        kinds = (NATIVE, LIVE)
        for kind in kinds:
            asked |= {f"{kind} distortion {bits}": {"distortion": kind, "bits": bits} for bits in LLOYD_MAX}
        asked |= {f"outliers {label}": {"outliers": kind, "codec": name} for kind, name, label, _ in OUTLIERS}
        asked |= {f"size {name}": {"size": name} for name in SIZES}
        asked |= {f"{name} {dtype}": {"identical": name, "dtype": dtype} for name, dtype in self.identical}
        samples = measure_in_turns(
            [Contestant.of(name, _asking(ask, request), once=True) for name, request in asked.items()],
            rounds=1,
            warm_up=0,
            on_turn=on_turn,
        )
        results = [_distortion(samples, kind, bits) for kind in kinds for bits in LLOYD_MAX]
        for _, _, label, bar in OUTLIERS:
            held = samples.of(f"outliers {label}", "bits_per_number")[0]
            name = f"error on the other channels, {label} ({held:.2f} bits a number)"
            results.append(_alone(samples, name, f"outliers {label}", "error", bar))
        for name in SIZES:
            label = f"store size, {name}, as a share of 16 bit"
            results.append(_alone(samples, label, f"size {name}", "share", Bar.value_at_most(0.29)))
        return results + self._identity(samples)

    def _identity(self, samples: Samples) -> list[Result]:
        found = []
        for way, reference in (("encoded", "mx.quantize"), ("decoded", "mx.dequantize")):
            same = [samples.of(f"{name} {dtype}", way)[0] for name, dtype in self.identical]
            found.append(
                Result(
                    name=f"affine {way} bit for bit as {reference} ({len(same)} bits, groups and types)",
                    value=sum(same) / len(same),
                    unit="",
                    bar=Bar.value_at_least(1.0),
                    contestant=NATIVE,
                    against_contestant=MLX,
                )
            )
        return found

    def _speeds(self, ask: Ask, on_turn: OnTurn | None) -> list[Result]:
        cases = [f"{name} {dtype}" for name, dtype in self.speed]
        samples = measure_in_turns(
            [Contestant.of(kind, _speed_turns(ask, kind)) for kind in (NATIVE, MLX, TURBOQUANT, MEMCPY)],
            cases=cases,
            rounds=self.rounds,
            on_turn=on_turn,
        )
        return [
            samples.compare(each)
            for name, dtype in self.speed
            for way in ("encode", "decode")
            for each in _speed_lines(name, dtype, way)
        ]


def _asking(ask: Ask, request: Mapping[str, Any]) -> Measure:
    return lambda _: ask(request)


def _speed_turns(ask: Ask, kind: str) -> Measure:
    def one_turn(turn: Turn) -> Mapping[str, float]:
        name, dtype = turn.case.split()
        if kind == MEMCPY:
            return {f"{turn.case} copy": ask({"memcpy": True, "runs": _RUNS[kind]})["bytes_per_s"]}
        if not _takes(kind, name):
            return {}
        answer = ask({"speed": kind, "codec": name, "dtype": dtype, "runs": _RUNS[kind]})
        return {f"{turn.case} {way}": answer[way] for way in ("encode", "decode")}

    return one_turn


def _takes(kind: str, name: str) -> bool:
    """Whether a contestant has anything like a codec of ours."""
    scheme = name.partition(":")[0]
    return kind == NATIVE or (kind, scheme) in ((MLX, "affine"), (TURBOQUANT, "rotated"))


def _speed_lines(name: str, dtype: str, way: str) -> list[Comparison]:
    scheme, case = name.partition(":")[0], f"{name} {dtype}"
    line = {"measurement": f"{case} {way}", "unit": "B/s", "better": "higher", "contestant": NATIVE}
    found = [
        Comparison(
            name=f"{way} {case}, share of memcpy",
            against=MEMCPY,
            against_measurement=f"{case} copy",
            **line,  # type: ignore[arg-type]
        )
    ]
    if scheme == "affine":
        found.insert(0, Comparison(name=f"{way} {case}", against=MLX, bar=_AFFINE_BARS[way], **line))  # type: ignore[arg-type]
    if scheme == "rotated":
        found.insert(0, Comparison(name=f"{way} {case}", against=TURBOQUANT, bar=_ROTATED_BAR, **line))  # type: ignore[arg-type]
    return found


def _distortion(samples: Samples, kind: str, bits: int) -> Result:
    value = samples.of(f"{kind} distortion {bits}", "distortion")[0]
    where = "at rest" if kind == NATIVE else "live"
    return Result(
        name=f"distortion, rotated {bits}, {where} (published: {PUBLISHED[bits]})",
        value=value,
        unit="",
        against=LLOYD_MAX[bits],
        ratio=value / LLOYD_MAX[bits],
        bar=_DISTORTION_BAR,
        better="lower",
        contestant=kind,
        against_contestant="Lloyd-Max",
    )


def _alone(samples: Samples, name: str, contestant: str, measurement: str, bar: Bar | None) -> Result:
    return samples.compare(
        Comparison(name=name, measurement=measurement, unit="", better="lower", contestant=contestant, bar=bar)
    )
