"""What a shard holds: names of members, columns of the index, files of a data set.

A data set is a folder (or URL)::

    dataset.json              written last of all: splits, shards, counts, configuration, checks
    manifest.parquet          a row per input clip: outcome, reason, numbers
    splits/<split>.txt        the clips of a split that gave samples, ``source/clip`` a line
    <split>-00000.tar         WebDataset shard
    <split>-00000.parquet     a row per sample of that shard, with the bytes of every member
    <split>-00000.stats.json  written last of the three: SHA-256, counts, fingerprint (the commit marker)

A sample is a segment of a shot. Members of a sample are adjacent and in this order::

    <key>.json  <key>.landmarks.npy  <key>.landmarks_raw.npy  <key>.mel.npy  <key>.wav
    <key>.0000.jpg  <key>.0000.mask.png  <key>.0001.jpg  <key>.0001.mask.png  ...
"""

from __future__ import annotations

import enum

import pyarrow as pa

# What the two JSON files hold (plain values; floats finite):
#
# dataset.json   schema_version, crop ("crop/1"), size, fps, landmarks (backend), config (resolved; no path),
#                splits: {split: {shards: [stem, ...], clips, identities, samples, frames, seconds}},
#                sources: {source: {clips, ok, rejected: {reason: n}, identities, samples, frames, seconds}},
#                fingerprints: {stem: of the shard's content},
#                leaks: [one line per identity or video id that stands in two splits]
# *.stats.json   schema_version, shard, sha256 and bytes (of the tar), index_sha256 (of the parquet), clips, samples,
#                frames, seconds, fingerprint (of content, configuration, code, backend, weights),
#                reasons: {reason: n} of the clips planned here, stage_seconds: {stage: s}, environment
# build.json     what differs from run to run: roots, dates, durations, host; no reader needs it

SCHEMA_VERSION = 1

DATASET_FILE = "dataset.json"
MANIFEST_FILE = "manifest.parquet"
SPLITS_FOLDER = "splits"
BUILD_FILE = "build.json"
WORK_FOLDER = ".work"
SELECTION_METADATA = b"g4g.selection"
"""Where the parquet file of a selection says, as JSON, by which conditions it was made, and of what."""

MEL_BANDS = 80
MEL_WINDOW = 16


class MaskBit(enum.IntFlag):
    """Bits of the uint8 mask plane. ``LIPS`` < ``MOUTH`` < ``LOWER_FACE`` nest; ``ERASE`` is apart.

    Only ``ERASE`` may reach a model's input: the others come from the target's own mouth and jaw.
    """

    LIPS = 1
    MOUTH = 2
    LOWER_FACE = 4
    ERASE = 8


JSON = "json"
LANDMARKS = "landmarks.npy"
LANDMARKS_RAW = "landmarks_raw.npy"
MEL = "mel.npy"
WAV = "wav"
HEAD_MEMBERS = (JSON, LANDMARKS, LANDMARKS_RAW, MEL, WAV)


def frame_suffix(frame: int) -> str:
    """Suffix of the face crop of frame ``frame`` of a segment (RGB JPEG)."""
    return f"{frame:04d}.jpg"


def mask_suffix(frame: int) -> str:
    """Suffix of the mask plane of frame ``frame`` of a segment (8-bit grey PNG of :class:`MaskBit`)."""
    return f"{frame:04d}.mask.png"


def member_suffixes(n_frames: int) -> list[str]:
    """Suffixes of all members of a sample of ``n_frames`` frames, in the order of the tar."""
    suffixes = list(HEAD_MEMBERS)
    for frame in range(n_frames):
        suffixes += [frame_suffix(frame), mask_suffix(frame)]
    return suffixes


def sample_key(source: str, clip: str, shot: int, segment: int) -> str:
    """``<source>-<clip>-<shot>-<segment>``; holds no dot, because WebDataset cuts keys at the first one."""
    return f"{source}-{clip}-{shot:03d}-{segment:03d}"


def shard_name(split: str, number: int) -> str:
    """Stem of a shard's three files."""
    return f"{split}-{number:05d}"


