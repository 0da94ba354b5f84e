"""SyncNet's reading of a clip beside ours, for who has its weights: the network of the package ``syncnet-python``."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from g4g_core import weights
from g4g_core.errors import G4GError, MissingDependency
from prep.records import SAMPLE_RATE

WEIGHTS = "syncnet-v2"
SIDE = 224
WINDOW = 5
SHIFT = 15
_BATCH = 16


class SyncNet:
    """SyncNet v2 as ``SyncNetInstance.evaluate`` runs it: BGR 0..255 at 224 px, MFCC of raw int16.

    Args:
        network: ready to use; ``None`` loads the registry's weights.

    Raises:
        MissingDependency: ``syncnet-python`` or ``python_speech_features`` is not installed.
        WeightsError: the weights are not there.
    """

    def __init__(self, network: Any = None) -> None:
        try:
            import python_speech_features
            import torch
            from syncnet_python.SyncNetModel import S
        except ImportError as error:
            raise MissingDependency(f"SyncNet's column needs {error.name}", "pip install syncnet-python") from error
        self._torch, self._mfcc = torch, python_speech_features.mfcc
        if network is None:
            network = S(num_layers_in_fc_layers=1024)
            network.load_state_dict(torch.load(weights.path(WEIGHTS), map_location="cpu", weights_only=True))
        self._network = network.eval()

    def read(self, crops: np.ndarray, pcm: np.ndarray) -> dict[str, float]:
        """Offset (> 0: sound leads), confidence and distance of crops uint8 [T, S, S, 3] RGB and int16 sound."""
        torch = self._torch
        pictures = np.stack([cv2.resize(crop[..., ::-1], (SIDE, SIDE)) for crop in crops]).astype(np.float32)
        video = torch.from_numpy(np.ascontiguousarray(pictures.transpose(3, 0, 1, 2)))[None]
        sound = torch.from_numpy(self._mfcc(pcm, SAMPLE_RATE).T.astype(np.float32))[None, None]
        count = min(len(crops), len(pcm) // 640) - WINDOW
        seen, heard = [], []
        with torch.no_grad():
            for first in range(0, count, _BATCH):
                starts = range(first, min(count, first + _BATCH))
                seen.append(self._network.forward_lip(torch.cat([video[:, :, s : s + WINDOW] for s in starts])))
                heard.append(
                    self._network.forward_aud(torch.cat([sound[..., 4 * s : 4 * s + 4 * WINDOW] for s in starts]))
                )
            a, b = torch.cat(seen), torch.cat(heard)
            padded = torch.nn.functional.pad(b, (0, 0, SHIFT, SHIFT))
            distance, shifts = torch.nn.functional.pairwise_distance, 2 * SHIFT + 1
            rows = [distance(a[i : i + 1].expand(shifts, -1), padded[i : i + shifts]) for i in range(count)]
        curve = torch.stack(rows).mean(0)
        best = int(curve.argmin())
        return {
            "offset": SHIFT - best, "confidence": float(curve.median() - curve[best]), "distance": float(curve[best]),
        }  # fmt: skip


def open_or_say_why() -> SyncNet | None:
    """SyncNet, or ``None`` after a line that says what is missing."""
    try:
        return SyncNet()
    except G4GError as error:
        print(f"no SyncNet column: {error}")
        return None
