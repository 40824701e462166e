"""The measuring harness of every bench and quality command: contestants, turns, bars, reports.

A command makes `Contestant`s, hands them to `measure_in_turns`, turns the samples into results by `Comparison`s with
`Bar`s, and prints a `Report`. See `harness.py` for how the numbers come about and `engine_bench.py` for an example.
"""

from hwledger_omlx.measure.bars import Bar, Comparison, Result
from hwledger_omlx.measure.environment import Environment, environment
from hwledger_omlx.measure.harness import Contestant, Measure, Samples, Turn, measure_in_turns
from hwledger_omlx.measure.report import Report
from hwledger_omlx.measure.worker_process import WorkerProcess

__all__ = [
    "Bar",
    "Comparison",
    "Contestant",
    "Environment",
    "Measure",
    "Report",
    "Result",
    "Samples",
    "Turn",
    "WorkerProcess",
    "environment",
    "measure_in_turns",
]
