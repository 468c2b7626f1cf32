from __future__ import annotations

import numpy as np
import pytest

from scripts.evaluation.bins import Bins

ALL_BINS = [Bins(), Bins(0, -3, 2), Bins(3, -126, 127), Bins(23, -1, 0), Bins(5, 2, 4)]


def special_values() -> np.ndarray:
    """Zeros, denormals, powers of two and their float32 neighbours, the extremes; of both signs."""
    tiny = np.float32(np.finfo(np.float32).smallest_subnormal)
    powers = np.float32(2) ** np.arange(-126, 128, dtype=np.float32)
    values = np.concatenate([[0, tiny, 3 * tiny], powers, [np.finfo(np.float32).max]]).astype(np.float32)
    values = np.concatenate(
        [values, np.nextafter(values, np.float32(0)), np.nextafter(values[:-1], np.float32(np.inf))]
    )
    return np.concatenate([values, -values])


def random_values(count: int = 3000) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=count) * 10.0 ** rng.uniform(-12, 6, size=count)).astype(np.float32)


def edge_values(bins: Bins) -> np.ndarray:
    """The lower edges of some bins and their float32 neighbours."""
    edges = np.random.default_rng(1).choice(bins.lower[1:], min(300, bins.count - 1), replace=False)
    edges = np.concatenate([edges, bins.lower[[1, 2, -2, -1]]]).astype(np.float32)
    return np.concatenate([edges, np.nextafter(edges, np.float32(-np.inf)), np.nextafter(edges, np.float32(np.inf))])


@pytest.mark.parametrize("bins", ALL_BINS, ids=str)
def test_index_is_the_last_bin_whose_lower_edge_is_reached(bins):
    values = np.concatenate([special_values(), random_values(), edge_values(bins)])
    assert np.isfinite(values).all()
    index = bins.index(values)
    assert index.dtype == np.int32
    # the same search by comparison of numbers instead of bits
    np.testing.assert_array_equal(index, np.searchsorted(bins.lower, values.astype(np.float64), side="right") - 1)


@pytest.mark.parametrize("bins", ALL_BINS, ids=str)
def test_lower_ascends_and_falls_in_its_own_bin(bins):
    assert bins.lower.shape == (bins.count,)
    assert bins.lower.dtype == np.float64
    assert bins.lower[0] == -np.inf
    assert np.all(np.diff(bins.lower) > 0)
    np.testing.assert_array_equal(bins.index(bins.lower[1:]), np.arange(1, bins.count))


@pytest.mark.parametrize("bins", ALL_BINS, ids=str)
def test_count(bins):
    # magnitudes: the resolved ones and those beyond; of two signs, and zero
    resolved = (bins.max_exponent - bins.min_exponent) * 2**bins.mantissa_bits
    assert bins.count == 2 * (resolved + 1) + 1


@pytest.mark.parametrize("mantissa_bits", [0, 4, 8])
def test_relative_resolution_between_the_exponents(mantissa_bits):
    bins = Bins(mantissa_bits, -24, 8)
    edges = bins.lower[bins.lower >= 2.0**-24]
    width = np.diff(edges) / edges[:-1]
    assert width.max() == 2.0**-mantissa_bits
    assert width.min() > 2.0 ** -(mantissa_bits + 1)
    assert (edges[0], edges[-1]) == (2.0**-24, 2.0**8)


def test_zero_bin_and_last_bins():
    bins = Bins()
    below = np.nextafter(np.float32(2.0**-24), np.float32(0))
    zero = bins.index(np.array([0.0]))[0]
    assert zero == bins.count // 2
    assert bins.index(np.array([-0.0, 1e-45, -1e-45, below, -below])).tolist() == [zero] * 5
    assert bins.index(np.array([2.0**-24, -(2.0**-24)])).tolist() == [zero + 1, zero - 1]
    assert bins.index(np.array([256.0, 1e30, -256.0, -1e30])).tolist() == [bins.count - 1] * 2 + [0, 0]
    assert bins.index(np.array([255.99, -255.99])).tolist() == [bins.count - 2, 1]


def test_monotone_and_mirrored():
    bins = Bins()
    values = np.sort(random_values())
    assert np.all(np.diff(bins.index(values)) >= 0)
    np.testing.assert_array_equal(bins.index(-values), bins.count - 1 - bins.index(values))


def test_bins_do_not_depend_on_the_data():
    bins, values = Bins(), random_values(10)
    np.testing.assert_array_equal(bins.index(values)[3:5], bins.index(values[3:5]))
    assert bins == Bins(8, -24, 8)


def test_shapes_and_memory_order_are_kept():
    bins, values = Bins(), random_values(24).reshape(2, 3, 4)
    index = bins.index(values)
    assert index.shape == (2, 3, 4)
    np.testing.assert_array_equal(bins.index(values.T), index.T)
    np.testing.assert_array_equal(bins.index(values[:, ::2]), index[:, ::2])
    assert bins.index(np.float32(0.5)).shape == ()
    assert bins.index(np.zeros((0, 3))).shape == (0, 3)


def test_values_are_not_changed():
    values = random_values(50)
    before = values.copy()
    Bins().index(values)
    np.testing.assert_array_equal(values, before)


def test_histogram_counts_and_adds_up():
    bins, values = Bins(2, -4, 2), random_values()
    histogram = bins.histogram(values.reshape(3, -1))
    assert histogram.dtype == np.int64
    assert histogram.tolist() == [np.count_nonzero(bins.index(values) == i) for i in range(bins.count)]
    np.testing.assert_array_equal(bins.histogram(values[:100]) + bins.histogram(values[100:]), histogram)
    assert bins.histogram(np.array([])).tolist() == [0] * bins.count


@pytest.mark.parametrize(
    ("values", "message"),
    [([0, np.nan, np.nan, 1], "2 of 4"), ([np.inf, -np.inf, np.nan], "3 of 3"), ([1e300, 0], "1 of 2")],
)
def test_values_that_are_no_numbers_are_counted(values, message):
    with pytest.raises(ValueError, match=f"values.*{message}"):
        Bins().index(np.array(values))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"mantissa_bits": -1}, "mantissa_bits.*-1"),
        ({"mantissa_bits": 24}, "mantissa_bits.*24"),
        ({"min_exponent": -127}, "min_exponent.*-127"),
        ({"max_exponent": 128}, "max_exponent.*128"),
        ({"min_exponent": 3, "max_exponent": 3}, "min_exponent.*3 and 3"),
    ],
)
def test_bad_arguments_are_named(arguments, name):
    with pytest.raises(ValueError, match=name):
        Bins(**arguments)
