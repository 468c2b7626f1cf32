"""Fields against the definition of OpenSimplex noise, summed over all lattice points near a place."""

from __future__ import annotations

import importlib.util
import itertools
import json
import logging

import numpy as np
import pytest
import torch
from monai.utils import OptionalImportError

from scripts.describe import describe
from scripts.noise import Draws, GaussianNoise, SimplexNoise, SliceGenerator, simplex, simplex_field

pytest.importorskip("opensimplex")


def octave(seed: int, *coordinates: np.ndarray) -> np.ndarray:
    """One octave of 2-D or 3-D noise at every place; the package leaves out some distant points of the 3-D one."""
    from opensimplex import OpenSimplex
    from opensimplex.constants import GRADIENTS2, GRADIENTS3

    source, n = OpenSimplex(seed), len(coordinates)
    perm, third = source._perm, source._perm_grad_index3
    stretch, squish = (1 / np.sqrt(n + 1) - 1) / n, (np.sqrt(n + 1) - 1) / n
    skewed = [c + sum(coordinates) * stretch for c in coordinates]
    base = [np.floor(c).astype(int) for c in skewed]
    total = np.zeros(np.broadcast(*coordinates).shape)
    for offset in itertools.product(range(-1, 3), repeat=n):
        point = [b + o for b, o in zip(base, offset, strict=True)]
        away = [c - p - sum(point) * squish for c, p in zip(coordinates, point, strict=True)]
        index = perm[(perm[point[0] & 255] + point[1]) & 255]
        index = third[(index + point[2]) & 255] if n == 3 else index & 0x0E
        gradients = GRADIENTS3 if n == 3 else GRADIENTS2
        slope = sum(gradients[index + axis] * d for axis, d in enumerate(away))
        total += np.clip(2 - sum(d * d for d in away), 0, None) ** 4 * slope
    return total / (103 if n == 3 else 47)


def by_definition(seed, size, timestep, octaves, persistence, frequency):
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    field = 0
    for k in range(octaves):
        f = frequency / 2**k
        third = () if timestep is None else (np.full(x.shape, timestep / f),)
        field = field + persistence**k * octave(seed, x / f, y / f, *third)
    return field


@pytest.mark.parametrize("seed", [0, 7, -9876543210])
@pytest.mark.parametrize("size", [(12, 12), (9, 20)])
@pytest.mark.parametrize("options", [(6, 0.8, 64.0), (3, 0.5, 10.0)])
def test_fields_are_the_sum_of_octaves(seed, size, options):
    flat, cut = simplex_field(seed, size, None, *options), simplex_field(seed, size, 199, *options)
    np.testing.assert_allclose(flat, by_definition(seed, size, None, *options), atol=1e-10)
    np.testing.assert_allclose(cut, by_definition(seed, size, 199, *options), atol=3e-4)
    assert flat.std() > 0.05 and cut.std() > 0.05


def test_defaults_are_the_papers():
    assert np.array_equal(simplex_field(3, (16, 16), 5), simplex_field(3, (16, 16), 5, 6, 0.8, 64.0))
    fields = np.stack([simplex_field(seed, (64, 64), 199) for seed in range(20)])
    assert abs(fields.mean()) < 0.15
    assert 0.4 < fields.std() < 0.6


def test_every_unit_channel_and_step_has_a_field_of_its_own():
    noise, shape = SimplexNoise(), (2, 2, 16, 16)
    fields = noise(shape, SliceGenerator(5, [3, 4], 1), 20)
    assert fields.shape == shape and fields.dtype == torch.float32
    others = [
        noise(shape, SliceGenerator(5, [3, 4], 2), 20),
        noise(shape, SliceGenerator(6, [3, 4], 1), 20),
        noise(shape, SliceGenerator(5, [3, 4], 1), 21),
    ]
    maps = torch.cat([x.flatten(0, 1) for x in (fields, *others)])
    apart = torch.cdist(maps.flatten(1), maps.flatten(1)) + torch.eye(len(maps))
    assert apart.min() > 0.1
    alone = noise((1, 2, 16, 16), SliceGenerator(5, [4], 1), 20)
    assert torch.equal(alone, fields[1:])


def test_values_are_those_of_the_seeds_of_the_stream():
    noise, streams = SimplexNoise(octaves=2, persistence=0.5, frequency=8), SliceGenerator(5, [3, 4], 1)
    seeds = noise.seeds((2, 1, 16, 16), streams)
    assert (seeds.abs() <= 10**10).all() and seeds.unique().numel() == 2
    field = noise((2, 1, 16, 16), streams, 20)[1, 0].numpy()
    np.testing.assert_allclose(field, simplex_field(int(seeds[1, 0]), (16, 16), 20, 2, 0.5, 8), rtol=1e-6)
    flat = SimplexNoise(octaves=2, persistence=0.5, frequency=8, with_time=False)
    np.testing.assert_allclose(
        flat((2, 1, 16, 16), streams, 20)[1, 0].numpy(),
        simplex_field(int(seeds[1, 0]), (16, 16), None, 2, 0.5, 8),
        rtol=1e-6,
    )


