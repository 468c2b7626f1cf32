"""The class as a condition."""

import pytest
import torch
from monai.networks.nets import DiffusionModelUNet

from scripts.networks.classes import NULL, ClassEmbedding, classes, mixed_classes
from scripts.networks.conditional_unet import ConditionalUNet

SIZES = {
    "spatial_dims": 2,
    "in_channels": 2,
    "out_channels": 2,
    "num_res_blocks": 1,
    "channels": (16, 32),
    "attention_levels": (False, True),
    "num_head_channels": (16, 32),
    "norm_num_groups": 8,
}


def unet(kind=ConditionalUNet, seed=0, **options):
    torch.manual_seed(seed)
    network = kind(**SIZES, **options)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network.eval()


def test_null_class_is_zero_and_learns_nothing():
    embedding = ClassEmbedding(3, 5)
    assert torch.equal(embedding.weight[NULL], torch.zeros(5))
    embedding(torch.tensor([0, 1, 2, 2])).square().sum().backward()
    embedding(mixed_classes(0.3, 2)).sum().backward()
    assert torch.equal(embedding.weight.grad[NULL], torch.zeros(5))
    assert (embedding.weight.grad[:NULL] != 0).all()


def test_mixed_class_lies_between():
    embedding = ClassEmbedding(3, 5)
    first, second = embedding.weight[:2]
    assert torch.allclose(embedding(mixed_classes(0.95, 3)), (0.95 * second + 0.05 * first).expand(3, 5))
    for label, share in ((0, 0.0), (1, 1.0)):
        assert torch.allclose(embedding(mixed_classes(share, 2)), embedding(classes(label, 2)))


@pytest.mark.parametrize("rows", [2, 3])
def test_unet_is_monai_s(rows):
    ours, monai = unet(num_class_embeds=rows), unet(DiffusionModelUNet, num_class_embeds=rows)
    monai.load_state_dict(ours.state_dict())
    x, times, labels = torch.randn(2, 2, 8, 8), torch.tensor([3, 700]), torch.tensor([1, 0])
    with torch.no_grad():
        expected = monai(x, timesteps=times, class_labels=labels)
        assert torch.equal(ours(x, timesteps=times, class_labels=labels), expected)
        weights = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        assert torch.allclose(ours(x, timesteps=times, class_labels=weights), expected, atol=1e-5)
        other = ours(x, timesteps=times, class_labels=1 - labels)
    assert (other - expected).abs().max() > 1e-2
    assert ours.knows_null is (rows == 3)


def test_published_size_has_the_published_number_of_parameters():
    channels = (128, 128, 256, 256, 512, 512)
    options = {"spatial_dims": 2, "num_res_blocks": 2, "channels": channels, "num_head_channels": channels}
    options |= {"attention_levels": (False,) * 4 + (True, False), "num_class_embeds": 2}
    with torch.device("meta"):
        network = ConditionalUNet(in_channels=4, out_channels=8, **options)
    assert sum(p.numel() for p in network.parameters()) == 113_681_160
