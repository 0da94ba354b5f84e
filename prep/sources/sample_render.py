"""Renders the talking portrait: one still picture, warped frame by frame.

For every pixel of a frame it is computed where on the still picture to look: head sway, then the fields of
:mod:`prep.sources.sample_rig`, then the lids. What the open mouth shows (teeth, cavity, tongue) is a layer of
its own inside the inner-lip contour.

Coordinates called canonical are portrait pixels after the identity's change of proportions.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from prep.sources import sample_portrait as portrait
from prep.sources.sample_identity import Identity, paint, reshape_inverse
from prep.sources.sample_rig import FIELD_BOX, Rig, smoothstep

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

_PIVOT = (224.0, 185.0)  # the neck: the head turns about it
_MARGIN = 16.0  # canonical pixels of picture around the frame that sway can bring in
_CAVITY = (0.16, 0.06, 0.055)  # RGB 0..1
_TONGUE = (0.55, 0.25, 0.25)


@dataclasses.dataclass(frozen=True)
class Framing:
    """What a frame shows: ``size`` pixels a side over ``width`` portrait pixels around ``centre``."""

    size: int
    width: float
    centre: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Pose:
    """Head sway: shift in portrait pixels, roll in degrees, scale (1 = as photographed)."""

    x: float = 0.0
    y: float = 0.0
    roll: float = 0.0
    scale: float = 1.0


class TalkingPortrait:
    """One identity, ready to be rendered at one framing."""

    def __init__(self, identity: Identity, framing: Framing) -> None:
        self._identity = identity
        self._framing = framing
        self._rig = Rig(identity)
        self._zoom = framing.size / framing.width
        # texture pixels per canonical pixel: dense enough that bilinear look-ups stay sharp
        self._density = 1.35 * max(1.0, self._zoom)
        half = framing.width / 2 + _MARGIN
        self._corner = (framing.centre[0] - half, framing.centre[1] - half)
        side = int(2 * half * self._density)
        sources = _texture_sources(identity, self._corner, side, self._density)
        import skimage.data  # slow to import

        self._texture = _resample(paint(identity, skimage.data.astronaut()), sources, self._density)
        self._teeth = _look_up(_teeth_mask(), sources).astype(np.float32) / 255.0
        self._pixels = self._in_texture(_frame_places(framing, framing.size))
        self._coarse = _frame_places(framing, framing.size // 8)
        distance = np.hypot(*(self._coarse[..., k] - portrait.HEAD_CENTRE[k] for k in (0, 1)))
        # the head moves as a whole, the picture's border hardly
        self._sway = (1.0 - smoothstep(82.0, 150.0, distance))[..., None]

    def render(self, mouth: NDArray[np.floating], blink: float, pose: Pose) -> Image:
        """One frame, uint8 [size, size, 3] RGB.

        Args:
            mouth: opening 0..1, width -1..1, protrusion 0..1.
            blink: 0 open eyes .. 1 closed.
            pose: where the head is.
        """
        unpose = _unpose(pose)
        swayed = (self._density * self._sway) * (cv2.transform(self._coarse, unpose) - self._coarse)
        size = self._framing.size
        pixels = self._pixels + np.asarray(cv2.resize(swayed, (size, size)), dtype=np.float32)
        lips = self._rig.lips(mouth)
        self._move_mouth(pixels, mouth, lips, unpose)
        if blink > 0:
            for upper, lower in self._rig.lids:
                self._move_lid(pixels, upper, lower, blink, unpose)
        frame: Image = _look_up(self._texture, pixels)
        self._draw_interior(frame, mouth, lips, unpose)
        return np.asarray(cv2.flip(frame, 1)) if self._identity.flip else frame

    def _in_texture(self, places: Floats) -> Floats:
        """Canonical places as pixels of the texture."""
        corner = np.array(self._corner, dtype=np.float32) - np.float32(0.5)
        return (places - corner) * np.float32(self._density) - np.float32(0.5)

    def _move_mouth(
        self, pixels: Floats, mouth: NDArray[np.floating], lips: tuple[Floats, Floats], unpose: Floats
    ) -> None:
        """Redirect the frame's texture pixels to what the moving mouth and jaw show there, in place."""
        x0, y0, x1, y1 = FIELD_BOX
        above, below = self._rig.inverse_fields(mouth)
        line = np.stack(lips).mean(axis=0)
        corners = np.array([(x0, y0), (x1 - 1, y0), (x0, y1 - 1), (x1 - 1, y1 - 1)], dtype=np.float32)
        whole = self._frame_box(corners, unpose, 0)
        moved = self._warp(_blend(above, below, _below(self._rig.grid, line)), whole, unpose)
        # the line between the lips is finer than the fields' grid: around it they are mixed per frame pixel
        reach = np.float32(8.0)
        near = self._frame_box(np.concatenate([line - reach, line + reach]), unpose, 0)
        share = _below(self._rigid(near, unpose), line)
        rows, columns = (slice(n.start - w.start, n.stop - w.start) for n, w in zip(near, whole, strict=True))
        moved[rows, columns] = _blend(self._warp(above, near, unpose), self._warp(below, near, unpose), share)
        pixels[whole] -= np.float32(self._density) * moved

    def _warp(self, field: Floats, box: tuple[slice, slice], unpose: Floats) -> Floats:
        """A field on the rig's grid, resampled to the pixels of a box of the frame."""
        matrix = self._to_canonical(unpose, box)
        matrix[:, 2] -= FIELD_BOX[:2]
        size = (box[1].stop - box[1].start, box[0].stop - box[0].start)
        return np.asarray(cv2.warpAffine(field, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP))

    def _rigid(self, box: tuple[slice, slice], unpose: Floats) -> Floats:
        """Canonical places [H, W, 2] of the pixels of a box that moves with the head."""
        columns, rows = (np.arange(part.stop - part.start, dtype=np.float32) for part in (box[1], box[0]))
        pixels = np.stack(np.meshgrid(columns, rows), axis=-1)
        return np.asarray(cv2.transform(pixels, self._to_canonical(unpose, box).astype(np.float32)))

    def _move_lid(self, pixels: Floats, upper: Floats, lower: Floats, blink: float, unpose: Floats) -> None:
        """Draw the skin above an eye down over it, in place."""
        around = np.concatenate([upper + _pair(-6.0, -14.0), lower + _pair(6.0, 6.0)])
        box = self._frame_box(around, unpose, 0)
        here = self._rigid(box, unpose)
        x, y = here[..., 0], here[..., 1]
        lid = np.interp(x, upper[:, 0], upper[:, 1])
        drop = 1.05 * blink * (np.interp(x, lower[:, 0], lower[:, 1]) - lid)
        crease = lid - 8.5
        # the last 2.5 pixels above the lid's edge move as one: lashes are not stretched
        share = smoothstep(0.0, 1.0, (y - crease) / (lid + drop - 2.5 - crease))
        # a step, not a slope: a slope would squeeze the whole eye into the lid's edge
        moved = self._density * drop * share * (y < lid + drop)
        rows, columns = box
        pixels[rows, columns, 1] -= moved.astype(np.float32)

    def _draw_interior(
        self, frame: Image, mouth: NDArray[np.floating], lips: tuple[Floats, Floats], unpose: Floats
    ) -> None:
        upper, lower = lips
        outline = np.concatenate([upper, lower[::-1]])
        box = self._frame_box(outline, unpose, 3)
        to_canonical = self._to_canonical(unpose, box)
        shape = (box[0].stop - box[0].start, box[1].stop - box[1].start)
        polygon = cv2.transform(outline[None], cv2.invertAffineTransform(to_canonical))[0]
        mask = np.zeros(shape, dtype=np.uint8)
        cv2.fillPoly(mask, [np.round(polygon * 64).astype(np.int32)], 255, lineType=cv2.LINE_AA, shift=6)
        softness = 0.28 * self._zoom
        alpha = cv2.GaussianBlur(mask.astype(np.float32) / 255.0, (0, 0), max(0.35, softness))

        places = self._rigid(box, unpose)
        x, y = places[..., 0], places[..., 1]
        pixels = self._in_texture(places)
        teeth = _look_up(self._texture, pixels).astype(np.float32)
        visible = _look_up(self._teeth, pixels)

        top = np.interp(x, upper[:, 0], upper[:, 1])
        floor = np.interp(x, lower[:, 0], lower[:, 1])
        gap = float((lower[:, 1] - upper[:, 1]).max())
        across = (x - portrait.MOUTH_CENTRE_X) / 20.0
        light = (0.5 + 0.5 * smoothstep(0.0, 3.0, y - top)) * (1.0 - 0.4 * np.minimum(1.0, across**2))
        # protruded lips hide the teeth
        visible = visible * float(smoothstep(0.8, 3.2, np.float32(gap))) * (1.0 - 0.8 * float(mouth[2]))
        skin = np.array(self._identity.skin, dtype=np.float32) ** 0.5
        inside = np.broadcast_to(np.array(_CAVITY, dtype=np.float32) * skin * 255.0, (*shape, 3))
        # a tongue that lies behind the lower lip
        rise = np.exp(-0.5 * (((floor - 0.5 - y) / (0.17 * gap + 0.1)) ** 2 + (across / 0.5) ** 2))
        rise *= 0.7 * smoothstep(3.0, 8.0, np.float32(gap))
        inside = inside + rise[..., None] * (np.array(_TONGUE, dtype=np.float32) * skin * 255.0 - inside)
        inside = inside + visible[..., None] * (teeth * light[..., None] - inside)
        patch = frame[box].astype(np.float32)
        patch += alpha[..., None] * (inside - patch)
        frame[box] = np.clip(np.round(patch), 0, 255).astype(np.uint8)

    def _to_canonical(self, unpose: Floats, box: tuple[slice, slice]) -> NDArray[np.float64]:
        """[2, 3]: pixel of a box of the frame -> canonical, for a point that moves with the head."""
        size, centre = self._framing.size, self._framing.centre
        start = (
            (box[1].start + 0.5 - size / 2) / self._zoom + centre[0],
            (box[0].start + 0.5 - size / 2) / self._zoom + centre[1],
        )
        matrix = unpose.astype(np.float64).copy()
        matrix[:, 2] += matrix[:, :2] @ start
        matrix[:, :2] /= self._zoom
        return matrix

    def _frame_box(self, points: Floats, unpose: Floats, pad: int) -> tuple[slice, slice]:
        """Rows and columns of the frame that hold canonical points, with a border of ``pad`` pixels."""
        size = self._framing.size
        whole = self._to_canonical(unpose, (slice(0, size), slice(0, size)))
        pixels = cv2.transform(points[None], cv2.invertAffineTransform(whole))[0]
        low = np.clip(np.floor(pixels.min(axis=0)).astype(int) - pad, 0, size - 1)
        high = np.clip(np.ceil(pixels.max(axis=0)).astype(int) + pad + 1, 1, size)
        return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))


