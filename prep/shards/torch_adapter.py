"""Windows as tensors. A module of its own because importing torch takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from g4g_core.errors import MissingDependency

try:
    import torch
    from torch.utils.data import IterableDataset
except ImportError as error:
    raise MissingDependency("reading windows as tensors needs torch", "pip install torch") from error

from prep.shards.window import collate

if TYPE_CHECKING:
    from prep.shards.reader import IndexedReader


class TorchWindows(IterableDataset[dict[str, Any]]):
    """See :func:`prep.shards.reader.as_torch`."""

    def __init__(self, reader: IndexedReader, batch_size: int | None) -> None:
        super().__init__()
        self.reader = reader
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self.batch_size is None:
            for window in self.reader:
                yield _tensors(window.arrays())
        else:
            for windows in self.reader.batches(self.batch_size):
                yield _tensors(collate(windows))


def _tensors(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: value if name == "key" else torch.from_numpy(value) for name, value in arrays.items()}
