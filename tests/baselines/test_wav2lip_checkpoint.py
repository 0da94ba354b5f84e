"""Wav2Lip's weights: public files load strictly, others are refused with their hash, and no pickle runs code."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from baselines.trained import FACTS, FORMAT, About, facts_sha256, write  # noqa: E402
from baselines.wav2lip import checkpoint  # noqa: E402
from baselines.wav2lip.checkpoint import PUBLIC, fill, fingerprint, read, read_public  # noqa: E402
from baselines.wav2lip.config import CONFIGS, EXPERT, GeneratorConfig, Wav2LipConfig  # noqa: E402
from baselines.wav2lip.expert import SyncExpert  # noqa: E402
from baselines.wav2lip.generator import Generator  # noqa: E402
from baselines.wav2lip.model import WAV2LIP, WAV2LIP_GAN  # noqa: E402
from g4g_core.errors import WeightsError  # noqa: E402
from g4g_core.known_weights import KNOWN  # noqa: E402
from g4g_core.provenance import file_sha256  # noqa: E402


class Narrow(Wav2LipConfig):
    """In place of the public shape: its files have 400 MB."""

    size: Any = 64
    width: float = 0.0625


NETWORKS = {"wav2lip": Generator, "wav2lip-gan": Generator, EXPERT: SyncExpert}


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Public files of a narrow network, and a cache folder of weights that is empty."""
    monkeypatch.setenv("G4G_WEIGHTS", str(tmp_path / "weights"))
    (tmp_path / "weights").mkdir()
    monkeypatch.setattr(checkpoint, "CONFIGS", dict.fromkeys(CONFIGS, Narrow))


def public(
    path: Path,
    name: str = "wav2lip",
    *,
    zipped: bool = False,
    edit: Callable[[dict[str, Any]], Any] = lambda state: state,
) -> Path:
    """A file as the authors' training leaves it: wrapped by DataParallel, with the optimiser's state."""
    torch.manual_seed(list(NETWORKS).index(name))
    state = {f"module.{key}": value for key, value in NETWORKS[name](Narrow()).state_dict().items()}
    held = {
        "state_dict": edit(state), "optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]}, "global_step": 7,
        "global_epoch": 1,
    }  # fmt: skip
    torch.save(held, path, _use_new_zipfile_serialization=zipped)
    return path


def register(monkeypatch: pytest.MonkeyPatch, name: str, file: Path) -> None:
    """Make the file the one that the weights registry knows."""
    entry = PUBLIC[name]
    digest, size = file_sha256(str(file)), file.stat().st_size
    monkeypatch.setitem(KNOWN, entry, dataclasses.replace(KNOWN[entry], sha256=digest, size_bytes=size))


def test_the_registry_knows_the_public_files_and_their_terms() -> None:
    for name in NETWORKS:
        known = KNOWN[PUBLIC[name]]
        assert known.sha256 is not None and known.size_bytes is not None and known.url is not None
        assert "non-commercial" in known.licence
    assert KNOWN["wav2lip"].sha256 == "b78b681b68ad9fe6c6fb1debc6ff43ad05834a8af8a62ffc4167b7b34ef63c37"
    assert KNOWN["wav2lip-gan"].sha256 == "ca9ab7b7b812c0e80a6e70a5977c545a1e8a365a6c49d5e533023c034d7ac3d8"
    assert KNOWN["lipsync-expert"].sha256 == "9b9936c721696446eeed353032cab242a8cf0eed8c46cde540366f6ae5493be5"


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("zipped", [False, True], ids=["as torch 1.1 saves", "zip"])
def test_a_file_in_the_public_layout_loads_with_every_weight_in_its_place(
    tmp_path: Path, name: str, zipped: bool
) -> None:
    file = public(tmp_path / "own.pth", name, zipped=zipped)
    about, tensors = read(name, str(file))
    network = NETWORKS[name](Narrow())
    fill(network, tensors, name, str(file))

    torch.manual_seed(list(NETWORKS).index(name))
    for key, value in NETWORKS[name](Narrow()).state_dict().items():
        assert torch.equal(network.state_dict()[key], value)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert about.config == Narrow() and about.name == name and about.trained_against == ()
    assert about.marks == (f"weights of unknown origin (SHA-256 {digest[:12]})",)
    assert fingerprint(name, str(file)) == digest


