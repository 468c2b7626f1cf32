from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from helpers import enlarged, residual_slices
from scipy import ndimage
from skimage.metrics import structural_similarity

from scripts.describe import describe
from scripts.scores import (
    absolute_residual,
    bright_sequence,
    evidence_map,
    mask_density,
    needs,
    product,
    resize_evidence,
    signed_residual,
    squared_residual,
    structural_dissimilarity,
    weighted_sum,
)

SIZE, CODE = 32, 8

SCORES = {
    "squared": squared_residual,
    "weighted squared": partial(squared_residual, weights=[2, 0.5]),
    "absolute": partial(absolute_residual, weights=[0, 3]),
    "signed": partial(signed_residual, weights=[1, -0.5]),
    "smooth signed": partial(signed_residual, weights=[1, -0.5], sigma=2),
    "structure": structural_dissimilarity,
    "density": mask_density,
    "smooth density": partial(mask_density, sigma=1.5),
    "bright": partial(bright_sequence, channel=1),
    "product": partial(product, scores=[squared_residual, mask_density]),
    "sum": partial(weighted_sum, scores=[absolute_residual, mask_density], weights=[1, 2]),
}


def gaussian(plane: np.ndarray, sigma: float) -> np.ndarray:
    """By scipy, whose kernel is sampled at the pixels' centres; the width of a pixel adds to the variance."""
    return ndimage.gaussian_filter(plane, np.sqrt(sigma**2 + 1 / 12), mode="constant", truncate=4) if sigma else plane


def planes(result: torch.Tensor) -> np.ndarray:
    """(B, H, W) of a score's result."""
    assert result.dtype == torch.float32
    assert result.ndim == 4 and result.shape[1] == 1
    return result[:, 0].numpy()


def test_known_numbers():
    image = torch.tensor([[[[0.0, 1.0]], [[0.5, 0.25]]]])
    reconstruction = torch.tensor([[[[0.5, 0.0]], [[0.5, 0.75]]]])
    assert squared_residual(image, reconstruction).tolist() == [[[[0.25, 1.25]]]]


@pytest.mark.parametrize("channels", [1, 4])
def test_equals_loop(channels):
    rng = np.random.default_rng(channels)
    image, reconstruction = rng.random((2, 3, channels, 5, 6))
    result = squared_residual(torch.tensor(image), torch.tensor(reconstruction))
    assert result.shape == (3, 1, 5, 6)
    assert result.dtype == torch.float32
    for b, y, x in np.ndindex(3, 5, 6):
        total = sum((image[b, c, y, x] - reconstruction[b, c, y, x]) ** 2 for c in range(channels))
        assert result[b, 0, y, x].item() == pytest.approx(total, abs=1e-6)


def test_bounds():
    zeros, ones = torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2)
    assert not squared_residual(ones, ones).any()
    assert (squared_residual(zeros, ones) == 4).all()
    assert (squared_residual(ones, zeros) == 4).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_squared_in_single(dtype):
    # 1 + 1/256 needs one bit more than bfloat16 has; 0.0002 squared is below float16's smallest number.
    image = torch.tensor([1.0, 0.0625], dtype=dtype).reshape(1, 2, 1, 1)
    result = squared_residual(image, torch.zeros_like(image))
    assert result.dtype == torch.float32
    assert result.item() == 1 + 1 / 256
    faint = torch.full((1, 1, 1, 1), 2e-4, dtype=dtype)
    assert squared_residual(faint, torch.zeros_like(faint)).item() == pytest.approx(4e-8, rel=0.01)


def test_evidence_is_not_used():
    image, reconstruction = torch.rand(1, 2, 4, 4), torch.rand(1, 2, 4, 4)
    given = [None, {}, {"mask_density": torch.ones(1, 1, 4, 4)}]
    first, *others = [squared_residual(image, reconstruction, evidence) for evidence in given]
    assert all(torch.equal(first, other) for other in others)


