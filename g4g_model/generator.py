"""G4G at work: prompts in, pictures out. Torch is imported when a network is opened, not when it is looked up."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from g4g_core.errors import WeightsError
from g4g_core.protocols import ClipPrompt
from g4g_core.resize import resize
from g4g_model.checkpoint import About, fingerprint, read

if TYPE_CHECKING:
    import torch

    from g4g_model.g4g import G4G

VERSION = 4
"""Counts changes of what a checkpoint draws for a prompt."""

CHUNK = 16
"""Frames at a time, but for the last ones of a prompt: the last digits of a convolution may depend on it."""


class G4GGenerator:
    """A trained network. See :class:`g4g_core.protocols.Generator`."""

    def __init__(self, about: About, network: G4G) -> None:
        self.native_size: int | None = about.config.size
        self.mel_offset = about.config.mel_offset
        self.trained_against = about.trained_against
        self.losses_off = about.losses_off
        self.preset = about.config.preset
        self.training = about.training
        self._fused = about.config.fusion
        self._network, self._device = network, "cpu"

    def to(self, device: str) -> None:
        """Draw on another device. See :class:`g4g_core.protocols.Movable`."""
        self._network, self._device = self._network.to(device), device

    def generate(self, prompt: ClipPrompt) -> np.ndarray:
        """uint8 [T, S, S, 3]: the source, with all of ``erase`` redrawn; pixels outside the ring are the source's.

        A CPU works on it with one thread, for the last digits depend on their number.
        """
        from g4g_core.training import threads

        with threads(1):
            parts = [self._drawn(prompt, start) for start in range(0, len(prompt.source), CHUNK)]
        return np.concatenate(parts)

    def _drawn(self, prompt: ClipPrompt, start: int) -> np.ndarray:
        import torch

        from g4g_core.training import mapped
        from g4g_model.inputs import heard, inputs_of, pictures_out

        frames = slice(start, start + CHUNK)
        source, erase = prompt.source[frames], prompt.erase[frames]
        spoken = prompt.frame_start + start + np.arange(len(source))
        inputs = inputs_of(
            source=source,
            erase=erase,
            pose=prompt.pose[frames],
            references=prompt.references,
            reference_landmarks=prompt.reference_landmarks,
            mel=heard(prompt.mel, prompt.mel_start, spoken, self.mel_offset),
            size=self._network_size,
        )
        with torch.inference_mode():
            seen = mapped(inputs, lambda tensor: tensor.to(self._device))
            drawn = pictures_out(self._network(seen).picture)
        return joined(source, erase, resize(drawn, prompt.size), self._fused, exact=prompt.size == self._network_size)

    @property
    def _network_size(self) -> int:
        assert self.native_size is not None
        return self.native_size


def joined(source: np.ndarray, erase: np.ndarray, drawn: np.ndarray, fused: bool, *, exact: bool) -> np.ndarray:
    """Drawn pictures in their sources.

    Args:
        source: uint8 [T, S, S, 3].
        erase: uint8 [T, S, S] of 0 and 1.
        drawn: uint8 [T, S, S, 3], what the network gave.
        fused: the network joins the two in a ring around ``erase``; else ``erase`` has a hard edge.
        exact: ``drawn`` has not been resized. If it has, what lies in the ring is blurred, and fades into the source.
    """
    from g4g_model.networks.fusion import reach_of

    if not fused:
        return np.where(erase[..., None] > 0, drawn, source)
    # dilated() and softened() of the network's fusion, by OpenCV: six times as fast on a CPU
    side = 2 * reach_of(erase.shape[1]) + 1
    grown = np.stack([cv2.dilate(mask, np.ones((side, side), np.uint8)) for mask in erase])
    if exact:
        return np.where(grown[..., None] > 0, drawn, source)
    out = np.empty_like(source)
    for picture, mask, ring, face, frame in zip(out, erase, grown.astype(np.float32), drawn, source, strict=True):
        share = np.maximum(mask, cv2.blur(ring, (side, side), borderType=cv2.BORDER_REPLICATE) * ring)[..., None]
        picture[:] = np.round(share * face + (1 - share) * frame)
    return out


def network_of(place: str, about: About, weights: Mapping[str, torch.Tensor]) -> G4G:
    """The network of a checkpoint that was read from ``place``.

    Raises:
        WeightsError: the weights are not those of its configuration, as an older version of a variant has them.
    """
    from g4g_model.g4g import G4G

    network = G4G(about.config)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise WeightsError(
            f"{place} does not fit its own configuration: {first}",
            "It was trained by another version of this program: train it again.",
        ) from error
    return network


@dataclasses.dataclass(frozen=True)
class G4GModelKind:
    """The entry point of a variant. See :class:`g4g_core.protocols.GeneratorKind`."""

    name: str
    summary: str
    needs_weights: tuple[str, ...] = ()
    needs_checkpoint: bool = True

    def fingerprint(self, checkpoint: str | None) -> str:
        return f"g4g/{VERSION} {fingerprint(self._named(checkpoint))}"

    def open(self, checkpoint: str | None) -> G4GGenerator:
        """The network of a checkpoint, see :func:`g4g_model.checkpoint.read`. Raises WeightsError for another one."""
        place = self._named(checkpoint)
        about, weights = read(place)
        if about.name != self.name:
            raise WeightsError(
                f"{place} is a checkpoint of {about.name}, not of {self.name}",
                f"Ask for the model {about.name}, or give another checkpoint.",
            )
        return G4GGenerator(about, network_of(place, about, weights).eval())

    def info(self, checkpoint: str | None, preset: str | None) -> dict[str, Any]:
        """See :class:`g4g_core.protocols.SelfDescribing` and :mod:`g4g_model.info`."""
        from g4g_model.info import of_checkpoint, of_preset

        return of_preset(self.name, preset) if checkpoint is None else of_checkpoint(self.name, checkpoint)

    def _named(self, checkpoint: str | None) -> str:
        if checkpoint is None:
            raise WeightsError(f"{self.name} needs a checkpoint", f"Train one: g4g-model train --model {self.name}.")
        return checkpoint


G4G_MODEL = G4GModelKind("g4g", "G4G (arXiv 2402.18122), our reading of it")
NO_INTRA_MODEL = G4GModelKind("g4g-no-intra", "ablation: G4G without the alignment of pictures with sketches")
NO_INTER_MODEL = G4GModelKind("g4g-no-inter", "ablation: G4G without the matrix of mouths and sounds")
PAIRWISE_MODEL = G4GModelKind("g4g-pairwise", "ablation: G4G with SyncNet's pairs instead of the matrix")
SINGLE_MASK_MODEL = G4GModelKind("g4g-single-mask", "ablation: G4G supervised at one scale, in one mask")
NO_FUSION_MODEL = G4GModelKind("g4g-no-fusion", "ablation: G4G with a hard edge instead of deformation fusion")
