"""Faces followed through a shot: detected now and then, tracked by their landmarks in between."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

import cv2
import numpy as np

from prep.landmarks import Refiner, fan_boxes
from prep.records import Reason, Rejection
from prep.stages.decode import GridFrame
from prep.stages.detection import Detection, Ladder, box_of_landmarks, box_of_pose, detect_near
from prep.stages.frames import Frame
from prep.stages.geometry import N_POINTS, canonical_to_frame, overlap, scale_of
from prep.sync_expert.mouths import PATCH, mouth_patch

SCAN_EVERY = 100
"""Frames between two detections on the whole frame while a face is followed."""
CHECK_EVERY = 25
"""Frames between two detections around a followed face."""
SEARCH_EVERY = 5
"""Frames between two detections while no face is followed."""
CLIMB_EVERY = 25
"""Frames between two climbs of the whole ladder while no face is followed."""
MAX_GAP = 5
"""Frames without a face that are interpolated."""

_JUMP = 0.35  # pose points that move by more than this part of the eyes' distance in 40 ms
_ZOOM = 1.25  # ... or grow by more than this factor
_LIKE_BEFORE = 0.6  # correlation of a face with itself 40 ms earlier
_LIKE_CONFIRMED = 0.35  # ... with itself at the last detection: may be the same face
_SURELY_CONFIRMED = 0.6  # ... is the same face, whatever the detectors say
_DOUBTS = 3  # checks in a row that the cheap detector may fail while the face looks like itself
_SAME_FACE = 0.3
_CANDIDATE = 0.6  # faces this part of the largest face's side are followed too, until the shot tells
_MAX_FOLLOWED = {"largest": 2, "speaking": 4, "all": 8}
_SIGNATURE = 24
_WORTH = 25  # frames: shorter stretches of a second face are not worth a sample


class Landmarker(Protocol):
    """Fits 68 points of one face from its box, see :class:`prep.landmarks.dlib.DlibLandmarks`."""

    def fit_one(self, frame: Frame, box: np.ndarray) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Track:
    """One face through consecutive frames of one shot.

    Attributes:
        start: clip frame of the first row.
        landmarks: float32 [n, 68, 2], frame pixels, as fitted.
        interpolated: bool [n]; rows that stand for frames where the face could not be seen.
        mouths: uint8 [n, 64, 64], what the sync experts see (:mod:`prep.sync_expert.mouths`); empty once they have.
    """

    start: int
    landmarks: np.ndarray
    interpolated: np.ndarray
    mouths: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, PATCH, PATCH), np.uint8))

    def part(self, start: int, stop: int) -> Track:
        """Rows [start, stop) as a track of their own."""
        rows = slice(start, stop)
        return Track(self.start + start, self.landmarks[rows], self.interpolated[rows], self.mouths[rows])

    def without_mouths(self) -> Track:
        """The track alone, when the experts have seen its mouths."""
        return Track(self.start, self.landmarks, self.interpolated)

    @property
    def stop(self) -> int:
        return self.start + len(self.landmarks)

    @property
    def face_side(self) -> float:
        """Median side of the detector's box, px."""
        boxes = box_of_landmarks(self.landmarks)
        return float(np.median(boxes[:, 2] - boxes[:, 0]))


@dataclasses.dataclass
class _Face:
    """A face that is being followed."""

    start: int
    points: list[np.ndarray]
    interpolated: list[bool]
    confirmed_at: int
    confirmed_look: np.ndarray
    look: np.ndarray
    doubts: int = 0
    missing: int = 0
    pose: np.ndarray | None = None
    mouths: list[np.ndarray] = dataclasses.field(default_factory=list)
    refined: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def last(self) -> np.ndarray:
        return self.points[-1]

    def look_at_mouth(self, frame: Frame) -> None:
        """Keep the mouth as it is in ``frame``, also for frames before it in which the face could not be placed."""
        mouth = frame.grey_to_full_range(mouth_patch(frame.y, canonical_to_frame(self.last)))
        self.mouths.extend([mouth] * (len(self.points) - len(self.mouths)))

    def cut_to(self, frame: int) -> None:
        """Forget all after clip frame ``frame``."""
        keep = max(0, frame + 1 - self.start)
        del self.points[keep:]
        del self.interpolated[keep:]
        del self.mouths[keep:]


