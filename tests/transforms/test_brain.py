from __future__ import annotations

import importlib.util
import json
import logging

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation
from scipy.ndimage import binary_dilation

from scripts.describe import describe
from scripts.transforms import brain, brain_masks
from scripts.transforms.brain import ExtractBraind
from scripts.transforms.brain_masks import dilate_in_plane, head_of, read_mask, run_deepbet, skull_contrast

SIZE, DEPTH = 128, 4
HEAD, BONE, BRAIN = 58.0, 52.0, 44.0
"""Outer radii in pixels of 1.5 mm: fat, bone, brain."""
AFFINE = np.diag([-1.5, -1.5, 5.0, 1.0])


def radii() -> np.ndarray:
    rows, columns = np.indices((SIZE, SIZE)) - (SIZE - 1) / 2
    return np.repeat(np.hypot(rows, columns * 1.05)[..., None], DEPTH, axis=2)


def true_brain() -> np.ndarray:
    return radii() < BRAIN


def head(stripped: bool = False, noise: float = 0.0) -> torch.Tensor:
    """T1 and FLAIR, (2, W, H, D): bright fat, dark bone, cortex darker than white matter."""
    r = radii()
    t1 = np.select([r < 34, r < BRAIN, r < BONE, r < HEAD], [500.0, 400.0, 60.0, 900.0], 0.0)
    t1 = t1 * true_brain() if stripped else t1
    t1 = t1 + noise * np.abs(np.random.default_rng(0).standard_normal(r.shape))
    return torch.from_numpy(np.stack([t1, t1 * 0.6])).float()


def item(image: torch.Tensor | None = None, affine: np.ndarray = AFFINE, subject: str = "S1") -> dict:
    image = head() if image is None else image
    meta = {"filename_or_obj": f"data/{subject}_t1.nii.gz"}
    return {"subject": subject, "image": MetaTensor(image, affine=torch.from_numpy(affine), meta=meta)}


def extract(mask_file: str | None = None, **values) -> ExtractBraind:
    return ExtractBraind(["t1", "flair"], "t1", mask_file=mask_file, **values)


@pytest.fixture
def network(monkeypatch):
    """In place of deepbet: the true brain, turned as the volume is, and the calls."""
    calls: list = []

    def run(volume, affine, gpu):
        calls.append((volume.copy(), affine))
        mask = true_brain()
        return mask if mask.shape == volume.shape else mask.transpose(2, 1, 0)

    monkeypatch.setattr(brain, "run_deepbet", run)
    monkeypatch.setattr(brain, "check_installed", lambda: None)
    return calls


def test_everything_outside_becomes_zero(network):
    made = extract(margin=0)(item())
    inside = torch.from_numpy(true_brain())
    assert torch.equal(made["brain"].as_tensor(), inside[None].float())
    assert torch.equal(made["image"].as_tensor(), head() * inside)
    assert isinstance(made["image"], MetaTensor)
    assert torch.equal(made["brain"].affine, made["image"].affine)
    assert made["image"].meta["filename_or_obj"] == "data/S1_t1.nii.gz"
    volume, affine = network[0]
    assert np.array_equal(volume, head()[0].numpy())
    assert np.array_equal(affine, AFFINE)


def test_the_sequence_is_the_one_named(network):
    ExtractBraind(["t1", "flair"], "flair")(item())
    assert np.array_equal(network[0][0], head()[1].numpy())


@pytest.mark.parametrize("margin", [0, 1, 2, 3.5])
def test_the_margin_is_a_disc_in_the_plane(network, margin):
    made = extract(margin=margin)(item())
    reach = int(margin)
    rows, columns = np.indices((2 * reach + 1, 2 * reach + 1)) - reach
    disc = np.hypot(rows, columns) <= margin
    wanted = np.stack([binary_dilation(true_brain()[..., k], disc) for k in range(DEPTH)], axis=-1)
    assert np.array_equal(made["brain"][0].numpy() > 0, wanted)
    lonely = np.zeros((9, 9, 3), dtype=bool)
    lonely[4, 4, 1] = True
    assert not dilate_in_plane(lonely, margin)[..., [0, 2]].any()


