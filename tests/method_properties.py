"""What holds for every method: a unit depends on its own stream, steps are counted, settings describe the method."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch

from scripts.methods import Method, Restoration
from scripts.networks import Parts
from scripts.noise import SliceGenerator


def images_of(count: int, channels: int, size: int, seed: int = 0) -> torch.Tensor:
    """Smooth images in [0, 1] that differ from each other."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((count, channels, 4, 4), generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")


def run(method: Method, images: torch.Tensor, network: Parts, indices: list[int], seed: int = 0) -> Restoration:
    """The method's whole way, with its network evaluations counted."""
    calls: list[None] = []
    streams = SliceGenerator(seed, indices)
    with torch.no_grad():
        encoded = method.encode(images, network)
        restored = method.restore(images, encoded, network, streams, lambda: calls.append(None))
    assert len(calls) == method.passes
    return restored


def tensors(restored: Restoration) -> Mapping[str, torch.Tensor]:
    return {"reconstruction": restored.reconstruction, **restored.evidence, **restored.slice_scores}


def assert_contract(method: Method, images: torch.Tensor, network: Parts) -> Restoration:
    """Shapes, batches equal to single runs, replays; the restoration of the whole batch."""
    indices = [7 + 3 * n for n in range(len(images))]
    whole, parameters = run(method, images, network, indices), [p.clone() for p in network.parameters()]
    assert whole.reconstruction.shape == images.shape
    assert tuple(whole.evidence) == method.evidence
    assert tuple(whole.slice_scores) == method.slice_scores
    assert all(torch.isfinite(value).all() and value.dtype == torch.float32 for value in tensors(whole).values())
    assert (whole.reconstruction[0] - whole.reconstruction[1]).abs().max() > 1e-3
    for n, index in enumerate(indices):
        single = tensors(run(method, images[n : n + 1], network, [index]))
        for name, value in tensors(whole).items():
            torch.testing.assert_close(single[name], value[n : n + 1], rtol=0, atol=2e-5, msg=name)
    again = run(method, images, network, indices)
    assert all(torch.equal(value, tensors(again)[name]) for name, value in tensors(whole).items())
    moved = run(method, images, network, [i + 1 for i in indices])
    reseeded = run(method, images, network, indices, seed=1)
    assert (reseeded.reconstruction - whole.reconstruction).abs().max() > 1e-4
    assert (moved.reconstruction - whole.reconstruction).abs().max() > 1e-4 or _shared(method)
    assert all(torch.equal(a, b) for a, b in zip(parameters, network.parameters(), strict=True))
    described = method.describe()
    assert json.loads(json.dumps(described)) == described
    assert run(method.trial(), images, network, indices).reconstruction.shape == images.shape
    return whole


def _shared(method: Method) -> bool:
    """One field for all units."""
    return bool(getattr(getattr(method, "noise", None), "shared", False))
