"""What is kept of a method's maps, against counts over pixels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score
from small_study import Study, make_body, seen

from scripts.evaluation.bins import Bins
from scripts.evaluation.lesions import detect
from scripts.evaluation.sources import SubjectMaps
from scripts.evaluation.statistics import HISTOGRAMS, MethodStatistics, slice_quality
from scripts.evaluation.subjects import LabelledSubject

BINS = Bins()


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory):
    """Two subjects as the reader gives them, and as they should be."""
    bodies = [make_body("a", 0, thin=(0,)), make_body("b", 2, (0, 5), "AIR")]
    study = Study(tmp_path_factory.mktemp("study"), bodies)
    maps, reader = study.maps(0), study.get("reader", "unused")
    subjects = [reader(item) for item in study.get("datalist", "unused")]
    return subjects, [seen(body, maps[body.name]) for body in bodies]


@pytest.fixture
def statistics(read) -> MethodStatistics:
    result = MethodStatistics(BINS)
    for subject, expected in zip(*read, strict=True):
        maps = SubjectMaps(
            expected.raw, slice_scores={"mask_share": expected.mask_share} if subject.name == "a" else {}
        )
        result.add(subject, maps, expected.smooth, [{"psnr": 20.0 + k} for k in range(len(subject.slices))])
    return result


def test_histograms_share_out_all_pixels(statistics, read):
    for place, s in enumerate(read[1]):
        ill = np.broadcast_to(s.label.any(axis=(0, 1)), s.label.shape)
        where = {
            "lesion": s.label & s.foreground,
            "healthy_slices": s.foreground & ~ill,
            "diseased_slices": s.foreground & ill & ~s.label,
            "lesion_outside": s.label & ~s.foreground,
            "outside": ~s.label & ~s.foreground,
        }
        # Every pixel is in one of them.
        np.testing.assert_array_equal(sum(w.astype(int) for w in where.values()), 1)
        for name, chosen in where.items():
            np.testing.assert_array_equal(statistics.histograms[name][place], BINS.histogram(s.smooth[chosen]))
    assert all(np.sum(statistics.histograms[name]) > 0 for name in HISTOGRAMS)
    both = statistics.histogram("lesion", "outside")
    assert both.shape == (2, BINS.count) and both.dtype == np.float64
    np.testing.assert_array_equal(both[1], statistics.histograms["lesion"][1] + statistics.histograms["outside"][1])
    assert set(statistics.histograms) == set(HISTOGRAMS)


def test_every_lesion_of_a_slice_weighs_one(statistics, read):
    for place, s in enumerate(read[1]):
        shares, count = np.zeros(BINS.count), 0
        for k in range(s.label.shape[2]):
            numbers, found = ndimage.label(s.label[..., k], np.ones((3, 3)))
            for number in range(1, found + 1):
                histogram = BINS.histogram(s.smooth[..., k][numbers == number])
                shares += histogram / histogram.sum()
            count += found
        assert statistics.regions[place] == count > 1
        np.testing.assert_allclose(statistics.histograms["regions"][place], shares, atol=1e-6)


def test_rows_describe_slices(statistics, read):
    assert statistics.groups.tolist() == [0] * 5 + [1] * 6
    expected = [(s, k) for s in read[1] for k in range(s.label.shape[2])]
    for row, (s, k) in zip(statistics.rows, expected, strict=True):
        label, values = s.label[..., k], s.smooth[..., k][s.foreground[..., k]]
        assert row["subject"] == s.body.name
        assert row["slice"] == (k + 1 if s.body.name == "a" else 5 - k)
        assert row["height"] == pytest.approx(s.heights[k])
        assert (row["diseased"], row["lesion_pixels"]) == (int(label.any()), label.sum())
        assert row["foreground_pixels"] == values.size
        assert row["map_mean"] == pytest.approx(values.mean(), rel=1e-6)
        assert row["map_quantile"] == pytest.approx(np.quantile(values, 0.99), rel=1e-6)
        assert row["psnr"] == 20 + k
        if label.any():
            whole = average_precision_score(label.ravel(), BINS.index(s.smooth[..., k]).ravel())
            assert row["average_precision"] == pytest.approx(whole)
        else:
            assert np.isnan(row["average_precision"])
    # The second subject has no scores of its own.
    assert statistics.slice_scores == ["mask_share"]
    shares = statistics.column("mask_share")
    np.testing.assert_allclose(shares[:5], read[1][0].mask_share)
    assert np.isnan(shares[5:]).all()
    assert np.isnan(statistics.column("nothing")).all()


def test_overlaps_belong_to_their_subject_and_slice(statistics, read):
    s = read[1][1]
    thresholds = np.array([0.2, np.nan, 0.0, 0.5, 9.0, 0.1])
    seen_by_drop = []

    def drop(segmentation):
        seen_by_drop.append(segmentation)
        # One pixel fewer than was predicted.
        return segmentation & (np.cumsum(segmentation.reshape(-1)).reshape(segmentation.shape) > 1)

    found = statistics.add_overlaps(1, s.smooth, s.label, "rule", thresholds, drop)
    np.testing.assert_array_equal(seen_by_drop[0], s.smooth > thresholds)
    assert found.sum() == seen_by_drop[0].sum() - 1
    for k, row in enumerate(statistics.rows[5:]):
        if k == 1:
            assert "tp_rule" not in row and "dice_rule" not in row
            continue
        predicted, label = found[..., k], s.label[..., k]
        assert row["tp_rule"] == (predicted & label).sum()
        assert row["fp_rule"] == (predicted & ~label).sum()
        assert row["fn_rule"] == (~predicted & label).sum()
        assert row["tn_rule"] == (~predicted & ~label).sum()
    assert statistics.rows[9]["dice_rule"] == 1  # healthy, and nothing is predicted
    assert statistics.rows[7]["dice_rule"] == 0  # healthy, and something is
    assert not any("tp_rule" in row for row in statistics.rows[:5])


def test_a_missing_threshold_is_not_one_that_finds_nothing(statistics, read):
    for s, calibrated in zip(read[1], (np.nan, 0.3), strict=True):
        statistics.add_detections(s.smooth, s.label, calibrated, np.array([0.4, 0.2]), 0)
    assert statistics.calibrated == [False, True]
    first, second = statistics.detections
    assert not first.hit[:, 0].any() and first.false_positives[0] == 0
    expected = detect(read[1][1].smooth, read[1][1].label, [0.3, 0.4, 0.2])
    np.testing.assert_array_equal(second.hit, expected.hit)
    np.testing.assert_array_equal(second.false_positives, expected.false_positives)
    assert second.hit[:, 0].any()


def test_quality_without_a_reconstruction_and_of_small_slices(read):
    subject = read[0][0]
    assert slice_quality(subject, None) == [{}] * 5
    rows = slice_quality(subject, subject.image)
    assert all(row["psnr"] == np.inf and row["ssim_healthy"] == pytest.approx(1) for row in rows)
    # The window of SSIM does not fit in ten pixels.
    small = {k: getattr(subject, k) for k in LabelledSubject.__dataclass_fields__}
    small |= {"image": subject.image[:, :10], "label": subject.label[:10]}
    rows = slice_quality(LabelledSubject(**small), subject.image[:, :10] * 0.5)
    assert all(np.isnan(row["ssim_healthy"]) and np.isfinite(row["psnr_healthy"]) for row in rows)