def test_without_a_checkpoint_the_registrys_file_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = public(tmp_path / "weights" / "wav2lip.pth")
    register(monkeypatch, "wav2lip", file)
    about, tensors = read("wav2lip", None)

    assert about.trained_against == (KNOWN["lipsync-expert"].sha256,)
    assert tensors.keys() == Generator(Narrow()).state_dict().keys()
    assert fingerprint("wav2lip", None) == fingerprint("wav2lip", str(file)) == KNOWN["wav2lip"].sha256
    assert read("wav2lip", str(file))[0] == about
    assert WAV2LIP.open(None).trained_against == about.trained_against


def test_what_is_missing_is_said_with_every_way_to_mend_it() -> None:
    for act in (WAV2LIP_GAN.open, WAV2LIP_GAN.fingerprint):
        with pytest.raises(WeightsError) as caught:
            act(None)
        assert "wav2lip_gan.pth" in caught.value.what and "not here" in caught.value.what
        assert "weights fetch wav2lip-gan" in caught.value.mend
        assert "--checkpoint wav2lip-gan=PATH" in caught.value.mend


def test_a_registered_file_that_was_tampered_with_is_refused_with_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = public(tmp_path / "weights" / "wav2lip.pth")
    register(monkeypatch, "wav2lip", file)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    for changed in (bytes(data), bytes(data[:-1])):  # of the same size, and of another
        file.write_bytes(changed)
        os.utime(file, ns=(len(changed), len(changed)))
        for given in (None, str(file), os.path.join(os.path.dirname(file), "..", "weights", "wav2lip.pth")):
            for act in (WAV2LIP.open, WAV2LIP.fingerprint):
                with pytest.raises(WeightsError, match=hashlib.sha256(changed).hexdigest()):
                    act(given)


def test_a_public_name_on_another_file_is_refused_with_its_hash_wherever_it_lies(tmp_path: Path) -> None:
    for name, file_name in (("wav2lip", "wav2lip.pth"), ("wav2lip-gan", "wav2lip_gan.pth")):
        file = public(tmp_path / file_name, name)
        digest = file_sha256(str(file))
        linked = tmp_path / f"linked-{name}.pth"
        linked.symlink_to(file)
        for given in (file, linked):
            with pytest.raises(WeightsError, match=f"name of a public file .* SHA-256 is {digest}") as caught:
                WAV2LIP.open(str(given))
        assert "another name" in caught.value.mend and f"weights fetch {name}" in caught.value.mend


def test_weights_of_unknown_origin_are_called_so_and_known_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = public(tmp_path / "fine-tuned.pth")
    digest = file_sha256(str(file))
    model, told = WAV2LIP.open(str(file)), WAV2LIP.info(str(file), None)["checkpoint"]
    assert model.marks == (f"weights of unknown origin (SHA-256 {digest[:12]})",) and told["marks"] == list(model.marks)
    assert told["sha256"] == digest and told["origin"] == "unknown; not the public wav2lip.pth"

    register(monkeypatch, "wav2lip", file)
    told = WAV2LIP.info(str(file), None)["checkpoint"]
    assert WAV2LIP.open(str(file)).marks == () and told["marks"] == []
    assert told["origin"] == "the public wav2lip.pth"
    assert WAV2LIP.open(str(trained(tmp_path / "run"))).marks == ()
    assert WAV2LIP.info(str(tmp_path / "run"), None)["checkpoint"]["origin"] == "g4g-model train"


def test_without_a_checkpoint_info_tells_of_the_registrys_file_where_it_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "checkpoint" not in WAV2LIP.info(None, None)
    file = public(tmp_path / "weights" / "wav2lip.pth")
    register(monkeypatch, "wav2lip", file)
    told = WAV2LIP.info(None, None)["checkpoint"]
    assert (told["path"], told["sha256"]) == (str(file), KNOWN["wav2lip"].sha256)
    assert checkpoint.described("wav2lip", {"small": {"model": {}}}, None, "small")[1] is None
    assert WAV2LIP.info(str(trained(tmp_path / "run")), None)["checkpoint"]["path"] != str(file)


def test_the_file_of_another_model_is_refused_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = public(tmp_path / "renamed.pth", "wav2lip-gan")
    assert read("wav2lip", str(file))[0].trained_against == ()  # as long as nobody knows it
    register(monkeypatch, "wav2lip-gan", file)
    with pytest.raises(WeightsError, match=r"wav2lip_gan\.pth, the weights of wav2lip-gan, not of wav2lip"):
        read("wav2lip", str(file))
    assert read("wav2lip-gan", str(file))[0].trained_against == (KNOWN["lipsync-expert"].sha256,)