class ShotTracker:
    """Follows faces through the frames of one shot, which :meth:`push` takes one by one.

    A face is found by the detector ladder; from then on the box of a frame comes from the landmarks of the frame
    before. Every ``CHECK_EVERY`` frames, and whenever the fit jumps or the face stops looking like itself, the HOG
    detector is asked around the face; if it fails too often the whole ladder decides.

    Args:
        landmarker: fits the points that faces are followed by.
        policy: ``largest``, ``speaking`` or ``all``; decides how many faces are followed.
        refiner: a slower backend whose points replace the tracked ones, ``batch_size`` faces at a time.
        region: x0, y0, x1, y1 in frame pixels outside which no face is looked for, or ``None``.
    """

    def __init__(
        self,
        landmarker: Landmarker,
        policy: str = "largest",
        refiner: Refiner | None = None,
        batch_size: int = 16,
        region: tuple[float, float, float, float] | None = None,
    ) -> None:
        self._landmarker = landmarker
        self._refiner, self._batch_size = refiner, batch_size
        self._to_refine: list[tuple[_Face, int, Frame]] = []
        self._max_followed = _MAX_FOLLOWED[policy]
        self._ladder = Ladder(region=region)
        self._followed: list[_Face] = []
        self._done: list[_Face] = []
        self._start: int | None = None
        self._seen_any = False

    def push(self, item: GridFrame, *, repeated: bool = False) -> None:
        """Take the next frame of the shot.

        Args:
            item: the frame.
            repeated: it shows the same picture as the frame before, so that faces stay where they are.
        """
        if self._start is None:
            self._start = item.index
        since_start = item.index - self._start
        if repeated and since_start:
            for face in self._followed:
                face.points.append(face.last)
                face.interpolated.append(face.interpolated[-1])
                face.mouths.append(face.mouths[-1])
            if self._refiner is not None:
                self._to_refine += [(face, item.index, item.frame) for face in self._followed]
            return
        for face in list(self._followed):
            self._follow(face, item)
        if not self._followed:
            if since_start % SEARCH_EVERY == 0:
                rungs = 3 if since_start % CLIMB_EVERY == 0 else 1
                self._welcome(item, self._ladder.climb(item.frame, rungs=rungs))
        elif since_start % SCAN_EVERY == 0 and since_start:
            self._welcome(item, self._ladder.climb(item.frame, rungs=1))
        for face in self._followed:
            face.look_at_mouth(item.frame)
        if self._refiner is not None:
            seen = [face for face in self._followed if not face.interpolated[-1]]
            self._to_refine += [(face, item.index, item.frame) for face in seen]
            if len(self._to_refine) >= self._batch_size:
                self._refine()

    def _refine(self) -> None:
        """Fit the waiting faces with the slower backend."""
        waiting, self._to_refine = self._to_refine, []
        waiting = [entry for entry in waiting if entry[1] < entry[0].start + len(entry[0].points)]
        if self._refiner is None or not waiting:
            return
        points = np.stack([face.points[index - face.start] for face, index, _ in waiting])
        fitted, _ = self._refiner.fit([frame.rgb() for _, _, frame in waiting], fan_boxes(points))
        for (face, index, _), refined in zip(waiting, fitted, strict=True):
            face.refined[index] = refined

    def finish(self) -> list[Track]:
        """All faces of the shot, gaps of up to ``MAX_GAP`` frames interpolated."""
        for face in self._followed:
            self._retire(face)
        self._followed = []
        self._refine()
        return [_as_track(face) for face in self._done if face.points]

    @property
    def seen_any(self) -> bool:
        """Whether any detector found a face in the shot."""
        return self._seen_any

    def _welcome(self, item: GridFrame, found: list[Detection]) -> None:
        """Start following the faces of ``found`` that are not followed yet and large enough to matter."""
        self._seen_any = self._seen_any or bool(found)
        sides = [float(np.ptp(box_of_landmarks(face.last)[::2])) for face in self._followed]
        largest = max([*sides, *(detection.side for detection in found)], default=0.0)
        for detection in found:
            if len(self._followed) >= self._max_followed or detection.side < _CANDIDATE * largest:
                return
            if any(overlap(detection.box, box_of_landmarks(face.last)) > _SAME_FACE for face in self._followed):
                continue
            points = self._fit_detection(item.frame, detection)
            look = appearance(item.frame, canonical_to_frame(points))
            self._followed.append(_Face(item.index, [points], [False], item.index, look, look))

    def _fit_detection(self, frame: Frame, detection: Detection) -> np.ndarray:
        """Fit twice where the box is not HOG's own: the predictor was trained on HOG's boxes."""
        points = self._landmarker.fit_one(frame, detection.box)
        if detection.detector == "mmod":
            points = self._landmarker.fit_one(frame, box_of_landmarks(points))
        return points

    def _follow(self, face: _Face, item: GridFrame) -> None:
        """Add the frame to ``face``, or find out that it is gone."""
        if face.missing:
            self._look_again(face, item)
            return
        before = face.pose if face.pose is not None else canonical_to_frame(face.last)
        points = self._landmarker.fit_one(item.frame, box_of_pose(before))
        pose = canonical_to_frame(points)
        look = appearance(item.frame, pose)
        unsure = _jumps(before, pose) or _correlation(look, face.look) < _LIKE_BEFORE
        if unsure or (item.index - face.start) % CHECK_EVERY == 0:
            points_or_none = self._check(face, item, points, look, unsure)
            if points_or_none is None:
                face.missing, face.pose = 1, None
                face.points.append(face.last)
                face.interpolated.append(True)
                return
            if points_or_none is not points:
                points = points_or_none
                pose = canonical_to_frame(points)
                look = appearance(item.frame, pose)
        face.points.append(points)
        face.interpolated.append(False)
        face.look, face.pose = look, pose

    def _check(
        self, face: _Face, item: GridFrame, points: np.ndarray, look: np.ndarray, unsure: bool
    ) -> np.ndarray | None:
        """The points to keep for this frame after asking the detectors, or ``None`` where the face is gone."""
        box = box_of_landmarks(face.last if unsure else points)
        seen = detect_near(item.frame, box)
        if seen is not None:
            if unsure:
                points = self._landmarker.fit_one(item.frame, seen.box)
                look = appearance(item.frame, canonical_to_frame(points))
            self._confirm(face, item, look)
            return points
        likeness = _correlation(look, face.confirmed_look)
        jumped = unsure and _jumps(canonical_to_frame(face.last), canonical_to_frame(points))
        if not unsure and likeness >= _SURELY_CONFIRMED:
            return points
        if not jumped and likeness >= _LIKE_CONFIRMED and face.doubts < _DOUBTS:
            face.doubts += 1
            return points
        found = self._ladder.climb(item.frame)
        same = [detection for detection in found if overlap(detection.box, box) >= _SAME_FACE]
        if same:
            best = max(same, key=lambda detection: overlap(detection.box, box))
            points = self._fit_detection(item.frame, best) if unsure else points
            self._confirm(face, item, appearance(item.frame, canonical_to_frame(points)))
            return points
        if not unsure and not found and likeness >= _LIKE_CONFIRMED:
            face.doubts = 0  # nobody sees a face anywhere, and nothing speaks against this one
            return points
        if not unsure:
            # drifted away unseen: what came after the last detection cannot be trusted
            face.cut_to(face.confirmed_at)
            face.points.extend([face.last] * (item.index - face.start - len(face.points)))
            face.interpolated.extend([True] * (len(face.points) - len(face.interpolated)))
        return None

    @staticmethod
    def _confirm(face: _Face, item: GridFrame, look: np.ndarray) -> None:
        face.confirmed_at, face.confirmed_look, face.doubts = item.index, look, 0

    def _look_again(self, face: _Face, item: GridFrame) -> None:
        """A face that was lost a few frames ago: take it up again, or give it up."""
        seen = detect_near(item.frame, box_of_landmarks(face.last), margin=1.0)
        if seen is not None:
            points = self._landmarker.fit_one(item.frame, seen.box)
            face.points.append(points)
            face.interpolated.append(False)
            face.look = appearance(item.frame, canonical_to_frame(points))
            face.missing = 0
            self._confirm(face, item, face.look)
            return
        face.missing += 1
        face.points.append(face.last)
        face.interpolated.append(True)
        if face.missing > MAX_GAP:
            self._retire(face)
            self._followed.remove(face)
            if not self._followed:
                self._welcome(item, self._ladder.climb(item.frame, rungs=2))

    def _retire(self, face: _Face) -> None:
        """Stop following a face: what was not seen at its end is not part of its track."""
        while face.interpolated and face.interpolated[-1]:
            face.interpolated.pop()
            face.points.pop()
        del face.mouths[len(face.points) :]
        self._done.append(face)


