"""What the guarded child does for the harness: one model's output for one shot, and the measures taken of it."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from baselines.external import read_external
from baselines.precomputed import find_video
from baselines.program import ProgramFailed, run_program
from evaluation.cells import WORK, Cell
from evaluation.controls import ground_truth, shuffled
from evaluation.footage import frames_of_video, recropped, recut, sound_of_video, through_frames, whole_frames
from evaluation.metrics import MEASURES
from evaluation.metrics.base import Block, Context
from evaluation.model_process import ModelFault, ModelProcess
from evaluation.models import TRUTH, Model
from evaluation.prompts import Speech, prompts, scored_frames
from evaluation.shots import Shot, ShotReader
from evaluation.videos import (
    SUFFIX,
    UnreadableOutput,
    blocks,
    cut_out,
    fitted,
    frames_of,
    read_sound,
    square_pictures,
    write_lossless,
)
from g4g_core.errors import G4GError, SourceError
from g4g_core.protocols import ERASED, ClipPrompt
from prep.records import SAMPLES_PER_FRAME
from prep.shards.sample import wav_bytes

GREY_LEFT = 0.02
"""Share of the erased pixels of a frame that may have exactly the grey they were erased with: footage has such, too."""

FAILED_MEASURES = ("metric_error", "bug", "crashed", "timeout")
"""Reasons of missing values that are failures of the measuring, and not facts about a shot."""


class BadOutput(G4GError):
    """Pictures that cannot be scored: a row in the results."""


def generate(request: Mapping[str, Any]) -> dict[str, Any]:
    """``evaluation.work:generate``: make and store one output.

    What the model does wrong is recorded. What goes wrong with the data set or the disk is raised: no model can
    help it.
    """
    model, shot = Model.from_json(request["model"]), Shot.from_json(request["shot"])
    cell = Cell(request["run"], model.name, shot.key)
    if cell.output_fits(cell.read(), request["key"]):
        return {"ok": True}  # Dask repeats a whole batch when a worker dies, finished cells included
    cell.forget()  # the record goes before what it speaks of is written anew
    output: dict[str, Any] = {"key": request["key"], "error": None, "bytes": None, "sha256": None, "prompts": None}
    with ShotReader(request["root"], shot) as reader:
        speech = _speech(request, reader)
        n_frames = len(speech.pcm) // SAMPLES_PER_FRAME
        try:
            if model.kind != "truth":
                digests: list[str] = []
                pictures = _checked(_output(model, reader, speech, request, digests), shot, n_frames)
                if request["dub"] is not None:
                    pictures = through_frames(pictures, Path(request["dub"]["footage"]), reader, n_frames)
                output |= {**cell.keep_output(pictures), "prompts": digests}
        except (ModelFault, BadOutput, ProgramFailed, SourceError) as error:
            output["error"] = [_code(error), _line(error.what)]
            cell.output.unlink(missing_ok=True)
    cell.write({"output": output, "measures": {}})
    return {"ok": True}


def score(request: Mapping[str, Any]) -> dict[str, Any]:
    """``evaluation.work:score``: take measures of one output that :func:`generate` has stored."""
    model, shot = Model.from_json(request["model"]), Shot.from_json(request["shot"])
    cell = Cell(request["run"], model.name, shot.key)
    record = cell.read()
    if record.get("output", {}).get("error") is not None:
        return {"ok": True}
    keys = {name: key for name, key in request["measures"].items() if not cell.measure_fits(record, name, key)}
    if not keys:
        return {"ok": True}
    record["measures"] = {name: found for name, found in record["measures"].items() if name not in keys}
    cell.write(record)  # as above: features are written before the record that speaks of them
    with ShotReader(request["root"], shot) as reader:
        is_truth = model.kind == "truth"
        speech = _own_speech(reader) if is_truth else _heard(request, model, reader)
        n_frames = len(speech.pcm) // SAMPLES_PER_FRAME
        context = Context(
            shot.size, n_frames, speech.pcm, request["full_reference"], is_truth, request["precision"],
            functools.partial(_truth_features, request), _whole_frames(request, model, reader, n_frames),
        )  # fmt: skip
        errors: dict[str, str] = {}
        started = {name: _guarded(errors, name, functools.partial(MEASURES[name].start, context)) for name in keys}
        sessions = {name: session for name, session in started.items() if name not in errors}
        try:
            for block in _blocks(cell, reader, n_frames, is_truth):
                for name, session in sessions.items():
                    if name not in errors:
                        _guarded(errors, name, functools.partial(session.add, block))
        except (UnreadableOutput, EOFError) as error:
            cell.forget()
            return {"damaged": str(error)}
        for name, session in sessions.items():
            found = _guarded(errors, name, session.result) if name not in errors else None
            if found is not None:
                for feature, values in found.features.items():
                    cell.write_features(feature, values)
                record["measures"][name] = {
                    "key": keys[name],
                    "values": {metric: round(value, 6) for metric, value in found.values.items()},
                    "missing": {metric: list(why) for metric, why in found.missing.items()},
                    "curves": found.curves,
                    "features": sorted(found.features),
                    "flags": list(found.flags),
                }
    for name, why in errors.items():
        missing = {metric.id: ["metric_error", why] for metric in MEASURES[name].metrics}
        record["measures"][name] = nothing_measured(keys[name], missing)
    cell.write(record)
    return {"ok": True}


def _whole_frames(
    request: Mapping[str, Any], model: Model, reader: ShotReader, n_frames: int
) -> Callable[[], Iterator[np.ndarray]] | None:
    """Reads the frames that a finished video holds of this shot."""
    if request["videos"] is None:
        return None
    if model.kind == "recut":
        return functools.partial(frames_of_video, Path(model.target), reader, n_frames)
    return lambda: (block[0] for block in whole_frames(Path(request["videos"]), reader, n_frames))


def _truth_features(request: Mapping[str, Any], name: str) -> np.ndarray | None:
    """What was measured of the clip itself, where that is done and still fits."""
    cell = Cell(request["run"], TRUTH, request["shot"]["key"])
    record = cell.read()
    for measure, key in request["truth_keys"].items():
        if name in record.get("measures", {}).get(measure, {}).get("features", ()) and cell.measure_fits(
            record, measure, key
        ):
            return cell.read_features(name)
    return None


def nothing_measured(key: str, missing: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The record of a measure that gave nothing, with the reasons."""
    return {"key": key, "values": {}, "missing": dict(missing), "curves": {}, "features": [], "flags": []}


