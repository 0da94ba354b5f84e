"""The adapters that come with the package, each run with a stand-in for its program, and what they are made of.

The real programs are not here. A stand-in takes only the options that the real script has, looks for its weights by the
same relative paths, hands the same names to a shell without quotes, and leaves its video where the real one does.
"""

from __future__ import annotations

import datetime
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from baselines.external import ADAPTERS, External, adapters, fingerprint, is_adapter, read_external, values_of
from baselines.program import ProgramFailed, run_program, user_environment
from evaluation.videos import frames_of, read_lossless, write_lossless
from g4g_core.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["ip_lap", "latentsync", "musetalk", "talklip", "videoretalking"]

START = """
import argparse, os
parser = argparse.ArgumentParser(allow_abbrev=False)
for flag in FLAGS:
    parser.add_argument("--" + flag, required=True)
for flag in SWITCHES:
    parser.add_argument("--" + flag, action="store_true")
args = parser.parse_args()
for path in READS:
    assert open(path).read() == "weights", path
"""

STAND_INS = {
    "videoretalking": {
        "inference.py": START.replace("FLAGS", "['face', 'audio', 'outfile']")
        .replace("SWITCHES", "[]")
        .replace("READS", "['checkpoints/DNet.pt']")
        + """
os.makedirs("temp/temp", exist_ok=True)
landmarks = "temp/" + args.face.split("/")[-1] + "_landmarks.txt"
assert not os.path.isfile(landmarks), "the last shot's landmarks"
open(landmarks, "w").write("points")
if not os.path.isdir(os.path.dirname(args.outfile)):
    os.makedirs(os.path.dirname(args.outfile))
os.system("cp {} temp/temp/result.mp4 && test -s {} && cp temp/temp/result.mp4 {}".format(
    args.face, args.audio, args.outfile))
""",
        "checkpoints/DNet.pt": "weights",
        "temp/video.mp4_landmarks.txt": "of another video",
    },
    "ip_lap": {
        "inference_single.py": START.replace("FLAGS", "['input', 'audio', 'output_dir']")
        .replace("SWITCHES", "[]")
        .replace("READS", "['test/checkpoints/renderer_checkpoint.pth']")
        + """
import av, numpy as np
temp = "tempfile_of_{}".format(args.output_dir.split("/")[-1])
os.makedirs(args.output_dir, exist_ok=True)
os.makedirs(temp)  # fails where another shot's is linked
out = os.path.join(args.output_dir, "{}_N_{}_Nl_{}.mp4".format(args.input.split("/")[-1][:-4] + "result", 25, 15))
with av.open(args.input) as source, av.open(temp + "/result.avi", "w") as target:
    size = source.streams.video[0]
    stream = target.add_stream("libx264", rate=25, options={"crf": "4"})
    stream.height, stream.width, stream.pix_fmt = size.height, 2 * size.width, "yuv444p"
    for frame in source.decode(video=0):
        picture = frame.to_ndarray(format="rgb24")
        both = np.concatenate([255 - picture, picture], axis=1)
        target.mux(stream.encode(av.VideoFrame.from_ndarray(both, format="rgb24")))
    target.mux(stream.encode())
os.system("test -s {} && cp {}/result.avi {}".format(args.audio, temp, out))
""",
        "test/checkpoints/renderer_checkpoint.pth": "weights",
        "tempfile_of_test_result/result.avi": "of another video",
        "test_result/videoresult_N_25_Nl_15.mp4": "of another video",
    },
    "talklip": {
        "preparation/bbx_extract.py": START.replace("FLAGS", "['filelist', 'video_root', 'bbx_root']")
        .replace("SWITCHES", "[]")
        .replace("READS", "['face_detection/detection/sfd/s3fd.pth']")
        + """
for line in open(args.filelist):
    name = line.strip().split()[0]
    assert os.path.getsize("{}/{}.mp4".format(args.video_root, name))
    os.makedirs(os.path.dirname(os.path.join(args.bbx_root, name)), exist_ok=True)
    open(os.path.join(args.bbx_root, name) + ".npy", "w").write("boxes")
""",
        "inf_test.py": START.replace(
            "FLAGS",
            "['filelist', 'video_root', 'audio_root', 'bbx_root', 'save_root', 'ckpt_path', 'avhubert_root', 'device']",
        )
        .replace("SWITCHES", "[]")
        .replace("READS", "['task_state.pt', args.ckpt_path, args.avhubert_root + '/avhubert/hubert_asr.py']")
        + """
(name,) = [line.strip().split()[0] for line in open(args.filelist)]
assert open("{}/{}.npy".format(args.bbx_root, name)).read() == "boxes"
temporary = "{}.avi".format(args.save_root.split("/")[-1])
out = "{}/{}.mp4".format(args.save_root, name)
os.makedirs(os.path.dirname(out), exist_ok=True)
os.system("cp {}/{}.mp4 {} && test -s {}/{}.wav && cp {} {}".format(
    args.video_root, name, temporary, args.audio_root, name, temporary, out))
""",
        "task_state.pt": "weights",
        "face_detection/detection/sfd/s3fd.pth": "weights",
        "results.avi": "of another video",
        "boxes/shot.npy": "of another video",
    },
    "musetalk": {
        "scripts/inference.py": START.replace(
            "FLAGS", "['inference_config', 'result_dir', 'unet_model_path', 'unet_config', 'version']"
        )
        .replace("SWITCHES", "[]")
        .replace("READS", "[args.unet_model_path, args.unet_config]")
        + """
import yaml
from musetalk import NAME
assert NAME == "MuseTalk"
for task in yaml.safe_load(open(args.inference_config)).values():
    video, audio = (os.path.basename(task[key]).split(".")[0] for key in ("video_path", "audio_path"))
    folder = os.path.join(args.result_dir, f"{args.version}")
    os.makedirs(folder, exist_ok=True)
    open(os.path.join(args.result_dir, "../", video + ".pkl"), "w").write("boxes")
    os.system(f"test -s {task['audio_path']} && cp {task['video_path']} {folder}/{video}_{audio}.mp4")
""",
        "musetalk/__init__.py": "NAME = 'MuseTalk'",
        "models/musetalkV15/unet.pth": "weights",
        "models/musetalkV15/musetalk.json": "weights",
        "results/v15/video_audio.mp4": "of another video",
    },
    "latentsync": {
        "scripts/inference.py": START.replace(
            "FLAGS",
            "['unet_config_path', 'inference_ckpt_path', 'inference_steps', 'guidance_scale', 'seed', 'video_path', "
            "'audio_path', 'video_out_path']",
        )
        .replace("SWITCHES", "['enable_deepcache']")
        .replace("READS", "[args.unet_config_path, args.inference_ckpt_path]")
        + """
import shutil
if os.path.exists("temp"):
    shutil.rmtree("temp")
os.makedirs("temp")
os.system(f"cp {args.video_path} temp/video.mp4 && test -s {args.audio_path}")
os.system(f"cp temp/video.mp4 {args.video_out_path}")
""",
        "configs/unet/stage2_512.yaml": "weights",
        "checkpoints/latentsync_unet.pt": "weights",
        "temp/video.mp4": "of another video",
    },
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / 'it\'s "my" $HOME; model'
    folder.mkdir()
    return folder


@pytest.fixture
def shot(place: Path) -> tuple[Path, Path, np.ndarray]:
    """Video, sound and pictures of a shot of twelve smooth frames."""
    down, across, number = np.linspace(0, 200, 64)[:, None], np.linspace(0, 200, 64)[None], np.arange(12)[:, None, None]
    pictures = np.stack(np.broadcast_arrays(across + number, down, 9.0 * number), axis=-1).astype(np.uint8)
    write_lossless(place / "video.avi", [pictures])
    (place / "audio.wav").write_bytes(b"RIFF")
    return place / "video.avi", place / "audio.wav", pictures


def installed(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the program's checkout, named by its variables as a user names it."""
    checkout = place / f"checkout of {name}"
    for path, text in STAND_INS[name].items():
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        (checkout / path).write_text(text)
    monkeypatch.setenv(f"{name.upper()}_HOME", str(checkout))
    monkeypatch.setenv(f"{name.upper()}_PYTHON", sys.executable)
    (place / "av hubert" / "avhubert").mkdir(parents=True)
    (place / "av hubert" / "avhubert" / "hubert_asr.py").write_text("weights")
    (place / "talklip.pth").write_text("weights")
    monkeypatch.setenv("TALKLIP_CHECKPOINT", str(place / "talklip.pth"))
    monkeypatch.setenv("TALKLIP_AVHUBERT", str(place / "av hubert"))
    return checkout


def files_of(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def worked(place: Path, name: str = "work") -> Path:
    (place / name).mkdir()
    return place / name


def test_the_package_brings_the_five_adapters() -> None:
    assert sorted(adapters()) == NAMES
    assert all("untested here" in summary for summary in adapters().values())


@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_leaves_the_program_s_video_and_its_checkout_as_it_was(
    name: str, place: Path, shot: tuple[Path, Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    video, audio, pictures = shot
    checkout = installed(name, place, monkeypatch)
    before = files_of(checkout)
    program = read_external(name)

    outputs = [run_program(program, video, audio, worked(place, work)) for work in ("one", "two")]

    assert files_of(checkout) == before
    for output in outputs:
        if program.keep is None:
            assert (np.stack(list(read_lossless(output))) == pictures).all()
        else:
            (sketch, result) = np.split(np.stack([frame.rgb() for frame in frames_of(output)]).astype(int), 2, axis=2)
            assert np.abs(result - pictures).mean() < 8
            assert np.abs(sketch - pictures).mean() > 50


@pytest.mark.parametrize(("name", "entry"), [(name, entry) for name in NAMES for entry in read_external(name).own])
def test_every_folder_that_an_adapter_keeps_apart_must_be(
    name: str, entry: str, place: Path, shot: tuple[Path, Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linked as well, it breaks the program or changes the checkout under another shot."""
    checkout = installed(name, place, monkeypatch)
    before = files_of(checkout)
    program = read_external(name)
    linked = program.model_copy(update={"own": [other for other in program.own if other != entry]})

    try:
        run_program(linked, *shot[:2], worked(place))
    except ProgramFailed:
        return
    assert files_of(checkout) != before


def test_a_checkout_that_is_gone_by_the_time_is_a_row(
    place: Path, shot: tuple[Path, Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed("ip_lap", place, monkeypatch).rename(place / "elsewhere")

    with pytest.raises(ProgramFailed, match="is no folder"):
        run_program(read_external("ip_lap"), *shot[:2], worked(place))


@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_s_page_names_its_command_its_variables_and_that_it_is_untested(name: str) -> None:
    program = read_external(name)
    page = (ROOT / "docs" / "adapters" / f"{name}.md").read_text()

    assert "**Untested here: written from the public documentation of " in page
    for command in (*program.before, program.command):
        assert "\n" + " ".join(command) + "\n" in page
    for variable in program.variables:
        assert variable in page
    assert f"external:{name}" in page
    assert f"(adapters/{name}.md) |" in (ROOT / "docs" / "external.md").read_text()
    for entry in program.own:
        assert f"`{entry}`" in page


@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_without_its_checkout_is_one_clear_line(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(name, place, monkeypatch)
    home = f"{name.upper()}_HOME"

    for value, says in ((None, f"{home} is not set: the clone of"), ("", "is not set"), ("clone", f"path in {home}")):
        environment = {"TALKLIP_CHECKPOINT": "/x", "TALKLIP_AVHUBERT": "/x"} | ({} if value is None else {home: value})
        with pytest.raises(UsageError) as refused:
            values_of(read_external(name), environment)
        assert says in str(refused.value)


def test_a_bare_name_is_an_adapter_and_a_wrong_one_is_told_the_nearest(tmp_path: Path) -> None:
    assert is_adapter("musetalk")
    assert not any(map(is_adapter, ("musetalk.yaml", "./musetalk", "../adapters/musetalk", "", "MuseTalk")))
    assert read_external("musetalk") == read_external(str(ADAPTERS / "musetalk.yaml"))
    with pytest.raises(UsageError, match="Did you mean 'musetalk'"):
        read_external("muse-talk")


def test_what_a_result_depends_on_is_in_the_fingerprint(place: Path) -> None:
    program = read_external("latentsync")
    values = {"LATENTSYNC_HOME": str(place), "LATENTSYNC_CONFIG": "a.yaml"}

    same = fingerprint(program.model_copy(update={"summary": "other words"}), values)
    other_step = fingerprint(program.model_copy(update={"command": [*program.command, "--x"]}), values)
    other_value = fingerprint(program, {**values, "LATENTSYNC_CONFIG": "b.yaml"})

    assert fingerprint(program, values) == same
    assert len({same, other_step, other_value}) == 3


DUMP = "import json, os, sys; json.dump([sys.argv[2:], os.getcwd(), dict(os.environ)], open(sys.argv[1], 'w'))"


def test_variables_reach_every_field_from_where_the_user_typed(
    place: Path, shot: tuple[Path, Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker on another machine lacks them, or has others."""
    program = External(
        variables={"PLACE": {"means": "a folder"}, "MODE": {"means": "a word", "default": "slow"}},
        command=[sys.executable, "-c", DUMP, "{output}", "{PLACE}/x", "{MODE}"],
        directory="{PLACE}",
        environment={"WEIGHTS": "{PLACE}/w"},
    )
    original = user_environment({"PLACE": str(place)}, program.variables)
    monkeypatch.setenv("PLACE", "/elsewhere")
    monkeypatch.setenv("MODE", "wrong")

    words, where, environment = json.loads(run_program(program, *shot[:2], worked(place), original).read_text())

    assert words == [f"{place}/x", "slow"]
    assert where == str(place) and environment["WEIGHTS"] == f"{place}/w" and environment["PLACE"] == str(place)


def test_files_are_written_with_places_that_need_no_quoting(place: Path, shot: tuple[Path, Path, np.ndarray]) -> None:
    video, audio, _ = shot
    copy = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2])"
    tasks = {"task": [{"video_path": "{video}", "n": 3}]}
    fields: dict[str, Any] = {"files": {"in/tasks.yaml": tasks, "list.txt": '{audio} {"a": 1}\n'}}

    def written(name: str, work: str) -> str:
        program = External(command=[sys.executable, "-c", copy, name, "{output}"], **fields)
        return run_program(program, video, audio, worked(place, work)).read_text()

    assert yaml.safe_load(written("in/tasks.yaml", "one")) == {"task": [{"video_path": str(video), "n": 3}]}
    assert written("list.txt", "two") == f'{audio} {{"a": 1}}\n'


def test_a_pattern_must_match_one_file(place: Path, shot: tuple[Path, Path, np.ndarray]) -> None:
    write = "import sys; [open(name, 'w').write('x') for name in sys.argv[1:]]"

    def left(work: str, *names: str) -> Path:
        program = External(command=[sys.executable, "-c", write, *names], output="out/a*[1].mp4")
        return run_program(program, *shot[:2], worked(place, work))

    assert left("one", "out/abc[1].mp4", "out/b[1].mp4", "out/ab1.mp4").name == "abc[1].mp4"
    with pytest.raises(ProgramFailed, match=r"left no out/a\*"):
        left("none", "out/b.mp4")
    with pytest.raises(ProgramFailed, match="left 2 files"):
        left("two", "out/ab[1].mp4", "out/ac[1].mp4")


def test_a_command_that_goes_before_counts_in_the_time_and_its_fault_is_named(
    place: Path, shot: tuple[Path, Path, np.ndarray]
) -> None:
    def run(work: str, before: str, timeout: float = 60) -> Path:
        command = [sys.executable, "-c", "open('output.mp4', 'a').write('b')"]
        program = External(before=[[sys.executable, "-c", before]], command=command, timeout=timeout)
        return run_program(program, *shot[:2], worked(place, work))

    assert run("well", "open('output.mp4', 'a').write('a')").read_text() == "ab"
    with pytest.raises(ProgramFailed, match="exit status 3 of command 1 of 2: no face"):
        run("fault", "print('no face'); raise SystemExit(3)")
    with pytest.raises(ProgramFailed, match=r"no end of command 1 of 2 within 0\.5 s"):
        run("slow", "import time; time.sleep(60)", timeout=0.5)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"checkout": "{HOEM}"}, "knows no {HOEM}"),
        ({"files": {"a.txt": ["{vidoe}"]}}, "knows no {vidoe}"),
        ({"before": [["x", "{vidoe}"]]}, "knows no {vidoe}"),
        ({"before": [[]]}, "first word"),
        ({"files": {"../a.txt": "x"}}, "inside the work folder"),
        ({"inputs": {"video": "/a.mp4"}}, "inside the work folder"),
        ({"inputs": {"sound": "a.wav"}}, "sound"),
        ({"keep": [0.5, 0, 0.5, 1]}, "shares of the frame"),
        ({"keep": [0, 0, 2, 1]}, "shares of the frame"),
        ({"command": ["x", "{output}"], "output": "*.mp4"}, "is a pattern"),
        ({"checkout": "/a", "directory": "/b"}, "exclude each other"),
        ({"own": ["temp"]}, "which is not given"),
        ({"variables": {"video": {"means": "x"}}}, "stands for something else"),
        ({"variables": {"X": {}}}, "means"),
        ({"environment": {"A=B": "x"}}, "'A=B' is no name of a variable"),
        ({"environment": {"": "x"}}, "'' is no name of a variable"),
        ({"environment": {"A": "x\0"}}, "zero byte"),
        ({"environment": {"A\0": "x"}}, "zero byte"),
        ({"command": ["x", "a\0b"]}, "zero byte"),
        ({"before": [["x\0"]]}, "zero byte"),
        ({"directory": "/a\0"}, "zero byte"),
        ({"output": "a\0.mp4"}, "zero byte"),
        ({"files": {"a\0": "x"}}, "zero byte"),
        ({"inputs": {"video": "a\0.mp4"}}, "zero byte"),
        ({"files": {"a": "x", "a/b": "y"}}, "'a' and 'a/b' cannot both stand"),
        ({"files": {"a": "x", "a-b": "z", "a/b": "y"}}, "'a' and 'a/b' cannot both stand"),
        ({"files": {"a": "x", "./a": "y"}}, "cannot both stand"),
        ({"files": {"a": "x"}, "inputs": {"video": "a/v.mp4"}}, "'a' and 'a/v.mp4' cannot both stand"),
        ({"inputs": {"video": "v.mp4"}, "output": "v.mp4"}, "cannot both stand"),
        ({"files": {"results": "x"}, "output": "results/*.mp4"}, "cannot both stand"),
        ({"files": {"program.log": "x"}}, "cannot both stand"),
        ({"files": {"a.yaml": {"day": datetime.date(2026, 1, 2)}}}, "'a.yaml' cannot be written as JSON"),
    ],
)
def test_a_contradiction_is_refused_with_the_file_s_name(tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"command": ["x"], **fields}))

    with pytest.raises(UsageError) as refused:
        read_external(str(tmp_path / "mine.yaml"))

    assert says in str(refused.value) and "mine.yaml" in str(refused.value)


def test_the_stand_ins_would_break_on_paths_that_need_quotes(
    place: Path, shot: tuple[Path, Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the adapters' short names matter: with the plain places the same script leaves nothing."""
    installed("videoretalking", place, monkeypatch)
    program = read_external("videoretalking")
    words = shlex.split(shlex.join(program.command).replace("video.mp4", "{video}").replace("audio.wav", "{audio}"))

    with pytest.raises(ProgramFailed, match=r"left no results/dubbed\.mp4"):
        run_program(program.model_copy(update={"command": words}), *shot[:2], worked(place))
