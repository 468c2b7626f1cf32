"""Masked Bernoulli diffusion: Algorithm 1, batches and seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import (
    CODE_SHAPE,
    random_code,
    random_slices,
    random_volume,
    tiny_denoiser,
    tiny_network,
    transition,
)
from masked_bernoulli_recording import (
    L,
    RecordingScheduler,
    algorithm_1,
    assert_masks_for_real,
    inferer,
    method,
    recorded,
    recording_network,
    run_slices,
    scheduler,
)

from scripts.methods.masked_bernoulli import QUANTIZE_STEP
from scripts.noise import SliceGenerator

# Algorithm 1


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("n", [None, 3, 1])
def test_equals_transcription_of_algorithm_1(threshold, n):
    times = {None: list(range(L, 0, -1)), 3: [8, 5, 3], 1: [8]}[n]
    network, slices, indices = tiny_network(), random_slices(3), torch.tensor([7, 0, 4])
    run = inferer(probability_threshold=threshold, num_inference_steps=n, sw_batch_size=1)
    output = run_slices(run, slices, indices, network)
    assert_masks_for_real(output)
    for row, index in enumerate(indices.tolist()):
        expected = algorithm_1(slices[row], index, network, times, threshold)
        assert np.array_equal(output.mask[row].numpy(), expected["mask"].astype(bool))
        np.testing.assert_allclose(output.mask_growth[row], expected["growth"], rtol=1e-5)
        assert output.mask_share[row].item() == pytest.approx(expected["mask"].mean(), rel=1e-5)
        torch.testing.assert_close(output.reconstruction[row], expected["x_hat"])
        torch.testing.assert_close(output.anomaly_map[row], expected["a"])
        assert not np.array_equal(expected["z"], expected["z_0"])


@pytest.mark.parametrize("n", [None, 3])
def test_threshold_0_is_the_unmasked_sampler(n):
    times = {None: list(range(L, 0, -1)), 3: [8, 5, 3]}[n]
    network, slices = tiny_network(), random_slices(2)
    run = inferer(probability_threshold=0, num_inference_steps=n, sw_batch_size=1)
    output = run_slices(run, slices, torch.arange(2), network)
    assert output.mask.all()
    assert output.mask_share.tolist() == [1, 1]
    for row in range(2):
        expected = algorithm_1(slices[row], row, network, times, threshold=None)
        torch.testing.assert_close(output.reconstruction[row], expected["x_hat"])
        torch.testing.assert_close(output.anomaly_map[row], expected["a"])


@pytest.mark.parametrize("threshold", [0, 1])
def test_extreme_thresholds_hold_for_certain_networks(threshold):
    """Logits so large that float32's sigmoid is exactly 0 or 1: P = 0 still masks every bit and P = 1 none."""
    network = tiny_network(shift=0, spread=1e4)
    output = run_slices(inferer(probability_threshold=threshold), random_slices(2), torch.arange(2), network)
    assert output.mask_share.tolist() == [1 - threshold] * 2