def appearance(frame: Frame, to_frame: np.ndarray) -> np.ndarray:
    """float32 [576] of unit length and zero mean: the upper face in its canonical frame, 24x24.

    Args:
        to_frame: float [2, 3], from :func:`prep.stages.geometry.canonical_to_frame`.
    """
    size = _SIGNATURE
    step = 1.4 / size
    grid = np.array([[step, 0, -0.7], [0, step, -0.45]])
    matrix = np.hstack([to_frame[:, :2] @ grid[:, :2], to_frame[:, :2] @ grid[:, 2:] + to_frame[:, 2:]])
    patch = cv2.warpAffine(
        frame.y, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    ).astype(np.float32)
    patch -= patch.mean()
    return np.asarray(patch / max(float(np.linalg.norm(patch)), 1e-6)).reshape(-1)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b)


_FACE_MIDDLE = np.array([0.0, 0.25, 1.0])


def _jumps(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether a face moved or grew more between two frames than heads do; poses as canonical-to-frame matrices."""
    unit = float(scale_of(before))
    zoom = float(scale_of(after)) / max(unit, 1e-6)
    shift = float(np.linalg.norm((after - before) @ _FACE_MIDDLE))
    return shift > _JUMP * unit or not 1 / _ZOOM < zoom < _ZOOM


def _as_track(face: _Face) -> Track:
    rows = range(face.start, face.start + len(face.points))
    points = np.stack([face.refined.get(row, point) for row, point in zip(rows, face.points, strict=True)]).astype(
        np.float32
    )
    unseen = np.array(face.interpolated)
    if unseen.any():
        numbers = np.arange(len(points))
        flat = points.reshape(len(points), -1)
        for column in range(flat.shape[1]):
            flat[unseen, column] = np.interp(numbers[unseen], numbers[~unseen], flat[~unseen, column])
        points = flat.reshape(-1, N_POINTS, 2)
    return Track(face.start, points, unseen, np.stack(face.mouths))


def split_long_gaps(track: Track) -> list[Track]:
    """Cut a track where more than ``MAX_GAP`` frames in a row were not seen."""
    pieces, begin, run = [], 0, 0
    for row, unseen in enumerate([*track.interpolated, False]):
        if unseen:
            run += 1
            continue
        if run > MAX_GAP:
            pieces.append((begin, row - run))
            begin = row
        run = 0
    pieces.append((begin, len(track.landmarks)))
    return [track.part(a, b) for a, b in pieces if b > a]


def choose(tracks: list[Track], policy: str, in_sync: Callable[[Track], float] | None = None) -> list[Track]:
    """The tracks of a shot that become samples, in order of their start.

    ``largest``: the face that is largest, and where it is absent the next one of at least 0.6 of its side.
    ``speaking``: the face whose mouth fits the sound best, and while it is absent the next best.
    ``all``: every face.

    Args:
        in_sync: how well a track fits the sound, larger is better; asked by ``speaking`` alone.
    """
    if policy == "all":
        return sorted(tracks, key=lambda track: (track.start, track.landmarks[0, 30, 0]))
    chosen: list[Track] = []
    if policy == "speaking" and in_sync is not None and len(tracks) > 1:
        scores = {id(track): in_sync(track) for track in tracks}
        ordered = sorted(tracks, key=lambda track: (-scores[id(track)], -track.face_side, track.start))
    else:
        ordered = sorted(tracks, key=lambda track: (-track.face_side * len(track.landmarks) ** 0.5, track.start))
    for track in ordered:
        if policy == "largest" and chosen and track.face_side < _CANDIDATE * chosen[0].face_side:
            continue
        if all(track.stop <= other.start or track.start >= other.stop for other in chosen):
            chosen.append(track)
        elif policy == "speaking":
            chosen += _outside(track, chosen)
    return sorted(chosen, key=lambda track: track.start)


def _outside(track: Track, chosen: list[Track]) -> list[Track]:
    """The stretches of a track, long enough to be samples, in which none of ``chosen`` is seen."""
    free = np.ones(len(track.landmarks), bool)
    for other in chosen:
        free[max(0, other.start - track.start) : max(0, other.stop - track.start)] = False
    edges = np.flatnonzero(np.diff(np.concatenate([[False], free, [False]]).astype(int)))
    return [track.part(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a >= _WORTH]


def uncovered(shot: tuple[int, int], tracks: list[Track], *, seen_any: bool) -> list[Rejection]:
    """Stretches of a shot (start, stop) that no chosen track covers, each with its reason."""
    gaps, position = [], shot[0]
    for track in sorted(tracks, key=lambda track: track.start):
        gaps.append((position, track.start))
        position = max(position, track.stop)
    gaps.append((position, shot[1]))
    reason = Reason.FACE_LOST if seen_any else Reason.NO_FACE
    detail = "the face was lost here" if seen_any else "no detector finds a face here"
    return [Rejection("tracking", reason, detail, start, stop - start) for start, stop in gaps if stop - start > 0]