def test_slices_along_another_axis(network):
    """A sagittal file: head and foot lie along its first axis, and the margin is in that plane."""
    turned = Orientation("SPL", labels=None)(item()["image"])
    assert turned.shape[1:] == (DEPTH, SIZE, SIZE)
    made = extract(margin=2)({"subject": "S1", "image": turned})
    straight = extract(margin=2)(item())
    back = Orientation("LPS", labels=None)
    assert torch.equal(back(made["brain"]).as_tensor(), back(straight["brain"]).as_tensor())
    assert torch.equal(back(made["image"]).as_tensor(), back(straight["image"]).as_tensor())


# Masks that do not fit


@pytest.mark.parametrize(("share", "told"), [(0.0, "0.000"), (0.1, r"0.0\d\d"), (1.0, r"(0.9\d\d|1.000)")])
def test_a_mask_of_another_share_names_file_share_and_range(monkeypatch, network, share, told):
    """Slices are kept or left out, or all of the head is taken for brain."""
    mask = radii() < HEAD * np.sqrt(share)
    monkeypatch.setattr(brain, "run_deepbet", lambda *_: mask)
    wanted = rf"data/S1_t1\.nii\.gz: the brain .* on t1 has {told} of the head's voxels, a share in \[0\.15, 0\.85\]"
    with pytest.raises(ValueError, match=wanted):
        extract()(item())
    assert extract(share_range=(0.001, 1))(item()) if share == 0.1 else True


def test_an_empty_mask_is_refused_whatever_the_range(monkeypatch, network):
    monkeypatch.setattr(brain, "run_deepbet", lambda *_: np.zeros((SIZE, SIZE, DEPTH), dtype=bool))
    with pytest.raises(ValueError, match=r"has 0\.000 of the head's voxels"):
        extract(share_range=(0, 1))(item())


# What the data look like


@pytest.mark.parametrize("noise", [0.0, 15.0])
def test_a_skull_is_a_dark_layer_under_a_bright_one(noise):
    heads, brains = head(noise=noise).numpy(), head(stripped=True, noise=noise).numpy()
    assert skull_contrast(heads[0], 1.5) == pytest.approx(900 / 60, rel=0.5)
    assert skull_contrast(brains[0], 1.5) == pytest.approx(1.0, abs=0.05)
    assert abs(head_of(heads[0]).mean() / (radii() < HEAD).mean() - 1) < 0.01
    assert skull_contrast(np.zeros((8, 8, 2), dtype=np.float32), 1.0) == 1.0


def test_heads_with_null_get_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        given = item()
        made = extract(method=None)(given)
    assert "data/S1_t1.nii.gz: looks like a head with skull" in caplog.text
    assert made.keys() == given.keys()
    assert made["image"] is given["image"]


def test_stripped_data_with_null_do_not(caplog):
    with caplog.at_level(logging.WARNING):
        extract(method=None)(item(head(stripped=True)))
    assert not caplog.text


def test_stripped_data_with_deepbet_get_a_warning(network, caplog):
    with caplog.at_level(logging.WARNING):
        made = extract(margin=0)(item(head(stripped=True)))
    assert "looks stripped already, t1 shows no skull, and brain_extraction = deepbet keeps 100 %" in caplog.text
    assert made["brain"].any()


def test_heads_with_deepbet_do_not(network, caplog):
    with caplog.at_level(logging.WARNING):
        extract()(item())
    assert not caplog.text


# Files


def test_a_mask_is_written_once_and_read(network, tmp_path):
    path = tmp_path / "sub" / "S1_brain.nii.gz"
    template = str(tmp_path / "sub" / "{subject}_brain.nii.gz")
    first = extract(template, margin=2)(item())
    written = nib.load(path)
    assert np.array_equal(np.asarray(written.dataobj), true_brain())  # before the margin
    assert written.get_data_dtype() == np.uint8
    assert np.array_equal(written.affine, AFFINE)
    assert [p.name for p in path.parent.iterdir()] == ["S1_brain.nii.gz"]
    before = path.read_bytes()
    second = extract(template, margin=2)(item())
    assert len(network) == 1
    assert path.read_bytes() == before
    assert torch.equal(first["image"], second["image"])
    wider = extract(template, margin=4)(item())
    assert len(network) == 1
    assert wider["brain"].sum() > first["brain"].sum()


def test_a_mask_of_another_image_is_made_anew(network, tmp_path, caplog):
    template = str(tmp_path / "{subject}.nii.gz")
    extract(template)(item())
    changed = head()
    changed[0, 60, 60, 1] += 1
    with caplog.at_level(logging.WARNING):
        extract(template)(item(changed))
    assert "was made from another image" in caplog.text
    assert len(network) == 2
    extract(template)(item(changed))
    assert len(network) == 2