def test_shared_noise_depends_on_seed_and_step_alone():
    noise = SimplexNoise(with_time=False, shared=True)
    fields = noise((2, 2, 8, 8), SliceGenerator(5, [3, 4], 1), 20)
    assert torch.equal(fields, fields[:1, :1].expand_as(fields))
    assert torch.equal(fields[:1], noise((1, 2, 8, 8), SliceGenerator(5, [99], 1), 3))
    assert not torch.equal(fields, noise((2, 2, 8, 8), SliceGenerator(5, [3, 4], 2), 20))
    assert not torch.equal(fields, noise((2, 2, 8, 8), SliceGenerator(6, [3, 4], 1), 20))


def test_half_rounds():
    streams = SliceGenerator(5, [3], 1)
    fine, rounded = SimplexNoise()((1, 1, 8, 8), streams, 2), SimplexNoise(half=True)((1, 1, 8, 8), streams, 2)
    assert torch.equal(rounded, fine.half().float()) and not torch.equal(rounded, fine)


def test_training_draws_use_the_times_of_the_rows():
    class Same(Draws):
        def rows(self, count, draw):
            return torch.full((count, 1), 11)

    times = torch.tensor([3, 700])
    drawn = SimplexNoise().draw((2, 1, 8, 8), Same(), times)
    for row, t in zip(drawn, times.tolist(), strict=True):
        np.testing.assert_allclose(row[0].numpy(), simplex_field(11, (8, 8), t), rtol=1e-6)


@pytest.mark.parametrize("noise", [SimplexNoise(), GaussianNoise()])
def test_training_draws_follow_torchs_state(noise):
    times = torch.tensor([3, 3])
    torch.manual_seed(0)
    first = noise.draw((2, 1, 8, 8), Draws(), times)
    second = noise.draw((2, 1, 8, 8), Draws(), times)
    torch.manual_seed(0)
    assert torch.equal(noise.draw((2, 1, 8, 8), Draws(), times), first)
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])


def test_training_draws_of_shared_noise_are_one_field_a_batch():
    noise = SimplexNoise(with_time=False, shared=True)
    torch.manual_seed(0)
    first, second = (noise.draw((3, 1, 8, 8), Draws(), torch.tensor([3, 4, 5])) for _ in range(2))
    assert torch.equal(first, first[:1].expand_as(first)) and not torch.equal(first, second)


def test_gaussian_noise_is_the_streams_own():
    streams = SliceGenerator(5, [3, 4], 1)
    assert torch.equal(GaussianNoise()((2, 1, 8, 8), streams, 4), streams.randn((2, 1, 8, 8)))


def test_kinds_describe_themselves():
    assert describe(GaussianNoise()) == {"name": "GaussianNoise"}
    described = describe(SimplexNoise(octaves=4))
    assert described["name"] == "SimplexNoise" and described["octaves"] == 4
    assert json.loads(json.dumps(described)) == described
    fields = {"octaves": 5, "persistence": 0.7, "frequency": 32.0, "with_time": False, "half": True}
    for key, value in fields.items():
        assert describe(SimplexNoise(**{key: value})) != describe(SimplexNoise())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"octaves": 0}, "octaves must be a whole number in [1, 32], got 0"),
        ({"persistence": 0}, "persistence must be a number"),
        ({"frequency": -1}, "frequency must be a number"),
        ({"shared": True}, "shared noise must be without time"),
    ],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(ValueError) as error:
        SimplexNoise(**arguments)
    assert message in str(error.value)


def test_only_images_have_fields():
    with pytest.raises(ValueError, match=r"shape must be \(N, c, H, W\)"):
        SimplexNoise()((1, 1, 4, 4, 4), SliceGenerator(0, [0]), 3)


def test_missing_packages_are_named(monkeypatch, caplog):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "numba" else found(name))
    with caplog.at_level(logging.WARNING):
        SimplexNoise()
    assert "numba" in caplog.text
    monkeypatch.setattr(
        simplex, "OpenSimplex", simplex.optional_import("opensimplex_is_not_here", name="OpenSimplex")[0]
    )
    with pytest.raises(OptionalImportError, match="opensimplex_is_not_here"):
        simplex_field(0, (4, 4))
