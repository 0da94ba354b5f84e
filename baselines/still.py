"""``still``: the control that does not speak. The first reference's mouth follows the head, and nothing else moves."""

from __future__ import annotations

import numpy as np

from baselines.redraw import redraw
from g4g_core.protocols import POSE_POINTS, ClipPrompt


class Still:
    """The first reference's mouth, warped to the pose of every frame and feathered."""

    native_size: int | None = None
    mel_offset = 0
    trained_against: tuple[str, ...] = ()
    losses_off: tuple[str, ...] = ()
    preset: str | None = None

    def generate(self, prompt: ClipPrompt) -> np.ndarray:
        """uint8 [T, S, S, 3]: see :class:`g4g_core.protocols.Generator`."""
        donor, pose = prompt.references[0], prompt.reference_landmarks[0][POSE_POINTS]
        frames = zip(prompt.source, prompt.erase, prompt.pose, strict=True)
        return np.stack([redraw(source, erase, points, donor, pose) for source, erase, points in frames])


class StillKind:
    """See :class:`g4g_core.protocols.GeneratorKind`."""

    summary = "control: the first reference's mouth, warped to every pose; it does not speak"
    needs_weights: tuple[str, ...] = ()
    needs_checkpoint = False

    def fingerprint(self, checkpoint: str | None) -> str:
        return "still/1"

    def open(self, checkpoint: str | None) -> Still:
        return Still()


STILL = StillKind()
