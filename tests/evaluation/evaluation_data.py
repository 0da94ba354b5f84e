"""Shots without footage, for tests of rules about them."""

from __future__ import annotations

from evaluation.shots import Shot


def fake_shot(
    n_frames: int, key: str = "s-clip-000", identity: str = "somebody", source: str = "s", segments: int = 1
) -> Shot:
    """A shot of so many frames in (nearly) equal segments that start at clip frame 10."""
    edges = [10 + n_frames * i // segments for i in range(segments + 1)]
    rows = tuple((f"{key}-{i:03d}", a, b - a) for i, (a, b) in enumerate(zip(edges, edges[1:], strict=False)))
    about = {
        "yaw_max_abs": 3.0,
        "face_px": 90.0,
        "brightness": 100.0,
        "duration": n_frames / 25,
        "redistributable": True,
    }
    return Shot(key, source, key, identity, "test", "test-00000", "sha", rows, 256, f"print of {key}", about)
