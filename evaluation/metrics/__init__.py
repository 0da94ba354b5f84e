"""Metrics, a file each: a pure function, what is known about it, and the measure that feeds it shot by shot."""

from __future__ import annotations

from evaluation.metrics.base import Measure, Metric
from evaluation.metrics.cpbd import CpbdMeasure
from evaluation.metrics.identity import IdentityMeasure
from evaluation.metrics.inception import InceptionMeasure
from evaluation.metrics.judge import JudgeMeasure
from evaluation.metrics.landmarks import LandmarkMeasure
from evaluation.metrics.lpips import LpipsMeasure
from evaluation.metrics.lse import LseMeasure
from evaluation.metrics.lse_frames import LrsMeasure, S3fdMeasure
from evaluation.metrics.psnr import PsnrMeasure
from evaluation.metrics.ssim import SsimMeasure
from evaluation.metrics.temporal import TemporalMeasure

_ALL: tuple[Measure, ...] = (
    LandmarkMeasure(),
    LseMeasure(),
    LrsMeasure(),
    S3fdMeasure(),
    JudgeMeasure(),
    InceptionMeasure(),
    IdentityMeasure(),
    CpbdMeasure(),
    PsnrMeasure(),
    SsimMeasure(),
    LpipsMeasure(),
    TemporalMeasure(),
)

MEASURES: dict[str, Measure] = {measure.name: measure for measure in _ALL}
"""All measures by name, in the order of tables."""

METRICS: dict[str, Metric] = {metric.id: metric for measure in _ALL for metric in measure.metrics}
"""All metrics by id, in the order of tables."""
