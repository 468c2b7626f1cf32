"""The networks of a method as one module."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scripts.networks import Parts


class Scaling(nn.Module):
    """Reconstructs an image as ``factor`` times itself."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def reconstruct(self, image: torch.Tensor) -> torch.Tensor:
        return self.factor * image


def parts(**networks: nn.Module) -> Parts:
    return Parts(**(networks or {"encoder": nn.Linear(3, 4), "decoder": nn.Linear(4, 3, bias=False)}))


def test_parts_by_name():
    encoder, decoder = nn.Linear(3, 4), nn.Linear(4, 3)
    network = parts(encoder=encoder, decoder=decoder)
    assert network.part("encoder") is network.encoder is encoder
    assert network.part("decoder") is network.decoder is decoder


@pytest.mark.parametrize("name", ["decodr", "encoder.weight", "", "training"])
def test_an_unknown_part_names_those_there_are(name):
    with pytest.raises(ValueError, match=f"part: there is no '{name}', the network has encoder, decoder"):
        parts().part(name)


def test_keys_begin_with_the_parts_name():
    network = parts()
    assert set(network.state_dict()) == {"encoder.weight", "encoder.bias", "decoder.weight"}
    assert torch.equal(network.state_dict()["decoder.weight"], network.decoder.weight)
    assert {name for name, _ in network.named_parameters()} == set(network.state_dict())


def test_loading_gives_all_weights():
    trained, fresh = parts(), parts()
    assert not torch.equal(trained.encoder.weight, fresh.encoder.weight)
    fresh.load_state_dict(trained.state_dict())
    assert all(torch.equal(value, fresh.state_dict()[key]) for key, value in trained.state_dict().items())


@pytest.mark.parametrize("strict", [True, False])
def test_loading_is_strict_and_names_the_problems(strict):
    network, state = parts(), parts().state_dict()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    del state["encoder.bias"]
    state["decoder.weight"] = torch.zeros(3, 5)
    state["unet.weight"] = torch.zeros(1)
    with pytest.raises(RuntimeError) as caught:
        network.load_state_dict(state, strict=strict)
    said = str(caught.value)
    assert "network of encoder, decoder" in said
    assert "1 keys missing (first: encoder.bias)" in said
    assert "1 foreign keys (first: unet.weight)" in said
    assert "1 shapes differ (first: decoder.weight)" in said
    # Nothing is loaded by half.
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("problem", ["missing", "foreign", "shape"])
def test_each_problem_alone_is_refused(problem):
    network, state = parts(), parts().state_dict()
    if problem == "missing":
        del state["decoder.weight"]
    if problem == "foreign":
        state["extra"] = torch.zeros(1)
    if problem == "shape":
        state["decoder.weight"] = torch.zeros(12)
    with pytest.raises(RuntimeError) as caught:
        network.load_state_dict(state, strict=False)
    assert str(caught.value).count("first:") == 1


def test_forward_is_the_residual_of_the_first_part_that_reconstructs():
    network = parts(denoiser=nn.Linear(2, 2), first=Scaling(0.5), second=Scaling(0.1))
    image = torch.rand(3, 2, 4, 5, generator=torch.Generator().manual_seed(0)) - 0.5
    residual = network(image)
    assert residual.shape == (3, 1, 4, 5)
    # x - x / 2 = x / 2, whose magnitudes are averaged over both channels.
    torch.testing.assert_close(residual[:, 0], (image[:, 0].abs() + image[:, 1].abs()) / 4)


def test_forward_without_a_part_that_reconstructs():
    with pytest.raises(NotImplementedError, match="use the inferer"):
        parts()(torch.zeros(1, 3))


@pytest.mark.parametrize("channels_last", [True, False])
def test_memory_format(channels_last):
    network = Parts(channels_last=channels_last, unet=nn.Conv2d(4, 8, 3))
    assert network.unet.weight.is_contiguous(memory_format=torch.channels_last) is channels_last
