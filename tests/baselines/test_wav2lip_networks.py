"""Wav2Lip's networks against the public description, written out a second time as tables of plain convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from baselines.wav2lip.config import GENERATOR_PRESETS, GeneratorConfig, Wav2LipConfig  # noqa: E402
from baselines.wav2lip.discriminator import Discriminator  # noqa: E402
from baselines.wav2lip.expert import SyncExpert  # noqa: E402
from baselines.wav2lip.generator import Generator  # noqa: E402
from baselines.wav2lip.pixels import expert_faces, generator_faces, lower_half, pictures_in, pictures_out  # noqa: E402
from g4g_core.known_weights import KNOWN  # noqa: E402

# "in>out kernel stride padding", r: its input is added, T: transposed with that output padding
AUDIO_START = (
    "1>32 3 1 1", "32>32 3 1 1 r", "32>32 3 1 1 r", "32>64 3 3,1 1", "64>64 3 1 1 r", "64>64 3 1 1 r",
    "64>128 3 3 1", "128>128 3 1 1 r", "128>128 3 1 1 r", "128>256 3 3,2 1", "256>256 3 1 1 r",
)  # fmt: skip
AUDIO_END = ("256>512 3 1 0", "512>512 1 1 0")
FACE = (
    ("6>16 7 1 3",),
    ("16>32 3 2 1", "32>32 3 1 1 r", "32>32 3 1 1 r"),
    ("32>64 3 2 1", "64>64 3 1 1 r", "64>64 3 1 1 r", "64>64 3 1 1 r"),
    ("64>128 3 2 1", "128>128 3 1 1 r", "128>128 3 1 1 r"),
    ("128>256 3 2 1", "256>256 3 1 1 r", "256>256 3 1 1 r"),
    ("256>512 3 2 1", "512>512 3 1 1 r"),
    ("512>512 3 1 0", "512>512 1 1 0"),
)
DECODER = (
    ("512>512 1 1 0",),
    ("1024>512 3 1 0 T0", "512>512 3 1 1 r"),
    ("1024>512 3 2 1 T1", "512>512 3 1 1 r", "512>512 3 1 1 r"),
    ("768>384 3 2 1 T1", "384>384 3 1 1 r", "384>384 3 1 1 r"),
    ("512>256 3 2 1 T1", "256>256 3 1 1 r", "256>256 3 1 1 r"),
    ("320>128 3 2 1 T1", "128>128 3 1 1 r", "128>128 3 1 1 r"),
    ("160>64 3 2 1 T1", "64>64 3 1 1 r", "64>64 3 1 1 r"),
)
OUTPUT = "80>32 3 1 1"
EXPERT_FACE = (
    "15>32 7 1 3", "32>64 5 1,2 1", "64>64 3 1 1 r", "64>64 3 1 1 r", "64>128 3 2 1", "128>128 3 1 1 r",
    "128>128 3 1 1 r", "128>128 3 1 1 r", "128>256 3 2 1", "256>256 3 1 1 r", "256>256 3 1 1 r", "256>512 3 2 1",
    "512>512 3 1 1 r", "512>512 3 1 1 r", "512>512 3 2 1", "512>512 3 1 0", "512>512 1 1 0",
)  # fmt: skip
QUALITY = (
    ("3>32 7 1 3",),
    ("32>64 5 1,2 2", "64>64 5 1 2"),
    ("64>128 5 2 2", "128>128 5 1 2"),
    ("128>256 5 2 2", "256>256 5 1 2"),
    ("256>512 3 2 1", "512>512 3 1 1"),
    ("512>512 3 2 1", "512>512 3 1 1"),
    ("512>512 3 1 0", "512>512 1 1 0"),
)

Named = list[tuple[str, str]]


def in_blocks(prefix: str, blocks: Sequence[Sequence[str]]) -> Named:
    return [(f"{prefix}.{i}.{j}", row) for i, block in enumerate(blocks) for j, row in enumerate(block)]


def in_a_row(prefix: str, rows: Sequence[str]) -> Named:
    return [(f"{prefix}.{i}", row) for i, row in enumerate(rows)]


GENERATOR_AUDIO = in_a_row("audio_encoder", AUDIO_START + AUDIO_END)
EXPERT_AUDIO = in_a_row("audio_encoder", (*AUDIO_START, "256>256 3 1 1 r", *AUDIO_END))
GENERATOR = [
    *in_blocks("face_encoder_blocks", FACE), *GENERATOR_AUDIO, *in_blocks("face_decoder_blocks", DECODER),
    ("output_block.0", OUTPUT),
]  # fmt: skip
EXPERT = [*in_a_row("face_encoder", EXPERT_FACE), *EXPERT_AUDIO]
DISCRIMINATOR = in_blocks("face_encoder_blocks", QUALITY)


def shapes_of(rows: Named, norm: bool, last: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Every name of a state_dict and its shape, by the table."""
    found: dict[str, tuple[int, ...]] = {}
    for name, row in rows:
        channels, kernel, _, _, *kind = row.split()
        a, b = map(int, channels.split(">"))
        k = int(kernel)
        found[f"{name}.conv_block.0.weight"] = (a, b, k, k) if kind and kind[0][0] == "T" else (b, a, k, k)
        found[f"{name}.conv_block.0.bias"] = (b,)
        if norm:
            found |= {f"{name}.conv_block.1.{p}": (b,) for p in ("weight", "bias", "running_mean", "running_var")}
            found[f"{name}.conv_block.1.num_batches_tracked"] = ()
    return found | last