class Harmful:
    """Makes a file when it is unpickled."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> Any:
        return (Path.touch, (self.made,))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("where", ["state_dict", "optimizer"])
def test_a_pickle_that_carries_code_is_refused_and_never_runs(tmp_path: Path, zipped: bool, where: str) -> None:
    file, made = tmp_path / "own.pth", tmp_path / "made"
    torch.manual_seed(0)
    held = {"state_dict": Generator(Narrow()).state_dict(), "optimizer": None}
    held[where] = Harmful(made)
    torch.save(held, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=f"{file_sha256(str(file))}.* is no checkpoint of Wav2Lip") as refused:
        WAV2LIP.open(str(file))
    assert not made.exists()
    assert refused.value.what.endswith("it holds something besides tensors")
    assert "weights_only" not in str(refused.value)  # torch advises to read it without, which runs it
    assert "weights_only" in str(refused.value.__cause__)

    torch.load(file, weights_only=False)  # and it would have run
    assert made.exists()


def test_files_that_hold_no_weights_are_refused_with_their_hash(tmp_path: Path) -> None:
    odd: dict[str, Any] = {
        "text": b"no weights at all", "empty": b"", "list": [1, 2], "bare": Generator(Narrow()).state_dict(),
        "numbers": {"state_dict": {"a": 1}},
    }  # fmt: skip
    for name, held in odd.items():
        file = tmp_path / f"{name}.pth"
        if isinstance(held, bytes):
            file.write_bytes(held)
        else:
            torch.save(held, file)
        with pytest.raises(WeightsError, match=f"{file_sha256(str(file))}.* is no checkpoint of Wav2Lip"):
            read_public(file)
    with pytest.raises(WeightsError, match="holds no state_dict"):
        read_public(tmp_path / "bare.pth")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    def without(state: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in state.items() if "output_block.1.bias" not in key}

    def with_more(state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "module.extra": torch.zeros(1)}

    def reshaped(state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "module.output_block.1.bias": torch.zeros(4)}

    def twice(state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "output_block.1.bias": torch.ones(3)}

    def of(dtype: torch.dtype, name: str = "output_block.1.bias") -> Callable[[dict[str, Any]], dict[str, Any]]:
        return lambda state: {**state, f"module.{name}": torch.ones_like(state[f"module.{name}"], dtype=dtype)}

    def not_a_number(state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "module.output_block.1.bias": torch.full((3,), float("nan"))}

    for edit, word in (
        (without, "Missing"), (with_more, "Unexpected"), (reshaped, "size mismatch"), (not_a_number, "no finite"),
        (twice, "it holds output_block.1.bias twice, with and without module."), (of(torch.complex64), "complex64"),
        (of(torch.bool), "bool"), (of(torch.int32), "int32"),
        (of(torch.float32, "output_block.0.conv_block.1.num_batches_tracked"), "tracked is of torch.float32"),
    ):  # fmt: skip
        file = public(tmp_path / "odd.pth", edit=edit)
        with pytest.raises(WeightsError, match=f"{file_sha256(str(file))}.*{word}"):
            WAV2LIP.open(str(file))
    with pytest.raises(WeightsError, match="does not fit Generator"):
        WAV2LIP.open(str(public(tmp_path / "expert.pth", EXPERT)))


def test_weights_of_half_the_bits_fill_the_network(tmp_path: Path) -> None:
    def halved(state: dict[str, Any]) -> dict[str, Any]:
        return {name: t.half() if t.is_floating_point() else t for name, t in state.items()}

    network = WAV2LIP.open(str(public(tmp_path / "half.pth", edit=halved)))._network
    assert {t.dtype for t in network.parameters()} == {torch.float32}


LEARNED: dict[str, Any] = {
    "learned_from": {
        "splits": ["train"], "selected": False, "selections": {}, "samples": 3, "left_out": 0, "identities": 2,
        "people": ["0123456789ab", "ba9876543210"], "sources": ["lrs2"], "minutes": 0.1,
        "footage_sha256": "b" * 64, "validation": "none", "taught_by": {"expert": "PATH", "command": None},
    },
    "settings": {"steps": 2, "seed": 5, "threads": 2},
    "step": 2,
}  # fmt: skip
"""What is known of the training of :func:`trained`."""


def trained(folder: Path, name: str = "wav2lip", **fields: Any) -> Path:
    """What our own training exports."""
    config = Wav2LipConfig(size=64, width=0.0625, mel_offset=-1)
    folder.mkdir(exist_ok=True)
    torch.manual_seed(3)
    about = About(name, config, ("sync",), ("a" * 64,), **LEARNED)
    write(folder / f"{name}.safetensors", dataclasses.replace(about, **fields), NETWORKS[name](config).state_dict())
    return folder / f"{name}.safetensors"


def test_an_expert_that_was_not_named_took_part_all_the_same() -> None:
    """The public one, which is found by itself where it is here."""
    nobody = {**LEARNED, "learned_from": {**LEARNED["learned_from"], "taught_by": None}}
    for against, says in ((("a" * 64,), "it counts only after a validation"), ((), "no expert was there")):
        about = About("wav2lip", GeneratorConfig(), ("sync",), against, **nobody)
        assert about.training.off_because["sync"].startswith(says)


def test_our_own_checkpoint_says_what_it_is_and_has_the_same_bytes_again(tmp_path: Path) -> None:
    file = trained(tmp_path / "run")
    about, tensors = read("wav2lip", str(file))
    model = WAV2LIP.open(str(file))

    assert about == About("wav2lip", Narrow(mel_offset=-1), ("sync",), ("a" * 64,), **LEARNED)
    known = model.training
    assert (known.sha256, known.step, known.seed, known.samples) == (file_sha256(str(file)), 2, 5, 3)
    assert known.command is not None
    assert {"expert=PATH", "threads=2"} < set(known.command.split()) and "--steps 2 --seed 5" in known.command
    assert (model.native_size, model.mel_offset) == (64, -1)
    assert (model.losses_off, model.trained_against) == (("sync",), ("a" * 64,))
    again = tmp_path / "again.safetensors"
    write(again, about, tensors)
    assert again.read_bytes() == file.read_bytes()


def stepped(run: Path, about: About[Any], weights: dict[str, Any]) -> Path:
    """A checkpoint of the run, as the training loop leaves it."""
    from safetensors.torch import save_file

    step = run / "step-000002"
    step.mkdir()
    description = {**about.told(), **about.learned_from}
    facts = torch.tensor([*bytes.fromhex(facts_sha256(about.name, description))], dtype=torch.uint8)
    held = {**{f"network.{key}": value for key, value in weights.items()}, "judge.weight": torch.zeros(2), FACTS: facts}
    save_file(held, step / "model.safetensors")
    state = {"trainable": about.name, "step": about.step, "description": description}
    state["settings"] = {**about.settings, "workers": 2, "keep": 1}
    state["sha256"] = {"model.safetensors": file_sha256(str(step / "model.safetensors"))}
    (step / "state.json").write_text(json.dumps(state))
    return step


def rewritten(file: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edit the header of a safetensors file; the tensors stay as they are."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    edit(header)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


FACT_EDITS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "losses_off": lambda facts: facts.update(losses_off=[]),
    "trained_against": lambda facts: facts.update(trained_against=[]),
    "mel_offset": lambda facts: facts["config"].update(mel_offset=-5),
    "preset": lambda facts: facts["config"].update(preset="full"),
}


@pytest.mark.parametrize("edited", FACT_EDITS)
def test_facts_that_were_rewritten_are_refused_in_a_file_and_in_a_step(tmp_path: Path, edited: str) -> None:
    file = trained(tmp_path / "run")
    step = stepped(tmp_path / "run", *read("wav2lip", str(file)))
    assert read("wav2lip", str(step))[0] == read("wav2lip", str(file))[0]

    def edit(header: dict[str, Any]) -> None:
        facts = json.loads(header["__metadata__"]["baseline"])
        FACT_EDITS[edited](facts)
        header["__metadata__"]["baseline"] = json.dumps(facts)

    rewritten(file, edit)
    state = json.loads((step / "state.json").read_text())
    FACT_EDITS[edited](state["description"])
    (step / "state.json").write_text(json.dumps(state))
    for place in (file, step):
        with pytest.raises(WeightsError, match="damaged: not the weights and facts that were written"):
            read("wav2lip", str(place))


def test_facts_of_another_step_are_not_taken_for_those_of_this_one(tmp_path: Path) -> None:
    file = trained(tmp_path / "run")
    step = stepped(tmp_path / "run", *read("wav2lip", str(file)))
    other = tmp_path / "other"
    other.mkdir()
    about, weights = read("wav2lip", str(file))
    theirs = stepped(other, dataclasses.replace(about, losses_off=()), weights)
    state = json.loads((step / "state.json").read_text())
    state["description"] = json.loads((theirs / "state.json").read_text())["description"]
    (step / "state.json").write_text(json.dumps(state))
    with pytest.raises(WeightsError, match="not the weights and facts that were written"):
        read("wav2lip", str(step))


@pytest.mark.parametrize(
    ("state", "says"),
    [("[]", ""), ("{", ""), ("{}", "trainable is missing"), ('{"trainable": "wav2lip", "description": [3]}', "")],
)
def test_a_step_whose_state_says_nothing_is_refused(tmp_path: Path, state: str, says: str) -> None:
    step = stepped(tmp_path / "run", *read("wav2lip", str(trained(tmp_path / "run"))))
    (step / "state.json").write_text(state)
    with pytest.raises(WeightsError, match=f"is no checkpoint of Wav2Lip: .*{says}"):
        read("wav2lip", str(step))


def test_weights_that_changed_places_are_refused(tmp_path: Path) -> None:
    def edit(header: dict[str, Any]) -> None:
        names = [f"output_block.0.conv_block.1.{name}" for name in ("weight", "bias")]
        header.update(zip(names, [header[name] for name in reversed(names)], strict=True))

    file = trained(tmp_path / "run")
    rewritten(file, edit)
    with pytest.raises(WeightsError, match="not the weights and facts that were written"):
        read("wav2lip", str(file))


def test_a_checkpoint_of_another_format_is_refused_by_it(tmp_path: Path) -> None:
    file = trained(tmp_path / "run")
    step = stepped(tmp_path / "run", *read("wav2lip", str(file)))

    def edit(header: dict[str, Any]) -> None:
        facts = json.loads(header["__metadata__"]["baseline"])
        header["__metadata__"]["baseline"] = json.dumps({**facts, "format": 2})

    rewritten(file, edit)
    state = json.loads((step / "state.json").read_text())
    del state["description"]["format"]  # as it was before steps had one
    (step / "state.json").write_text(json.dumps(state))
    for place, found in ((file, "2"), (step, "None")):
        with pytest.raises(WeightsError, match=f"its format is {found}, this version reads {FORMAT}"):
            read("wav2lip", str(place))


def test_the_file_the_run_and_a_step_of_it_are_one_network(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    file = trained(tmp_path / "run")
    weights = load_file(file)
    about, _ = read("wav2lip", str(file))
    step = stepped(tmp_path / "run", about, weights)

    for place in (tmp_path / "run", step):
        told, tensors = read("wav2lip", str(place))
        assert told == about and tensors.keys() == weights.keys()
        assert all(torch.equal(tensors[key], weights[key]) for key in weights)
    prints = [fingerprint("wav2lip", str(place)) for place in (file, tmp_path / "run", step)]
    assert prints[0] == prints[1] != prints[2]

    for path in (file, step / "model.safetensors"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    for place in (file, step):
        with pytest.raises(WeightsError, match=r"SHA-256 [0-9a-f]{64}.* is damaged: not the weights and"):
            read("wav2lip", str(place))


def test_checkpoints_of_others_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save

    gan = trained(tmp_path / "gan", "wav2lip-gan")
    with pytest.raises(WeightsError, match=f"{file_sha256(str(gan))}.* a checkpoint of wav2lip-gan, not of wav2lip"):
        WAV2LIP.open(str(gan))
    with pytest.raises(WeightsError, match="there is no checkpoint"):
        WAV2LIP.fingerprint(str(tmp_path / "nowhere.pth"))
    with pytest.raises(WeightsError, match=r"there is no checkpoint .*wav2lip\.safetensors"):
        WAV2LIP.open(str(gan.parent))
    odd = tmp_path / "odd.safetensors"
    for metadata in ({}, {"baseline": json.dumps({"format": 1, "name": "g4g"})}, {"g4g": "{}"}):
        odd.write_bytes(save({"x": torch.zeros(1)}, metadata))
        with pytest.raises(WeightsError, match=f"{file_sha256(str(odd))}.* is no checkpoint of Wav2Lip") as refused:
            WAV2LIP.open(str(odd))
        known = "baseline" in metadata
        assert known or "it holds no `baseline` field: it was not written by g4g-model train" in refused.value.what
    odd.write_bytes(gan.read_bytes()[:-8])
    with pytest.raises(WeightsError, match="no checkpoint of Wav2Lip"):
        WAV2LIP_GAN.open(str(odd))


def test_looking_a_model_up_and_hashing_its_checkpoint_loads_no_network(tmp_path: Path) -> None:
    code = (
        "import sys; from baselines.wav2lip.model import WAV2LIP; WAV2LIP.fingerprint(sys.argv[1]); "
        "sys.exit('torch' in sys.modules)"
    )
    for file in (trained(tmp_path / "run"), public(tmp_path / "public.pth")):
        subprocess.run([sys.executable, "-c", code, str(file)], check=True)