def _unpose(pose: Pose) -> Floats:
    """[2, 3]: a swayed canonical place -> the place it came from."""
    angle = np.deg2rad(pose.roll)
    cosine, sine = np.cos(angle) * pose.scale, np.sin(angle) * pose.scale
    forward = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0]])
    forward[:, 2] = np.array(_PIVOT) - forward[:, :2] @ np.array(_PIVOT) + (pose.x, pose.y)
    return cv2.invertAffineTransform(forward).astype(np.float32)


def _teeth_mask() -> Image:
    """Where the photograph shows teeth, as weights 0..255 of the whole portrait."""
    scale = 8
    lower = portrait.LOWER_LIP_INNER - np.array([0.0, 1.5], dtype=np.float32)
    outline = np.concatenate([portrait.UPPER_LIP_INNER + np.array([0.0, 0.2], dtype=np.float32), lower[::-1]])
    mask = np.zeros((512 * scale, 512 * scale), dtype=np.uint8)
    cv2.fillPoly(mask, [np.round((outline + 0.5) * scale).astype(np.int32)], 255)
    return np.asarray(
        cv2.GaussianBlur(cv2.resize(mask, (512, 512), interpolation=cv2.INTER_AREA), (0, 0), 0.6)
    )


def _resample(image: Image, sources: Floats, density: float) -> Image:
    """``image`` at places [H, W, 2]; sharpened a little where it is enlarged."""
    result = cv2.remap(  # type: ignore[call-overload]
        image, sources, None, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REFLECT
    )
    if density > 1.2:
        blurred = cv2.GaussianBlur(result, (0, 0), 0.6 * density)
        result = cv2.addWeighted(result, 1.7, blurred, -0.7, 0.0)
    return np.asarray(result)