class TestEveryScore:
    @pytest.mark.parametrize("name", SCORES)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_shape_type_and_sign(self, name, dtype):
        image, reconstruction, evidence = residual_slices()
        result = SCORES[name](image.to(dtype), reconstruction.to(dtype), evidence)
        assert result.shape == (3, 1, SIZE, SIZE)
        assert result.dtype == torch.float32
        assert result.isfinite().all()
        assert result.min() >= 0
        assert result.max() > 0.05
        single = SCORES[name](image.to(dtype).float(), reconstruction.to(dtype).float(), evidence)
        torch.testing.assert_close(result, single)

    @pytest.mark.parametrize("name", SCORES)
    def test_a_batch_equals_its_single_runs(self, name):
        image, reconstruction, evidence = residual_slices()
        image[1, :, 8:] *= 0.2
        whole = SCORES[name](image, reconstruction, evidence)
        for row in range(3):
            one = slice(row, row + 1)
            torch.testing.assert_close(
                whole[one], SCORES[name](image[one], reconstruction[one], {k: v[one] for k, v in evidence.items()})
            )
        assert not torch.allclose(whole[0], whole[1], atol=0.01)

    @pytest.mark.parametrize("name", SCORES)
    def test_inputs_stay_as_they_were(self, name):
        given = residual_slices()
        before = [given[0].clone(), given[1].clone(), given[2]["mask_density"].clone()]
        SCORES[name](*given)
        after = [*given[:2], given[2]["mask_density"]]
        assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))

    @pytest.mark.parametrize("name", SCORES)
    def test_a_perfect_reconstruction_of_a_constant_image(self, name):
        """Only the mask can tell anything then."""
        image = torch.full((1, 2, SIZE, SIZE), 0.6)
        evidence = {"mask_density": torch.ones(1, 1, SIZE, SIZE)}
        result = SCORES[name](image, image.clone(), evidence)
        wanted = {"density": 1.0, "smooth density": 1.0, "sum": 2.0}.get(name, 0.0)
        # Gaussians fade towards the border.
        torch.testing.assert_close(result[..., 8:-8, 8:-8], torch.full((1, 1, 16, 16), wanted), atol=1e-3, rtol=0)

    @pytest.mark.parametrize("name", [name for name in SCORES if name not in ("density", "smooth density")])
    def test_channels_are_not_mixed_up(self, name):
        """Swapping them changes what a score finds, unless it treats them alike."""
        image, reconstruction, evidence = residual_slices()
        swapped = SCORES[name](image.flip(1), reconstruction.flip(1), evidence)
        alike = torch.allclose(swapped, SCORES[name](image, reconstruction, evidence), atol=1e-4)
        assert alike == (name in ("squared", "structure", "product", "sum"))


@pytest.mark.parametrize(("score", "function"), [(squared_residual, np.square), (absolute_residual, np.abs)])
@pytest.mark.parametrize("weights", [None, [1, 1], [0.25, 2], [0, 1]])
def test_residuals_against_numpy(score, function, weights):
    image, reconstruction, _ = residual_slices()
    result = planes(score(image, reconstruction, weights=weights))
    channels = function(image.numpy().astype(np.float64) - reconstruction.numpy())
    shares = [1, 1] if weights is None else weights
    assert np.allclose(result, shares[0] * channels[:, 0] + shares[1] * channels[:, 1], atol=1e-6)


