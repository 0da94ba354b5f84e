"""DINet at work: prompts in, pictures out. Torch is imported when a network is opened, not when it is looked up."""

from __future__ import annotations

from typing import Any

import numpy as np

from baselines.dinet.config import NAME, PRESETS, DINetConfig
from baselines.redraw import redraw
from baselines.trained import TrainedGenerator, fault_of, files_of, fingerprint_of, preset_of, read_trained, told_of
from g4g_core.errors import WeightsError
from g4g_core.protocols import ClipPrompt
from g4g_core.references import COUNT
from g4g_core.resize import resize

VERSION = 1
"""Counts changes of what a checkpoint draws for a prompt."""

CHUNK = 16
"""Frames at a time, but for the last ones of a prompt: the last digits of a convolution may depend on it."""


class DINetGenerator(TrainedGenerator):
    """A network with its weights at work."""

    def generate(self, prompt: ClipPrompt) -> np.ndarray:
        """uint8 [T, S, S, 3]: the source, with all of ``erase`` redrawn.

        The drawing is seen inside ``erase`` and fades into the source in a ring around it, as ``still`` does; the
        public script puts all of the rectangle into the frame.
        """
        from g4g_core.training import threads

        with threads(1):  # the last digits depend on their number
            drawn = np.concatenate([self._drawn(prompt, start) for start in range(0, len(prompt.source), CHUNK)])
        # the same pose on both sides: nothing is warped, one picture fades into the other
        frames = zip(prompt.source, prompt.erase, prompt.pose, resize(drawn, prompt.size), strict=True)
        return np.stack([redraw(source, erase, pose, picture, pose) for source, erase, pose, picture in frames])

    def _drawn(self, prompt: ClipPrompt, start: int) -> np.ndarray:
        """Frames as the network draws them, uint8 [n, s, s, 3], from ``start`` on."""
        import torch

        from baselines.dinet.inputs import pictures_in, pictures_out, source_in
        from g4g_model.inputs import heard

        frames = slice(start, start + CHUNK)
        source = source_in(prompt.source[frames], prompt.erase[frames], self._size)[None]
        spoken = prompt.frame_start + start + np.arange(source.shape[1])
        mel = torch.from_numpy(heard(prompt.mel, prompt.mel_start, spoken, self.mel_offset))[None]
        seen = (source, pictures_in(prompt.references, self._size)[None], mel)
        with torch.inference_mode():
            return pictures_out(self._network(*(tensor.to(self._device) for tensor in seen))[0])


class DINetKind:
    """The entry point. See :class:`g4g_core.protocols.GeneratorKind`."""

    summary = "DINet (Zhang et al. 2023) after the public design, with mel windows for speech"
    needs_weights: tuple[str, ...] = ()
    needs_checkpoint = True

    def fingerprint(self, checkpoint: str | None) -> str:
        return f"{NAME}/{VERSION} {fingerprint_of(files_of(NAME, _named(checkpoint)))}"

    def open(self, checkpoint: str | None) -> DINetGenerator:
        """The network of a checkpoint: an exported file, the folder of its run, or a checkpoint ``step-...`` of it.

        Raises:
            WeightsError: there is none, or it is of another kind.
        """
        place = _named(checkpoint)
        files = files_of(NAME, place)
        about, tensors = read_trained(NAME, files, {NAME: DINetConfig}, "DINet")
        from baselines.dinet.network import DINet

        network = DINet(about.config)
        fault = fault_of(network, tensors)
        if fault:
            raise WeightsError(f"{place} (SHA-256 {fingerprint_of(files)}) {fault}", "Train it again.")
        return DINetGenerator(about, network.eval())

    def info(self, checkpoint: str | None, preset: str | None) -> dict[str, Any]:
        """See :class:`g4g_core.protocols.SelfDescribing`."""
        if checkpoint is None:
            about, source = preset_of(NAME, DINetConfig, PRESETS, preset), None
        else:
            files = files_of(NAME, checkpoint)
            about, _ = read_trained(NAME, files, {NAME: DINetConfig}, "DINet")
            source = checkpoint, fingerprint_of(files)
        from baselines.dinet.network import DINet

        size, offset = about.config.size, about.config.mel_offset
        sights = {
            "source": f"[B, T, 3, {size}, {size}] RGB in 0..1; black where it is to be redrawn",
            "references": f"[B, K, 3, {size}, {size}] RGB in 0..1; {COUNT} other frames of the shot",
            "mel": f"[B, T, 1, 80, 16] in [-4, 4], bands x columns at 80 a second; windows moved by {offset} frames",
        }
        return told_of(about, DINet, sights, source)


def _named(checkpoint: str | None) -> str:
    if checkpoint is None:
        raise WeightsError(f"{NAME} needs a checkpoint", f"Train one: g4g-model train --model {NAME}.")
    return checkpoint


DINET = DINetKind()