PUBLIC = {
    "wav2lip": (
        Generator, shapes_of(GENERATOR, True, {"output_block.1.weight": (3, 32, 1, 1), "output_block.1.bias": (3,)}),
        36_298_035,
    ),
    "lipsync-expert": (SyncExpert, shapes_of(EXPERT, True, {}), 16_435_072),
    "visual-quality-disc": (
        Discriminator,
        shapes_of(DISCRIMINATOR, False, {"binary_pred.0.weight": (1, 512, 1, 1), "binary_pred.0.bias": (1,)}),
        14_113_793,
    ),
}  # fmt: skip


def computed(state: dict[str, torch.Tensor], name: str, row: str, x: torch.Tensor) -> torch.Tensor:
    """One row, from the state_dict alone."""
    _, _, stride, padding, *kind = row.split()
    steps = tuple(int(part) for part in stride.split(","))
    weight, bias = state[f"{name}.conv_block.0.weight"], state[f"{name}.conv_block.0.bias"]
    if kind and kind[0][0] == "T":
        y = F.conv_transpose2d(x, weight, bias, steps, int(padding), int(kind[0][1]))
    else:
        y = F.conv2d(x, weight, bias, steps, int(padding))
    if f"{name}.conv_block.1.weight" not in state:
        return torch.where(y > 0, y, 0.01 * y)
    mean, variance, scale, shift = (
        state[f"{name}.conv_block.1.{p}"][:, None, None] for p in ("running_mean", "running_var", "weight", "bias")
    )
    y = (y - mean) / (variance + 1e-5).sqrt() * scale + shift
    return (y + x if kind == ["r"] else y).clamp(min=0)


def in_turn(state: dict[str, torch.Tensor], rows: Named, x: torch.Tensor) -> torch.Tensor:
    for name, row in rows:
        x = computed(state, name, row, x)
    return x


def block(prefix: str, blocks: Sequence[Sequence[str]], number: int) -> Named:
    return in_a_row(f"{prefix}.{number}", blocks[number])


