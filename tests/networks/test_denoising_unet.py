"""The U-Net against a plain evaluation of its state dict in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scripts.networks import Parts
from scripts.networks.denoising_unet import DenoisingUNet, norm_groups

IMAGES, WIDTHS = 2, (4, 6, 12)
GROUPS = {4: 2, 6: 3, 12: 4}
State = dict[str, np.ndarray]


def random_network(seed: int = 0) -> DenoisingUNet:
    """All weights drawn anew, since norms start as the identity."""
    network = DenoisingUNet(IMAGES, WIDTHS)
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        weight.data = torch.randn(weight.shape, generator=generator) * 0.5 + 0.3
    return network.eval()


def images(*size: int, count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.rand((count, IMAGES, *size), generator=torch.Generator().manual_seed(seed))


def convolution(values: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """3x3, with every filter standardised, padded by reflection."""
    filters = np.stack([(w - w.mean()) / (w.std(ddof=1) + 1e-5) for w in weight])
    padded = np.pad(values, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    height, width = values.shape[2:]
    result = np.zeros((len(values), len(weight), height, width)) + bias[:, None, None]
    for row in range(3):
        for column in range(3):
            part = padded[:, :, row : row + height, column : column + width]
            result += np.einsum("oi,bihw->bohw", filters[:, :, row, column], part)
    return result


def norm(values: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    result = np.empty_like(values)
    for b, channels in enumerate(values):
        for group in np.split(np.arange(len(channels)), GROUPS[len(channels)]):
            part = channels[group]
            result[b, group] = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
    return result * weight[:, None, None] + bias[:, None, None]


def block(values: np.ndarray, state: State, name: str) -> np.ndarray:
    for convolved, normed in ((1, 3), (5, 7)):
        values = convolution(values, *(state[f"{name}.block.{convolved}.{part}"] for part in ("weight", "bias")))
        values = norm(
            values / (1 + np.exp(-values)), *(state[f"{name}.block.{normed}.{p}"] for p in ("weight", "bias"))
        )
    return values


def enlarge(values: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Transposed 2x2 convolution of stride 2: each pixel becomes four of its own."""
    batch, _, height, width = values.shape
    result = np.empty((batch, weight.shape[1], 2 * height, 2 * width))
    for row in range(2):
        for column in range(2):
            result[:, :, row::2, column::2] = np.einsum("io,bihw->bohw", weight[:, :, row, column], values)
    return result + bias[:, None, None]


def evaluated(values: np.ndarray, state: State) -> np.ndarray:
    skips = []
    for level in range(len(WIDTHS)):
        if level:
            values = sum(values[:, :, r::2, c::2] for r in range(2) for c in range(2)) / 4
        values = block(values, state, f"down_path.{level}")
        skips.append(values)
    for index, skip in enumerate(skips[-2::-1]):
        raised = enlarge(values, *(state[f"up_path.{index}.up.{part}"] for part in ("weight", "bias")))
        values = block(np.concatenate([raised, skip], axis=1), state, f"up_path.{index}.conv_block")
    last = np.einsum("oi,bihw->bohw", state["last.weight"][:, :, 0, 0], values)
    return last + state["last.bias"][:, None, None]


@pytest.mark.parametrize("size", [(16, 24), (8, 8), (20, 12)])
def test_equals_plain_evaluation(size):
    network, image = random_network(), images(*size)
    state = {key: value.double().numpy() for key, value in network.state_dict().items()}
    expected = evaluated(image.double().numpy(), state)
    with torch.no_grad():
        output = network(image)
    assert output.dtype == torch.float32
    assert expected.std() > 0.2 and np.abs(expected[0] - expected[1]).max() > 0.2, "worth comparing"
    np.testing.assert_allclose(output.numpy(), expected, atol=1e-5)


def test_published_size_and_layout():
    network = DenoisingUNet()
    assert sum(weight.numel() for weight in network.parameters()) == 7_703_748
    blocks = [f"down_path.{i}" for i in range(4)] + [f"up_path.{i}.conv_block" for i in range(3)]
    layers = [f"{name}.block.{i}" for name in blocks for i in (1, 3, 5, 7)] + [f"up_path.{i}.up" for i in range(3)]
    assert set(network.state_dict()) == {f"{name}.{part}" for name in [*layers, "last"] for part in ("weight", "bias")}
    assert [norm_groups(width) for width in (4, 8, 16, 32, 64, 128, 256, 512)] == [2, 4, 4, 8, 8, 16, 16, 32]


def test_reconstructs_as_a_part():
    network, image = random_network(), images(16, 16)
    with torch.no_grad():
        residual = Parts(unet=network)(image)
        expected = (image - network(image)).abs().mean(dim=1, keepdim=True)
    assert torch.equal(residual, expected)


def test_half_precision_comes_out_as_float32():
    network, image = random_network(), images(16, 16)
    with torch.no_grad():
        exact = network(image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = network(image)
    assert output.dtype == torch.float32
    assert 0 < (output - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize(
    "shape", [(1, 2, 18, 16), (1, 2, 16, 18), (1, 3, 16, 16), (1, 2, 4, 16), (1, 2, 16), (2, 16, 16)]
)
def test_unfit_images_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(B, 2, H, W\) with H and W multiples of 4, at least 8, got") as error:
        random_network()(torch.zeros(shape))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("arguments", [{"in_channels": 0}, {"channels": ()}, {"channels": (4, 0)}])
def test_unfit_sizes_are_refused(arguments):
    with pytest.raises(ValueError, match="must be at least 1"):
        DenoisingUNet(**arguments)
