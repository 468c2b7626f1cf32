from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from volume_files import LPS_AFFINE

from scripts.describe import describe
from scripts.transforms import ScaleForegroundd
from scripts.transforms.landmarks import NYUL_PERCENTILES, HistogramLandmarks, learn_landmarks
from scripts.transforms.standardise import LEAST, Median, Percentile, RobustRange, StandardiseForegroundd

SEQUENCES = ["t1", "flair"]
LANDMARKS = HistogramLandmarks(landmarks={"t1": [0.05, 0.3, 0.7], "flair": [0.1, 0.2, 0.6]}, percentiles=(1, 50, 99))
ALL = [Percentile(), Median(), RobustRange(), LANDMARKS]


def volume(seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    """Two channels (8, 9, 10), skewed values in a box of the middle, none of them 0."""
    image = torch.zeros(2, 8, 9, 10)
    values = np.random.default_rng(seed).gamma(4.0, scale * 50.0, (2, 6, 7, 8)) + 1.0
    image[:, 1:7, 1:8, 1:9] = torch.from_numpy(values).float()
    return image


def standardise(image: torch.Tensor, how) -> torch.Tensor:
    return StandardiseForegroundd("image", SEQUENCES, how)({"image": image})["image"]


def foreground(image: torch.Tensor, channel: int) -> np.ndarray:
    plain = image[channel].numpy().astype(np.float64)
    return plain[plain != 0]


def test_percentile_is_todays():
    for lower in (None, 2.5):
        ours = standardise(volume(), Percentile(lower=lower, upper=99))
        todays = ScaleForegroundd("image", lower=lower, upper=99)({"image": volume()})["image"]
        torch.testing.assert_close(ours, todays, atol=2e-6, rtol=0)


def test_median():
    image = volume()
    ours = standardise(image, Median(factor=0.35))
    for channel in range(2):
        values = foreground(image, channel)
        wanted = (0.35 * values / np.median(values)).clip(0, 1)
        np.testing.assert_allclose(foreground(ours, channel), wanted, atol=1e-6)
        assert np.median(foreground(ours, channel)) == pytest.approx(0.35, abs=1e-6)


def test_robust_range():
    image = volume()
    ours = standardise(image, RobustRange(centre=0.4, width=0.1))
    for channel in range(2):
        quartiles = np.percentile(foreground(ours, channel), [25, 50, 75])
        assert quartiles[1] == pytest.approx(0.4, abs=1e-6)
        assert quartiles[2] - quartiles[0] == pytest.approx(0.1, abs=1e-6)


def test_what_falls_below_zero_stays_foreground():
    """The darkest tissue is cut at the lower end, and is still no background."""
    image, how = volume(), RobustRange(centre=0.2, width=0.5)
    assert (how(foreground(image, 0), "t1") < 0).sum() > 20
    ours = standardise(image, how)
    assert torch.equal(ours > 0, image > 0)
    assert torch.equal(ours.half() > 0, image > 0)
    assert ours[ours > 0].min() == pytest.approx(LEAST)


def slow_landmarks(values: np.ndarray, percentiles, standard) -> np.ndarray:
    """One value at a time, by its piece; the outer pieces go on."""
    own, mapped = np.percentile(values, percentiles), []
    for value in values:
        piece = next((k for k in range(len(own) - 2) if value < own[k + 1]), len(own) - 2)
        slope = (standard[piece + 1] - standard[piece]) / (own[piece + 1] - own[piece])
        mapped.append(standard[piece] + slope * (value - own[piece]))
    return np.array(mapped)


def test_landmarks_value_by_value():
    image = volume()
    for channel, name in enumerate(SEQUENCES):
        values = foreground(image, channel)
        mapped = LANDMARKS(values, name)
        np.testing.assert_allclose(mapped, slow_landmarks(values, (1, 50, 99), LANDMARKS.landmarks[name]), atol=1e-12)
        own = np.percentile(values, (1, 50, 99))
        between = (values >= own[0]) & (values <= own[-1])
        np.testing.assert_allclose(mapped[between], np.interp(values[between], own, LANDMARKS.landmarks[name]))
        assert mapped.max() > LANDMARKS.landmarks[name][-1]


def test_landmarks_undo_any_rising_change():
    """What monotone piecewise maps are for: a volume and its image under a rising curve come out nearly the same."""
    image = volume()
    curved = torch.where(image > 0, 7 * image**1.3 + 20, 0)
    fine = tuple(range(1, 100, 2))
    learnt = learn_landmarks([image], SEQUENCES, fine)
    inside = (image > 0) & (image < 400)
    difference = (standardise(image, learnt) - standardise(curved, learnt)).abs()
    assert float(difference[inside].max()) < 0.01
    assert float((standardise(image, Median()) - standardise(curved, Median())).abs()[inside].max()) > 0.05


def test_learning_is_the_mean_of_scaled_percentiles():
    images = [volume(seed, scale) for seed, scale in ((0, 1.0), (1, 3.0), (2, 0.2))]
    learnt = learn_landmarks(iter(images), SEQUENCES, low=0.1, high=0.8)
    assert learnt.percentiles == list(NYUL_PERCENTILES)
    for channel, name in enumerate(SEQUENCES):
        rows = []
        for image in images:
            own = np.percentile(foreground(image, channel), NYUL_PERCENTILES)
            rows.append([0.1 + 0.7 * (p - own[0]) / (own[-1] - own[0]) for p in own])
        np.testing.assert_allclose(learnt.landmarks[name], np.mean(rows, axis=0))
        assert learnt.landmarks[name][0] == pytest.approx(0.1)
        assert learnt.landmarks[name][-1] == pytest.approx(0.8)


def test_landmarks_are_kept_in_a_file(tmp_path):
    path = str(tmp_path / "landmarks.json")
    learnt = learn_landmarks([volume(), volume(1)], SEQUENCES, path=path)
    read = HistogramLandmarks.from_file(path)
    assert describe(read) == describe(learnt)
    assert torch.equal(standardise(volume(2), read), standardise(volume(2), learnt))


def test_values_that_many_voxels_share():
    """Of an 8-bit volume several percentiles may be one value; the map stays finite and rising."""
    image = (volume() / 100).ceil()
    learnt = learn_landmarks([volume()], SEQUENCES)
    for channel, name in enumerate(SEQUENCES):
        values = foreground(image, channel)
        assert len(np.unique(np.percentile(values, NYUL_PERCENTILES))) < len(NYUL_PERCENTILES)
        mapped = learnt(values, name)
        assert np.isfinite(mapped).all()
        assert (np.diff(mapped[np.argsort(values, kind="stable")]) >= 0).all()


@pytest.mark.parametrize("how", ALL, ids=lambda how: type(how).__name__)
class TestEach:
    def test_units_do_not_matter(self, how):
        torch.testing.assert_close(standardise(volume() * 8, how), standardise(volume(), how), atol=1e-5, rtol=0)

    def test_the_background_stays_and_the_foreground_too(self, how):
        image = volume()
        ours = standardise(image, how)
        assert torch.equal(ours > 0, image > 0)
        assert ours.dtype == torch.float32
        assert ours.max() <= 1
        assert ours[ours > 0].min() >= LEAST * (1 - 1e-6)
        padded = standardise(torch.nn.functional.pad(image, (0, 5, 3, 0, 9, 9)), how)
        assert torch.equal(padded[:, 9:17, 3:, :10], ours)
        # half precision, as training slices are kept, loses no voxel either
        assert torch.equal(ours.half() > 0, image > 0)

    def test_order_is_kept(self, how):
        image, ours = volume(), standardise(volume(), how)
        for raw, new in zip(image, ours, strict=True):
            assert (new[raw > 0][raw[raw > 0].argsort()].diff() >= 0).all()

    def test_channels_do_not_see_each_other(self, how):
        changed = volume()
        changed[1] *= torch.rand(changed[1].shape)
        assert torch.equal(standardise(changed, how)[0], standardise(volume(), how)[0])

    def test_metadata_and_input_stay(self, how):
        image = MetaTensor(volume(), affine=torch.from_numpy(LPS_AFFINE))
        ours = standardise(image, how)
        assert isinstance(ours, MetaTensor)
        assert torch.equal(ours.affine, image.affine)
        assert torch.equal(image.as_tensor(), volume())

    def test_it_describes_itself(self, how):
        said = describe(StandardiseForegroundd("image", SEQUENCES, how))
        assert json.loads(json.dumps(said)) == said
        assert said["standardisation"]["name"] == type(how).__name__
        assert said["standardisation"].keys() > {"name"}

    @pytest.mark.parametrize("value", [0.0, 5.0])
    def test_an_empty_or_constant_foreground(self, how, value):
        image = MetaTensor(volume(), meta={"filename_or_obj": "x.nii"})
        image[1] = (image[1] != 0) * value
        with pytest.raises(ValueError, match=r"x\.nii, flair: foreground is empty or constant\."):
            standardise(image, how)


def test_what_cannot_be_standardised_is_told():
    image = volume()
    image[0] = (image[0] > 0) * 5.0
    image[0, 1, 1, 1] = 6
    with pytest.raises(ValueError, match=r"image, t1: the interquartile range is 0, above 0 is wanted\."):
        standardise(image, RobustRange())
    with pytest.raises(ValueError, match=r"image, t1: the median is -5, above 0 is wanted\."):
        standardise(-image, Median())
    with pytest.raises(ValueError, match=r"image, flair: no landmarks of 'flair', there are those of t1\."):
        standardise(volume(), HistogramLandmarks(landmarks={"t1": [0, 1]}, percentiles=(1, 99)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Percentile(lower=50, upper=40), r"lower must be a number in \[0, 40\], got 50"),
        (lambda: Median(factor=0), r"factor must be a number in \[0.001, 1\], got 0"),
        (lambda: RobustRange(centre=2), r"centre must be a number in \[0, 1\], got 2"),
        (lambda: HistogramLandmarks(landmarks={}, percentiles=(5, 5)), "percentiles must be at least two ascending"),
        (lambda: HistogramLandmarks(landmarks={"t1": [1, 0]}, percentiles=(1, 9)), "landmarks of t1 must be"),
        (lambda: HistogramLandmarks(landmarks={"t1": [0, 1, 2]}, percentiles=(1, 9)), "landmarks of t1: 3 for 2"),
        (lambda: learn_landmarks([], SEQUENCES), "no training volume"),
        (lambda: learn_landmarks([volume()], SEQUENCES, high=2), r"high must be a number in \[0.05, 1\], got 2"),
    ],
)
def test_wrong_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_wrong_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        HistogramLandmarks.from_file(str(tmp_path / "none.json"))
    for content in ("{}", "no json", '{"percentiles": [1, 2], "landmarks": {"t1": [3, 2]}}'):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(ValueError, match=r"x\.json' does not hold percentiles and landmarks"):
            HistogramLandmarks.from_file(str(tmp_path / "x.json"))
