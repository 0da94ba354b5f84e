"""The people of the sample data set: one portrait, re-coloured and re-proportioned into many identities."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
from numpy.typing import NDArray

from prep.sources.sample_portrait import FACE_SKIN, HAIR_BOTTOM, PERSON, Points

_VARIATIONS_OF_SPLIT = {"train": 12, "val": 3, "test": 10}

# (centre, sigma) in portrait pixels of the places where proportions change.
_JAW = ((224.0, 160.0), (48.0, 26.0))
_CHIN = ((224.0, 186.0), (46.0, 22.0))
_NOSE = ((225.0, 127.0), (15.0, 14.0))
_MOUTH = ((223.4, 146.0), (30.0, 18.0))
_HAIR = ((226.0, 60.0), (85.0, 55.0))
_LEFT_EYE = ((202.5, 101.5), (16.0, 12.0))
_RIGHT_EYE = ((247.0, 103.5), (16.0, 12.0))
_LEFT_BROW = ((201.0, 88.0), (18.0, 8.0))
_RIGHT_BROW = ((249.0, 91.0), (18.0, 8.0))

_SKIN_TONES = ((1.0, 1.0, 1.0), (0.82, 0.74, 0.68), (1.06, 0.98, 0.9), (0.68, 0.58, 0.52), (0.95, 0.88, 0.8))
_HAIR_COLOURS = (
    (1.0, 1.0, 1.0), (0.45, 0.42, 0.45), (1.15, 0.75, 0.6), (1.25, 1.2, 1.1), (0.75, 0.6, 0.55),
    (1.2, 1.3, 1.55),
)  # fmt: skip
_BACKGROUNDS = (
    (0.85, 0.85, 0.85), (0.42, 0.55, 0.78), (0.75, 0.62, 0.45), (0.35, 0.36, 0.4), (0.55, 0.78, 0.6),
    (0.8, 0.5, 0.5), (0.55, 0.5, 0.75),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Identity:
    """One variation of the portrait.

    Attributes:
        index: 0-based, over all splits.
        split: the only split in which it may be seen.
        flip: mirrored left to right.
        bumps: local changes of proportion: (centre, sigma, (stretch x, stretch y, shift x, shift y)) in
            portrait pixels, stretches as fractions.
        width: horizontal scale of the whole head.
        skin, hair, background: factors on R, G, B.
        gamma: exponent on intensities 0..1.
        slope: brightness change of the background from left to right, as a fraction.
    """

    index: int
    split: str
    flip: bool
    bumps: tuple[tuple[tuple[float, float], tuple[float, float], tuple[float, float, float, float]], ...]
    width: float
    skin: tuple[float, float, float]
    hair: tuple[float, float, float]
    background: tuple[float, float, float]
    gamma: float
    slope: float


def all_identities() -> tuple[Identity, ...]:
    """Every variation, ``train`` first, then ``val`` and ``test``; the same on every call."""
    splits = [split for split, count in _VARIATIONS_OF_SPLIT.items() for _ in range(count)]
    return tuple(_draw(index, split) for index, split in enumerate(splits))


def _draw(index: int, split: str) -> Identity:
    rng = np.random.default_rng([68, index])

    def amount(limit: float) -> float:
        return float(rng.uniform(-limit, limit))

    spacing, eye, brow = amount(1.6), amount(0.09), amount(1.6)
    return Identity(
        index=index,
        split=split,
        flip=index % 2 == 1,
        bumps=(
            (*_JAW, (amount(0.11), 0.0, 0.0, 0.0)),
            (*_CHIN, (0.0, 0.0, 0.0, amount(3.5))),
            (*_NOSE, (amount(0.2), 0.0, 0.0, amount(1.5))),
            (*_MOUTH, (amount(0.09), 0.0, 0.0, 0.0)),
            (*_HAIR, (amount(0.09), 0.0, 0.0, amount(3.0))),
            (*_LEFT_EYE, (eye, eye, -spacing, 0.0)),
            (*_RIGHT_EYE, (eye, eye, spacing, 0.0)),
            (*_LEFT_BROW, (0.0, 0.0, 0.0, brow)),
            (*_RIGHT_BROW, (0.0, 0.0, 0.0, brow)),
        ),
        width=1.0 + amount(0.06),
        # 5, 6 and 7 have no common factor: no two of the variations share all three
        skin=_SKIN_TONES[index % len(_SKIN_TONES)],
        hair=_HAIR_COLOURS[index % len(_HAIR_COLOURS)],
        background=_BACKGROUNDS[index % len(_BACKGROUNDS)],
        gamma=1.0 + amount(0.15),
        slope=amount(0.15),
    )


def reshape(identity: Identity, points: NDArray[np.floating]) -> NDArray[np.float32]:
    """Where the portrait's points [..., 2] lie on this identity's face, in portrait pixels."""
    return (points + _displacement(identity, points)).astype(np.float32)


def reshape_inverse(identity: Identity, points: NDArray[np.floating]) -> NDArray[np.float32]:
    """The portrait's points that :func:`reshape` moves to ``points`` [..., 2]."""
    source = points.astype(np.float32)
    for _ in range(8):  # a contraction: every stretch is far below 1
        source = points - _displacement(identity, source)
    return source.astype(np.float32)


