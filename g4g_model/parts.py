"""All networks that take part in training G4G, and the running average of two of them."""

from __future__ import annotations

import copy

import torch
from torch import nn

from g4g_model.config import G4GConfig
from g4g_model.g4g import G4G
from g4g_model.networks.alignment import MouthEncoder
from g4g_model.networks.discriminator import PatchDiscriminator


class Average(nn.Module):
    """Running averages of the generator and of E_m; nothing is learned by gradient here.

    The averaged generator is the one that is exported. The averaged pair of E_m and audio encoder judges generated
    mouths in L_sync, which therefore cannot bend them.
    """

    updates: torch.Tensor

    def __init__(self, generator: G4G, mouth: MouthEncoder | None, decay: float) -> None:
        super().__init__()
        self.generator, self.mouth = copy.deepcopy(generator), copy.deepcopy(mouth)
        self.requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self._decay = decay

    @torch.no_grad()
    def update(self, generator: G4G, mouth: MouthEncoder | None) -> None:
        """Move towards weights by 1 - decay; faster in the first steps, which would else weigh too much."""
        done = int(self.updates)
        decay = min(self._decay, (1 + done) / (10 + done))
        for ours, theirs in ((self.generator, generator), (self.mouth, mouth)):
            if ours is None or theirs is None:
                continue
            for average, value in zip(ours.parameters(), theirs.parameters(), strict=True):
                average.lerp_(value, 1 - decay)
        self.updates += 1


class Parts(nn.Module):
    """All that a checkpoint holds. Parts that the configuration has no use for are not made."""

    def __init__(self, config: G4GConfig) -> None:
        super().__init__()
        self.generator = G4G(config)
        self.mouth = _mouth(config) if config.inter else None
        adversarial = config.weights.gan > 0 or config.weights.features > 0
        self.discriminator = PatchDiscriminator(config.channels[0]) if adversarial else None
        self.average = Average(self.generator, self.mouth, config.average)


def _mouth(config: G4GConfig) -> MouthEncoder:
    """E_m; pairs are compared by their cosine alone, without a temperature."""
    if config.pairs == "pairwise":
        return MouthEncoder(config.mouth_size, config.embedding, None)
    return MouthEncoder(config.mouth_size, config.embedding)