class TestSigned:
    @pytest.mark.parametrize("weights", [[1, 0], [0.5, -1.5], [-1, -1]])
    @pytest.mark.parametrize("sigma", [0, 1.5, 3])
    def test_against_scipy(self, weights, sigma):
        image, reconstruction, _ = residual_slices()
        result = planes(signed_residual(image, reconstruction, weights=weights, sigma=sigma))
        for found, x, x_hat in zip(result, image.double().numpy(), reconstruction.double().numpy(), strict=True):
            difference = weights[0] * (x[0] - x_hat[0]) + weights[1] * (x[1] - x_hat[1])
            wanted = gaussian(difference, sigma).clip(0)
            assert np.allclose(found, wanted, atol=3e-4 if sigma else 1e-6)
            assert found.std() > 0.01

    @pytest.mark.parametrize("sigma", [1.0, 2.0, 3.5])
    def test_sigma_is_a_standard_deviation_in_pixels(self, sigma):
        image = torch.zeros(1, 1, 65, 65)
        image[0, 0, 32, 32] = 1
        found = planes(signed_residual(image, torch.zeros_like(image), weights=[1], sigma=sigma))[0]
        distances = np.arange(65) - 32
        for axis in (0, 1):
            variance = (found.sum(axis=axis) * distances**2).sum()
            assert np.sqrt(variance - 1 / 12) == pytest.approx(sigma, rel=0.01)
        assert found.sum() == pytest.approx(1, abs=1e-3)

    @pytest.mark.parametrize("sigma", [0, 2])
    def test_bright_lesions_are_found_and_dark_ones_are_not(self, sigma):
        reconstruction = torch.full((1, 2, SIZE, SIZE), 0.5)
        image = reconstruction.clone()
        image[0, 0, 8:14, 6:12] += 0.3  # bright on the first channel
        image[0, 0, 20:26, 18:24] -= 0.3  # dark on it
        bright, dark = (slice(9, 13), slice(7, 11)), (slice(21, 25), slice(19, 23))
        found = planes(signed_residual(image, reconstruction, weights=[1, 0], sigma=sigma))[0]
        assert found[bright].min() > 0.1
        assert found[dark].max() == 0
        turned = planes(signed_residual(image, reconstruction, weights=[-1, 0], sigma=sigma))[0]
        assert turned[bright].max() == 0
        assert turned[dark].min() > 0.1
        assert not signed_residual(image, reconstruction, weights=[0, 1], sigma=sigma).any()
        squared = planes(squared_residual(image, reconstruction))[0]
        assert squared[dark].min() == pytest.approx(squared[bright].min())

    def test_a_negative_weight_adds_what_is_dark(self):
        """Bright on FLAIR and dark on T1 is more than either alone; bright on both is nothing."""
        reconstruction = torch.full((1, 2, 1, 3), 0.5)
        image = reconstruction + torch.tensor([[[0.2, 0.2, 0.2]], [[0.0, -0.2, 0.4]]])
        found = planes(signed_residual(image, reconstruction, weights=[1, -0.5]))[0, 0]
        assert found == pytest.approx([0.2, 0.3, 0], abs=1e-6)

    def test_the_gaussian_comes_before_the_sign_is_lost(self):
        """What is as often above as below its reconstruction cancels, as noise does."""
        reconstruction = torch.full((1, 1, SIZE, SIZE), 0.5)
        signs = torch.from_numpy(np.indices((SIZE, SIZE)).sum(axis=0) % 2) * 2 - 1
        found = planes(signed_residual(reconstruction + 0.4 * signs, reconstruction, weights=[1], sigma=2))[0]
        assert found[9:-9, 9:-9].max() < 0.001


class TestStructure:
    @pytest.mark.parametrize("weights", [None, [1, 1], [3, 1], [0, 0.2]])
    def test_against_skimage(self, weights):
        image, reconstruction, _ = residual_slices()
        reconstruction = 0.6 * image + 0.4 * reconstruction
        result = planes(structural_dissimilarity(image, reconstruction, weights=weights))
        shares = np.array([0.5, 0.5]) if weights is None else np.array(weights) / sum(weights)
        for found, x, x_hat in zip(result, image.double().numpy(), reconstruction.double().numpy(), strict=True):
            wanted = np.zeros((SIZE, SIZE))
            for share, a, b in zip(shares, x, x_hat, strict=True):
                a, b = (np.pad(array, 5, mode="edge") for array in (a, b))
                _, similarity = structural_similarity(
                    a, b, win_size=7, data_range=1, use_sample_covariance=False, full=True
                )
                wanted += share * (1 - similarity[5:-5, 5:-5]) / 2
            assert np.allclose(found, wanted, atol=1e-4)
            assert wanted.std() > 0.02

    def test_bounds(self):
        rng = torch.Generator().manual_seed(0)
        image = torch.rand(1, 1, SIZE, SIZE, generator=rng)
        inverse = structural_dissimilarity(image, 1 - image)
        assert 0.9 < inverse[..., 8:-8, 8:-8].mean() <= inverse.max() <= 1
        torch.testing.assert_close(structural_dissimilarity(image, image), torch.zeros_like(image), atol=1e-4, rtol=0)