def drawn_plainly(state: dict[str, torch.Tensor], mel: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """The public generator for single frames."""
    features, x = [], faces
    for number in range(len(FACE)):
        x = in_turn(state, block("face_encoder_blocks", FACE, number), x)
        features.append(x)
    x = in_turn(state, GENERATOR_AUDIO, mel)
    for number in range(len(DECODER)):
        x = torch.cat((in_turn(state, block("face_decoder_blocks", DECODER, number), x), features[-1 - number]), 1)
    x = computed(state, "output_block.0", OUTPUT, x)
    return 1 / (1 + (-F.conv2d(x, state["output_block.1.weight"], state["output_block.1.bias"])).exp())


def seeded(network: torch.nn.Module) -> torch.nn.Module:
    """Weights under which signals neither die nor explode, and norms that do something."""
    torch.manual_seed(5)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith("num_batches_tracked"):
            continue
        elif tensor.ndim == 4:
            torch.nn.init.kaiming_normal_(tensor)
        else:
            tensor.normal_(0.1, 0.1)
            if name.endswith("1.weight"):
                tensor += 0.6
    return network.eval()


def noise(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("entry", PUBLIC)
def test_names_shapes_and_counts_are_the_public_ones(entry: str) -> None:
    network, expected, count = PUBLIC[entry]
    with torch.device("meta"):
        made = network(Wav2LipConfig())
    assert {name: tuple(tensor.shape) for name, tensor in made.state_dict().items()} == expected
    assert sum(p.numel() for p in made.parameters()) == count


@pytest.mark.parametrize("entry", PUBLIC)
def test_the_counts_explain_the_size_of_the_published_files(entry: str) -> None:
    """They hold every weight and Adam's two moments of it, the running figures of norms, and names."""
    network, _, count = PUBLIC[entry]
    with torch.device("meta"):
        running = sum(4 * b.numel() for b in network(Wav2LipConfig()).buffers())
    rest = (KNOWN[entry].size_bytes or 0) - 12 * count - running
    assert 0 < rest < 250_000


def test_the_generator_draws_what_the_plain_computation_draws() -> None:
    network = seeded(Generator(Wav2LipConfig()))
    mel, faces = noise(2, 1, 80, 16, scale=8) - 4, noise(2, 6, 96, 96)
    with torch.inference_mode():
        made, due = network(mel, faces), drawn_plainly(network.state_dict(), mel, faces)

    assert made.shape == (2, 3, 96, 96) and made.min() >= 0 and made.max() <= 1 and made.std() > 0.05
    torch.testing.assert_close(made, due, atol=2e-5, rtol=0)


def test_five_frames_are_five_single_frames_with_their_own_sounds() -> None:
    network = seeded(Generator(Wav2LipConfig(size=64, width=0.125)))
    mel, faces = noise(2, 5, 1, 80, 16, scale=4), noise(2, 6, 5, 64, 64)
    with torch.inference_mode():
        made = network(mel, faces)
        alone = torch.stack([network(mel[:, t], faces[:, :, t]) for t in range(5)], dim=2)

    assert made.shape == (2, 3, 5, 64, 64)
    torch.testing.assert_close(made, alone, atol=1e-5, rtol=0)
    assert (made[:, :, 0] - made[:, :, 1]).abs().max() > 1e-3


def test_the_expert_embeds_what_the_plain_computation_embeds() -> None:
    network = seeded(SyncExpert(Wav2LipConfig()))
    mel, faces = noise(2, 1, 80, 16, scale=8) - 4, noise(2, 15, 48, 96)
    state = network.state_dict()
    with torch.inference_mode():
        sounds, seen = network(mel, faces)
        due = [in_turn(state, rows, x).flatten(1) for rows, x in ((EXPERT_AUDIO, mel), (EXPERT[:17], faces))]

    for made, plain in zip((sounds, seen), due, strict=True):
        assert made.shape == (2, 512) and made.min() >= 0
        torch.testing.assert_close(made.norm(dim=1), torch.ones(2))
        torch.testing.assert_close(made, plain / plain.norm(dim=1, keepdim=True), atol=2e-5, rtol=0)
        assert (made[0] - made[1]).norm() > 1e-3


def test_the_discriminator_judges_lower_halves_as_the_plain_computation_does() -> None:
    network = seeded(Discriminator(Wav2LipConfig()))
    pictures = noise(2, 3, 3, 96, 96)
    with torch.inference_mode():
        made = network(pictures)
        state = network.state_dict()
        due = torch.empty(2, 3)
        for t in range(3):
            x = in_turn(state, DISCRIMINATOR, pictures[:, :, t, 48:])
            due[:, t] = F.conv2d(x, state["binary_pred.0.weight"], state["binary_pred.0.bias"])[:, 0, 0, 0].sigmoid()
        other = pictures.clone()
        other[..., :48, :] = 0

        torch.testing.assert_close(made, due, atol=2e-5, rtol=0)
        torch.testing.assert_close(network(other), made, atol=0, rtol=0)
        other[..., 60:70, 30:60] = 0
        assert (network(other) - made).abs().min() > 1e-5


def test_at_64_px_every_network_has_one_step_less_and_a_core_of_4() -> None:
    small, public = Wav2LipConfig(size=64), Wav2LipConfig()
    assert (small.halvings, small.core, public.halvings, public.core) == (4, 4, 5, 3)
    for network in (Generator, Discriminator):
        with torch.device("meta"):
            short, long = network(small), network(public)
        assert len(short.face_encoder_blocks) == len(long.face_encoder_blocks) - 1
        assert short.face_encoder_blocks[-1][0].conv_block[0].weight.shape[-2:] == (4, 4)
    with torch.device("meta"):
        assert len(SyncExpert(public).face_encoder) - len(SyncExpert(small).face_encoder) == 1
        assert len(Generator(small).face_decoder_blocks) == 6


@pytest.mark.parametrize("width", [0.0625, 0.25, 0.3])
@pytest.mark.parametrize("size", [64, 96])
def test_a_narrow_network_takes_and_gives_the_same_kinds_of_tensors(size: int, width: float) -> None:
    config = Wav2LipConfig(size=size, width=width)
    with torch.device("meta"):
        generator, expert, judge = Generator(config), SyncExpert(config), Discriminator(config)
        mel, faces = torch.empty(2, 5, 1, 80, 16), torch.empty(2, 6, 5, size, size)
        drawn = generator(mel, faces)
        sounds, seen = expert(mel[:, 0], expert_faces(drawn))
        assert drawn.shape == (2, 3, 5, size, size)
        assert sounds.shape == seen.shape == (2, config.channels(512))
        assert judge(drawn).shape == (2, 5)
    assert all(config.channels(count) % 8 == 0 for count in (16, 32, 384, 512))


def test_the_presets_are_the_public_network_and_a_small_one() -> None:
    tiny, full = (GeneratorConfig(**GENERATOR_PRESETS[name]["model"]) for name in ("tiny", "full"))
    assert (full.size, full.width) == (Wav2LipConfig().size, Wav2LipConfig().width) == (96, 1.0)
    with torch.device("meta"):
        count = sum(p.numel() for p in Generator(tiny).parameters())
    assert (tiny.size, count) == (64, 3_774_411)


def test_all_three_networks_learn_from_what_the_generator_draws() -> None:
    """Every parameter gets a gradient through the losses that training will use."""
    config = Wav2LipConfig(size=64, width=0.0625)
    torch.manual_seed(0)
    generator, expert, judge = Generator(config), SyncExpert(config), Discriminator(config)
    mel, pictures = noise(2, 5, 1, 80, 16), noise(2, 3, 5, 64, 64)
    drawn = generator(mel, generator_faces(pictures, pictures.flip(0)))
    sounds, seen = expert(mel[:, 0], expert_faces(drawn))
    torch.autograd.backward((sounds * seen).sum() + judge(drawn).sum() + drawn.mean())
    for network in (generator, expert, judge):
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
        assert sum(float(p.grad.abs().sum()) for p in network.parameters()) > 0


def test_pictures_are_blue_green_red_over_255() -> None:
    import numpy as np

    picture = np.zeros((1, 2, 2, 3), np.uint8)
    picture[0, 0, 1] = (255, 51, 0)  # red 1.0, green 0.2
    held = pictures_in(picture)
    assert held.shape == (1, 3, 2, 2) and held.dtype == torch.float32
    torch.testing.assert_close(held[0, :, 0, 1], torch.tensor([0.0, 0.2, 1.0]))

    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    every[..., 1], every[..., 2] = every[..., 0][:, ::-1], 7
    np.testing.assert_array_equal(pictures_out(pictures_in(every)), every)
    assert pictures_out(torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1)).tolist() == [[[255, 128, 0]]]


def test_the_target_is_shown_without_its_lower_half_and_the_reference_whole() -> None:
    targets, references = 0.1 + noise(2, 3, 5, 96, 96), 0.1 + noise(2, 3, 5, 96, 96, scale=0.5)
    before = targets.clone()
    shown = generator_faces(targets, references)

    assert shown.shape == (2, 6, 5, 96, 96)
    torch.testing.assert_close(shown[:, :3, :, :48], targets[..., :48, :], atol=0, rtol=0)
    assert not shown[:, :3, :, 48:].any()
    torch.testing.assert_close(shown[:, 3:], references, atol=0, rtol=0)
    torch.testing.assert_close(targets, before, atol=0, rtol=0)


def test_the_expert_sees_five_lower_halves_frame_after_frame() -> None:
    pictures = noise(2, 3, 5, 96, 96)
    faces = expert_faces(pictures)
    assert faces.shape == (2, 15, 48, 96)
    for t in range(5):
        for colour in range(3):
            torch.testing.assert_close(faces[:, 3 * t + colour], pictures[:, colour, t, 48:], atol=0, rtol=0)
    assert lower_half(pictures).shape == (2, 3, 5, 48, 96)
    with pytest.raises(ValueError, match="sees 5 frames, not 4"):
        expert_faces(pictures[:, :, :4])