def test_a_given_mask_needs_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(brain_masks.importlib.util, "find_spec", lambda name: None)
    nib.save(nib.Nifti1Image((radii() < 40).astype(np.int16) * 7, AFFINE), tmp_path / "S1.nii.gz")
    made = extract(str(tmp_path / "{subject}.nii.gz"), margin=0)(item())
    assert np.array_equal(made["brain"][0].numpy() > 0, radii() < 40)
    with pytest.raises(ImportError, match=r"needs the package deepbet, .* pip install -r requirements-brain\.txt"):
        extract(str(tmp_path / "{subject}.nii.gz"))(item(subject="S2"))
    with pytest.raises(ImportError, match=r"package deepbet"):
        extract()


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [
        ((SIZE, SIZE, 3), AFFINE, r"S1\.nii\.gz: a brain mask of shape \(128, 128, 3\), the image has \(128, 128, 4\)"),
        ((SIZE, SIZE, DEPTH), np.eye(4), r"S1\.nii\.gz: the affine of this brain mask differs .* by 4"),
    ],
)
def test_a_mask_of_another_space(network, tmp_path, shape, affine, message):
    nib.save(nib.Nifti1Image(np.ones(shape, dtype=np.uint8), affine), tmp_path / "S1.nii.gz")
    with pytest.raises(ValueError, match=message):
        extract(str(tmp_path / "{subject}.nii.gz"))(item())


def test_a_broken_mask_file(tmp_path):
    (tmp_path / "x.nii.gz").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"x\.nii\.gz: cannot be read as a brain mask"):
        read_mask(tmp_path / "x.nii.gz", (1, 1, 1), np.eye(4))


def test_no_file_of_a_brain_that_was_not_found(network, monkeypatch, tmp_path):
    monkeypatch.setattr(brain, "run_deepbet", lambda *_: np.zeros((SIZE, SIZE, DEPTH), dtype=bool))
    with pytest.raises(ValueError, match="share"):
        extract(str(tmp_path / "{subject}.nii.gz"))(item())
    assert not list(tmp_path.iterdir())


# Settings


def test_it_describes_itself(network):
    said = describe(extract(margin=2))
    assert said == {"name": "ExtractBraind", "method": "deepbet", "sequence": "t1", "margin": 2}
    assert json.loads(json.dumps(said)) == said
    assert describe(extract(method=None)) == {"name": "ExtractBraind", "method": None}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "other"}, r"method must be one of \(None, 'deepbet'\), got 'other'"),
        ({"sequence": "t2"}, r"sequence must be one of t1, flair, got 't2'"),
        ({"margin": -1}, r"margin must be a number in \[0, 100\], got -1"),
        ({"share_range": (0.9, 0.5)}, r"share_range\[0\] must be a number in \[0, 0.5\], got 0.9"),
    ],
)
def test_wrong_settings(network, values, message):
    with pytest.raises(ValueError, match=message):
        ExtractBraind(**{"sequences": ["t1", "flair"], "sequence": "t1", **values})


def test_only_volumes(network):
    with pytest.raises(ValueError, match=r"wants a volume \(c, W, H, D\), got \(2, 128, 128\)"):
        extract()({"subject": "p", "image": head()[..., 0]})


@pytest.mark.skipif(importlib.util.find_spec("deepbet") is None, reason="deepbet is not installed")
class TestDeepbet:
    def test_nothing_is_found_in_nothing(self):
        assert not run_deepbet(np.zeros((32, 32, 8), dtype=np.float32), AFFINE).any()

    def test_a_mask_has_the_space_of_its_volume(self):
        """Turned data give the turned mask; a run leaves nothing behind for the next."""
        volume = head()[0].numpy()
        mask = run_deepbet(volume, AFFINE)
        turned = Orientation("SPL", labels=None)(item()["image"])
        other = run_deepbet(turned[0].numpy(), turned.affine.numpy())
        back = Orientation("LPS", labels=None)
        meta = MetaTensor(torch.from_numpy(other)[None].float(), affine=turned.affine)
        straight = MetaTensor(torch.from_numpy(mask)[None].float(), affine=torch.from_numpy(AFFINE))
        assert mask.shape == volume.shape
        assert torch.equal(back(meta).as_tensor(), back(straight).as_tensor())
