"""SyncNet v2, frozen: its reading of drawn crops has a gradient, so that it can be a loss of any model.

It sees and hears what LSE does (:mod:`evaluation.metrics.lse`): the whole crop at 224 px, BGR, 0..255, bilinear as
``cv2.resize``, which rounds to whole levels where this does not; MFCCs of the raw sound. A model that learned from it
has LSE's own network as its teacher, and LSE ranks it nowhere (:meth:`evaluation.models.Model.is_taught_by`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.metrics.syncnet import SIDE, WINDOW, mfcc, trained
from g4g_core import weights
from g4g_core.errors import UsageError
from g4g_core.protocols import Speech
from prep.records import SAMPLES_PER_FRAME

if TYPE_CHECKING:
    import torch

_STEPS = 4  # MFCCs a frame


class FrozenSyncNet:
    """See :class:`g4g_core.protocols.SyncExpert`. Always in evaluation mode.

    Args:
        network: ``syncnet_python``'s ``S`` with its weights.
        sha256: of them.
    """

    frames = WINDOW

    def __init__(self, network: Any, sha256: str) -> None:
        self.sha256 = sha256
        self._network = network.eval().requires_grad_(False)

    def to(self, device: Any) -> FrozenSyncNet:
        self._network.to(device)
        return self

    def prepare(self, pose: np.ndarray, size: int, speech: Speech, start: int) -> tuple[np.ndarray, np.ndarray]:
        """float32 [0], for it looks at the whole crop; float32 [1, 13, 20], MFCCs of what is heard meanwhile.

        The 20 reach 240 samples beyond the window; those are silence where the sample ends with it.
        """
        lead = min(start, 1)  # its pre-emphasis needs the sample before
        first, count = start - lead, lead + WINDOW + 1
        pcm = speech.pcm[SAMPLES_PER_FRAME * first : SAMPLES_PER_FRAME * (first + count)]
        steps = mfcc(np.pad(pcm, (0, SAMPLES_PER_FRAME * count - len(pcm))))
        heard = steps[_STEPS * lead : _STEPS * (lead + WINDOW)]
        return np.zeros(0, np.float32), np.ascontiguousarray(heard.T[None], np.float32)

    def loss(self, pictures: torch.Tensor, places: torch.Tensor, heard: torch.Tensor) -> torch.Tensor:
        """1 - cosine of what is seen and heard, mean over n.

        The cosine is how experts are used as losses (``wav2lip_train.py``; LatentSync's ``cosine_loss``). Their cross
        entropy of it does not fit here: SyncNet's last layer has no ReLU, so that cosines are negative, too. 1 - cosine
        is half the squared distance of the features at unit length, SyncNet's own loss of true pairs (Chung and
        Zisserman 2016, equation 1); at their own length, features near nought would be rewarded, in sync or not.
        """
        from torch.nn.functional import cosine_similarity

        return (1 - cosine_similarity(self.see(pictures), self.hear(heard), dim=1)).mean()

    def see(self, pictures: torch.Tensor) -> torch.Tensor:
        """Features [n, 1024], not of unit length, of crops [n, 5, 3, S, S] RGB in [-1, 1]."""
        from torch.nn.functional import interpolate

        levels = 127.5 * (pictures.flip(2).flatten(0, 1) + 1)
        frames = interpolate(levels, (SIDE, SIDE), mode="bilinear", align_corners=False)
        found: torch.Tensor = self._network.forward_lip(frames.unflatten(0, (-1, WINDOW)).transpose(1, 2))
        return found

    def hear(self, heard: torch.Tensor) -> torch.Tensor:
        """Features [n, 1024], not of unit length, of MFCCs [n, 1, 13, 20]."""
        found: torch.Tensor = self._network.forward_aud(heard)
        return found


class SyncNetExpert:
    """The entry point of ``syncnet`` among ``g4g.sync_experts``."""

    def open(self, checkpoint: str | None = None) -> FrozenSyncNet:
        """SyncNet with the registry's weights, the only ones it has.

        Raises:
            UsageError: a checkpoint is named.
            MissingDependency: ``syncnet-python`` is not installed.
            WeightsError: the weights are not here, or another file.
        """
        if checkpoint is not None:
            raise UsageError(
                f"syncnet cannot be opened with {checkpoint}", "Write syncnet alone: its weights are known."
            )
        return FrozenSyncNet(trained(), weights.verify("syncnet-v2"))


SYNCNET_EXPERT = SyncNetExpert()