def test_threshold_1_is_the_autoencoder_alone():
    network, slices, indices = tiny_network(), random_slices(3), torch.tensor([2, 9, 5])
    output = run_slices(inferer(probability_threshold=1), slices, indices, network)
    assert not output.mask.any()
    assert output.mask_share.tolist() == [0, 0, 0]
    with torch.no_grad():
        y = network.autoencoder.encode(slices)
        code = network.autoencoder.quantize(y, SliceGenerator(3, indices, QUANTIZE_STEP))
        x_hat = torch.cat([network.autoencoder.decode(z[None]) for z in code])
    torch.testing.assert_close(output.reconstruction, x_hat)
    torch.testing.assert_close(output.anomaly_map, (slices - x_hat).square().sum(dim=1, keepdim=True))


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_stitching_holds_at_every_step(threshold):
    run = inferer(scheduler=scheduler(RecordingScheduler), probability_threshold=threshold)
    records, output = recorded(run, tiny_network(), random_slices(3))
    assert_masks_for_real(output)
    assert [record["timestep"] for record in records] == list(range(L - 1, -1, -1))
    code, union = records[0]["code"], torch.zeros(3, *CODE_SHAPE, dtype=torch.bool)
    for number, record in enumerate(records):
        mask, prediction = record["mask"], record["prediction"]
        # z never changes, and outside the mask it is the prediction.
        assert torch.equal(record["code"], code)
        assert torch.equal(prediction[~mask], code[~mask])
        free = (record["sample"] - torch.sigmoid(record["logits"])).abs()
        torch.testing.assert_close(prediction[mask], free[mask])
        # M is the union of all eps_hat > P so far, this step's included.
        union |= torch.sigmoid(record["logits"]) > threshold
        assert torch.equal(mask, union)
        assert set(record["previous"].unique().tolist()) == {0.0, 1.0}
        if number:
            assert torch.equal(record["sample"], records[number - 1]["previous"])
    final, mask = records[-1]["previous"], records[-1]["mask"]
    assert torch.equal(final[~mask], code[~mask])
    assert not torch.equal(final[mask], code[mask])
    assert torch.equal(output.mask, mask)


def test_start_is_noised_to_level_l():
    run = inferer(scheduler=scheduler(RecordingScheduler))
    records, _ = recorded(run, tiny_network(), random_slices(3))
    code, start = records[0]["code"], records[0]["sample"]
    eps = SliceGenerator(3, range(3), L).rand(code.shape) < transition(run.method.scheduler.betas.numpy(), 0, L)[0, 1]
    assert torch.equal(start != code, eps)
    assert 0.2 < eps.float().mean() < 0.5


def test_steps_yield_a_growing_mask():
    code = random_code(2)
    with torch.no_grad():
        steps = list(method().steps(code, tiny_denoiser(), SliceGenerator(3, [0, 1])))
    assert len(steps) == L
    for number, (sample, mask, share) in enumerate(steps):
        assert sample.shape == mask.shape == code.shape
        assert mask.dtype == torch.bool
        torch.testing.assert_close(share, mask.float().mean(dim=(1, 2, 3)))
        if number:
            earlier = steps[number - 1][1]
            assert not (earlier & ~mask).any()
    assert (steps[-1][1] & ~steps[0][1]).any(), "a mask that never grows shows nothing"
    assert not steps[-1][1].all()


@pytest.mark.parametrize("n", [None, 3])
def test_a_restoration_is_the_last_step_decoded(n):
    own, network, images = method(num_inference_steps=n), tiny_network(), random_slices(2)
    streams, calls = SliceGenerator(3, [4, 9]), []
    with torch.no_grad():
        y = own.encode(images, network)
        torch.testing.assert_close(y, network.autoencoder.encode(images))
        restored = own.restore(images, y, network, streams, lambda: calls.append(1))
        code = network.autoencoder.quantize(y, streams.at(QUANTIZE_STEP))
        *_, (z_0, mask, _) = own.steps(code, network.denoiser, streams)
        x_hat = network.autoencoder.decode(z_0)
    assert len(calls) == own.passes == (n or L)
    torch.testing.assert_close(restored.reconstruction, x_hat, atol=1e-5, rtol=1e-5)
    assert restored.evidence.keys() == set(own.evidence) == {"mask_density"}
    torch.testing.assert_close(restored.evidence["mask_density"], mask.double().mean(dim=1, keepdim=True).float())
    assert restored.slice_scores.keys() == set(own.slice_scores) == {"mask_share"}
    torch.testing.assert_close(restored.slice_scores["mask_share"], mask.float().flatten(1).mean(dim=1))


@pytest.mark.parametrize(("n", "timesteps"), [(None, [7, 6, 5, 4, 3, 2, 1, 0]), (4, [7, 5, 3, 1]), (1, [7])])
def test_network_calls(n, timesteps):
    network, calls = recording_network()
    output = run_slices(inferer(num_inference_steps=n, sw_batch_size=2), random_slices(3), torch.arange(3), network)
    assert_masks_for_real(output)
    assert [call["timesteps"] for call in calls] == [[t, t] for t in timesteps] + [[t] for t in timesteps]
    assert output.mask_growth.shape == (3, len(timesteps))


