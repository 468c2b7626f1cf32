"""The inferer of all methods: selection of slices, batches, meta data, modes, with masked Bernoulli diffusion."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from helpers import (
    IMAGE_SIZE,
    enlarged,
    random_slices,
    random_volume,
    tiny_network,
)
from masked_bernoulli_recording import (
    L,
    assert_masks_for_real,
    inferer,
    recording_network,
    run_slices,
)
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.transforms import SpatialPad
from torch import nn

from scripts.data.selection import SliceSelector
from scripts.scores import signed_residual, structural_dissimilarity

# Slices and volumes


def test_volume_is_its_slices():
    run, network, volume = inferer(sw_batch_size=2), tiny_network(), random_volume(5)
    result = run.run_volume(volume, network)
    output = run_slices(run, volume.permute(3, 0, 1, 2), torch.arange(5), network)
    assert_masks_for_real(output)
    for d in range(5):
        torch.testing.assert_close(result.anomaly_map[..., d], output.anomaly_map[d])
        torch.testing.assert_close(result.reconstruction[..., d], output.reconstruction[d])
        torch.testing.assert_close(result.evidence["mask_density"][..., d], output.mask_density[d])
    assert torch.equal(result.slice_scores["mask_share"], output.mask_share)


def test_five_dimensional_input():
    run, network = inferer(), tiny_network()
    batch = torch.stack([random_volume(3, seed) for seed in (0, 1)])
    maps = run(batch, network)
    assert maps.shape == (2, 1, 16, 16, 3)
    for row in range(2):
        torch.testing.assert_close(maps[row], run.run_volume(batch[row], network).anomaly_map)


def test_four_dimensional_input():
    run, network, slices = inferer(), tiny_network(), random_slices(3)
    maps = run(slices, network)
    assert maps.shape == (3, 1, 16, 16)
    assert type(maps) is torch.Tensor
    for row in range(3):
        alone = run_slices(run, slices[row : row + 1], torch.tensor([0]), network)
        torch.testing.assert_close(maps[row], alone.anomaly_map[0], atol=1e-5, rtol=1e-5)


def test_encoded_slices_need_no_encoder():
    run, network, slices = inferer(sw_batch_size=2), tiny_network(), random_slices(3)
    expected = run_slices(run, slices, torch.arange(3), network)
    probability = run.encode(slices, network)
    with torch.no_grad():
        torch.testing.assert_close(probability, network.autoencoder.encode(slices))
    assert not probability.requires_grad
    network.autoencoder.encode = None
    output = run_slices(run, slices, torch.arange(3), network, probability)
    assert torch.equal(output.mask, expected.mask)
    assert torch.equal(output.reconstruction, expected.reconstruction)


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        (SliceSelector((1, 4)), [1, 2, 3]),
        (SliceSelector(min_foreground=0.5), [0, 2, 4]),
        (SliceSelector((1, 4), 0.5), [2]),
    ],
)
def test_slices_outside_the_selection(selector, selected):
    network, volume = tiny_network(), random_volume(5)
    volume[..., [1, 3]] = 0
    result = inferer(slice_selector=selector).run_volume(volume, network)
    # What is selected keeps its index, and with it its noise: the same as in the whole volume.
    everything = inferer().run_volume(volume, network)
    for d in range(5):
        if d in selected:
            for found, whole in (
                (result.anomaly_map, everything.anomaly_map),
                (result.reconstruction, everything.reconstruction),
                (result.evidence["mask_density"], everything.evidence["mask_density"]),
            ):
                torch.testing.assert_close(found[..., d], whole[..., d], atol=1e-5, rtol=1e-5)
            assert result.processed[d]
            assert result.anomaly_map[..., d].any() and result.evidence["mask_density"][..., d].any()
            assert result.slice_scores["mask_share"][d] == everything.slice_scores["mask_share"][d]
        else:
            assert not result.anomaly_map[..., d].any() and not result.evidence["mask_density"][..., d].any()
            assert torch.equal(result.reconstruction[..., d], volume[..., d])
            assert result.slice_scores["mask_share"][d].isnan() and not result.processed[d]


@pytest.mark.parametrize("shape", [(6, 2, 16, 16), (2, 2, 16, 16, 3)])
def test_slices_of_all_items_share_batches(shape):
    network, calls = recording_network()
    maps = inferer(sw_batch_size=4)(torch.rand(shape, generator=torch.Generator().manual_seed(0)), network)
    assert maps.shape == (shape[0], 1, *shape[2:])
    assert [call["batch"] for call in calls] == [4] * L + [2] * L


def test_volumes_with_different_selections():
    """One volume whole, one in part, one not at all: each as by itself, masks included."""
    volumes = torch.stack([random_volume(4, seed) for seed in range(3)])
    volumes[1, ..., [0, 2]] = 0
    volumes[2] = 0
    run, network = inferer(slice_selector=SliceSelector(min_foreground=0.5), sw_batch_size=4), tiny_network()
    results = run.run_volumes(volumes, network)
    selected = [[0, 1, 2, 3], [1, 3], []]
    for volume, result, indices in zip(volumes, results, selected, strict=True):
        others = [d for d in range(4) if d not in indices]
        assert result.processed.nonzero().flatten().tolist() == indices
        assert result.slice_scores["mask_share"].isnan().nonzero().flatten().tolist() == others
        assert torch.equal(result.reconstruction[..., others], volume[..., others])
        assert not result.anomaly_map[..., others].any() and not result.evidence["mask_density"][..., others].any()
        if indices:
            alone = run_slices(run, volume[..., indices].permute(3, 0, 1, 2), torch.tensor(indices), network)
            assert_masks_for_real(alone)
            torch.testing.assert_close(result.slice_scores["mask_share"][indices], alone.mask_share)
            for key in ("reconstruction", "anomaly_map", "mask_density"):
                whole = result.evidence[key] if key in result.evidence else getattr(result, key)
                found = whole[..., indices].permute(3, 0, 1, 2)
                torch.testing.assert_close(found, getattr(alone, key), atol=1e-5, rtol=1e-5)


def test_encoded_volumes_need_no_encoder():
    """The probabilities are those of the selected slices, one volume after the other."""
    volumes = torch.stack([random_volume(3, seed) for seed in (0, 1)])
    volumes[0, ..., 1] = 0
    run, network = inferer(slice_selector=SliceSelector(min_foreground=0.5)), tiny_network()
    expected = run.run_volumes(volumes, network)
    chosen = torch.stack([volumes[b, ..., d] for b, d in ((0, 0), (0, 2), (1, 0), (1, 1), (1, 2))])
    selected = run.encode_volumes(volumes, network)
    assert torch.equal(selected.images, chosen)
    assert selected.places.tolist() == [0, 2, 0, 1, 2] and selected.counts == [2, 3]
    torch.testing.assert_close(selected.encoded, run.encode(chosen, network))
    network.autoencoder.encode = None
    for result, other in zip(run.restore_volumes(selected, network), expected, strict=True):
        torch.testing.assert_close(result.anomaly_map, other.anomaly_map)
        assert torch.equal(result.processed, other.processed)


def test_no_slice_selected():
    network, calls = recording_network()
    volume = random_volume(4)
    run = inferer(slice_selector=SliceSelector((80, 128)))
    result = run.run_volume(volume, network)
    assert result.anomaly_map.shape == (1, 16, 16, 4)
    assert not result.anomaly_map.any()
    assert result.evidence["mask_density"].shape == (1, 16, 16, 4) and not result.evidence["mask_density"].any()
    assert torch.equal(result.reconstruction, volume)
    assert result.slice_scores["mask_share"].shape == (4,) and result.slice_scores["mask_share"].isnan().all()
    assert not calls
    maps = run(volume[None], network)
    assert maps.shape == (1, 1, 16, 16, 4) and not maps.any()


@pytest.mark.parametrize("slice_range", [(0, 2), (0, 3), (80, 128)])
def test_input_is_left_alone(slice_range):
    volume = random_volume(3)
    before = volume.clone()
    result = inferer(slice_selector=SliceSelector(slice_range)).run_volume(volume, tiny_network())
    result.reconstruction.zero_()
    result.evidence["mask_density"].fill_(7)
    assert torch.equal(volume, before)
    assert not (result.anomaly_map == 7).any()


def test_anomaly_map_is_exchangeable():
    def score(image, reconstruction, evidence):
        assert image.shape == reconstruction.shape == (2, 2, 16, 16)
        assert evidence["mask_density"].shape == (2, 1, 16, 16)
        return evidence["mask_density"].mean(dim=(1, 2, 3)).reshape(-1, 1, 1, 1).expand(-1, 1, 16, 16)

    result = inferer(anomaly_map=score).run_volume(random_volume(2), tiny_network())
    torch.testing.assert_close(result.anomaly_map[0, 5, 6], result.slice_scores["mask_share"])
    assert result.slice_scores["mask_share"].min() > 0


def test_mask_density_is_the_mean_of_the_mask_on_the_images_grid():
    volume, indices = random_volume(4), [0, 2]
    volume[..., [1, 3]] = 0
    run = inferer(slice_selector=SliceSelector(min_foreground=0.5), sw_batch_size=1)
    result = run.run_volume(volume, tiny_network())
    assert (
        result.evidence["mask_density"].shape == (1, 16, 16, 4)
        and result.evidence["mask_density"].dtype == torch.float32
    )
    assert len(run.method.masks) == len(indices)
    for d in indices:
        density = run.method.masks[indices.index(d)][0].double().mean(dim=0).numpy()
        assert density.std() > 0.05
        found = result.evidence["mask_density"][0, ..., d]
        np.testing.assert_allclose(found.numpy(), enlarged(density, IMAGE_SIZE), atol=1e-6)
        # Linear interpolation by a whole factor keeps the mean.
        assert found.mean().item() == pytest.approx(result.slice_scores["mask_share"][d].item(), abs=1e-6)


# Metadata


def test_meta_tensor_in_meta_tensor_out():
    affine = torch.tensor([[2.0, 0, 0, 5], [0, 3, 0, -1], [0, 0, 4, 7], [0, 0, 0, 1]], dtype=torch.float64)
    volume = MetaTensor(random_volume(3)[None], affine=affine, meta={"filename_or_obj": "patient-7"})
    network = tiny_network()
    maps = inferer()(volume, network)
    assert isinstance(maps, MetaTensor)
    assert torch.equal(maps.affine, affine)
    assert maps.meta["filename_or_obj"] == "patient-7"
    torch.testing.assert_close(maps.as_tensor(), inferer()(volume.as_tensor(), network))


def test_meta_data_of_the_map_hold_the_mask_share():
    volumes = MetaTensor(torch.stack([random_volume(3), random_volume(3, seed=1)]), meta={"filename_or_obj": "two"})
    network, own = tiny_network(), inferer(slice_selector=SliceSelector(slice_range=[1, 3]))
    maps = own(volumes, network)
    expected = torch.stack([result.slice_scores["mask_share"] for result in own.run_volumes(volumes, network)])
    torch.testing.assert_close(maps.meta["slice_scores"]["mask_share"], expected, equal_nan=True)
    assert expected[:, 0].isnan().all() and len(expected[:, 1:].unique()) == 4
    assert torch.equal(maps.meta["processed"], ~expected.isnan())
    assert not {"processed", "slice_scores"} & volumes.meta.keys()
    # As a server takes the only item of its batch, and as a data loader takes the batch apart.
    torch.testing.assert_close(
        own(volumes[:1], network)[0].meta["slice_scores"]["mask_share"], expected[:1], equal_nan=True
    )


def test_applied_operations_survive_to_be_inverted():
    pad = SpatialPad((16, 16, 3))
    items = [pad(MetaTensor(random_volume(3, seed)[:, 2:13, :12])) for seed in (0, 1)]
    maps = inferer()(list_data_collate(items), tiny_network())
    assert isinstance(maps, MetaTensor)
    for item, padded in zip(items, decollate_batch(maps), strict=True):
        assert [op["class"] for op in padded.applied_operations] == ["SpatialPad"]
        inverted = pad.inverse(padded.clone())
        assert inverted.shape == (1, 11, 12, 3)
        assert not inverted.applied_operations
        # 16 - 11 = 5 is padded as 2 and 3, 16 - 12 = 4 as 2 and 2.
        assert torch.equal(inverted.as_tensor(), padded.as_tensor()[:, 2:13, 2:14])
        assert torch.equal(inverted.affine, pad.inverse(item.clone()).affine)


@pytest.mark.parametrize("shape", [(2, 2, 16, 16), (1, 2, 16, 16, 2)])
def test_meta_tensor_of_either_rank(shape):
    images = MetaTensor(torch.rand(shape, generator=torch.Generator().manual_seed(0)))
    maps = inferer()(images, tiny_network())
    assert isinstance(maps, MetaTensor)
    assert maps.shape == (shape[0], 1, *shape[2:])


# What is put back


class Failing(nn.Module):
    def forward(self, x, timesteps):
        raise RuntimeError("broken network")


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_modes_are_restored(fails, grad):
    network, calls = recording_network()
    if fails:
        network.denoiser = Failing()
    # As in stage 2: the denoiser trains, the autoencoder is frozen in evaluation mode.
    network.train()
    network.autoencoder.eval()
    modes = {name: module.training for name, module in network.named_modules()}
    with torch.set_grad_enabled(grad):
        if fails:
            with pytest.raises(RuntimeError, match="broken network"):
                inferer()(random_slices(1), network)
        else:
            maps = inferer()(random_slices(1).requires_grad_(), network)
            assert not maps.requires_grad
        assert torch.is_grad_enabled() is grad
    assert not torch.is_autocast_enabled("cpu")
    assert {name: module.training for name, module in network.named_modules()} == modes
    assert not any(call["training"] or call["grad"] for call in calls)


def test_evaluation_mode_stays():
    network = tiny_network()
    inferer()(random_slices(1), network)
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("amp", [False, True])
def test_amp_decides_whatever_surrounds_it(amp):
    network, calls = recording_network()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not amp):
        output = run_slices(inferer(amp=amp), random_slices(2), torch.arange(2), network)
        assert torch.is_autocast_enabled("cpu") is not amp
    assert_masks_for_real(output)
    assert all(call["autocast"] is amp for call in calls)
    assert {call["dtype"] for call in calls} == {torch.bfloat16 if amp else torch.float32}
    for name in ("reconstruction", "anomaly_map", "mask_share", "mask_density", "mask_growth"):
        assert getattr(output, name).dtype == torch.float32
        assert getattr(output, name).isfinite().all()


def test_amp_is_close_to_single_precision():
    """At the last bit some draws differ; as a whole the code must not."""
    slices, indices, network = random_slices(3), torch.arange(3), tiny_network()
    single = run_slices(inferer(amp=False), slices, indices, network)
    half = run_slices(inferer(amp=True), slices, indices, network)
    assert (single.mask != half.mask).float().mean() < 0.1
    assert (single.mask_share - half.mask_share).abs().max() < 0.05


@pytest.mark.parametrize(
    "score", [partial(signed_residual, weights=[1, -1], sigma=2.0), structural_dissimilarity], ids=["signed", "ssim"]
)
def test_amp_is_not_for_the_score(score):
    """Convolutions in bfloat16 would leave 8 bits of a map, and another one than a later run makes of its images."""
    slices = random_slices(2)
    output = run_slices(inferer(amp=True, anomaly_map=score), slices, torch.arange(2), tiny_network())
    torch.testing.assert_close(output.anomaly_map, score(slices, output.reconstruction))
