"""How pretrained networks run for a metric: in which precision, and with nothing that changes a number unasked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from g4g_core.errors import UsageError

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16"]
"""``bf16`` is an option for speed on a GPU, or on a processor with AMX or AVX512-BF16; without these it is slower."""


def dtype_of(precision: Precision) -> torch.dtype:
    """Of weights and activations. Raises UsageError for a name that is no precision."""
    import torch

    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if precision not in dtypes:
        raise UsageError(f"there is no precision {precision!r}", f"Choose {' or '.join(dtypes)}.")
    return dtypes[precision]


@contextlib.contextmanager
def faithful() -> Iterator[None]:
    """No gradients; on a GPU, convolutions in full float32 (torch's default is TF32) and the same from run to run."""
    import torch

    cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.inference_mode(), cudnn:
        yield


def best_device() -> str:
    """``cuda`` where there is a GPU, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