def _guarded(errors: dict[str, str], name: str, call: Callable[[], Any]) -> Any:
    """One measure that fails on a shot must not take the others with it: it becomes rows with the reason."""
    try:
        return call()
    except G4GError as error:
        errors[name] = _line(error.what)
    except Exception as error:
        errors[name] = _line(f"{type(error).__name__}: {error}")
    return None


def _speech(request: Mapping[str, Any], reader: ShotReader) -> Speech:
    """What the shot is to say: its own words, or those of the request's ``speaker``."""
    if request["dub"] is not None:
        return _speech_of_file(request["dub"], reader)
    if request["speaker"] is None:
        return _own_speech(reader)
    with ShotReader(request["root"], Shot.from_json(request["speaker"])) as other:
        speech = _own_speech(other)
    n_samples = SAMPLES_PER_FRAME * min(reader.shot.n_frames, len(speech.pcm) // SAMPLES_PER_FRAME)
    return Speech(speech.mel, speech.mel_start, speech.frame_start, speech.pcm[:n_samples])


def _speech_of_file(dub: Mapping[str, Any], reader: ShotReader) -> Speech:
    """The sound file from the clip's first frame on: frame f of the clip speaks its frame f."""
    from prep.stages.mel import mel_spectrogram

    pcm, first = read_sound(Path(dub["speech"])), SAMPLES_PER_FRAME * reader.frame_start
    return Speech(mel_spectrogram(pcm), 0, reader.frame_start, pcm[first : first + SAMPLES_PER_FRAME * dub["n_frames"]])


def _heard(request: Mapping[str, Any], model: Model, reader: ShotReader) -> Speech:
    """What goes with an output when it is measured: of a finished video its own sound, where it has any."""
    speech = _speech(request, reader)
    if model.kind != "recut":
        return speech
    own = sound_of_video(Path(model.target), reader, len(speech.pcm))
    return speech if own is None else dataclasses.replace(speech, pcm=own)


def _own_speech(reader: ShotReader) -> Speech:
    mel, first = reader.mel()
    return Speech(mel, first, reader.frame_start, reader.pcm())


def _blocks(cell: Cell, reader: ShotReader, n_frames: int, is_truth: bool) -> Iterator[Block]:
    """The shot, a segment at a time."""
    shot = reader.shot
    bounds = [(start, min(count, n_frames - start)) for start, count in shot.bounds if start < n_frames]
    scored = scored_frames(shot, n_frames)
    output = None if is_truth else blocks(cell.pictures(), (count for _, count in bounds))
    for start, count in bounds:
        stored = reader.frames(np.arange(start, start + count))
        yield Block(
            first=start,
            output=stored.pictures if output is None else next(output),
            truth=stored.pictures,
            masks=stored.masks,
            landmarks=stored.landmarks,
            scored=scored[start : start + count],
            is_truth=is_truth,
        )


def _output(
    model: Model, reader: ShotReader, speech: Speech, request: Mapping[str, Any], digests: list[str]
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """(pictures, erase or None where it is not guarded) in order, whole shot."""
    n_frames = len(speech.pcm) // SAMPLES_PER_FRAME
    if model.kind == "shuffled":
        yield from ((block, None) for block in shuffled(reader, n_frames))
    elif model.kind == "generator":
        for prompt in prompts(reader, speech, request["seed"]):
            digests.append(prompt.digest())
            yield _generated(model, prompt), prompt.erase
    elif model.kind == "precomputed":
        path = find_video(Path(model.target), reader.shot.key)
        for frame in fitted(square_pictures(path, reader.shot.size), n_frames, 0):
            yield frame[None], None
    elif model.kind == "recut":
        yield from ((frame[None], None) for frame in recut(Path(model.target), reader, n_frames))
    else:
        yield from ((frame[None], None) for frame in _external(model, reader, speech, request))


_processes: dict[tuple[str, str | None, str], ModelProcess] = {}


def _generated(model: Model, prompt: ClipPrompt) -> np.ndarray:
    """The model's answer to a prompt, from the process in which it stands alone; one process at a time is kept."""
    key = (model.target, model.checkpoint, model.fingerprint)
    if key not in _processes:
        close_models()
        _processes[key] = ModelProcess(model.target, model.checkpoint)
    try:
        return _processes[key].generate(prompt)
    except ModelFault as error:
        if error.code == "crashed":
            _processes.pop(key).close()
        raise


def close_models() -> None:
    """End the processes in which models stand."""
    while _processes:
        _processes.popitem()[1].close()


def _checked(parts: Iterator[tuple[np.ndarray, np.ndarray | None]], shot: Shot, n_frames: int) -> Iterator[np.ndarray]:
    """Pictures alone, every one of the right size, all frames there, and no erased region left as it was."""
    seen = 0
    for pictures, erase in parts:
        if erase is not None:
            left = ((pictures == ERASED).all(axis=-1) & (erase > 0)).sum(axis=(1, 2))
            worst = int(np.argmax(left))
            if left[worst] > GREY_LEFT * max(1, int(erase[worst].sum())):
                raise BadOutput(f"frame {seen + worst}: {left[worst]} pixels of the erased region are still grey")
        seen += len(pictures)
        yield pictures
    if seen != n_frames:
        raise BadOutput(f"{shot.key}: {seen} frames where {n_frames} were due")


def _external(model: Model, reader: ShotReader, speech: Speech, request: Mapping[str, Any]) -> Iterator[np.ndarray]:
    program = read_external(model.target)
    shot, n_frames = reader.shot, len(speech.pcm) // SAMPLES_PER_FRAME
    footage = model.footage_of(shot.source)
    place = Path(request["run"]) / WORK
    place.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="external-", dir=place))
    try:
        video, audio, work = folder / f"video{SUFFIX}", folder / "audio.wav", folder / "work"
        work.mkdir()
        if footage is not None:
            write_lossless(video, whole_frames(Path(footage), reader, n_frames))
        else:
            write_lossless(video, ground_truth(reader, n_frames))
        audio.write_bytes(wav_bytes(speech.pcm))
        output = run_program(program, video, audio, work, request["user_environment"])
        if program.keep is not None:
            output = cut_out(output, folder / f"kept{SUFFIX}", program.keep)
        if footage is not None:
            yield from recropped(fitted(frames_of(output), n_frames, program.tolerance), reader, output)
        else:
            yield from fitted(square_pictures(output, shot.size), n_frames, program.tolerance)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _code(error: G4GError) -> str:
    if isinstance(error, ModelFault):
        return error.code
    codes = {BadOutput: "bad_output", SourceError: "bad_video", ProgramFailed: "program_failed"}
    return codes[type(error)]


def _line(text: str) -> str:
    """One short line that any table can hold, whatever a model put into its message."""
    return " ".join(text.split())[:300].encode("utf-8", "replace").decode()
