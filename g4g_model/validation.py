"""How training is judged on the way: figures and pictures of the averaged networks on windows that stay the same."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from g4g_core.training import mapped
from g4g_model.config import FRAMES
from g4g_model.data import Batches, G4GBatch
from g4g_model.g4g import G4G, Drawn
from g4g_model.inputs import pictures_out
from g4g_model.losses import masked_l1, too_near
from g4g_model.networks.alignment import mouth_pictures
from g4g_model.networks.layers import flattened
from g4g_model.parts import Average

WINDOWS = 32
"""Windows that figures are taken on."""

SHOWN = 4
"""Windows in a picture."""

_GAP = 4  # px between the pictures of a grid


def figures(average: Average, batches: Batches) -> dict[str, float]:
    """What can be said without a landmark detector; ``score`` decides which checkpoint is best.

    Args:
        average: the networks, in evaluation mode.
        batches: of one sample each.

    Returns:
        ``mouth_psnr``: dB, in the mouth; ``mouth_l1``: 0..2; ``found_true`` and ``found_drawn``: how many times more
        often than by chance a true and a drawn mouth find their sound among those of their clip.
    """
    device = next(average.parameters()).device
    errors, squares, true, generated = [], [], [], []
    for number in range(WINDOWS):
        batch: G4GBatch = mapped(batches.draw(np.random.default_rng([0, number])), lambda tensor: tensor.to(device))
        drawn: Drawn = average.generator(batch.inputs)
        truth, mask = flattened(batch.truth), flattened(batch.regions["mouth"])
        if not mask.any():
            continue  # a mouth that lies outside of the crop says nothing
        errors.append(float(masked_l1(drawn.picture, truth, mask)))
        squares.append(float((mask * (drawn.picture - truth).square()).sum() / (3 * mask.sum())))
        if average.mouth is not None:
            hits = _found(average, batch, drawn.picture)
            true.append(hits[1:].mean())
            generated.append(hits[0])
    if not squares:
        return {}
    psnr = float(np.mean([10 * np.log10(4 / max(value, 1e-10)) for value in squares]))
    told = {"mouth_psnr": psnr, "mouth_l1": float(np.mean(errors))}
    if true:
        told |= {"found_true": float(np.mean(true)), "found_drawn": float(np.mean(generated))}
    return {**told, "score": psnr}


def _found(average: Average, batch: G4GBatch, picture: torch.Tensor) -> np.ndarray:
    """float [1 + W]: for the drawn window and the W true ones of a clip, 0 or the number of sounds to choose from."""
    assert average.mouth is not None
    mouths = mouth_pictures(picture, flattened(batch.places), batch.stacks.shape[-1])
    seen = average.mouth(torch.cat([mouths[None], batch.stacks[0]]))
    sounds = functional.normalize(average.generator.audio(flattened(batch.sounds)), dim=1)
    near = too_near(batch.starts)
    near[1:, 0] = True  # the drawn window's sound is one more to choose from for itself alone
    hits = (seen @ sounds.T).masked_fill(near, -2).argmax(1) == torch.arange(len(seen), device=seen.device)
    return np.asarray((hits * (~near).sum(1)).cpu().numpy(), np.float64)


def grid(generator: G4G, batches: Batches) -> np.ndarray:
    """uint8 [H, W, 3]: a row of pictures a window (source, drawn, true, twice their difference), of its middle frame,
    and one of the references."""
    device = next(generator.parameters()).device
    rows = []
    for number in range(SHOWN):
        drawn_batch = batches.draw(np.random.default_rng([1, number]))
        batch: G4GBatch = mapped(drawn_batch, lambda tensor: tensor.to(device))
        drawn: Drawn = generator(batch.inputs)
        middle = FRAMES // 2
        found, truth = drawn.picture[middle], batch.truth[0, middle]
        apart = (2 * (found - truth).abs() - 1).clamp(-1, 1)
        shown = [batch.inputs.source[0, middle], found, truth, apart, batch.inputs.references[0, 0]]
        rows.append(_spaced([pictures_out(picture) for picture in shown], axis=1))
    return _spaced(rows, axis=0)


def _spaced(parts: list[np.ndarray], axis: int) -> np.ndarray:
    widths = [(0, 0)] * 3
    widths[axis] = (0, _GAP)
    padded = [np.pad(part, widths, constant_values=255) for part in parts[:-1]]
    return np.concatenate([*padded, parts[-1]], axis)
