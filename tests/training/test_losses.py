from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from scripts.training.losses import (
    AlexNetPerceptualLoss,
    DiscriminatorLoss,
    GeneratorLoss,
    ReconstructionLoss,
    code_uncertainty,
)


def images(seed: int, count: int = 2, channels: int = 2, size: int = 64) -> torch.Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


def alexnet() -> nn.Sequential:
    """torchvision's ``features`` (Krizhevsky 2014), with weights of our own; its names are the indices."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(64, 192, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(192, 384, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),
        )


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    classifier = {"classifier.1.weight": torch.zeros(2, 2)}
    return {f"features.{name}": value for name, value in alexnet().state_dict().items()} | classifier


@pytest.fixture(scope="module")
def weights(state, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("alexnet") / "alexnet.pth"
    torch.save(state, path)
    return str(path)


@pytest.fixture(scope="module")
def perceptual(weights) -> AlexNetPerceptualLoss:
    return AlexNetPerceptualLoss(weights)


class TestReconstruction:
    def test_is_the_mean_squared_error(self):
        first, second = images(0), images(1)
        wanted = np.mean((first.numpy() - second.numpy()).astype(np.float64) ** 2)
        assert float(ReconstructionLoss()(first, second)) == pytest.approx(wanted, rel=1e-6)

    def test_adds_the_weighted_distance(self):
        def distance(a, b):
            return (a - b).abs().sum()

        first, second = images(0), images(1)
        plain = ReconstructionLoss()(first, second)
        both = ReconstructionLoss(distance, 0.25)(first, second)
        assert float(both) == pytest.approx(float(plain + 0.25 * (first - second).abs().sum()))

    def test_weight_0_does_not_even_look(self):
        def broken(a, b):
            raise AssertionError

        assert float(ReconstructionLoss(broken, 0)(images(0), images(0))) == 0

    def test_half_precision_is_compared_in_single(self):
        first = images(0)
        loss = ReconstructionLoss()(first.bfloat16(), first)
        assert loss.dtype == torch.float32
        assert 0 < float(loss) < 1e-4


class TestPerceptual:
    def test_equal_images(self, perceptual):
        assert float(perceptual(images(0), images(0))) == 0

    def test_symmetric_and_positive(self, perceptual):
        there, back = perceptual(images(0), images(1)), perceptual(images(1), images(0))
        assert float(there) > 0.01
        assert float(there) == pytest.approx(float(back), rel=1e-6)

    def test_against_the_network_itself(self, perceptual):
        """Features after each ReLU, normalised over channels, of every channel as a grey picture."""
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

        def features(image: torch.Tensor) -> list[np.ndarray]:
            found, value = [], ((image[None].expand(3, -1, -1) - mean[:, None, None]) / std[:, None, None])[None]
            for layer in alexnet():
                value = layer(value)
                if isinstance(layer, nn.ReLU):
                    array = value[0].detach().numpy().astype(np.float64)
                    found.append(array / np.maximum(np.sqrt((array**2).sum(axis=0)), 1e-8))
            return found

        first, second = images(0), images(1)
        distances = [
            sum(((a - b) ** 2).sum(axis=0).mean() for a, b in zip(features(x), features(y), strict=True))
            for x, y in zip(first.flatten(0, 1), second.flatten(0, 1), strict=True)
        ]
        assert float(perceptual(first, second)) == pytest.approx(np.mean(distances), rel=1e-4)

    def test_grows_with_the_difference(self, perceptual):
        first, second = images(0), images(1)
        steps = [float(perceptual(first, first + w * (second - first))) for w in (0.1, 0.3, 1.0)]
        assert steps == sorted(steps)
        assert steps[0] > 0

    def test_gradients_reach_the_image_and_not_the_network(self, perceptual):
        image = images(0).requires_grad_()
        perceptual(image, images(1)).backward()
        assert torch.isfinite(image.grad).all()
        assert image.grad.abs().sum() > 0
        assert not any(p.requires_grad for p in perceptual.parameters())

    def test_a_flat_picture_gives_finite_gradients(self, perceptual):
        image = torch.zeros(1, 1, 64, 64, requires_grad=True)
        perceptual(image, images(1, 1, 1)).backward()
        assert torch.isfinite(image.grad).all()

    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"perceptual_weights: no file '.*none\.pth'"):
            AlexNetPerceptualLoss(str(tmp_path / "none.pth"))

    @pytest.mark.parametrize("key", ["features.0.weight", "features.10.bias"])
    def test_missing_key(self, state, tmp_path, key):
        torch.save({k: v for k, v in state.items() if k != key}, tmp_path / "a.pth")
        with pytest.raises(ValueError, match=rf"perceptual_weights: '.*a\.pth' has no '{key}'"):
            AlexNetPerceptualLoss(str(tmp_path / "a.pth"))

    @pytest.mark.parametrize("shape", [(1,), (192,)])
    def test_another_shape(self, state, tmp_path, shape):
        torch.save(state | {"features.0.bias": torch.zeros(shape)}, tmp_path / "a.pth")
        with pytest.raises(ValueError, match=r"'features\.0\.bias' of shape .*\(64,\) is wanted"):
            AlexNetPerceptualLoss(str(tmp_path / "a.pth"))


class TestAdversarial:
    """MONAI's hinge passes the logits through tanh first, so that max(0, 1 - tanh r) never reaches 0."""

    REAL = torch.tensor([[0.3, 2.0], [-1.0, 0.0]])[None, None]
    FAKE = torch.tensor([[0.5, -3.0], [1.5, -0.2]])[None, None]

    def test_discriminator_by_hand(self):
        real = np.mean([max(0, 1 - np.tanh(v)) for v in (0.3, 2.0, -1.0, 0.0)])
        fake = np.mean([max(0, 1 + np.tanh(v)) for v in (0.5, -3.0, 1.5, -0.2)])
        assert float(DiscriminatorLoss()(self.REAL, self.FAKE)) == pytest.approx((real + fake) / 2, rel=1e-6)

    def test_generator_by_hand(self):
        wanted = 0.3 * np.mean([1 - np.tanh(v) for v in (0.5, -3.0, 1.5, -0.2)])
        assert float(GeneratorLoss(weight=0.3)(self.FAKE)) == pytest.approx(wanted, rel=1e-6)

    def test_they_pull_in_opposite_directions(self):
        for loss, sign in ((GeneratorLoss(), -1), (lambda fake: DiscriminatorLoss()(self.REAL, fake), 1)):
            fake = self.FAKE.clone().requires_grad_()
            loss(fake).backward()
            assert (fake.grad.sign() == sign).all()
        real = self.REAL.clone().requires_grad_()
        DiscriminatorLoss()(real, self.FAKE).backward()
        assert (real.grad.sign() == -1).all()

    def test_least_squares_by_hand(self):
        def leaky(values):
            return F.leaky_relu(values, 0.05)

        real, fake = leaky(self.REAL).sub(1).square().mean(), leaky(self.FAKE).square().mean()
        assert float(DiscriminatorLoss("least_squares")(self.REAL, self.FAKE)) == pytest.approx(float(real + fake) / 2)


def test_code_uncertainty():
    assert float(code_uncertainty(torch.tensor([0.0, 1.0, 1.0]))) == 0
    assert float(code_uncertainty(torch.full((2, 3), 0.5))) == 0.25
    probability = torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(code_uncertainty(probability)) == pytest.approx(np.mean([p * (1 - p) for p in probability.tolist()]))
