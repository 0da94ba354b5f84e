"""The reference landmark backend: the 2D FAN-4 network of face-alignment, batched over frames.

Only the network comes from face-alignment; the crops and the reading of the heat maps are ours, so that
our own boxes are used and one forward pass serves many frames. Both follow face-alignment 1.5.0
(``face_alignment/api.py`` and ``utils.py``) and Bulat and Tzimiropoulos, "How far are we from solving the
2D & 3D Face Alignment problem?", ICCV 2017.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from g4g_core.errors import MissingDependency, UsageError, WeightsError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

WEIGHTS = "2dfan4"
N_MODULES = 4
N_POINTS = 68
PATCH = 256
HEATMAP = 64

# Boxes of face-alignment's default detector (S3FD) have a mean side of 195 where FAN's own unit, which it
# maps to the patch, is 200; the patch is centred above the box's centre, since S3FD's boxes sit low.
_SPAN_PER_SIDE_SUM = 200.0 / 195.0
_CENTRE_SHIFT = 0.12


class FanLandmarks:
    """68 landmarks by FAN, for boxes that frame a face as S3FD does.

    Args:
        network: a module that maps float patches [B, 3, 256, 256] in 0..1 to heat maps [B, 68, 64, 64], or to
            a list of them whose last one counts. It is moved to ``device`` and ``dtype`` and set to
            evaluation. ``None`` loads FAN-4 with the weights ``2dfan4`` of the weights registry; nothing is
            ever downloaded here.
        batch_size: frames per forward pass; ``None`` is 16 on a CPU and 64 on a GPU.
        device: a torch device; ``None`` is ``cuda`` where there is one, else ``cpu``.
        dtype: ``float32``, or ``bfloat16`` (CUDA alone), which is faster and less exact.

    Raises:
        MissingDependency: torch, face-alignment or a system library that they load is absent.
        WeightsError: the weights are missing or are not the file we know.
        UsageError: ``bfloat16`` on a device other than CUDA.
    """

    name = "fan"
    weights: tuple[str, ...] = (WEIGHTS,)

    def __init__(
        self,
        *,
        network: torch.nn.Module | None = None,
        batch_size: int | None = None,
        device: str | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        _require("torch")
        _require("cv2")
        import torch

        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, at least 1 is needed")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if dtype == "bfloat16" and self.device.type != "cuda":
            raise UsageError(
                f"the fan landmarks run in bfloat16 on CUDA alone, not on {self.device.type}",
                "Use float32 here.",
            )
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.batch_size = batch_size or (64 if self.device.type == "cuda" else 16)
        network = _load_network() if network is None else network
        # A patch's channels lie side by side in memory, like its frame's; weights in that order save a CPU a
        # quarter of the time.
        self._network = network.to(self.device, self.dtype).to(memory_format=torch.channels_last).eval()

    def fit(self, frames: Sequence[np.ndarray], boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fit one face in each frame.

        Args:
            frames: N uint8 images, RGB [H, W, 3] or grey [H, W], of any sizes.
            boxes: [N, 4] x0, y0, x1, y1 in frame pixels, one per frame; they may leave the frame, what lies
                outside is black.

        Returns:
            landmarks, float32 [N, 68, 2]: x, y in frame pixels (the centre of the first pixel is 0, 0), iBUG
            order; and scores, float32 [N]: the mean height of the 68 heat-map peaks. The network was trained
            towards peaks of 1; a score is comparable between frames and is no probability.

        Raises:
            ValueError: the numbers of frames and boxes differ, a frame is not a uint8 image, or a box is
                empty or not finite.
        """
        boxes = _checked_boxes(frames, boxes)
        centres, spans = patch_geometry(boxes)
        windows = patch_windows(centres, spans)
        landmarks = np.empty((len(frames), N_POINTS, 2), np.float32)
        scores = np.empty(len(frames), np.float32)
        for start in range(0, len(frames), self.batch_size):
            part = slice(start, start + self.batch_size)
            patches = np.stack([cut_patch(*pair) for pair in zip(frames[part], windows[part], strict=True)])
            cells, peaks = read_heatmaps(self._heatmaps(patches))
            landmarks[part] = cells_to_frame(cells, centres[part], spans[part])
            scores[part] = peaks.mean(axis=1)
        return landmarks, scores

    def _heatmaps(self, patches: np.ndarray) -> torch.Tensor:
        """Float32 heat maps [B, 68, 64, 64], on the device, of uint8 patches [B, 256, 256, 3]."""
        import torch

        images = torch.from_numpy(patches).to(self.device).permute(0, 3, 1, 2).to(torch.float32) / 255.0
        # TF32 and autotuned kernels would let the same frame answer differently in another batch.
        exact = {"benchmark": False, "deterministic": True, "allow_tf32": False}
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, **exact):
            out = self._network(images.to(self.dtype))
        last = out[-1] if isinstance(out, (list, tuple)) else out
        heatmaps: torch.Tensor = last.to(torch.float32)
        return heatmaps