def test_loop_stays_on_the_device():
    """The meta device has shapes and no numbers: reading one back, or mixing devices, fails."""
    code, denoiser = random_code(2).to("meta"), tiny_denoiser().to("meta")
    with torch.no_grad():
        steps = list(method().steps(code, denoiser, SliceGenerator(3, [0, 1], device="meta")))
    assert len(steps) == L
    assert {tensor.device.type for step in steps for tensor in step} == {"meta"}


# Batches and seeds


def test_batch_equals_single_runs():
    run, network = inferer(sw_batch_size=4), tiny_network()
    slices, indices = random_slices(4), torch.tensor([3, 0, 12, 5])
    batch = run_slices(run, slices, indices, network)
    assert_masks_for_real(batch)
    for row in range(4):
        single = run_slices(run, slices[row : row + 1], indices[row : row + 1], network)
        assert torch.equal(single.mask[0], batch.mask[row])
        torch.testing.assert_close(single.reconstruction[0], batch.reconstruction[row], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(single.anomaly_map[0], batch.anomaly_map[row], atol=1e-5, rtol=1e-5)
    code, own = random_code(4), run.method
    with torch.no_grad():
        *_, (together, _, _) = own.steps(code, network.denoiser, SliceGenerator(3, indices))
        for row, index in enumerate(indices.tolist()):
            *_, (alone, _, _) = own.steps(code[row : row + 1], network.denoiser, SliceGenerator(3, [index]))
            assert torch.equal(alone[0], together[row])


def test_noise_belongs_to_the_slice_index():
    """The same image at two places of a volume gets different noise."""
    twice = random_slices(1).repeat(2, 1, 1, 1)
    output = run_slices(inferer(), twice, torch.tensor([0, 1]), tiny_network())
    assert not torch.equal(output.mask[0], output.mask[1])
    output = run_slices(inferer(), twice, torch.tensor([1, 1]), tiny_network())
    assert torch.equal(output.mask[0], output.mask[1])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_sw_batch_size_does_not_matter(size):
    network, calls = recording_network()
    slices, indices = random_slices(5), torch.arange(5)
    expected = run_slices(inferer(sw_batch_size=5), slices, indices, tiny_network())
    output = run_slices(inferer(sw_batch_size=size), slices, indices, network)
    assert max(call["batch"] for call in calls) == min(size, 5)
    assert len(calls) == L * math.ceil(5 / size)
    assert torch.equal(output.mask, expected.mask)
    torch.testing.assert_close(output.mask_growth, expected.mask_growth)
    torch.testing.assert_close(output.reconstruction, expected.reconstruction, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.anomaly_map, expected.anomaly_map, atol=1e-5, rtol=1e-5)


def test_seed_decides():
    network, slices = tiny_network(), random_slices(2)
    first = run_slices(inferer(seed=1), slices, torch.arange(2), network)
    torch.manual_seed(99)
    again = run_slices(inferer(seed=1), slices, torch.arange(2), network)
    other = run_slices(inferer(seed=2), slices, torch.arange(2), network)
    assert all(torch.equal(value, getattr(again, key)) for key, value in vars(first).items())
    assert not any(torch.equal(value, getattr(other, key)) for key, value in vars(first).items())


def test_global_random_state_is_left_alone():
    state = torch.get_rng_state()
    inferer()(random_slices(1), tiny_network())
    assert torch.equal(state, torch.get_rng_state())


def test_methods_may_share_a_scheduler():
    """Another method's level in between must not change this one's."""
    shared, network, volume = scheduler(), tiny_network(), random_volume(1)
    long = inferer(scheduler=shared)
    expected = long.run_volume(volume, network)
    inferer(scheduler=shared, noise_level=3, num_inference_steps=2).run_volume(volume, network)
    again = long.run_volume(volume, network)
    assert torch.equal(expected.anomaly_map, again.anomaly_map)
