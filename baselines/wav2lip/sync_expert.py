"""Wav2Lip's expert, frozen: its reading of drawn faces has a gradient, so that it can be a loss of any model."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from baselines.wav2lip import checkpoint as checkpoints
from baselines.wav2lip.box import boxes_of
from baselines.wav2lip.config import EXPERT, FRAMES, Wav2LipConfig
from baselines.wav2lip.expert import SyncExpert
from baselines.wav2lip.losses import sync_loss
from baselines.wav2lip.pixels import expert_faces
from g4g_core.protocols import Speech
from g4g_model.inputs import heard

logger = logging.getLogger(__name__)


class FrozenExpert(nn.Module):
    """See :class:`g4g_core.protocols.SyncExpert`.

    Always in evaluation mode. The public scripts leave it in training mode, so that its batch norm takes the statistics
    of drawn faces; here it judges them as it judges true ones.

    Args:
        config: of the network.
        network: with its weights.
        sha256: of them.
        command: that trains it again, where its file says it.
    """

    frames = FRAMES

    def __init__(self, config: Wav2LipConfig, network: SyncExpert, sha256: str, command: str | None = None) -> None:
        super().__init__()
        self.size, self.mel_offset, self.sha256, self.command = config.size, config.mel_offset, sha256, command
        self.network = network.eval().requires_grad_(False)

    def prepare(self, pose: np.ndarray, size: int, speech: Speech, start: int) -> tuple[np.ndarray, np.ndarray]:
        """float32 [5, 2, 3], the face's box as ``affine_grid`` wants it; float32 [1, 80, 16], what is heard.

        Args:
            pose: float [5, 31, 2], points 17-47, pixels of pictures of ``size`` px.
            size: side of the pictures.
            speech: of the sample.
            start: the frame of the sample that the window begins with.
        """
        low, high = np.split(boxes_of(pose, size).astype(np.float64), 2, axis=1)
        places = np.zeros((FRAMES, 2, 3), np.float32)
        places[:, [0, 1], [0, 1]] = (high - low) / size
        places[:, :, 2] = (low + high) / size - 1
        frame = np.array([speech.frame_start + start])
        return places, heard(speech.mel, speech.mel_start, frame, self.mel_offset)[0]

    def loss(self, pictures: torch.Tensor, places: torch.Tensor, heard: torch.Tensor) -> torch.Tensor:
        """See :meth:`judged`; pictures float [n, 5, 3, S, S] RGB in [-1, 1], of which the boxes are cut."""
        blue_first = (pictures.flip(2).flatten(0, 1) + 1) / 2
        grid = functional.affine_grid(places.flatten(0, 1), [len(blue_first), 3, self.size, self.size], False)
        faces = functional.grid_sample(blue_first, grid, padding_mode="border", align_corners=False)
        return self.judged(faces.unflatten(0, (-1, FRAMES)).transpose(1, 2), heard)

    def judged(self, faces: torch.Tensor, mel: torch.Tensor) -> torch.Tensor:
        """Cross entropy of "these belong together", a scalar: the sync loss of ``wav2lip_train.py``.

        Args:
            faces: float [n, 3, 5, S, S], BGR in 0..1.
            mel: float [n, 1, 80, 16].
        """
        self.network.to(faces.device)
        return sync_loss(*self.network(mel, expert_faces(faces)))


class Wav2LipSyncExpert:
    """The entry point of ``wav2lip-expert`` among ``g4g.sync_experts``."""

    def open(self, checkpoint: str | None = None) -> FrozenExpert:
        """The expert of a checkpoint, see :func:`baselines.wav2lip.checkpoint.read`; ``None``: the public one.

        Raises:
            WeightsError: there is none, or it is of another kind.
        """
        about, tensors = checkpoints.read(EXPERT, checkpoint)
        for found in (*about.findings, *about.marks):
            logger.warning("the sync expert %s: %s", checkpoint or "of the weights registry", found)
        network = SyncExpert(about.config)
        checkpoints.fill(network, tensors, EXPERT, checkpoint)
        return FrozenExpert(about.config, network, about.sha256, about.training.command)


WAV2LIP_SYNC_EXPERT = Wav2LipSyncExpert()