def check_installed() -> None:
    """Say what a build with these landmarks would miss, without loading the network.

    Raises:
        MissingDependency: torch, face-alignment or a system library that they load is absent.
        WeightsError: the weights are missing or are not the file we know.
    """
    for module in ("torch", "cv2", "face_alignment.models"):
        _require(module)
    _weights_path()


def visible_gpus() -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` must be for a process to see one GPU alone, for each GPU that this one sees."""
    torch = _require("torch")
    chosen = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    count = torch.cuda.device_count()
    return chosen[:count] if chosen else [str(number) for number in range(count)]


def patch_geometry(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres [N, 2] and sides [N], float64 frame pixels, of the square that FAN sees for each box [N, 4]."""
    x0, y0, x1, y1 = np.asarray(boxes, np.float64).T
    width, height = x1 - x0, y1 - y0
    centres = np.stack([x1 - width / 2.0, y1 - height / 2.0 - height * _CENTRE_SHIFT], axis=1)
    return centres, (width + height) * _SPAN_PER_SIDE_SUM


def patch_windows(centres: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Whole-pixel windows that become the patches: int64 [N, 4] x0, y0, x1, y1, ends excluded.

    The frame positions of the patch's pixels 1 and 256, cut towards zero. They are computed in single
    precision, in face-alignment's order of operations: a position that is nearly whole would otherwise fall
    to the other side, and the patch shift by a pixel.
    """
    zoom = (PATCH / spans).astype(np.float32)[:, None]
    shift = (PATCH * (-centres / spans[:, None] + 0.5)).astype(np.float32)
    step, origin = np.float32(1) / zoom, -shift / zoom
    first = np.trunc(step + origin).astype(np.int64)
    last = np.trunc(np.float32(PATCH) * step + origin).astype(np.int64)
    return np.concatenate([first, np.maximum(last, first + 1)], axis=1)


def cut_patch(frame: np.ndarray, window: np.ndarray) -> np.ndarray:
    """One window of a frame (see :func:`patch_windows`), as uint8 RGB [256, 256, 3]; black outside."""
    import cv2

    if frame.dtype != np.uint8 or not (frame.ndim == 2 or (frame.ndim == 3 and frame.shape[2] == 3)):
        raise ValueError(f"a frame is {frame.dtype} {list(frame.shape)}, uint8 [H, W, 3] or [H, W] is needed")
    colour = frame if frame.ndim == 3 else frame[..., None]
    height, width = frame.shape[:2]
    x0, y0, x1, y1 = (int(edge) for edge in window)
    left, right = np.clip((x0, x1), 0, width)
    top, bottom = np.clip((y0, y1), 0, height)
    patch = np.zeros((y1 - y0, x1 - x0, 3), np.uint8)
    if left < right and top < bottom:
        patch[top - y0 : bottom - y0, left - x0 : right - x0] = colour[top:bottom, left:right]
    return np.asarray(cv2.resize(patch, (PATCH, PATCH), interpolation=cv2.INTER_LINEAR))


def read_heatmaps(heatmaps: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Where the peaks of heat maps lie, and how high they are.

    A peak counts as the centre of its cell, moved by a quarter of a cell towards the higher neighbour along
    each axis; peaks on the border stay where they are.

    Args:
        heatmaps: float [B, C, H, W].

    Returns:
        positions, float32 [B, C, 2]: x, y in cells from the map's outer corner (the first cell's centre is
        0.5, 0.5); heights, float32 [B, C].
    """
    import torch

    height, width = heatmaps.shape[-2:]
    flat = heatmaps.flatten(2)
    peak = flat.argmax(dim=2)  # the first of equal cells; they are common in bfloat16
    x, y = peak % width, peak // width
    inside = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)

    def slope(step: int) -> torch.Tensor:
        ahead = flat.gather(2, torch.where(inside, peak + step, peak)[..., None])
        behind = flat.gather(2, torch.where(inside, peak - step, peak)[..., None])
        return (ahead - behind)[..., 0]

    towards = torch.stack([slope(1), slope(width)], dim=2).sign()
    positions = torch.stack([x, y], dim=2) + 0.5 + 0.25 * towards
    heights = flat.gather(2, peak[..., None])[..., 0]
    return positions.float().cpu().numpy(), heights.float().cpu().numpy()


def cells_to_frame(cells: np.ndarray, centres: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Heat-map positions [N, 68, 2] (see :func:`read_heatmaps`) as float32 frame pixels.

    face-alignment cuts the result to whole pixels, which loses 0.5 pixel on average. We keep the fraction and
    subtract that 0.5, so that ours scatter around theirs and not beside them: theirs are
    ``trunc(landmarks + 0.5)``.
    """
    offsets = (cells.astype(np.float64) / HEATMAP - 0.5) * spans[:, None, None]
    return np.asarray(centres[:, None, :] + offsets - 0.5, np.float32)


def _checked_boxes(frames: Sequence[np.ndarray], boxes: np.ndarray) -> np.ndarray:
    """The boxes as float64 [N, 4]; raises ValueError where they do not go with the frames."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    if len(boxes) != len(frames):
        raise ValueError(f"{len(frames)} frames but {len(boxes)} boxes")
    good = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    if not good.all():
        index = int(np.argmin(good))
        raise ValueError(f"box {index} is {boxes[index].tolist()}, x0 < x1 and y0 < y1 are needed")
    return boxes


def _load_network() -> torch.nn.Module:
    """FAN-4 with the registry's weights. face-alignment's own downloader is never asked."""
    import torch

    path = _weights_path()
    network: torch.nn.Module = _require("face_alignment.models").FAN(N_MODULES)
    try:
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises whatever its unpickler or zip reader meets
        raise WeightsError(
            f"the weights {WEIGHTS} hold no 2D FAN-4: {path} ({type(error).__name__})",
            f"Fetch them again: g4g-prep weights fetch {WEIGHTS}",
        ) from error
    return network


def _weights_path() -> Path:
    """The verified weights file, or one line that says what to do without it."""
    from g4g_core import weights

    try:
        return weights.path(WEIGHTS)
    except WeightsError as error:
        raise WeightsError(
            f"{error.what.rstrip('.')}: run `g4g-prep weights fetch {WEIGHTS}`, "
            "or use `--landmarks dlib`, which needs no download"
        ) from error


_SHARED_OBJECT = re.compile(r"(lib[\w.+-]+?\.so[\d.]*): cannot open shared object file")
_DEBIAN_PACKAGES = {
    "libGL.so.1": "libgl1",
    "libgthread-2.0.so.0": "libglib2.0-0",
    "libglib-2.0.so.0": "libglib2.0-0",
    "libX11.so.6": "libx11-6",
}


def _require(module: str) -> Any:
    """Import a module of the extra ``fan``, or say which package is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _missing(module, error) from error


def _missing(module: str, error: ImportError) -> MissingDependency:
    library = _SHARED_OBJECT.search(str(error))
    if library is None:
        return MissingDependency(
            f"the fan landmarks need {error.name or module}, which cannot be imported: {error}",
            "Install it with: pip install 'g4g[fan]'; or use `--landmarks dlib`, which needs neither.",
        )
    # face-alignment pulls in opencv-python, whose windows need OpenGL and X11 to be importable at all; it
    # shares the folder cv2 with opencv-python-headless, and the one installed last is the one imported.
    package = _DEBIAN_PACKAGES.get(library[1], f"that holds {library[1]}")
    return MissingDependency(
        f"{module} cannot be imported: the system library {library[1]} is missing",
        f"Install the Debian package {package}, or run "
        "`pip install --force-reinstall --no-deps opencv-python-headless`, which needs no such library.",
    )
