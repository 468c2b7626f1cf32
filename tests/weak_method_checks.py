"""What holds for every method, asked of one on Gaussian data: steps counted, batches, seeds, wrong parts."""

from __future__ import annotations

import pytest
import torch
from gaussian_data import gaussian_parts, images
from torch import nn

from scripts.networks import Parts
from scripts.noise import SliceGenerator


def run(method, x, network=None, seed=0, places=None, count=None):
    """``restore`` on images in the unit range, without gradients; ``count`` gathers the steps."""
    parts = gaussian_parts(method.scheduler) if network is None else network
    streams = SliceGenerator(seed, list(range(len(x))) if places is None else places)
    steps = [] if count is None else count
    with torch.no_grad():
        return method.restore(x, method.encode(x, parts), parts, streams, lambda: steps.append(1))


def everything(restored):
    return {"reconstruction": restored.reconstruction, **restored.evidence, **restored.slice_scores}


def check_contract(method, random):
    """Steps, shapes, names, batch against singles, seeds."""
    x, steps = images(3), []
    restored = run(method, x, count=steps)
    assert len(steps) == method.passes
    assert restored.reconstruction.shape == x.shape
    assert tuple(restored.evidence) == method.evidence
    assert tuple(restored.slice_scores) == tuple(method.slice_scores)
    assert all(values.shape == (3,) for values in restored.slice_scores.values())
    together = everything(restored)
    for row in range(3):
        alone = everything(run(method, x[row : row + 1], places=[row]))
        for name, value in alone.items():
            assert torch.allclose(value[0], together[name][row], atol=1e-5), name
    again, other = everything(run(method, x)), everything(run(method, x, seed=1))
    assert all(torch.equal(again[name], value) for name, value in together.items())
    differs = any(not torch.equal(other[name], value) for name, value in together.items())
    assert differs is random
    assert run(method.trial(), x).reconstruction.shape == x.shape


def check_refuses_other_channels(method, part="denoiser"):
    """A network for images of other channels."""
    network = gaussian_parts(method.scheduler)
    network.part(part).in_channels = 5
    with pytest.raises(ValueError, match=f"network: {part} takes images of 5 channels, these have 2"):
        run(method, images(), network)


def check_refuses_missing_part(method, kept, missing):
    parts = {kept: gaussian_parts(method.scheduler).part(kept)} if kept else {"other": nn.Identity()}
    with pytest.raises(ValueError, match=f"part: there is no '{missing}'"):
        run(method, images(), Parts(**parts))


def check_needs_the_null_class(method):
    with pytest.raises(ValueError, match="denoiser does not know the null class"):
        run(method, images(), gaussian_parts(method.scheduler, means=(0.3, -0.4)))
