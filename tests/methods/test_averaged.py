import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from latent_networks import images, mad_ad_parts

from scripts.mahalanobis import mahalanobis_map
from scripts.methods import Method, Restoration, setting
from scripts.methods.averaged import Averaged
from scripts.methods.mad_ad import MadAd
from scripts.networks import Parts
from scripts.noise import SliceGenerator
from scripts.noise.runs import run_streams
from scripts.schedulers import GaussianScheduler


@dataclass(frozen=True, eq=False, kw_only=True)
class Noisy(Method):
    """The image and noise, at three steps."""

    evidence: ClassVar[tuple[str, ...]] = ("noise",)
    slice_scores: ClassVar[tuple[str, ...]] = ("level",)
    image_score: ClassVar[str] = "level"
    deviation: float = setting(0.1)

    @property
    def passes(self):
        return 3

    def restore(self, images, encoded, network, streams, on_step):
        noise = sum(streams.at(step).randn(images.shape) for step in range(3))
        for _ in range(3):
            on_step()
        levels = {"level": noise.mean(dim=(1, 2, 3))}
        return Restoration(encoded + self.deviation * noise, {"noise": noise[:, :1]}, levels)


def restore(own, batch, places, network=None, seed=3):
    counted = []
    network = Parts() if network is None else network
    with torch.no_grad():
        encoded = own.encode(batch, network)
        streams = SliceGenerator(seed, places)
        return own.restore(batch, encoded, network, streams, lambda: counted.append(1)), counted


@pytest.mark.parametrize("ridge", [0.01, None])
def test_means_and_distance_of_the_single_runs(ridge):
    batch, places, inner = images(2), [4, 0], Noisy()
    result, counted = restore(Averaged(method=inner, count=4, ridge=ridge), batch, places)
    assert len(counted) == 4 * 3 == Averaged(method=inner, count=4).passes
    streams = SliceGenerator(3, places)
    runs = [inner.restore(batch, batch, Parts(), run_streams(streams, run), lambda: None) for run in range(4)]
    assert (runs[0].reconstruction - runs[1].reconstruction).abs().max() > 0.1
    restorations = torch.stack([run.reconstruction for run in runs])
    assert torch.allclose(result.reconstruction, restorations.mean(dim=0), atol=1e-6)
    assert torch.allclose(result.evidence["noise"], sum(run.evidence["noise"] for run in runs) / 4, atol=1e-6)
    assert torch.allclose(result.slice_scores["level"], sum(run.slice_scores["level"] for run in runs) / 4, atol=1e-6)
    for row in range(2):
        brain = (batch[row] > 0).any(dim=0, keepdim=True)
        expected = mahalanobis_map(batch[row], restorations[:, row], brain, ridge)
        assert expected.std() > 0 and (expected[..., :4] == 0).all()
        assert torch.allclose(result.evidence["mahalanobis"][row], expected, rtol=1e-4, atol=1e-5)


def test_the_distance_may_be_measured_everywhere():
    result, _ = restore(Averaged(method=Noisy(), count=3, foreground=False), images(1), [0])
    assert (result.evidence["mahalanobis"][..., :4] > 0).any()


def test_a_batch_equals_its_single_runs_and_a_seed_replays():
    own, batch, places = Averaged(method=Noisy(), count=5), images(3), [4, 0, 9]
    together, again = (restore(own, batch, places)[0] for _ in range(2))
    other = restore(own, batch, places, seed=4)[0]
    for name in own.evidence:
        assert torch.equal(together.evidence[name], again.evidence[name])
        assert not torch.allclose(together.evidence[name], other.evidence[name], atol=1e-3)
    for row, place in enumerate(places):
        alone = restore(own, batch[row : row + 1], [place])[0]
        assert torch.equal(alone.reconstruction[0], together.reconstruction[row])
        assert torch.equal(alone.evidence["mahalanobis"][0], together.evidence["mahalanobis"][row])


def test_a_real_method_with_networks():
    process = GaussianScheduler(10, "cosine", prediction_type="sample", clip_range=None)
    inner = MadAd(scheduler=process, latent_scale=0.7, num_inference_steps=5)
    own = Averaged(method=inner, count=2)
    assert own.evidence == ("predicted_mask", "image_difference", "mahalanobis")
    assert own.slice_scores == ("mask_share",) and own.image_score == "mask_share"
    result, counted = restore(own, images(2), [0, 1], mad_ad_parts())
    assert len(counted) == own.passes == 10
    assert tuple(result.evidence) == own.evidence and result.evidence["mahalanobis"].shape == (2, 1, 32, 32)


def test_a_failed_run_stays_visible():
    class Failing(Noisy):
        def restore(self, images, encoded, network, streams, on_step):
            result = super().restore(images, encoded, network, streams, on_step)
            if streams.seed != 3:
                result.slice_scores["level"][1] = torch.nan
                result.reconstruction[1, 0, 0, 0] = torch.nan
            return result

    result, _ = restore(Averaged(method=Failing(), count=3), images(2), [0, 1])
    assert result.slice_scores["level"].isnan().tolist() == [False, True]
    assert result.evidence["mahalanobis"][1].isnan().all() and result.evidence["mahalanobis"][0].isfinite().all()


def test_settings_of_the_method_are_reached_through_it():
    own = Averaged(method=Noisy(), count=3)
    other = own.replace(deviation=0.5, count=4)
    assert (other.method.deviation, other.count, other.ridge) == (0.5, 4, 0.01)
    assert own.method.deviation == 0.1
    assert other.evidence == ("noise", "mahalanobis")
    described = json.loads(json.dumps(other.describe()))
    assert described["method"] == {"name": "Noisy", "deviation": 0.5} and described["count"] == 4
    with pytest.raises(ValueError, match="Noisy has no setting level; it has deviation"):
        own.replace(level=1)
    assert own.trial().count == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 1}, r"count must be a whole number in \[2, 1e\+06\], got 1"),
        ({"ridge": 0.0}, "ridge must be a number.*got 0.0"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        Averaged(method=Noisy(), **changes)
