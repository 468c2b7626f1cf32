from __future__ import annotations

import itertools

import numpy as np
import pytest
from monai.metrics import compute_froc_score

from scripts.evaluation.lesions import Detections, by_size, components, detect, froc, sensitivity_at


def slow_components(mask: np.ndarray) -> list[set[tuple[int, ...]]]:
    """Sets of voxels, by flooding from each voxel to its 26 neighbours."""
    left, found = set(map(tuple, np.argwhere(mask).tolist())), []
    steps = list(itertools.product((-1, 0, 1), repeat=3))
    while left:
        border = [min(left)]
        left.discard(border[0])
        found.append(set(border))
        while border:
            voxel = border.pop()
            near = {tuple(v + s for v, s in zip(voxel, step, strict=True)) for step in steps} & left
            left -= near
            found[-1] |= near
            border.extend(near)
    return found


def slow_detect(anomaly_map, label, thresholds, min_voxels=0, where=None, min_overlap=0.0):
    """Sizes, hits and false positives with sets of voxels, lesions in scan order."""
    inside = set(map(tuple, np.argwhere(np.ones(label.shape) if where is None else where).tolist()))
    lesions = [lesion & inside for lesion in slow_components(label) if lesion & inside]
    hits, false_positives = [], []
    for threshold in thresholds:
        predicted = anomaly_map > threshold
        if where is not None:
            predicted = predicted & where
        found = [c for c in slow_components(predicted) if len(c) >= min_voxels]
        false_positives.append(sum(not any(c & lesion for lesion in lesions) for c in found))
        voxels = set().union(*found)
        hits.append([bool(lesion & voxels) and len(lesion & voxels) / len(lesion) >= min_overlap for lesion in lesions])
    return [len(lesion) for lesion in lesions], np.array(hits).T.reshape(len(lesions), -1), false_positives


def blobs(seed: int, share: float, shape: tuple[int, ...] = (9, 8, 6)) -> np.ndarray:
    """Boolean volume of small pieces."""
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < share
    return mask | (np.roll(mask, 1, axis=0) & (rng.random(shape) < 0.5))


def random_map(seed: int, shape: tuple[int, ...] = (9, 8, 6)) -> np.ndarray:
    """Sparse map of a few values, with single voxels and pieces, that covers parts of ``blobs(seed, 0.015)``."""
    rng = np.random.default_rng(seed + 100)
    there = blobs(seed + 200, 0.08, shape) | (blobs(seed, 0.015, shape) & (rng.random(shape) < 0.6))
    return np.where(there, rng.integers(1, 9, shape) / 4, 0).astype(np.float32)


