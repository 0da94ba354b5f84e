"""Build shards on a Slurm cluster: Dask workers as Slurm jobs, g4g-prep build-shards as their client.

    pip install 'g4g[jobqueue]'
    python examples/slurm_jobqueue.py --jobs 8 --cores 16 --walltime 04:00:00 --partition cpu -- \
        --hdtf /shared/HDTF --out /shared/shards

What follows ``--`` goes to ``g4g-prep build-shards`` as it is. Run this on a node that workers can reach, inside tmux
or as a small job of its own: it holds the Dask scheduler. Sources, output, this Python and, for ``--landmarks fan``,
the weights folder must be visible under the same path on every node.

A run that ends early (walltime, a lost node, Ctrl-C) is continued by the same command. ``--print-job`` shows the job
script and submits nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import Any

MB_PER_CORE = 2000
"""One worker a core; a worker and its guarded child stay under 1.5 GB."""

LAST_MINUTES = 10
"""Workers leave this long before Slurm would kill them, so that what they are at goes to others."""


def main(argv: list[str] | None = None) -> int:
    """Start the cluster, run the build on it; returns the exit code of ``g4g-prep``."""
    options, build = parse(sys.argv[1:] if argv is None else argv)
    from dask_jobqueue import SLURMCluster

    with SLURMCluster(**cluster_settings(options)) as cluster:
        if options.print_job:
            print(cluster.job_script())
            return 0
        # adapt replaces workers whose jobs ended (walltime, lost node), which scale would not
        cluster.adapt(minimum_jobs=options.jobs, maximum_jobs=options.jobs)
        print(f"scheduler {cluster.scheduler_address}, dashboard {cluster.dashboard_link}", file=sys.stderr)
        cluster.wait_for_workers(1)
        return subprocess.run(build_command(cluster.scheduler_address, build), check=False).returncode


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this script, and those after ``--``, for ``g4g-prep build-shards``."""
    ours, build = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=4, help="Slurm jobs (default 4)")
    parser.add_argument("--cores", type=int, default=8, help="cores a job, one worker each (default 8)")
    parser.add_argument("--walltime", default="04:00:00", help="HH:MM:SS of a job (default 04:00:00)")
    parser.add_argument("--partition", help="Slurm partition")
    parser.add_argument("--account", help="Slurm account")
    parser.add_argument("--interface", help="network interface between the nodes, e.g. ib0")
    parser.add_argument("--gpu", action="store_true", help="a GPU and one worker a job; add --landmarks fan after --")
    parser.add_argument("--print-job", action="store_true", help="print the job script and stop")
    options = parser.parse_args(ours)
    if not build and not options.print_job:
        parser.error("give the options of g4g-prep build-shards after --")
    if options.gpu:
        build = [*build, "--resource", "GPU=1"]
    return options, build


def cluster_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of :class:`dask_jobqueue.SLURMCluster`."""
    hours, minutes, seconds = (int(part) for part in options.walltime.split(":"))
    lifetime = max(60, hours * 3600 + minutes * 60 + seconds - LAST_MINUTES * 60)
    return {
        "queue": options.partition,
        "account": options.account,
        "interface": options.interface,
        # dask-jobqueue gives a process cores / processes threads; decoding wants processes of one thread
        "cores": 1 if options.gpu else options.cores,
        "processes": 1 if options.gpu else options.cores,
        "job_cpu": options.cores,
        "memory": f"{MB_PER_CORE * options.cores}MB",
        "walltime": options.walltime,
        "python": sys.executable,
        "job_extra_directives": ["--gres=gpu:1"] if options.gpu else [],
        "job_script_prologue": ["export OMP_NUM_THREADS=1"],
        "worker_extra_args": [
            # frames live in each worker's child process, which Dask's memory manager does not see
            *("--memory-limit", "0"),
            *("--lifetime", f"{lifetime}s", "--lifetime-stagger", "120s"),
            *(("--resources", "GPU=1") if options.gpu else ()),
        ],
    }


def build_command(address: str, build: list[str]) -> list[str]:
    """The command line of the build on the scheduler at ``address``."""
    return [sys.executable, "-m", "prep.cli", "build-shards", *build, "--scheduler", address]


if __name__ == "__main__":
    sys.exit(main())
