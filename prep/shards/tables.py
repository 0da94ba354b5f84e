"""Parquet files read without threads."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq


def read_table(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The parquet file ``data``, all columns by default.

    Arrow's thread pools, once woken, now and then abort a process that ends under load ("terminate called without an
    active exception"), after its work is done but with an exit code that says it failed. Our tables are small.

    Raises:
        ValueError or pyarrow.ArrowException: it is no parquet file, or columns are missing.
    """
    file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
    return file.read(columns=list(columns) if columns is not None else None, use_threads=False)