INDEX = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("clip", pa.string(), nullable=False),
        pa.field("shot", pa.int32(), nullable=False),
        pa.field("segment", pa.int32(), nullable=False),
        pa.field("identity", pa.string(), nullable=False),
        pa.field("video_id", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("subset", pa.string(), nullable=False),
        pa.field("role", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("content_sha256", pa.string(), nullable=False),
        pa.field("licence", pa.string(), nullable=False),
        pa.field("redistributable", pa.bool_(), nullable=False),
        pa.field("text", pa.string()),
        # geometry in time: 25 fps clip frames, mel columns, 16 kHz samples
        pa.field("frame_start", pa.int64(), nullable=False),
        pa.field("n_frames", pa.int32(), nullable=False),
        pa.field("mel_start", pa.int64(), nullable=False),
        pa.field("n_mel", pa.int32(), nullable=False),
        pa.field("sample_start", pa.int64(), nullable=False),
        pa.field("clip_frames", pa.int64(), nullable=False),
        pa.field("duration", pa.float64(), nullable=False),  # seconds
        # picture
        pa.field("size", pa.int32(), nullable=False),  # side of the crop, px
        pa.field("face_px", pa.float32(), nullable=False),  # side 2b of the face box in the frame, px
        pa.field("sharpness", pa.float32(), nullable=False),
        pa.field("brightness", pa.float32(), nullable=False),
        pa.field("yaw", pa.float32(), nullable=False),  # degrees, mean over frames
        pa.field("pitch", pa.float32(), nullable=False),
        pa.field("roll", pa.float32(), nullable=False),
        pa.field("yaw_max_abs", pa.float32(), nullable=False),
        pa.field("n_interpolated", pa.int32(), nullable=False),
        # sound
        pa.field("loudness_dbfs", pa.float32(), nullable=False),
        pa.field("snr_db", pa.float32(), nullable=False),
        # sync of the shot; null where it could not be measured, with the reason
        pa.field("av_offset", pa.float32()),  # frames of 40 ms, > 0: audio leads
        pa.field("av_confidence", pa.float32()),
        pa.field("sync_score", pa.float32()),
        pa.field("sync_reason", pa.string()),
        # bytes: of every member, in the order of the tar; offsets from the start of the tar
        pa.field("members", pa.list_(pa.dictionary(pa.int32(), pa.string())), nullable=False),
        pa.field("offsets", pa.list_(pa.int64()), nullable=False),
        pa.field("sizes", pa.list_(pa.int64()), nullable=False),
    ]
)
"""Columns of ``<shard>.parquet``: one row per sample, in the order of the tar."""

MANIFEST = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("clip", pa.string(), nullable=False),
        pa.field("identity", pa.string(), nullable=False),
        pa.field("video_id", pa.string()),
        pa.field("split", pa.string()),
        pa.field("subset", pa.string(), nullable=False),
        pa.field("role", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("content_sha256", pa.string()),
        pa.field("licence", pa.string(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),  # "ok" or "rejected"
        pa.field("stage", pa.string()),  # of the rejection
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        # stretches of the clip that were not taken: JSON list of Rejection; "[]" where all was
        pa.field("partial", pa.string(), nullable=False),
        pa.field("n_samples", pa.int32(), nullable=False),
        pa.field("n_frames", pa.int64(), nullable=False),  # in shards
        pa.field("clip_frames", pa.int64()),  # 25 fps frames of the clip after trimming
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("fps", pa.float64()),  # of the source video
        # what was cut off, seconds: video tail, audio tail, audio before the video; silence put before it
        pa.field("trimmed_video", pa.float64()),
        pa.field("trimmed_audio", pa.float64()),
        pa.field("trimmed_audio_head", pa.float64()),
        pa.field("padded_audio", pa.float64()),
        pa.field("audio_shift", pa.int32()),  # frames by which --fix-offset delayed the sound
        pa.field("decode_errors", pa.int32()),  # packets that could not be decoded
    ]
)
"""Columns of ``manifest.parquet``: one row per input clip, sorted by (source, clip)."""
