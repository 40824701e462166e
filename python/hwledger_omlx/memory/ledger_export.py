"""The ledger as a file for other programs: CSV, JSON lines, Parquet. Rows go through in pages, never all at once.

Parquet is written by pyarrow, the format's reference library: every environment has it already, through the fork's
dependency `datasets`, while the Rust crates would double the build of the extension.
"""

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, get_type_hints

from hwledger_omlx.errors import LedgerError
from hwledger_omlx.memory.ledger_row import COLUMNS, LedgerRow

Pages = Iterable[list[LedgerRow]]


def write_csv(path: Path, pages: Pages) -> int:
    """Writes a header and a line a row; nothing stands for None. Returns the number of rows.

    Raises:
        LedgerError: the file cannot be written; what was there before is left as it was.
    """

    def write(file: IO[Any]) -> int:
        lines = csv.writer(file)
        lines.writerow(COLUMNS)
        return _through(pages, lambda rows: lines.writerows(row.as_json().values() for row in rows))

    return _written(path, write, newline="")


def write_json(path: Path, pages: Pages) -> int:
    """Writes an object a line (https://jsonlines.org). Returns the number of rows.

    Raises:
        LedgerError: the file cannot be written; what was there before is left as it was.
    """

    def write(file: IO[Any]) -> int:
        return _through(pages, lambda rows: file.writelines(json_line(row) + "\n" for row in rows))

    return _written(path, write, newline="\n")


def write_parquet(path: Path, pages: Pages) -> int:
    """Writes a column a field, with its type; `arrived_unix_s` stays seconds. Returns the number of rows.

    Raises:
        LedgerError: the file cannot be written; what was there before is left as it was.
    """
    # Imported here: it takes longer than the rest of the command.
    import pyarrow
    from pyarrow import parquet

    kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    hints = get_type_hints(LedgerRow)
    types = {name: next(kind for kind in kinds if kind in _alternatives(hints[name])) for name in COLUMNS}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in types.items()])

    def write(file: IO[Any]) -> int:
        with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
            return _through(
                pages,
                lambda rows: writer.write_table(pyarrow.Table.from_pylist([row.as_json() for row in rows], schema)),
            )

    return _written(path, write, newline=None)


def json_line(row: LedgerRow) -> str:
    """The row as an object."""
    return json.dumps(row.as_json(), ensure_ascii=False)


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return getattr(hint, "__args__", (hint,))


def _through(pages: Pages, write: Callable[[list[LedgerRow]], object]) -> int:
    count = 0
    for rows in pages:
        write(rows)
        count += len(rows)
    return count


def _written(path: Path, write: Callable[[IO[Any]], int], newline: str | None) -> int:
    try:
        with _replacing(path, newline) as file:
            return write(file)
    except OSError as error:
        raise LedgerError(f"{path} cannot be written: {error}") from error


@contextmanager
def _replacing(path: Path, newline: str | None) -> Iterator[IO[Any]]:
    """A file that takes the place of `path` when all is written; bytes where `newline` is None.

    What is no regular file, such as a pipe or a terminal, is written to as it is.
    """
    mode, encoding = ("wb", None) if newline is None else ("w", "utf-8")
    if path.exists() and not path.is_file():
        with path.open(mode, encoding=encoding, newline=newline) as file:
            yield file
        return
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open(mode, encoding=encoding, newline=newline) as file:
            yield file
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