class TestEvidence:
    @pytest.mark.parametrize("sigma", [0, 1.5])
    @pytest.mark.parametrize("score", [mask_density, partial(evidence_map, name="mask_density")])
    def test_density_against_numpy(self, score, sigma):
        image, reconstruction, _ = residual_slices()
        mask = np.random.default_rng(5).random((3, 6, CODE, CODE)) < 0.4
        given = torch.from_numpy(mask.mean(axis=1, keepdims=True))
        evidence = {"mask_density": resize_evidence(given, image.shape[2:])}
        result = planes(score(image, reconstruction, evidence, sigma=sigma))
        for found, m in zip(result, mask, strict=True):
            wanted = gaussian(enlarged(m.mean(axis=0), SIZE), sigma)
            assert np.allclose(found, wanted, atol=3e-4 if sigma else 1e-6)
            assert found.std() > 0.05
            assert found.max() <= 1

    def test_a_map_is_the_sum_over_its_channels_and_not_negative(self):
        image, reconstruction, _ = residual_slices()
        values = torch.randn(3, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        found = planes(evidence_map(image, reconstruction, {"kl": values}, name="kl"))
        assert np.allclose(found, values.double().numpy().sum(axis=1).clip(0), atol=1e-5)
        assert (found == 0).any() and (found > 0).any()

    def test_evidence_of_the_images_size_is_not_interpolated(self):
        evidence = torch.rand(2, 4, 9, 7, generator=torch.Generator().manual_seed(0))
        assert torch.equal(resize_evidence(evidence, (9, 7)), evidence)

    def test_images_need_not_be_square(self):
        evidence = torch.zeros(1, 2, 6, 4)
        evidence[0, :, 5, 0] = 1
        found = resize_evidence(evidence, (24, 16))
        assert found.shape == (1, 2, 24, 16)
        for channel in found[0].numpy():
            assert np.unravel_index(channel.argmax(), channel.shape) in [(22, 0), (22, 1), (23, 0), (23, 1)]

    @pytest.mark.parametrize(
        "score",
        [
            mask_density,
            partial(product, scores=[squared_residual, mask_density]),
            partial(evidence_map, name="mask_density"),
        ],
    )
    @pytest.mark.parametrize(("evidence", "there"), [(None, "none"), ({}, "none"), ({"kl": None, "x": None}, "kl, x")])
    def test_without_the_evidence(self, score, evidence, there):
        image, reconstruction, _ = residual_slices()
        message = f"needs the evidence 'mask_density'; the method or its stored results have {there}"
        with pytest.raises(ValueError, match=message):
            score(image, reconstruction, evidence)

    def test_what_scores_need(self):
        nested = partial(product, scores=[partial(evidence_map, name="kl"), partial(mask_density, sigma=2)])
        both = partial(weighted_sum, scores=[nested, squared_residual, mask_density], weights=[1, 1, 1])
        assert needs(squared_residual) == needs(partial(signed_residual, weights=[1])) == ()
        assert needs(mask_density) == needs(partial(mask_density, sigma=1)) == ("mask_density",)
        assert needs(both) == ("kl", "mask_density")


class TestBrightSequence:
    @pytest.mark.parametrize("channel", [0, 1])
    @pytest.mark.parametrize("sigma", [0, 2])
    def test_against_numpy(self, channel, sigma):
        image, _, _ = residual_slices(channels=2)
        image[0, 0, 10:20] = 0  # still foreground: the other channel is not 0 there
        image[2, :, :, 12:] = 0
        result = planes(bright_sequence(image, channel=channel, sigma=sigma))
        for found, x in zip(result, image.double().numpy(), strict=True):
            foreground = (x > 0).any(axis=0)
            values = np.sort(x[channel][foreground])
            # The lower of the two middle ones where their number is even.
            wanted = (x[channel] - values[(len(values) - 1) // 2]).clip(0)
            assert np.allclose(found, gaussian(wanted, sigma), atol=3e-4 if sigma else 1e-6)
            assert found.std() > 0.01

    def test_a_bright_lesion_is_the_brightest_and_a_dark_one_is_0(self):
        image = torch.zeros(1, 2, SIZE, SIZE)
        image[:, :, 4:28, 4:28] = 0.5
        image[0, 1, 8:12, 8:12], image[0, 1, 20:24, 20:24] = 0.9, 0.1
        found = planes(bright_sequence(image, channel=1, sigma=0))[0]
        assert found.max() == pytest.approx(0.4)
        assert (found > 0).sum() == 16 and (found[8:12, 8:12] > 0).all()
        assert not bright_sequence(image, channel=0).any()

    def test_each_slice_has_a_median_of_its_own(self):
        image = torch.ones(2, 1, 8, 8) * torch.tensor([0.2, 0.8]).reshape(2, 1, 1, 1)
        assert not bright_sequence(image, channel=0, sigma=0).any()

    def test_a_slice_without_foreground(self):
        image, _, _ = residual_slices()
        image[1] = 0
        found = bright_sequence(image, channel=0)
        assert not found[1].any()
        assert found[0].any() and found[2].any()
        assert found.isfinite().all()

    def test_the_background_is_not_bright_by_itself(self):
        """Where the sequence's foreground lies below 0 nothing else is above it."""
        image = torch.zeros(1, 2, 8, 8)
        image[0, 0, 2:6, 2:6], image[0, 1, 2:6, 2:6] = -1.0, 0.5
        assert not bright_sequence(image, channel=0, sigma=0).any()


class TestSeveral:
    def test_product_is_the_geometric_mean(self):
        image, reconstruction, evidence = residual_slices()
        parts = [squared_residual, SCORES["signed"], mask_density]
        maps = [planes(part(image, reconstruction, evidence)).astype(np.float64) for part in parts]
        result = planes(product(image, reconstruction, evidence, scores=parts))
        assert np.allclose(result, np.cbrt(maps[0] * maps[1] * maps[2]), atol=1e-5)
        assert not result[maps[1] == 0].any() and (maps[1] == 0).any()
        torch.testing.assert_close(
            product(image, reconstruction, evidence, scores=parts[:1]), squared_residual(image, reconstruction)
        )

    def test_sum(self):
        image, reconstruction, evidence = residual_slices()
        parts, weights = [squared_residual, SCORES["bright"], mask_density], [0.5, 0, 3]
        maps = [planes(part(image, reconstruction, evidence)) for part in parts]
        result = planes(weighted_sum(image, reconstruction, evidence, scores=parts, weights=weights))
        assert np.allclose(result, 0.5 * maps[0] + 3 * maps[2], atol=1e-6)

    def test_nested(self):
        image, reconstruction, evidence = residual_slices()
        both = partial(weighted_sum, scores=[squared_residual, absolute_residual], weights=[1, 1])
        result = product(image, reconstruction, evidence, scores=[both, mask_density])
        difference = (image - reconstruction).abs()
        total = (difference.square() + difference).sum(dim=1, keepdim=True)
        torch.testing.assert_close(result, (total * mask_density(image, reconstruction, evidence)).sqrt())


class TestErrors:
    @pytest.mark.parametrize(
        "score", [squared_residual, absolute_residual, signed_residual, structural_dissimilarity], ids=describe
    )
    @pytest.mark.parametrize("weights", [[], [1], [1, 2, 3]])
    def test_another_number_of_weights(self, score, weights):
        image, reconstruction, _ = residual_slices()
        with pytest.raises(ValueError, match="weights: one for each of 2 channels is needed") as caught:
            score(image, reconstruction, weights=weights)
        assert str(weights) in str(caught.value)

    def test_another_number_of_weights_than_scores(self):
        image, reconstruction, _ = residual_slices()
        with pytest.raises(ValueError, match=r"weights: one for each of 1 .*got \[1, 2\]"):
            weighted_sum(image, reconstruction, scores=[squared_residual], weights=[1, 2])

    @pytest.mark.parametrize(
        "score",
        [
            squared_residual,
            absolute_residual,
            structural_dissimilarity,
            partial(weighted_sum, scores=[squared_residual, absolute_residual]),
        ],
        ids=lambda score: str(describe(score)),
    )
    @pytest.mark.parametrize("weights", [[1, -0.5], [-1, -1], [1, -1]])
    def test_negative_weights_are_for_signed_residuals(self, score, weights):
        image, reconstruction, _ = residual_slices()
        with pytest.raises(ValueError, match=r"weights: at least 0 is needed.*signed_residual takes signs") as caught:
            score(image, reconstruction, weights=weights)
        assert str(weights) in str(caught.value)

    def test_structure_of_no_channel(self):
        image, reconstruction, _ = residual_slices()
        with pytest.raises(ValueError, match=r"weights: one above 0 is needed, got \[0, 0\]"):
            structural_dissimilarity(image, reconstruction, weights=[0, 0])
