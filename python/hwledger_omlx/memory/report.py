"""`engine.memory()`: where the memory of an engine goes, typed, as arrays, as JSON, and drawn."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from hwledger_omlx._native import MemoryTables
from hwledger_omlx.errors import MemoryReportError
from hwledger_omlx.memory.records import MlxMemory, ModelMemory, ProcessMemory, StoreMemory, read

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCHEMA = "hwledger.v1"

LAYER_COLUMNS = (
    *((name, "=i8") for name in ("model", "request", "layer", "place", "kind", "cache_class", "k_format", "v_format")),
    *((name, "=f8") for name in ("k_bits", "v_bits")),
    *((name, "=i8") for name in ("tokens", "allocated_bytes", "used_bytes")),
)
"""Fields of a row of `MemoryReport.layers`, as NumPy's dtypes say it. What is not known is -1, or NaN."""


@dataclass(frozen=True)
class MemoryReport:
    """Where the memory of an engine goes now, and the highest it went.

    Every figure says where it comes from. Shown in a notebook it draws itself; `str` is a table for a terminal.
    """

    schema: str
    """`hwledger.v1`."""
    unix_s: float
    """When it was made, in seconds since 1970."""
    process: ProcessMemory
    mlx: MlxMemory
    store: StoreMemory
    models: tuple[ModelMemory, ...]
    _tables: MemoryTables = field(repr=False, compare=False)

    @classmethod
    def of(cls, tables: MemoryTables) -> Self:
        """From the extension's report."""
        said = json.loads(tables.json)
        return cls(
            schema=said["schema"],
            unix_s=said["unix_s"],
            process=read(ProcessMemory, said["process"]),
            mlx=read(MlxMemory, said["mlx"]),
            store=read(StoreMemory, said["store"]),
            models=tuple(read(ModelMemory, each) for each in said["models"]),
            _tables=tables,
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The report that `to_json` wrote.

        Raises:
            MemoryReportError: it is none, or of another schema.
        """
        try:
            schema = json.loads(text)["schema"]
            if schema != SCHEMA:
                raise MemoryReportError(f"this is a report by schema {schema!r}, and {SCHEMA!r} is what can be read")
            return cls.of(MemoryTables.parse(text))
        except (ValueError, KeyError, TypeError) as error:
            raise MemoryReportError(f"this is no memory report: {error}") from error

    def to_json(self) -> str:
        """The report as JSON, by the schema `hwledger.v1` (`schema/hwledger.v1.json` in the repository)."""
        return self._tables.json

    @cached_property
    def layers(self) -> "NDArray[np.void]":
        """A row of `LAYER_COLUMNS` for each cache of each request, read-only, on Rust's own memory.

        `model` and `request` are places in `models` and its `requests`; `kind`, `cache_class`, `k_format` and
        `v_format` are places in `names`.
        """
        import numpy as np  # not for each import of the package

        return np.frombuffer(memoryview(self._tables.layers), np.dtype(list(LAYER_COLUMNS)))

    @property
    def names(self) -> Sequence[str]:
        """What the numbers in `layers` for kinds, classes and formats stand for."""
        return self._tables.names

    def history(self, model: int = 0) -> "NDArray[np.void]":
        """The past of a model, the oldest sample first, read-only, on Rust's own memory.

        Fields: `unix_s`, `mlx_active_bytes`, `mlx_cache_bytes`, `mlx_peak_bytes`, and `layer_bytes`, one a layer.
        """
        import numpy as np

        points = self.models[model].history.layer_bytes
        layers = len(points[0]) if points else 0
        columns: list[Any] = [("unix_s", "=f8")]
        columns += [(name, "=i8") for name in ("mlx_active_bytes", "mlx_cache_bytes", "mlx_peak_bytes")]
        dtype = np.dtype([*columns, ("layer_bytes", "=i8", (layers,))])
        return np.frombuffer(memoryview(self._tables.history(model)), dtype)

    def __str__(self) -> str:
        from hwledger_omlx.memory.view_text import text

        return text(self)

    def __rich__(self) -> Any:
        from hwledger_omlx.memory.view_text import renderable

        return renderable(self)

    def _repr_html_(self) -> str:
        from hwledger_omlx.memory.view_svg import html

        return html(self)
