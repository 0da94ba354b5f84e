"""A model in a process of its own, which is handed prompts and nothing else: it holds no shard, no path, no target.

Run as ``python -m evaluation.model_process``; messages are a line of JSON and the bytes of the arrays that it names.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from g4g_core.errors import G4GError
from g4g_core.protocols import ClipPrompt


class ModelFault(G4GError):
    """What a model did wrong: ``code`` is the reason of the row."""

    def __init__(self, code: str, what: str) -> None:
        super().__init__(what)
        self.code = code


class ModelProcess:
    """A registered generator behind a pipe. It ends with the process that started it.

    Args:
        target: its registered name.
        checkpoint: or ``None``.
    """

    def __init__(self, target: str, checkpoint: str | None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "evaluation.model_process", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=os.path.abspath(os.sep),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(place) for place in sys.path if place)},
        )
        self._opened = False
        self._open = {"target": target, "checkpoint": None if checkpoint is None else os.path.abspath(checkpoint)}

    def generate(self, prompt: ClipPrompt) -> np.ndarray:
        """uint8 [T, S, S, 3]: what the model returned for a prompt.

        Raises:
            ModelFault: it raised, died, or returned something else.
        """
        if not self._opened:
            self._ask(self._open, {})
            self._opened = True
        values = {field.name: getattr(prompt, field.name) for field in dataclasses.fields(prompt)}
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        header, data = self._ask({name: value for name, value in values.items() if name not in arrays}, arrays)
        pictures = data.get("pictures")
        if pictures is None or pictures.dtype != np.uint8 or pictures.shape != prompt.source.shape:
            raise ModelFault("bad_output", str(header))
        return pictures

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _ask(self, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> tuple[Any, dict[str, np.ndarray]]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            send(self._process.stdin, header, arrays)
            found, data = receive(self._process.stdout)
        except (EOFError, BrokenPipeError):
            code = self._process.wait()
            how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
            raise ModelFault("crashed", f"the model's process ended: {how}") from None
        if "fault" in found:
            raise ModelFault(*found["fault"])
        return found, data


def send(stream: IO[bytes], header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write one message."""
    about = {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}
    stream.write(json.dumps({**header, "arrays": about}).encode() + b"\n")
    for array in arrays.values():
        stream.write(np.ascontiguousarray(array).data)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read one message. Raises EOFError where the other side has ended."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    header: dict[str, Any] = json.loads(line)
    arrays = {}
    for name, (dtype, shape) in header.pop("arrays").items():
        array = np.empty(shape, np.dtype(dtype))
        view = memoryview(array.data).cast("B") if array.size else memoryview(b"")
        done = 0
        while done < array.nbytes:
            count = stream.readinto(view[done:])  # type: ignore[attr-defined]
            if not count:
                raise EOFError
            done += count
        arrays[name] = array
    return header, arrays


def main() -> None:
    from prep.run.child import die_with_parent

    die_with_parent(int(sys.argv[1]))
    # answers go to a private copy of stdout, so that nothing a model prints can garble them
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    requests = sys.stdin.buffer
    import cv2

    cv2.setNumThreads(1)
    generator: Any = None
    while True:
        try:
            header, arrays = receive(requests)
        except EOFError:
            return
        try:
            if generator is None:
                generator = _opened(header)
                send(answers, {"ready": True}, {})
            else:
                prompt = ClipPrompt(**{**header, **arrays})
                send(answers, *_answer(generator.generate(prompt), prompt.source.shape))
        except G4GError as error:
            send(answers, {"fault": ["model_error", error.what]}, {})
        except Exception as error:  # whatever a model throws is its failure on this shot, and the run goes on
            send(answers, {"fault": ["model_error", f"{type(error).__name__}: {error}"]}, {})


def _opened(header: Mapping[str, Any]) -> Any:
    from g4g_core import registry

    return registry.load(registry.MODELS, header["target"]).open(header["checkpoint"])


def _answer(pictures: Any, due: tuple[int, ...]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What a generator returned, if it is pictures at all."""
    what = None
    if not isinstance(pictures, np.ndarray):
        what = f"generate returned {type(pictures).__name__}, a NumPy array was due"
    elif pictures.dtype != np.uint8:
        nan = pictures.dtype.kind == "f" and not np.isfinite(pictures).all()
        what = f"generate returned {pictures.dtype}{' with NaN or infinity' if nan else ''}, uint8 was due"
    elif pictures.shape != due:
        what = f"generate returned {list(pictures.shape)}, {list(due)} was due"
    return ({"fault": ["bad_output", what]}, {}) if what is not None else ({}, {"pictures": pictures})


if __name__ == "__main__":
    main()
