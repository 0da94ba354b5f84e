"""Where tasks run: in this process, on local workers, or on any Dask cluster. What they do is in ``prep.run.work``."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import logging
import os
import queue
import signal
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from g4g_core.errors import G4GError, MissingDependency, UsageError
from prep.run.guard import ChildDied, ChildTimeout, GuardedProcess

Task = dict[str, Any]
"""A request for the guarded child, with ``timeout`` in seconds and ``cost`` (about how many seconds it takes).

Values are plain, or records with ``to_json``."""

Result = dict[str, Any]
"""What the child answered, or ``{"timeout": seconds}`` or ``{"died": how}``."""

Handler = Callable[[Task, Result], Iterable[Task]]
"""Takes a finished task; returns the tasks that follow from it."""

BATCH_SECONDS = 20.0
"""Small tasks travel together until they are this much work: a lost worker costs no more."""

_MAX_BATCH = 64

CONNECT_SECONDS = 20.0
JOIN_SECONDS = 120.0
DESERTED_SECONDS = 60.0

_RESUME = "Run the same command again: what is done is kept."


class Runner(Protocol):
    """Runs tasks until none are left."""

    def run(self, tasks: Iterable[Task], handle: Handler) -> None: ...


def execute(tasks: Sequence[Task]) -> list[Result]:
    """Run tasks one after the other in this thread's guarded child."""
    return [_execute_one(task) for task in tasks]


_local = threading.local()


def _execute_one(task: Task) -> Result:
    guard: GuardedProcess | None = getattr(_local, "guard", None)
    if guard is None:
        guard = _local.guard = GuardedProcess()
    try:
        return guard.call(task, timeout=task["timeout"])
    except ChildTimeout:
        return {"timeout": task["timeout"]}
    except ChildDied as error:
        return {"died": str(error)}
    except G4GError as error:
        return {"user_error": [error.what, error.mend]}


def close_guard() -> None:
    """End this thread's guarded child."""
    guard: GuardedProcess | None = getattr(_local, "guard", None)
    if guard is not None:
        guard.close()
        _local.guard = None


class SyncRunner:
    """One task after the other, in this process and its guarded child."""

    description = "in this process"

    def run(self, tasks: Iterable[Task], handle: Handler) -> None:
        waiting = collections.deque(tasks)
        while waiting:
            task = waiting.popleft()
            _put_first(waiting, handle(task, _checked(_execute_one(task))))


class DaskRunner:
    """Tasks on the workers of a Dask cluster, a bounded number in flight."""

    def __init__(self, client: Any, resources: Mapping[str, float] | None = None) -> None:
        self._client = client
        self._resources = dict(resources or {})
        self._name = f"g4g-{uuid.uuid4().hex[:12]}"  # two builds on one cluster must not share keys
        self._sent = 0

    @property
    def description(self) -> str:
        return f"on {self._count_workers()} Dask workers, dashboard {self._client.dashboard_link}"

    def _count_workers(self) -> int:
        return max(1, len(self._client.ncores()))

    def run(self, tasks: Iterable[Task], handle: Handler) -> None:
        waiting = collections.deque(tasks)
        total = sum(task["cost"] for task in waiting)
        largest = max(1.0, min(BATCH_SECONDS, total / (4 * self._count_workers())))
        finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
        in_flight: dict[str, list[Task]] = {}
        suspects: collections.deque[Task] = collections.deque()
        alone = False
        while waiting or in_flight or suspects:
            while waiting and len(in_flight) < 2 * self._count_workers() + 1:
                self._send(_take_batch(waiting, largest), in_flight, finished)
            alone = not in_flight
            if alone:
                self._send([suspects.popleft()], in_flight, finished)
            future = self._next(finished)
            batch = in_flight.pop(future.key)
            results = self._results(future)
            if results is None and alone:
                results = [{"died": "its Dask worker was killed several times"}]
            if results is None:
                suspects.extend(batch)
                continue
            for task, result in zip(batch, results, strict=True):
                _put_first(waiting, handle(task, _checked(result)))

    def _send(self, batch: list[Task], in_flight: dict[str, list[Task]], finished: queue.SimpleQueue[Any]) -> None:
        future = self._submit(batch)
        in_flight[future.key] = batch
        future.add_done_callback(finished.put)

    def _submit(self, batch: list[Task]) -> Any:
        self._sent += 1
        return self._client.submit(
            execute, batch, key=f"{self._name}-{self._sent}", pure=False, resources=self._resources or None
        )

    def _next(self, finished: queue.SimpleQueue[Any]) -> Any:
        """The next future that is done. Workers of our own that do not come back are an end, not a long wait."""
        deserted = False
        while True:
            try:
                return finished.get(timeout=DESERTED_SECONDS)
            except queue.Empty:
                was_deserted, deserted = deserted, not self._client.ncores()
                if was_deserted and deserted and self._client.cluster is not None:
                    raise G4GError("all workers have ended and none starts again", _RESUME) from None

    @staticmethod
    def _results(future: Any) -> list[Result] | None:
        """Results of a batch; ``None`` where its workers died.

        Dask blames every batch that was with a worker when it died. The guilty task is found by doing all of them
        again one by one, when nothing else runs.
        """
        from distributed import KilledWorker

        try:
            return list(future.result())
        except KilledWorker:
            return None
        except ImportError as error:
            raise UsageError(
                f"a Dask worker cannot import what it needs: {error}",
                "Install this version of g4g on every worker.",
            ) from error
        except (asyncio.CancelledError, concurrent.futures.CancelledError) as error:
            raise G4GError("the Dask scheduler is gone", _RESUME) from error
        finally:
            future.release()


