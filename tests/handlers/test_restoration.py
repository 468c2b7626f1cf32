"""The handler between the evaluator's forward pass and the inferer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from helpers import CODE_SHAPE, random_slices, random_volume, tiny_network
from masked_bernoulli_recording import L, inferer
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.transforms import SpatialPad

from scripts.data.selection import SliceSelector
from scripts.handlers import MaskedDenoisingHandler


def handled(image: torch.Tensor, **changes) -> tuple[dict, list[dict], torch.nn.Module]:
    """The engine's output after the handler, the inferer's own results, and the network."""
    run, network = inferer(**changes), tiny_network()
    volumes, indices = run.select(image)
    chosen = [volume[..., i].movedim(-1, 0) for volume, i in zip(volumes, indices, strict=True)]
    probability = run.encode(torch.cat(chosen), network)
    wanted = run.run_volumes(image, network)
    network.autoencoder.encode = None
    output = {"image": image, "pred": probability}
    MaskedDenoisingHandler(run)(SimpleNamespace(state=SimpleNamespace(output=output), network=network))
    return output, wanted, network


@pytest.mark.parametrize("return_mask", [False, True])
def test_volumes(return_mask):
    image = torch.stack([random_volume(3, seed) for seed in (0, 1)])
    image[1, ..., 1] = 0
    output, wanted, _ = handled(image, slice_selector=SliceSelector(min_foreground=0.5), return_mask=return_mask)
    shapes = {"pred": (1, 16, 16, 3), "reconstruction": (2, 16, 16, 3), "mask_density": (1, 16, 16, 3)}
    shapes |= {"mask_share": (3,)}
    shapes |= {"mask": (3, *CODE_SHAPE), "mask_growth": (3, L)} if return_mask else {}
    assert output.keys() == {"image", *shapes}
    for key, shape in shapes.items():
        assert output[key].shape == (2, *shape)
        for found, result in zip(output[key], wanted, strict=True):
            torch.testing.assert_close(found, result["anomaly_map" if key == "pred" else key], equal_nan=True)
    assert not output["mask_density"][1, ..., 1].any()
    assert output["mask_density"][0].min(dim=-1).values.max() > 0


def test_slices():
    image = random_slices(3)
    output, wanted, _ = handled(image)
    assert output["pred"].shape == output["mask_density"].shape == (3, 1, 16, 16)
    assert output["reconstruction"].shape == (3, 2, 16, 16)
    assert output["mask_share"].shape == (3, 1)
    for row in range(3):
        torch.testing.assert_close(output["mask_density"][row], wanted[row]["mask_density"][..., 0])
        torch.testing.assert_close(output["pred"][row], wanted[row]["anomaly_map"][..., 0])


def test_images_are_typed_like_the_input_so_that_they_can_be_inverted():
    pad = SpatialPad((16, 16, 3))
    items = [pad(MetaTensor(random_volume(3, seed)[:, 2:13, :12])) for seed in (0, 1)]
    output, _, _ = handled(list_data_collate(items))
    for key, channels in (("pred", 1), ("reconstruction", 2), ("mask_density", 1)):
        for whole in decollate_batch(output[key]):
            assert isinstance(whole, MetaTensor)
            inverted = pad.inverse(whole.clone())
            assert inverted.shape == (channels, 11, 12, 3)
            assert torch.equal(inverted.as_tensor(), whole.as_tensor()[:, 2:13, 2:14])
