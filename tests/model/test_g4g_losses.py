"""Terms of G4G's loss against numbers worked out by hand, and against torchvision."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from g4g_model import losses  # noqa: E402
from g4g_model.config import RegionWeights  # noqa: E402


def test_masked_l1_is_the_mean_inside_the_mask() -> None:
    drawn, truth, mask = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2), torch.zeros(1, 1, 2, 2)
    truth[0, :, 0, 0] = torch.tensor([3.0, 0, 0])
    truth[0, :, 1, 1] = 100
    mask[0, 0, 0] = 1

    assert losses.masked_l1(drawn, truth, mask) == 0.5  # (3 + 0 + 0) / 3 channels / 2 pixels
    assert losses.masked_l1(drawn, truth, 0 * mask) == 0


def test_reconstruction_weighs_regions_and_averages_scales() -> None:
    truth = torch.zeros(1, 3, 4, 4)
    regions = {"lips": torch.zeros(1, 1, 4, 4), "mouth": torch.ones(1, 1, 4, 4)}
    regions["lips"][..., :2, :2] = 1
    full, half = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 2, 2)
    full[..., 0, 0] = 1.0  # a quarter of the lips, a sixteenth of the mouth
    half[..., 0, 0] = 1.0  # all lips, a quarter of the mouth
    found = losses.reconstruction([half, full], truth, regions, {"lips": 2.0, "mouth": 0.5})

    assert float(found) == pytest.approx(((2 * 1 + 0.5 / 4) + (2 / 4 + 0.5 / 16)) / 2)


def test_lips_weigh_more_than_the_mouth_and_the_mouth_more_than_the_lower_face() -> None:
    weights = RegionWeights()
    assert weights.lips > weights.mouth > weights.lower_face > 0


def test_attribute_is_the_distance_of_means_and_deviations() -> None:
    drawn, shown = torch.zeros(2, 1, 1, 2), torch.zeros(2, 1, 1, 2)
    drawn[0, 0, 0] = torch.tensor([0.0, 2.0])  # mean 1, deviation 1
    drawn[1, 0, 0] = torch.tensor([4.0, 4.0])  # mean 4, deviation 0
    shown[0, 0, 0] = torch.tensor([1.0, 5.0])  # mean 3, deviation 2
    shown[1, 0, 0] = torch.tensor([5.0, 5.0])  # mean 5, deviation 0

    one_clip = losses.attribute([drawn], [shown], 1)  # references: mean 4, deviation 1
    two_clips = losses.attribute([drawn], [shown], 2)
    assert float(one_clip) == pytest.approx((3 + 0) / 2 + (0 + 1) / 2, abs=0.01)
    assert float(two_clips) == pytest.approx((2 + 1) / 2 + (1 + 0) / 2, abs=0.01)
    assert float(losses.attribute([drawn, drawn], [shown, drawn], 2)) == pytest.approx(float(two_clips) / 2, abs=0.01)


def test_lsgan_wants_one_for_real_and_nought_for_drawn() -> None:
    real, drawn = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.5])
    assert float(losses.lsgan_discriminator(real, drawn)) == pytest.approx((0.5 + 0.125) / 2)
    assert float(losses.lsgan_generator(drawn)) == pytest.approx((1 + 0.25) / 2 / 2)
    real_features = [torch.ones(1, 2, requires_grad=True), torch.zeros(1, 3)]
    found = losses.feature_matching(real_features, [torch.zeros(1, 2, requires_grad=True), torch.full((1, 3), 3.0)])
    found.backward()
    assert float(found.detach()) == pytest.approx((1 + 3) / 2)
    assert real_features[0].grad is None


def test_windows_of_a_clip_within_two_frames_are_no_negatives() -> None:
    near = losses.too_near(torch.tensor([[0, 2, 3], [0, 10, 20]]))
    expected = np.zeros((6, 6), bool)
    expected[0, 1] = expected[1, 0] = expected[1, 2] = expected[2, 1] = True
    np.testing.assert_array_equal(near.numpy(), expected)


def test_the_diagonal_loss_is_a_cross_entropy_both_ways_without_the_ignored() -> None:
    matrix = torch.tensor([[1.0, 9.0, 0.0], [9.0, 2.0, 1.0], [0.5, 0.0, 3.0]])
    near = losses.too_near(torch.tensor([[0, 2, 9]]))  # entries (0, 1) and (1, 0), the nines

    def entropy(own: float, other: float) -> float:
        return math.log(1 + math.exp(other - own))

    rows = [entropy(1, 0), entropy(2, 1), math.log(1 + math.exp(0.5 - 3) + math.exp(0 - 3))]
    columns = [entropy(1, 0.5), entropy(2, 0), math.log(1 + math.exp(0 - 3) + math.exp(1 - 3))]
    found = losses.diagonal(matrix, near)
    assert float(found) == pytest.approx((sum(rows) + sum(columns)) / 6, rel=1e-5)
    only_last = losses.diagonal(matrix, near, torch.tensor([2]))
    assert float(only_last) == pytest.approx((rows[2] + columns[2]) / 2, rel=1e-5)
    assert float(losses.diagonal(matrix, torch.zeros(3, 3, dtype=torch.bool))) > 3


def test_ignored_entries_get_no_gradient() -> None:
    matrix = torch.zeros(3, 3, requires_grad=True)
    near = losses.too_near(torch.tensor([[0, 2, 9]]))
    losses.diagonal(matrix, near).backward()
    assert matrix.grad is not None
    assert torch.equal(matrix.grad == 0, near)


def test_the_pairwise_loss_sees_one_right_and_one_wrong_sound() -> None:
    cosines = torch.tensor([[0.8, 0.2, 0.0], [0.0, 0.6, -0.4], [0.5, 0.5, 0.5]])
    wrong = torch.tensor([1, 2, 0])
    chances = [(0.9, 0.6), (0.8, 0.3), (0.75, 0.75)]
    each = [-(math.log(right) + math.log(1 - other)) / 2 for right, other in chances]

    assert float(losses.pairwise(cosines, wrong)) == pytest.approx(np.mean(each), rel=1e-5)
    assert float(losses.pairwise(cosines, wrong, torch.tensor([1]))) == pytest.approx(each[1], rel=1e-5)


@pytest.fixture(scope="module")
def trunk() -> Any:
    """VGG19 of torchvision with seeded weights."""
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    with torch.device("meta"):
        whole = torchvision.models.vgg19(weights=None)  # its linear layers alone are 500 MB
    features = whole.features.to_empty(device="cpu")
    for parameter in features.parameters():
        torch.nn.init.normal_(parameter, 0, 0.05 if parameter.ndim > 1 else 0.1)
    return features


def test_perception_is_torchvisions_features_in_the_mask_value_and_gradient(trunk: Any) -> None:
    vgg = losses.VGGFeatures({f"features.{name}": value for name, value in trunk.state_dict().items()})
    rng = np.random.default_rng(0)
    truth = torch.from_numpy(rng.uniform(-1, 1, (1, 3, 64, 64)).astype(np.float32))
    drawn = torch.from_numpy(rng.uniform(-1, 1, (1, 3, 64, 64)).astype(np.float32)).requires_grad_()
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 20:45, 10:50] = 1

    found = losses.perception(vgg, drawn, truth, mask)
    (gradient,) = torch.autograd.grad(found, drawn)
    expected = reference(trunk, drawn, truth, mask)
    (wanted,) = torch.autograd.grad(expected, drawn)

    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-8)
    assert not any(p.requires_grad for p in vgg.parameters())


def reference(trunk: Any, drawn: Any, truth: Any, mask: Any) -> Any:
    """The loss in ten lines of torchvision."""
    from torchvision.transforms.functional import normalize

    total = 0.0
    for scale in (1, 2):
        x, y = (torch.nn.functional.avg_pool2d(p, scale) / 2 + 0.5 for p in (drawn, truth))
        x, y = (normalize(p, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]) for p in (x, y))
        for number, layer in enumerate(trunk[:30]):
            x, y = layer(x.clone()), layer(y.clone())
            if number in (1, 6, 11, 20, 29):
                inside = torch.nn.functional.max_pool2d(mask, 64 // x.shape[-1]).bool().expand_as(x)
                total += {1: 1 / 32, 6: 1 / 16, 11: 1 / 8, 20: 1 / 4, 29: 1}[number] * (x - y).abs()[inside].mean() / 2
    return total
