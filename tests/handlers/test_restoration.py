"""The handler between the evaluator's forward pass and the inferer."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from helpers import random_slices, random_volume, tiny_network
from masked_bernoulli_recording import inferer
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.transforms import SpatialPad

from scripts.data.selection import SliceSelector
from scripts.handlers import RestorationHandler
from scripts.inferers import EncodingInferer, VolumeResult


def handled(image: torch.Tensor, **changes) -> tuple[dict, list[VolumeResult]]:
    """The engine's output after the forward pass and the handler, and the inferer's own results."""
    run, network = inferer(**changes), tiny_network()
    output = {"image": image, "pred": EncodingInferer(run)(image, network)}
    wanted = run.run_volumes(image, network)
    network.autoencoder.encode = None
    RestorationHandler(run)(SimpleNamespace(state=SimpleNamespace(output=output), network=network))
    return output, wanted


def test_volumes():
    image = torch.stack([random_volume(3, seed) for seed in (0, 1)])
    image[1, ..., 1] = 0
    output, wanted = handled(image, slice_selector=SliceSelector(min_foreground=0.5))
    assert output.keys() == {"image", "pred", "reconstruction", "mask_density", "processed", "slice_scores"}
    assert output["pred"].shape == output["mask_density"].shape == (2, 1, 16, 16, 3)
    assert output["reconstruction"].shape == (2, 2, 16, 16, 3)
    assert output["processed"].tolist() == [[True, True, True], [True, False, True]]
    assert output["slice_scores"].keys() == {"mask_share"}
    for row, result in enumerate(wanted):
        torch.testing.assert_close(output["pred"][row], result.anomaly_map)
        torch.testing.assert_close(output["reconstruction"][row], result.reconstruction)
        torch.testing.assert_close(output["mask_density"][row], result.evidence["mask_density"])
        found = output["slice_scores"]["mask_share"][row]
        torch.testing.assert_close(found, result.slice_scores["mask_share"], equal_nan=True)
        assert torch.equal(~found.isnan(), output["processed"][row])
    assert not output["mask_density"][1, ..., 1].any()
    assert output["mask_density"][0].min(dim=-1).values.max() > 0


def test_slices():
    image = random_slices(3)
    output, wanted = handled(image)
    assert output["pred"].shape == output["mask_density"].shape == (3, 1, 16, 16)
    assert output["reconstruction"].shape == (3, 2, 16, 16)
    assert output["slice_scores"]["mask_share"].shape == output["processed"].shape == (3, 1)
    assert output["processed"].all()
    for row in range(3):
        torch.testing.assert_close(output["mask_density"][row], wanted[row].evidence["mask_density"][..., 0])
        torch.testing.assert_close(output["pred"][row], wanted[row].anomaly_map[..., 0])


def test_images_are_typed_like_the_input_so_that_they_can_be_inverted():
    pad = SpatialPad((16, 16, 3))
    items = [pad(MetaTensor(random_volume(3, seed)[:, 2:13, :12])) for seed in (0, 1)]
    output, _ = handled(list_data_collate(items))
    for key, channels in (("pred", 1), ("reconstruction", 2), ("mask_density", 1)):
        for whole in decollate_batch(output[key]):
            assert isinstance(whole, MetaTensor)
            inverted = pad.inverse(whole.clone())
            assert inverted.shape == (channels, 11, 12, 3)
            assert torch.equal(inverted.as_tensor(), whole.as_tensor()[:, 2:13, 2:14])
