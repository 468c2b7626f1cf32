"""The inferer with methods that are nothing like masked Bernoulli diffusion."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import torch
from helpers import IMAGE_SIZE, enlarged, random_slices
from monai.data import MetaTensor
from torch import nn

from scripts.data.selection import SliceSelector
from scripts.inferers import AnomalyInferer
from scripts.methods import Method, Restoration
from scripts.networks import Parts
from scripts.noise import SliceGenerator
from scripts.scores import evidence_map, squared_residual

NETWORK = Parts(net=nn.Identity())
GRID = (4, 8)


@dataclass(frozen=True, eq=False, kw_only=True)
class Halving(Method):
    """An image and nothing else."""

    def restore(self, images, encoded, network, streams, on_step):
        on_step()
        return Restoration(network.part("net")(images) / 2)


@dataclass(frozen=True, eq=False, kw_only=True)
class Counting(Method):
    """Evidence of three channels on a grid of its own, drawn from the slices' streams, and a number a slice."""

    evidence: ClassVar[tuple[str, ...]] = ("votes",)
    slice_scores: ClassVar[tuple[str, ...]] = ("mean_vote",)

    def restore(self, images, encoded, network, streams, on_step):
        on_step()
        votes = streams.at(1).rand((len(images), 3, *GRID)) * encoded.mean(dim=(1, 2, 3)).reshape(-1, 1, 1, 1)
        return Restoration(images.clone(), {"votes": votes}, {"mean_vote": votes.mean(dim=(1, 2, 3))})


def volumes() -> torch.Tensor:
    """Two volumes (2, 16, 16, 4): one without its second slice, one empty."""
    batch = torch.stack([random_slices(4, seed).movedim(0, -1) for seed in (0, 1)])
    batch[0, ..., 1] = 0
    batch[1] = 0
    return batch


def inferer(method: Method, score, **arguments) -> AnomalyInferer:
    return AnomalyInferer(method, score, **{"slice_selector": SliceSelector(min_foreground=0.5), **arguments})


def votes_of(volume: torch.Tensor, place: int) -> np.ndarray:
    """What the method finds in one slice, (3, 4, 8), on its own grid."""
    image = volume[None, ..., place]
    drawn = SliceGenerator(3, [place], 1).rand((1, 3, *GRID))
    return (drawn * image.mean())[0].numpy()


def test_a_method_without_evidence_and_scores():
    batch = volumes()
    first, second = inferer(Halving(), squared_residual, sw_batch_size=2).run_volumes(batch, NETWORK)
    assert first.evidence == first.slice_scores == second.evidence == second.slice_scores == {}
    assert first.processed.tolist() == [True, False, True, True] and not second.processed.any()
    # (x - x / 2)^2 summed over channels; where nothing was processed x itself and a map of 0, which it is there too.
    torch.testing.assert_close(first.anomaly_map, batch[0].square().sum(dim=0, keepdim=True) / 4)
    torch.testing.assert_close(first.reconstruction, batch[0] / 2)
    assert not second.anomaly_map.any() and torch.equal(second.reconstruction, batch[1])


def test_meta_data_of_a_method_without_scores():
    maps = inferer(Halving(), squared_residual)(MetaTensor(volumes()), NETWORK)
    assert maps.meta["slice_scores"] == {}
    assert maps.meta["processed"].tolist() == [[True, False, True, True], [False] * 4]


def test_slices_by_themselves():
    images = random_slices(3)
    maps = inferer(Halving(), squared_residual)(images, NETWORK)
    torch.testing.assert_close(maps, images.square().sum(dim=1, keepdim=True) / 4)


def test_a_score_that_wants_evidence_is_refused():
    with pytest.raises(ValueError, match="the score needs evidence votes, Halving has none"):
        inferer(Halving(), partial(evidence_map, name="votes"))
    with pytest.raises(ValueError, match="the score needs evidence other, Counting has votes"):
        inferer(Counting(), partial(evidence_map, name="other"))


@pytest.mark.parametrize("sw_batch_size", [1, 2, 8])
def test_evidence_of_several_channels_on_another_grid(sw_batch_size):
    batch = volumes()
    score = partial(evidence_map, name="votes")
    run = inferer(Counting(), score, seed=3, sw_batch_size=sw_batch_size)
    first, _ = run.run_volumes(batch, NETWORK)
    assert first.evidence["votes"].shape == (3, IMAGE_SIZE, IMAGE_SIZE, 4)
    for place in (0, 2, 3):
        votes = votes_of(batch[0], place)
        expected = np.stack([enlarged(channel, IMAGE_SIZE) for channel in votes])
        np.testing.assert_allclose(first.evidence["votes"][..., place], expected, atol=1e-6)
        np.testing.assert_allclose(first.anomaly_map[0, ..., place], expected.sum(axis=0), atol=1e-6)
        assert first.slice_scores["mean_vote"][place].item() == pytest.approx(votes.mean(), abs=1e-6)
    assert not first.evidence["votes"][..., 1].any() and first.slice_scores["mean_vote"][1].isnan()


def test_evidence_of_a_volume_without_slices_is_empty():
    run = inferer(Counting(), squared_residual)
    _, empty = run.run_volumes(volumes(), NETWORK)
    assert not empty.evidence["votes"].any() and empty.evidence["votes"].shape[1:] == (IMAGE_SIZE, IMAGE_SIZE, 4)
    assert empty.slice_scores["mean_vote"].isnan().all()