class LateRunner:
    """Opens a runner with the first task, so that a typing error, or a run that is done already, waits for no workers.

    Args:
        open_: opens it.
    """

    def __init__(self, open_: Callable[[], contextlib.AbstractContextManager[Runner]]) -> None:
        self._open, self._opened = open_, contextlib.ExitStack()
        self._runner: Runner | None = None

    def __enter__(self) -> LateRunner:
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._opened.__exit__(*error)

    def run(self, tasks: Iterable[Task], handle: Handler) -> None:
        waiting = list(tasks)
        if not waiting:
            return
        if self._runner is None:
            self._runner = self._opened.enter_context(self._open())
        self._runner.run(waiting, handle)


def _put_first(waiting: collections.deque[Task], tasks: Iterable[Task]) -> None:
    """What follows from a task goes next, in its order: the parts of a long clip must not wait for the short ones."""
    waiting.extendleft(reversed(list(tasks)))


def _take_batch(waiting: collections.deque[Task], largest: float) -> list[Task]:
    batch = [waiting.popleft()]
    cost = batch[0]["cost"]
    while waiting and cost + waiting[0]["cost"] <= largest and len(batch) < _MAX_BATCH:
        batch.append(waiting.popleft())
        cost += batch[-1]["cost"]
    return batch


def _checked(result: Result) -> Result:
    if "user_error" in result:
        raise G4GError(*result["user_error"])
    return result


@contextlib.contextmanager
def open_runner(
    workers: int | None,
    scheduler: str | None,
    *,
    resources: Mapping[str, float] | None = None,
    gpus: Sequence[str] = (),
) -> Iterator[Any]:
    """The runner that the user asked for.

    Args:
        workers: number of local worker processes; used where ``scheduler`` is not given.
        scheduler: ``sync`` (this process), or the address of a running Dask scheduler (``tcp://host:8786``).
        resources: Dask worker resources that a task needs, e.g. ``{"GPU": 1}``.
        gpus: values of ``CUDA_VISIBLE_DEVICES`` that local workers take by turns, so that each works on a GPU of its
            own; workers of an existing cluster keep what they were started with.
    """
    if scheduler == "sync":
        try:
            yield SyncRunner()
        finally:
            close_guard()
        return
    try:
        from distributed import Client, LocalCluster
    except ModuleNotFoundError as error:
        raise MissingDependency(f"workers need the Python package {error.name}", "Use --scheduler sync.") from error
    import dask

    # what goes wrong on workers becomes rows or errors of ours; Dask's own tracebacks would only hide them
    for name in [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "distributed"]:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    dask.config.set(
        {"distributed.scheduler.allowed-failures": 1, "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s"}
    )
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"no Dask scheduler answers at {scheduler}: {error}", "Start one with: dask scheduler"
            ) from error
        with client:
            try:
                client.wait_for_workers(1, timeout=JOIN_SECONDS)
            except TimeoutError as error:
                raise UsageError(
                    f"no worker has joined the Dask scheduler at {scheduler} for {JOIN_SECONDS:.0f} s",
                    f"Start some with: dask worker {scheduler} --nthreads 1",
                ) from error
            yield DaskRunner(client, resources)
        return
    cluster = LocalCluster(
        n_workers=max(1, workers or 1),
        threads_per_worker=1,
        processes=True,
        memory_limit=0,  # frames live in the guarded children, which bound themselves
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
        resources=dict(resources or {}),
    )
    with cluster, Client(cluster) as client:
        _leave_interrupts_to_this_process(client)
        if gpus:
            _give_gpus(client, list(gpus))
        yield DaskRunner(client, resources)


def _leave_interrupts_to_this_process(client: Any) -> None:
    """Ctrl-C reaches every process of a terminal; workers would print a traceback each, this one ends them anyway."""
    from distributed import WorkerPlugin

    class IgnoreInterrupts(WorkerPlugin):  # type: ignore[misc]
        def setup(self, worker: Any) -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    client.register_plugin(IgnoreInterrupts(), name="g4g-interrupts")


def _give_gpus(client: Any, gpus: list[str]) -> None:
    """Each local worker, and with it the guarded child that it starts, sees one GPU."""
    from distributed import WorkerPlugin

    class OneGpu(WorkerPlugin):  # type: ignore[misc]
        def setup(self, worker: Any) -> None:
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus[int(worker.name) % len(gpus)]

    client.register_plugin(OneGpu(), name="g4g-gpus")
