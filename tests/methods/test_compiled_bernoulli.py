"""The compiled loop gives what the plain loop gives."""

from __future__ import annotations

import pytest
import torch
from helpers import CODE_SHAPE, random_code, random_slices, tiny_network
from masked_bernoulli_recording import L, assert_masks_for_real, inferer, method, run_slices
from torch import nn

from scripts.methods import masked_bernoulli
from scripts.methods.compiled_bernoulli import CompiledReverseSteps, _update, compiled_steps, step_tables
from scripts.noise import SliceGenerator, numbers, word_offsets


def run_with(steps, slices, network, **changes):
    """``steps`` in place of those that the mode would give; ``None`` for the plain loop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masked_bernoulli, "compiled_steps", lambda mode: steps)
        mode = None if steps is None else "default"
        return run_slices(inferer(compile_mode=mode, **changes), slices, torch.arange(len(slices)) + 3, network)


@pytest.mark.parametrize("threshold", [0.5, 1.0])
def test_same_bits_as_the_plain_loop(threshold):
    """Traced and split into graphs, but computed by the same kernels, it agrees to the last bit."""
    slices, network = random_slices(3), tiny_network()
    plain = run_with(None, slices, network, probability_threshold=threshold)
    compiled = run_with(CompiledReverseSteps(backend="aot_eager"), slices, network, probability_threshold=threshold)
    assert torch.equal(compiled.mask, plain.mask)
    assert torch.equal(compiled.mask_growth, plain.mask_growth)
    assert torch.equal(compiled.reconstruction, plain.reconstruction)
    if threshold == 0.5:
        assert_masks_for_real(plain)


def test_one_compilation_for_all_steps_and_smaller_batches():
    """Five slices in batches of four: the last one is filled up, and cut again."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    slices, network = random_slices(5), tiny_network()
    plain = run_with(None, slices, network, sw_batch_size=4)
    compiled = run_with(CompiledReverseSteps(backend=backend), slices, network, sw_batch_size=4)
    assert torch.equal(compiled.mask, plain.mask)
    torch.testing.assert_close(compiled.reconstruction, plain.reconstruction, atol=1e-5, rtol=1e-5)
    first = len(graphs)
    assert first > 0
    run = CompiledReverseSteps(backend=backend)
    run_with(run, slices, network, sw_batch_size=4)
    again = len(graphs) - first
    run_with(run, slices, network, sw_batch_size=4, num_inference_steps=3)
    assert len(graphs) == first + again, "other steps must not be compiled anew"


class OneConvolution(nn.Module):
    """A denoiser that compiles quickly."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(CODE_SHAPE[0], CODE_SHAPE[0], 3, padding=1)

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return 3 * self.convolution(x) + timesteps[:, None, None, None] / L - 1


def test_inductor_agrees():
    """The real compiler: rounding may differ, single bits of the code may flip."""
    code, streams = random_code(2), SliceGenerator(3, [0, 7])
    with torch.no_grad():
        plain, compiled = (
            list(method(compile_mode=mode).steps(code, OneConvolution().eval(), streams)) for mode in (None, "default")
        )
    assert len(plain) == len(compiled) == L
    expected, mask, _ = plain[-1]
    result, compiled_mask, _ = compiled[-1]
    assert 0.02 < mask.float().mean() < 0.98
    assert (expected != code).float().mean() > 0.02
    assert (result != expected).float().mean() < 0.002
    assert (compiled_mask != mask).float().mean() < 0.002
    for (*_, share), (*_, other) in zip(plain, compiled, strict=True):
        torch.testing.assert_close(other, share, atol=0.002, rtol=0)


def test_a_mode_is_compiled_once():
    """A search goes through many settings with the same steps."""
    assert compiled_steps("default") is compiled_steps("default")
    assert compiled_steps("default") is not compiled_steps("reduce-overhead")


@pytest.mark.parametrize("steps", [None, CompiledReverseSteps(backend="aot_eager")], ids=["plain", "compiled"])
def test_not_a_number_is_seen(steps):
    """In every step, also where a later one would hide it."""
    network = tiny_network()
    forward, calls = network.denoiser.forward, []

    def broken_once(x, timesteps):
        calls.append(1)
        logits = forward(x, timesteps=timesteps)
        return logits * torch.nan if len(calls) == 2 else logits

    with pytest.MonkeyPatch.context() as patch, pytest.raises(ValueError, match="not a number"):
        if steps is not None:
            steps.update = _update
        patch.setattr(network.denoiser, "forward", broken_once)
        run_with(steps, random_slices(2), network)
    assert len(calls) == L


def test_tables_are_the_loops_own_numbers():
    run, generator = method(), SliceGenerator(3, [4, 9])
    run.scheduler.set_timesteps(4, L)
    times, coefficients, states = step_tables(run.scheduler, 0.25, generator)
    assert times.tolist() == run.scheduler.timesteps.tolist() == [7, 5, 3, 1]
    assert coefficients.dtype == torch.float32
    for row, timestep in enumerate(times.tolist()):
        earlier = run.scheduler.previous_timestep(timestep)
        expected = (*run.scheduler.posterior_coefficients(timestep, earlier), torch.logit(torch.tensor(0.25)).item())
        torch.testing.assert_close(coefficients[row], torch.tensor(expected))
        assert torch.equal(numbers(states[row], word_offsets(7))[:, :7], generator.at(earlier + 1).rand((2, 7)))


def test_a_batch_that_did_not_fit_is_not_filled_up_again():
    """Two slices fit; a compiled loop that padded the halves to four would fail for ever."""
    network, slices, sizes = tiny_network(), random_slices(4), []
    expected = run_with(None, slices, network, sw_batch_size=2)
    forward = network.denoiser.forward

    def scarce(x, timesteps):
        sizes.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(x, timesteps=timesteps)

    steps = CompiledReverseSteps(backend="eager")
    steps.update = _update
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network.denoiser, "forward", scarce)
        output = run_with(steps, slices, network, sw_batch_size=4)
    assert sizes == [4] + 2 * L * [2]
    assert torch.equal(output.mask, expected.mask)