def _below(places: Floats, line: Floats) -> Floats:
    """Share 0..1 of the lower lip's field at places: sharp between the lips, gradual in the cheeks."""
    x = places[..., 0]
    outside = np.maximum(np.maximum(line[0, 0] - x, x - line[-1, 0]), 0.0)
    below = (places[..., 1] - np.interp(x, line[:, 0], line[:, 1])) / (0.3 + 1.6 * outside)
    return np.clip(below + 0.5, 0.0, 1.0).astype(np.float32)


def _blend(above: Floats, below: Floats, share: Floats) -> Floats:
    return np.asarray(above + share[..., None] * (below - above))


def _texture_sources(identity: Identity, corner: tuple[float, float], side: int, density: float) -> Floats:
    """The portrait's pixels [side, side, 2] that an identity's texture is made from."""
    cells = side // 4  # proportions change smoothly: every fourth pixel is enough
    line = (np.arange(cells, dtype=np.float32) + 0.5) * (side / cells / density) - 0.5
    coarse = np.stack(np.meshgrid(line + corner[0], line + corner[1]), axis=-1)
    moved = cv2.resize(
        reshape_inverse(identity, coarse) - coarse, (side, side), interpolation=cv2.INTER_LINEAR
    )
    line = (np.arange(side, dtype=np.float32) + 0.5) / density - 0.5
    fine = np.stack(np.meshgrid(line + corner[0], line + corner[1]), axis=-1)
    return np.asarray(fine + moved, dtype=np.float32)


def _look_up(image: NDArray[Any], pixels: Floats) -> Any:
    """``image`` at fractional pixels [H, W, 2], bilinear."""
    return cv2.remap(image, pixels, None, cv2.INTER_LINEAR)  # type: ignore[call-overload]


def _pair(x: float, y: float) -> Floats:
    return np.array((x, y), dtype=np.float32)


def _frame_places(framing: Framing, count: int) -> Floats:
    """Portrait pixels [count, count, 2] at the centres of a frame cut into count x count cells."""
    line = ((np.arange(count, dtype=np.float32) + 0.5) / count - 0.5) * framing.width
    return np.stack(np.meshgrid(line + framing.centre[0], line + framing.centre[1]), axis=-1).astype(
        np.float32
    )