def spots(*voxels: tuple[int, int, int], shape: tuple[int, ...] = (8, 8, 8)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    for voxel in voxels:
        mask[voxel] = True
    return mask


@pytest.mark.parametrize("seed", range(4))
def test_components_equal_flooding(seed):
    mask = blobs(seed, 0.04)
    numbered, count = components(mask)
    assert numbered.dtype == np.int32
    sets = [set(map(tuple, np.argwhere(numbered == i).tolist())) for i in range(1, count + 1)]
    assert sorted(map(sorted, sets)) == sorted(map(sorted, slow_components(mask)))
    np.testing.assert_array_equal(numbered > 0, mask)


def test_voxels_that_share_a_corner_are_connected():
    assert components(spots((1, 1, 1), (2, 2, 2)))[1] == 1
    assert components(spots((1, 1, 1), (2, 2, 3)))[1] == 2
    assert components(spots((0, 0, 0), (7, 7, 7)))[1] == 2


def test_no_component():
    numbered, count = components(np.zeros((3, 4, 5), dtype=bool))
    assert (count, numbered.shape, numbered.any()) == (0, (3, 4, 5), False)


@pytest.mark.parametrize("min_voxels", [0, 1, 2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_detections_equal_a_loop_over_sets_of_voxels(seed, min_voxels):
    label, anomaly_map = blobs(seed, 0.015), random_map(seed)
    thresholds = [1.5, -1, 0, 0.25, 1, 2, 9]
    for where, min_overlap in ((None, 0.0), (blobs(seed + 50, 0.5), 0.0), (None, 0.5), (blobs(seed + 50, 0.5), 1.0)):
        result = detect(anomaly_map, label, thresholds, min_voxels, where, min_overlap)
        sizes, hit, false_positives = slow_detect(anomaly_map, label, thresholds, min_voxels, where, min_overlap)
        assert sorted(zip(result.sizes, result.hit.tolist(), strict=True)) == sorted(
            zip(sizes, hit.tolist(), strict=True)
        )
        assert result.false_positives.tolist() == false_positives


def test_loop_has_cases_of_every_kind():
    """The comparison above must see found, missed and partly covered lesions, and false alarms large and small."""
    results = [slow_detect(random_map(s), blobs(s, 0.015), [0, 1, 2], m) for s in range(4) for m in (0, 4)]
    hits = np.concatenate([hit.ravel() for _, hit, _ in results])
    assert 0.1 < hits.mean() < 0.9
    alarms = [sum(false_positives) for _, _, false_positives in results]
    assert max(alarms[0::2]) > max(alarms[1::2]) > 0


def test_prediction_lies_above_the_threshold():
    label = spots((2, 2, 2))
    result = detect(label.astype(np.float32) * 0.5, label, [0.5, 0.4999, 0.0])
    assert result.hit.tolist() == [[False, True, True]]
    assert (result.sizes.tolist(), result.false_positives.tolist()) == ([1], [0, 0, 0])


def test_component_that_touches_a_lesion_is_no_false_positive():
    label = spots((1, 1, 1))
    result = detect(spots((1, 1, 1), (1, 1, 2), (1, 1, 3), (6, 6, 6)).astype(np.float32), label, [0.5])
    assert (result.hit.tolist(), result.false_positives.tolist()) == ([[True]], [1])
    # next to the lesion is not in it
    result = detect(spots((1, 1, 2)).astype(np.float32), label, [0.5])
    assert (result.hit.tolist(), result.false_positives.tolist()) == ([[False]], [1])


def test_one_component_finds_several_lesions():
    label = spots((1, 1, 1), (1, 1, 5))
    line = spots(*((1, 1, d) for d in range(1, 6)))
    assert detect(line.astype(np.float32), label, [0]).hit.tolist() == [[True], [True]]


def test_small_components_neither_find_nor_alarm():
    label, anomaly_map = spots((1, 1, 1)), spots((1, 1, 1), (5, 5, 5), (5, 5, 6)).astype(np.float32)
    for min_voxels, hit, alarms in ((0, True, 1), (1, True, 1), (2, False, 1), (3, False, 0)):
        result = detect(anomaly_map, label, [0], min_voxels)
        assert (result.hit.tolist(), result.false_positives.tolist()) == ([[hit]], [alarms])


def test_share_of_a_lesion_that_must_be_found():
    label = spots(*((1, 1, d) for d in range(4)))
    anomaly_map = spots((1, 1, 0), (1, 1, 3)).astype(np.float32)
    for min_overlap, hit in ((0.0, True), (0.5, True), (0.51, False)):
        assert detect(anomaly_map, label, [0], min_overlap=min_overlap).hit.tolist() == [[hit]]


def test_region_cuts_lesions_without_splitting_them():
    label = spots(*((1, 1, d) for d in range(5)), (6, 6, 6))
    where = np.ones(label.shape, dtype=bool)
    where[1, 1, 2] = where[6, 6, 6] = False
    result = detect(label.astype(np.float32), label, [0], where=where)
    assert (result.sizes.tolist(), result.hit.tolist(), result.false_positives.tolist()) == ([4], [[True]], [0])


def test_no_lesion_and_no_prediction():
    empty = np.zeros((4, 4, 4), dtype=bool)
    result = detect(spots((1, 1, 1), shape=(4, 4, 4)).astype(np.float32), empty, [0, 1])
    assert (result.sizes.shape, result.hit.shape, result.false_positives.tolist()) == ((0,), (0, 2), [1, 0])
    result = detect(np.zeros((4, 4, 4)), ~empty, [0, 1])
    assert (result.hit.tolist(), result.false_positives.tolist()) == ([[False, False]], [0, 0])


def test_order_of_thresholds_does_not_matter_and_inputs_stay():
    label, anomaly_map = blobs(3, 0.02), random_map(3)
    before = anomaly_map.copy()
    where = blobs(9, 0.6)
    up, down = (detect(anomaly_map, label, t, where=where) for t in ([0, 0.5, 1], [1, 0.5, 0]))
    np.testing.assert_array_equal(up.hit, down.hit[:, ::-1])
    np.testing.assert_array_equal(up.false_positives, down.false_positives[::-1])
    np.testing.assert_array_equal(anomaly_map, before)


def volumes() -> list[Detections]:
    """Three volumes with 2, 0 and 1 lesions at 3 thresholds."""
    return [
        Detections(np.array([5, 9]), np.array([[True, False, False], [True, True, False]]), np.array([4, 1, 0])),
        Detections(np.array([], dtype=int), np.zeros((0, 3), dtype=bool), np.array([2, 2, 0])),
        Detections(np.array([7]), np.array([[True, True, True]]), np.array([3, 0, 0])),
    ]


def test_froc_pools_lesions_and_averages_alarms_over_volumes():
    curve = froc(volumes())
    np.testing.assert_allclose(curve["sensitivity"], [1, 2 / 3, 1 / 3])
    np.testing.assert_allclose(curve["false_positives"], [3, 1, 0])


def test_weights_equal_repeated_volumes():
    weights = np.array([[[1, 1, 1], [0, 2, 1]], [[3, 0, 0], [1, 5, 0]]])
    curve = froc(volumes(), weights)
    assert curve["sensitivity"].shape == curve["false_positives"].shape == (2, 2, 3)
    for place in np.ndindex(2, 2):
        repeated = froc([v for v, w in zip(volumes(), weights[place], strict=True) for _ in range(w)])
        np.testing.assert_allclose(curve["sensitivity"][place], repeated["sensitivity"])
        np.testing.assert_allclose(curve["false_positives"][place], repeated["false_positives"])


def test_froc_without_lesions_or_volumes():
    curve = froc(volumes(), np.array([[0, 2, 0], [0, 0, 0]]))
    assert np.isnan(curve["sensitivity"]).all()
    np.testing.assert_allclose(curve["false_positives"], [[2, 2, 0], [np.nan] * 3])


def test_sensitivity_at_equals_monai_where_the_curve_reaches():
    sensitivity, alarms = np.array([0.9, 0.7, 0.4, 0.1]), np.array([10.0, 3.0, 0.5, 0.0])
    wanted = (0.25, 0.5, 1, 2, 4, 8, 20)
    values = sensitivity_at({"sensitivity": sensitivity, "false_positives": alarms}, wanted)
    assert values.mean() == pytest.approx(compute_froc_score(alarms, sensitivity, wanted))
    assert values[0] == pytest.approx(0.25)
    assert values[2] == pytest.approx(0.4 + 0.3 * 0.5 / 2.5)
    assert values[-1] == 0.9


def test_sensitivity_at_does_not_reach_below_the_fewest_alarms():
    curve = {"sensitivity": np.array([0.5, 0.8]), "false_positives": np.array([1.0, 2.0])}
    np.testing.assert_allclose(sensitivity_at(curve, (0.5, 0.999, 1, 1.5)), [np.nan, np.nan, 0.5, 0.65])


def test_curve_is_made_monotone():
    # lower thresholds can merge components: fewer alarms with more found, in any order of points
    curve = {"sensitivity": np.array([0.2, 0.9, 0.6, 0.3]), "false_positives": np.array([0.0, 2.0, 4.0, 2.0])}
    np.testing.assert_allclose(sensitivity_at(curve, (0, 1, 2, 3, 4, 9)), [0.2, 0.55, 0.9, 0.9, 0.9, 0.9])


def test_best_of_points_with_as_many_alarms():
    curve = {"sensitivity": np.array([0.4, 0.1, 0.3]), "false_positives": np.array([1.0, 1.0, 1.0])}
    np.testing.assert_allclose(sensitivity_at(curve, (0.5, 1, 2)), [np.nan, 0.4, 0.4])


def test_sensitivity_at_of_resamples_and_of_no_lesions():
    curve = froc(volumes(), np.array([[1, 1, 1], [0, 1, 0], [3, 0, 0]]))
    values = sensitivity_at(curve, (0, 1))
    assert values.shape == (3, 2)
    np.testing.assert_allclose(values, [[1 / 3, 2 / 3], [np.nan, np.nan], [0, 0.5]])
    assert sensitivity_at(froc(volumes())).shape == (6,)


def test_by_size():
    sizes, hit = np.array([1, 9, 10, 99, 100, 5000]), np.array([0, 1, 1, 1, 0, 1], dtype=bool)
    classes = by_size(sizes, hit, (10, 100, 6000))
    assert classes["number"].tolist() == [2, 2, 2, 0]
    np.testing.assert_allclose(classes["sensitivity"], [0.5, 1, 0.5, np.nan])


def test_by_size_of_several_thresholds_and_of_no_lesion():
    hit = np.array([[True, False], [True, True], [False, False]])
    np.testing.assert_allclose(by_size([1, 2, 50], hit, [10])["sensitivity"], [[1, 0.5], [0, 0]])
    none = by_size(np.array([]), np.zeros((0, 2), dtype=bool), [10])
    assert none["number"].tolist() == [0, 0]
    assert none["sensitivity"].shape == (2, 2)
    assert np.isnan(none["sensitivity"]).all()


LABEL = np.zeros((3, 3, 3), dtype=bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: components(LABEL.astype(int)), "label.*int"),
        (lambda: components(LABEL[0]), r"label.*\(3, 3\)"),
        (lambda: detect(np.zeros((3, 3, 2)), LABEL, [0]), r"anomaly_map.*\(3, 3, 2\)"),
        (lambda: detect(np.full((3, 3, 3), np.nan), LABEL, [0]), "anomaly_map.*27 of 27"),
        (lambda: detect(np.zeros((3, 3, 3)), LABEL, [0, np.nan]), "thresholds.*nan"),
        (lambda: detect(np.zeros((3, 3, 3)), LABEL, 0.5), "thresholds.*0.5"),
        (lambda: detect(np.zeros((3, 3, 3)), LABEL, [0], -1), "min_voxels.*-1"),
        (lambda: detect(np.zeros((3, 3, 3)), LABEL, [0], min_overlap=1.5), "min_overlap.*1.5"),
        (lambda: detect(np.zeros((3, 3, 3)), LABEL, [0], where=LABEL[0]), r"where.*\(3, 3\)"),
        (lambda: froc([]), "detections"),
        (lambda: froc([volumes()[0], detect(np.zeros((3, 3, 3)), LABEL, [0])]), r"detections.*\[3, 1\]"),
        (lambda: froc(volumes(), np.ones(2)), r"weights.*\(2,\)"),
        (lambda: by_size([1, 2], [True], [10]), "2 and 1"),
        (lambda: by_size([1], [True], [10, 10]), r"edges.*\[10, 10\]"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
