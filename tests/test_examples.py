"""The examples start what they say, with options that exist."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from prep.cli import main

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
SLURM = EXAMPLES / "slurm_jobqueue.py"


def parsed(arguments: list[str]) -> dict[str, Any]:
    """What ``g4g-prep build-shards`` makes of its arguments. Raises click.ClickException."""
    return main.commands["build-shards"].make_context("build-shards", list(arguments)).params


def manifests() -> dict[tuple[str, str], dict[str, Any]]:
    documents = yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text(encoding="utf-8"))
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


def container(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["spec"]["template"]["spec"]["containers"][0]
    return found


# ---------------------------------------------------------------- Slurm


@pytest.fixture(scope="module")
def slurm() -> dict[str, Any]:
    return runpy.run_path(str(SLURM))


def test_the_slurm_example_hands_its_build_options_and_the_scheduler_to_g4g_prep(slurm: dict[str, Any]) -> None:
    _, build = slurm["parse"](["--jobs", "2", "--", "--hdtf", "/shared/HDTF", "--out", "/shared/shards"])
    command = slurm["build_command"]("tcp://10.0.0.1:8786", build)

    assert command[:4] == [sys.executable, "-m", "prep.cli", "build-shards"]
    options = parsed(command[4:])
    assert options["hdtf"] == ("/shared/HDTF",)
    assert options["scheduler"] == "tcp://10.0.0.1:8786"


def test_the_slurm_example_asks_for_the_gpu_that_its_workers_offer(slurm: dict[str, Any]) -> None:
    options, build = slurm["parse"](["--gpu", "--", "--folder", "x", "--out", "y", "--landmarks", "fan"])
    settings = slurm["cluster_settings"](options)

    assert parsed(build)["resource"] == ("GPU=1",)
    assert settings["processes"] == 1
    assert settings["worker_extra_args"][-2:] == ["--resources", "GPU=1"]


def test_slurm_workers_leave_before_their_job_is_killed(slurm: dict[str, Any]) -> None:
    options, _ = slurm["parse"](["--walltime", "02:30:00", "--print-job"])
    arguments = slurm["cluster_settings"](options)["worker_extra_args"]

    lifetime = int(arguments[arguments.index("--lifetime") + 1].rstrip("s"))
    stagger = int(arguments[arguments.index("--lifetime-stagger") + 1].rstrip("s"))
    assert lifetime + stagger < 2.5 * 3600


def test_the_slurm_job_runs_one_worker_of_one_thread_a_core() -> None:
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    command = [sys.executable, str(SLURM), "--print-job", "--cores", "6", "--partition", "cpu"]

    job = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    assert "#SBATCH --cpus-per-task=6" in job
    assert "#SBATCH -p cpu" in job
    assert "--nthreads 1 " in job
    assert "--nworkers 6 " in job


def test_the_slurm_example_needs_something_to_build(slurm: dict[str, Any]) -> None:
    with pytest.raises(SystemExit):
        slurm["parse"](["--jobs", "2"])


def test_the_slurm_example_shows_a_command_that_g4g_prep_takes(slurm: dict[str, Any]) -> None:
    shown = slurm["__doc__"].replace("\\\n", " ")
    line = re.search(r"slurm_jobqueue\.py (.*)", shown)
    assert line is not None

    options, build = slurm["parse"](line[1].split())
    assert options.jobs == 8
    assert parsed(build)["out"] == "/shared/shards"


# ---------------------------------------------------------------- Kubernetes


def test_the_kubernetes_job_runs_a_build_that_g4g_prep_takes() -> None:
    command = container(manifests()["Job", "g4g-build"])["command"]

    assert command[:2] == ["g4g-prep", "build-shards"]
    options = parsed(command[2:])
    assert options["out"].startswith("s3://")
    assert options["scheduler"] == "tcp://g4g-scheduler:8786"


def test_kubernetes_workers_and_the_job_meet_at_the_service_of_the_scheduler() -> None:
    found = manifests()
    scheduler, service = found["Deployment", "g4g-scheduler"], found["Service", "g4g-scheduler"]

    labels = scheduler["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert 8786 in [port["port"] for port in service["spec"]["ports"]]
    assert "tcp://g4g-scheduler:8786" in container(found["Deployment", "g4g-worker"])["command"]


@pytest.mark.parametrize("name", ["g4g-scheduler", "g4g-worker"])
def test_a_kubernetes_deployment_selects_its_own_pods(name: str) -> None:
    spec = manifests()["Deployment", name]["spec"]

    assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]


def test_kubernetes_workers_see_footage_and_store_as_the_job_does() -> None:
    found = manifests()
    worker, job = container(found["Deployment", "g4g-worker"]), container(found["Job", "g4g-build"])

    for what in ("image", "volumeMounts", "envFrom"):
        assert worker[what] == job[what]


def test_kubernetes_commands_are_lists_of_strings() -> None:
    for (kind, _), document in manifests().items():
        if kind in ("Deployment", "Job"):
            assert all(isinstance(word, str) for word in container(document)["command"])


def test_dask_knows_the_options_of_the_kubernetes_commands() -> None:
    from distributed.cli.dask_scheduler import main as dask_scheduler
    from distributed.cli.dask_worker import main as dask_worker

    for name, command in (("scheduler", dask_scheduler), ("worker", dask_worker)):
        words = container(manifests()["Deployment", f"g4g-{name}"])["command"]
        assert words[:2] == ["dask", name]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= known


# ---------------------------------------------------------------- Docker


def test_the_image_copies_what_the_wheel_is_built_from() -> None:
    text = (EXAMPLES / "Dockerfile").read_text(encoding="utf-8")
    copied = {word for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE) for word in line.split()[:-1]}

    packages = {path.parent.name for path in ROOT.glob("*/py.typed")}
    assert {"pyproject.toml", "README.md", "LICENSE", *packages} <= copied
    assert all((ROOT / name).exists() for name in copied)


def test_a_wrong_option_in_an_example_would_be_noticed() -> None:
    with pytest.raises(click.ClickException):
        parsed(["--lrs3", "x", "--out", "y"])