def _displacement(identity: Identity, points: NDArray[np.floating]) -> NDArray[np.float32]:
    x, y = points[..., 0], points[..., 1]
    moved_x = (identity.width - 1.0) * (x - 224.0)
    moved_y = np.zeros_like(moved_x)
    for (centre_x, centre_y), (sigma_x, sigma_y), (stretch_x, stretch_y, shift_x, shift_y) in identity.bumps:
        right, down = x - centre_x, y - centre_y
        weight = np.exp(-0.5 * ((right / sigma_x) ** 2 + (down / sigma_y) ** 2))
        moved_x = moved_x + weight * (stretch_x * right + shift_x)
        moved_y = moved_y + weight * (stretch_y * down + shift_y)
    return np.stack([moved_x, moved_y], axis=-1).astype(np.float32)


def paint(identity: Identity, portrait: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The portrait, uint8 [512, 512, 3] RGB, in this identity's colours; nothing moves."""
    height, width = portrait.shape[:2]
    # a little inside the silhouette, or a rim of the old background would shine around the hair
    person = np.clip(1.8 * _soft_mask(PERSON, portrait.shape[:2], 1.6) - 0.8, 0.0, 1.0)
    face = _soft_mask(FACE_SKIN, portrait.shape[:2], 2.5)
    rows = np.arange(height, dtype=np.float32)[:, None]
    hair = person * (1.0 - face) * np.clip((HAIR_BOTTOM - rows) / 8.0, 0.0, 1.0)
    ramp = 1.0 + identity.slope * (np.arange(width, dtype=np.float32)[None, :] - 224.0) / 100.0
    colours = portrait.astype(np.float32) / 255.0
    gains = person[..., None] * np.array(identity.skin, dtype=np.float32)
    gains += hair[..., None] * (
        np.array(identity.hair, dtype=np.float32) - np.array(identity.skin, dtype=np.float32)
    )
    gains += ((1.0 - person) * ramp)[..., None] * np.array(identity.background, dtype=np.float32)
    painted = np.clip(colours * gains, 0.0, 1.0) ** np.float32(identity.gamma)
    return np.round(painted * 255.0).astype(np.uint8)


def _soft_mask(polygon: Points, shape: tuple[int, int], sigma: float) -> NDArray[np.float32]:
    mask = np.zeros(shape, dtype=np.uint8)
    cv2.fillPoly(mask, [np.round(polygon * 16).astype(np.int32)], 255, lineType=cv2.LINE_AA, shift=4)
    return np.asarray(cv2.GaussianBlur(mask.astype(np.float32) / 255.0, (0, 0), sigma), dtype=np.float32)
