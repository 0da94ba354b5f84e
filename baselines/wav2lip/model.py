"""Wav2Lip at work: prompts in, pictures out. Torch is imported when a network is opened, not when it is looked up.

What differs from the public ``inference.py``, because a prompt hides the target's mouth and the score wants the rest
of the picture as it was:

- The reference is a frame that the prompt shows, the first one, cut out by its own box. The public script gives the
  target itself, mouth and all, as the reference; its training gives another frame of the clip, as here.
- What the network sees above the middle of the box is the source. A strip of ``erase`` that reaches up there (whole
  8x8 blocks at the nose base) shows the reference's skin, warped to the pose as ``still`` does.
- What it draws is seen inside ``erase``, and fades into the source in a ring around it, as ``still`` does. The public
  script puts the whole box into the frame, with its edges.
- Where ``erase`` reaches out of the box (the neck, under the padded chin), the warped reference is seen, and the two
  fade into each other inside the box.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from baselines.redraw import redraw
from baselines.trained import TrainedGenerator, told_of
from baselines.wav2lip import checkpoint as checkpoints
from baselines.wav2lip.box import boxes_of, cut_out, outside, put_in
from baselines.wav2lip.config import GENERATOR_PRESETS
from g4g_core.protocols import POSE_POINTS, ClipPrompt

VERSION = 1
"""Counts changes of what a checkpoint draws for a prompt."""

CHUNK = 16
"""Frames at a time, but for the last ones of a prompt: the last digits of a convolution may depend on it."""


class Wav2LipGenerator(TrainedGenerator):
    """A network with its weights at work."""

    def generate(self, prompt: ClipPrompt) -> np.ndarray:
        """uint8 [T, S, S, 3]: the source, with all of ``erase`` redrawn; pixels outside the ring are the source's."""
        donor, donor_pose = prompt.references[0], prompt.reference_landmarks[0][POSE_POINTS]
        still = _each(prompt.source, prompt.erase, prompt.pose, donor, donor_pose)
        boxes = boxes_of(prompt.pose, prompt.size)
        seen = cut_out(np.where(prompt.erase[..., None] > 0, still, prompt.source), boxes, self._size)
        reference = cut_out(donor[None], boxes_of(donor_pose[None], prompt.size), self._size)
        from g4g_core.training import threads

        with threads(1):  # the last digits depend on their number
            faces = [
                self._drawn(prompt, seen[start : start + CHUNK], reference, start)
                for start in range(0, len(seen), CHUNK)
            ]
        # the same pose on both sides: nothing is warped from here on, one picture fades into another
        drawn = put_in(still, boxes, np.concatenate(faces))
        drawn = _each(drawn, outside(prompt.erase, boxes), prompt.pose, still, prompt.pose)
        return _each(prompt.source, prompt.erase, prompt.pose, drawn, prompt.pose)

    def _drawn(self, prompt: ClipPrompt, seen: np.ndarray, reference: np.ndarray, start: int) -> np.ndarray:
        """Faces as the network draws them, uint8 [n, s, s, 3], for those it sees from frame ``start`` on."""
        import torch

        from baselines.wav2lip.pixels import generator_faces, pictures_in, pictures_out
        from g4g_model.inputs import heard

        spoken = prompt.frame_start + start + np.arange(len(seen))
        mel = torch.from_numpy(heard(prompt.mel, prompt.mel_start, spoken, self.mel_offset))
        with torch.inference_mode():
            known = pictures_in(reference).expand(len(seen), -1, -1, -1)
            faces = generator_faces(pictures_in(seen), known)
            return pictures_out(self._network(mel.to(self._device), faces.to(self._device)))


def _each(
    sources: np.ndarray, erase: np.ndarray, pose: np.ndarray, donors: np.ndarray, donor_poses: np.ndarray
) -> np.ndarray:
    """:func:`baselines.redraw.redraw` frame by frame; one donor for all, or one each."""
    count = len(sources)
    donors, donor_poses = (np.broadcast_to(a, (count, *a.shape[-n:])) for a, n in ((donors, 3), (donor_poses, 2)))
    frames = zip(sources, erase, pose, donors, donor_poses, strict=True)
    return np.stack([redraw(*frame) for frame in frames])


@dataclasses.dataclass(frozen=True)
class Wav2LipKind:
    """The entry point of one set of weights. See :class:`g4g_core.protocols.GeneratorKind`.

    It runs with a checkpoint (a public file, or one of our training): that of ``--checkpoint``, else the one that the
    project file ``g4g.yaml`` notes, else the weights registry's file.
    """

    name: str
    summary: str
    needs_weights: tuple[str, ...] = ()  # a checkpoint does as well: open() asks for what is missing
    needs_checkpoint: bool = False

    def fingerprint(self, checkpoint: str | None) -> str:
        return f"wav2lip/{VERSION} {checkpoints.fingerprint(self.name, checkpoint)}"

    def open(self, checkpoint: str | None) -> Wav2LipGenerator:
        """The network of a checkpoint, see :func:`baselines.wav2lip.checkpoint.read`. Raises WeightsError."""
        about, tensors = checkpoints.read(self.name, checkpoint)
        from baselines.wav2lip.generator import Generator

        network = Generator(about.config)
        checkpoints.fill(network, tensors, self.name, checkpoint)
        return Wav2LipGenerator(about, network.eval())

    def info(self, checkpoint: str | None, preset: str | None) -> dict[str, Any]:
        """See :class:`g4g_core.protocols.SelfDescribing`; with neither, of the registry's weights, if they are here."""
        about, source = checkpoints.described(self.name, GENERATOR_PRESETS, checkpoint, preset)
        from baselines.wav2lip.generator import Generator

        size, offset = about.config.size, about.config.mel_offset
        sights = {
            "mel": f"[B, 1, 80, 16] in [-4, 4], bands x columns at 80 a second; windows moved by {offset} frames",
            "faces": f"[B, 6, {size}, {size}] BGR in 0..1; the face without its lower half, a reference",
        }
        return told_of(about, Generator, sights, source)


WAV2LIP = Wav2LipKind("wav2lip", "Wav2Lip (Prajwal et al. 2020), its network in code of our own")
WAV2LIP_GAN = Wav2LipKind("wav2lip-gan", "Wav2Lip trained with its visual quality discriminator")
