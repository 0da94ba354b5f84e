"""How the sample's face moves: displacement fields fitted once per identity, mixed per frame.

Two smooth fields, one that carries the upper lip and one that carries the lower lip and the jaw, meet at the
line between the lips. Both are linear in (opening, width, protrusion): thin plate splines through landmarks.

Coordinates called canonical are portrait pixels after the identity's change of proportions.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
from numpy.typing import NDArray

from prep.sources import sample_portrait as portrait
from prep.sources.sample_identity import Identity, reshape

Floats = NDArray[np.float32]

FIELD_BOX = (160, 84, 290, 214)
"""x0, y0, x1, y1 of the displacement fields, canonical; nothing moves on its border."""

_OPEN_GAP = 11.5  # portrait pixels by which the lower lip drops at opening 1
_CLOSED_GAP = 0.5  # portrait pixels left between closed lips: it shows as the dark line between them


class Rig:
    """How the canonical face of one identity moves with (opening, width, protrusion)."""

    def __init__(self, identity: Identity) -> None:
        def moves(points: Floats, rule: _Rule) -> tuple[Floats, list[Floats]]:
            """Canonical rest shape and what each of opening, width and protrusion adds to it."""
            rest = points + rule.rest
            shape = reshape(identity, rest)
            return shape, [reshape(identity, rest + move) - shape for move in rule.moves]

        def fit(*groups: tuple[Floats, _Rule]) -> Floats:
            sources, targets = [], []
            for points, rule in groups:
                source = reshape(identity, points)
                rest, basis = moves(points, rule)
                sources.append(source)
                targets.append(np.concatenate([rest - source, *basis], axis=1))
            return _smooth_fields(np.concatenate(sources), np.concatenate(targets))

        inner_up, inner_low = portrait.UPPER_LIP_INNER, portrait.LOWER_LIP_INNER
        outer_up, outer_low = portrait.UPPER_LIP_OUTER, portrait.LOWER_LIP_OUTER
        jaw = np.concatenate([portrait.LANDMARKS[2:15], np.array([(223.0, 167.0)], dtype=np.float32)])
        still = np.concatenate([portrait.LANDMARKS[[0, 1, 15, 16]], portrait.LANDMARKS[17:48], _ring()])
        common = ((jaw, _jaw_rule(jaw)), (still, _still_rule(still)))
        self._fields = tuple(
            fit((inner, _lip_rule(inner, side, 0.0)), (outer, _lip_rule(outer, side, 1.0)), *common)
            for inner, outer, side in ((inner_up, outer_up, "upper"), (inner_low, outer_low, "lower"))
        )
        self._inner = tuple(
            moves(line, _lip_rule(line, side, 0.0))
            for line, side in ((inner_up, "upper"), (inner_low, "lower"))
        )
        self.lids = tuple(
            (reshape(identity, upper), reshape(identity, lower))
            for upper, lower in zip(portrait.UPPER_LIDS, portrait.LOWER_LIDS, strict=True)
        )
        x0, y0, x1, y1 = FIELD_BOX
        self.grid = np.stack(np.meshgrid(np.arange(x0, x1), np.arange(y0, y1)), axis=-1).astype(np.float32)

    def lips(self, mouth: NDArray[np.floating]) -> tuple[Floats, Floats]:
        """Inner contours of the upper and lower lip: canonical, [49, 2] each, at the same x."""
        shapes = [
            rest + sum(float(share) * move for share, move in zip(mouth, basis, strict=True))
            for rest, basis in self._inner
        ]
        x = np.linspace(shapes[0][0, 0], shapes[0][-1, 0], 49)
        upper, lower = (np.interp(x, shape[:, 0], shape[:, 1]) for shape in shapes)
        lower = np.maximum(lower, upper)
        return np.stack([x, upper], 1).astype(np.float32), np.stack([x, lower], 1).astype(np.float32)

    def inverse_fields(self, mouth: NDArray[np.floating]) -> tuple[Floats, Floats]:
        """What to subtract from a canonical place to find what is shown there: above and below the lips."""
        upper, lower = (self._invert(_mix(field, mouth)) for field in self._fields)
        return upper, lower

    def _invert(self, forward: Floats) -> Floats:
        inverse = forward
        own = self.grid - np.array(FIELD_BOX[:2], dtype=np.float32)
        for _ in range(3):  # fixed point of inverse(x) = forward(x - inverse(x))
            place = own - inverse
            inverse = cv2.remap(  # type: ignore[call-overload]
                forward, place, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
            )
        return inverse


@dataclasses.dataclass(frozen=True)
class _Rule:
    """Displacements [N, 2] of points: to the closed rest shape, and per unit of each mouth parameter."""

    rest: Floats
    moves: tuple[Floats, Floats, Floats]


def _rule(rest: Floats, opening: Floats, width: Floats, protrusion: Floats) -> _Rule:
    return _Rule(rest, (opening, width, protrusion))


def _pairs(x: NDArray[np.floating] | float, y: NDArray[np.floating] | float) -> Floats:
    return np.stack(np.broadcast_arrays(np.asarray(x), np.asarray(y)), axis=-1).astype(np.float32)


def _lip_rule(points: Floats, side: str, outer: float) -> _Rule:
    """Rules of a lip contour; ``outer`` is 0 for the inner and 1 for the outer border."""
    offset = points[:, 0] - portrait.MOUTH_CENTRE_X
    t = np.clip(offset / 20.6, -1.0, 1.0)
    arch = 1.0 - t**2
    inner = portrait.UPPER_LIP_INNER if side == "upper" else portrait.LOWER_LIP_INNER
    photographed = np.interp(points[:, 0], inner[:, 0], inner[:, 1])
    # the photographed smile becomes a closed, nearly straight mouth
    sign = -1.0 if side == "upper" else 1.0
    meeting = 145.2 - 2.6 * t**2 + sign * _CLOSED_GAP / 2 * arch
    fuller = outer * sign * 0.5 * arch
    rest = _pairs(-0.09 * offset, meeting - photographed + fuller)
    if side == "upper":
        opening = _pairs(-0.03 * offset, -1.3 * arch + 1.0 * t**2)
        protrusion = _pairs(-0.05 * offset, -1.8 * outer * arch)
    else:
        profile = arch ** (0.7 - 0.1 * outer)
        opening = _pairs(-0.03 * offset, _OPEN_GAP * (1.0 - 0.06 * outer) * profile + 1.0 * t**2)
        protrusion = _pairs(-0.05 * offset, 2.0 * outer * arch)
    return _rule(rest, opening, _pairs(0.23 * offset, -0.7 * t**2), protrusion)


def _jaw_rule(points: Floats) -> _Rule:
    lowness = smoothstep(122.0, 176.0, points[:, 1])
    none = np.zeros_like(points)
    return _rule(_pairs(0.0, -0.8 * lowness), _pairs(0.0, 8.0 * lowness), none, _pairs(0.0, 0.3 * lowness))


def _still_rule(points: Floats) -> _Rule:
    none = np.zeros_like(points)
    return _rule(none, none, none, none)


def _ring() -> Floats:
    """Points on the border of the fields: nothing moves there."""
    x0, y0, x1, y1 = FIELD_BOX
    across, down = np.linspace(x0, x1 - 1, 8), np.linspace(y0, y1 - 1, 8)[1:-1]
    return np.concatenate(
        [_pairs(across, y0), _pairs(across, y1 - 1), _pairs(x0, down), _pairs(x1 - 1, down)], dtype=np.float32
    )


def _smooth_fields(points: Floats, values: Floats) -> Floats:
    """Thin plate splines through values [N, C] at points, on the grid of the fields: [C / 2, H, W, 2]."""
    from scipy.interpolate import RBFInterpolator  # slow to import

    x0, y0, x1, y1 = FIELD_BOX
    x, y = np.meshgrid(np.arange(x0, x1), np.arange(y0, y1))
    spline = RBFInterpolator(points.astype(np.float64), values.astype(np.float64), kernel="thin_plate_spline")
    fields = spline(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(*x.shape, -1)
    border = np.minimum(np.minimum(x - x0, x1 - 1 - x), np.minimum(y - y0, y1 - 1 - y))
    fields = fields * smoothstep(0.0, 8.0, border)[..., None]
    return np.ascontiguousarray(np.stack(np.split(fields, fields.shape[-1] // 2, axis=-1)).astype(np.float32))


def _mix(fields: Floats, mouth: NDArray[np.floating]) -> Floats:
    opening, width, protrusion = (np.float32(value) for value in mouth)
    return fields[0] + opening * fields[1] + width * fields[2] + protrusion * fields[3]


def smoothstep(low: float, high: float, value: NDArray[np.floating] | np.floating) -> NDArray[np.float32]:
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t), dtype=np.float32)
