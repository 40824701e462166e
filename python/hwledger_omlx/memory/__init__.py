"""Where a model's memory goes: planned before it is loaded (`hwledger_omlx.plan`)."""

from hwledger_omlx.memory.plan import Plan, Runtime, predict

__all__ = ["Plan", "Runtime", "predict"]
