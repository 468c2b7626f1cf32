from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from helpers import CODE_SHAPE, IMAGE_CHANNELS, IMAGE_SIZE, random_volume, tiny_network
from monai.transforms import RandFlipd, RandScaleIntensityd
from torch.utils.data import DataLoader

from scripts.data.selection import SliceSelector
from scripts.data.slices import SliceDataset
from scripts.methods import Task
from scripts.training import LatentDataset, collate
from scripts.training.latents import to_numbers

SLICES = 5
VARIANTS = 3


class Encoding(Task):
    """A task that shows what it encodes by."""

    def __init__(self, autoencoder):
        self.autoencoder = autoencoder

    def encode(self, images):
        return self.autoencoder.encode(images)

    def example(self, clean, labels, draws):
        raise AssertionError("caching makes no examples")


@pytest.fixture(scope="module")
def autoencoder():
    return tiny_network().autoencoder


def slices(augmented: bool = True) -> SliceDataset:
    volume = random_volume(SLICES)
    item = {"subject": "s", "image": volume, "label": torch.zeros(1, IMAGE_SIZE, IMAGE_SIZE, SLICES)}
    transform = [RandFlipd("image", prob=0.5), RandScaleIntensityd("image", prob=1, factors=0.5)]
    return SliceDataset([item], lambda item: item, SliceSelector(), transform if augmented else None, progress=False)


def encoded(autoencoder, data: SliceDataset, epoch: int) -> torch.Tensor:
    """Codes of all slices as that epoch shows them, one by one."""
    data.set_epoch(epoch)
    with torch.no_grad():
        return torch.cat([autoencoder.encode(data[i]["image"][None]) for i in range(len(data))])


def cache(autoencoder, data, **kwargs) -> LatentDataset:
    return LatentDataset(data, Encoding(autoencoder), progress=False, **kwargs)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_codes_of_plain_slices(autoencoder, batch_size):
    data = slices(augmented=False)
    codes = cache(autoencoder, data, batch_size=batch_size)
    wanted = encoded(autoencoder, data, 0)
    assert len(codes) == SLICES
    for index in range(SLICES):
        kept = codes[index]["latent"]
        assert type(kept) is torch.Tensor
        assert kept.dtype == torch.uint8
        assert kept.shape == CODE_SHAPE
        probability = kept.float() / 255
        assert float((probability - wanted[index]).abs().max()) <= 1 / 510 + 1e-6
    assert float((wanted[0] - wanted[1]).abs().max()) > 0.02


def test_neighbours_take_different_variants_which_take_turns(autoencoder):
    data = slices()
    wanted = torch.stack([encoded(autoencoder, data, v) for v in range(VARIANTS)])
    assert all(float((wanted[0] - wanted[v]).abs().amax(dim=(1, 2, 3)).min()) > 0.02 for v in range(1, VARIANTS))
    codes = cache(autoencoder, data, variants=VARIANTS, batch_size=2)
    assert len(codes) == SLICES
    for epoch in range(2 * VARIANTS):
        codes.set_epoch(epoch)
        for index in range(SLICES):
            variant = (epoch + index) % VARIANTS
            difference = (codes[index]["latent"].float() / 255 - wanted[variant, index]).abs().max()
            assert float(difference) <= 1 / 510 + 1e-6, (epoch, index)


def test_further_draws_of_an_epoch_take_further_variants(autoencoder):
    codes = cache(autoencoder, slices(), variants=VARIANTS)
    codes.set_epoch(4)
    for index in range(SLICES):
        drawn = [codes[index + draw * SLICES]["latent"] for draw in range(VARIANTS + 1)]
        assert torch.equal(drawn[0], codes[index]["latent"])
        assert torch.equal(drawn[0], drawn[VARIANTS])
        kept = codes.latents.reshape(VARIANTS, SLICES, *CODE_SHAPE)[:, index]
        shown = {d.numpy().tobytes() for d in drawn}
        assert shown == {k.numpy().tobytes() for k in kept}
        assert len(shown) == VARIANTS


def test_what_is_kept_is_a_byte_a_bit(autoencoder):
    codes = cache(autoencoder, slices(), variants=2)
    assert codes.latents.dtype == torch.uint8
    assert codes.latents.numel() == 2 * SLICES * torch.Size(CODE_SHAPE).numel()


def test_certainty_stays_certain():
    class Sure(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def encode(self, image):
            return (image > 0.5).float()

    data = slices(augmented=False)
    codes = cache(Sure(), data)
    for index in range(SLICES):
        assert torch.equal(codes[index]["latent"], 255 * (data[index]["image"] > 0.5).byte())


def test_no_gradients(autoencoder):
    encode, seen = autoencoder.encode, []

    def watched(images):
        seen.append(torch.is_grad_enabled())
        return encode(images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoencoder, "encode", watched)
        cache(autoencoder, slices(augmented=False), batch_size=None)
    assert seen == [False]


def test_amp(autoencoder):
    data = slices(augmented=False)
    codes = cache(autoencoder, data, amp=True)
    wanted = encoded(autoencoder, data, 0)
    difference = torch.stack([(codes[i]["latent"] / 255 - wanted[i]).abs().max() for i in range(SLICES)])
    assert 1 / 510 < float(difference.max()) < 0.05


def test_a_loader_gathers_whole_batches(autoencoder):
    codes = cache(autoencoder, slices(), variants=VARIANTS)
    codes.set_epoch(1)
    draws = [3, 0, 4 + SLICES, 1, 2 + 2 * SLICES]
    batches = list(DataLoader(codes, batch_size=2, sampler=draws, collate_fn=collate))
    assert [len(batch["latent"]) for batch in batches] == [2, 2, 1]
    together = torch.cat([batch["latent"] for batch in batches])
    assert torch.equal(together, torch.stack([codes[draw]["latent"] for draw in draws]))


def test_single_items_are_put_together():
    batch = collate([{"image": torch.zeros(2)}, {"image": torch.ones(2)}])
    assert torch.equal(batch["image"], torch.tensor([[0.0, 0.0], [1.0, 1.0]]))


@pytest.mark.parametrize("variants", [0, -1])
def test_variants_out_of_range(autoencoder, variants):
    with pytest.raises(ValueError, match=rf"variants must be at least 1, got {variants}"):
        cache(autoencoder, slices(), variants=variants)


def test_channels_fit():
    assert slices()[0]["image"].shape == (IMAGE_CHANNELS, IMAGE_SIZE, IMAGE_SIZE)


class Signed(torch.nn.Module):
    """Latents that are no probabilities."""

    def encode(self, image):
        return 20 * image[:, :1, ::4, ::4] - 10


def test_any_numbers_are_kept_in_halves():
    data = slices(augmented=False)
    codes = cache(Signed(), data, kind="halves")
    wanted = encoded(Signed(), data, 0)
    assert codes.latents.dtype == torch.float16
    kept = to_numbers(torch.stack([codes[i]["latent"] for i in range(SLICES)]))
    assert kept.dtype == torch.float32
    assert wanted.min() < -5 and wanted.max() > 5
    # 11 bits of a number, whatever its size.
    torch.testing.assert_close(kept, wanted, rtol=2**-11, atol=1e-6)


def test_numbers_of_bytes():
    assert to_numbers(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])


@pytest.mark.parametrize("kind", ["bytes", "halves"])
def test_many_latents_are_mapped_into_memory(autoencoder, kind, tmp_path):
    folder = tmp_path / "latents"
    plain = cache(autoencoder, slices(), variants=2, kind=kind, folder=str(folder))
    assert not folder.exists(), "few latents need no file"
    needed = plain.latents.numel() * plain.latents.element_size()
    edge = cache(autoencoder, slices(), variants=2, kind=kind, folder=str(folder), memory_limit=needed)
    assert not folder.exists() and torch.equal(edge.latents, plain.latents)
    mapped = cache(autoencoder, slices(), variants=2, kind=kind, folder=str(folder), memory_limit=needed - 1)
    assert folder.is_dir() and not list(folder.iterdir()), "nothing is left behind, also by a run that is killed"
    assert mapped.latents.dtype == plain.latents.dtype
    assert torch.equal(mapped.latents, plain.latents)
    mapped.set_epoch(1)
    batch = mapped.__getitems__([3, 0, 1 + SLICES])["latent"]
    assert torch.equal(batch, torch.stack([mapped[i]["latent"] for i in (3, 0, 1 + SLICES)]))
    if sys.platform == "linux":
        assert str(folder) in Path("/proc/self/maps").read_text()


def test_classes_come_with_the_latents(autoencoder):
    volume, label = random_volume(SLICES), torch.zeros(1, IMAGE_SIZE, IMAGE_SIZE, SLICES)
    label[0, 3, 3, [1, 4]] = 1
    item = {"subject": "s", "image": volume, "label": label}
    data = SliceDataset([item], lambda item: item, SliceSelector(), keep="all", progress=False)
    codes = cache(autoencoder, data, variants=2)
    assert [int(codes[i]["class"]) for i in range(2 * SLICES)] == [0, 1, 0, 0, 1] * 2
    loader = DataLoader(codes, batch_size=3, sampler=[4, 0, 1 + SLICES], collate_fn=collate)
    assert next(iter(loader))["class"].tolist() == [1, 0, 1]
    assert "class" not in cache(autoencoder, slices())[0]


def test_unknown_kind(autoencoder):
    with pytest.raises(ValueError, match="kind must be one of bytes, halves, got 'floats'"):
        cache(autoencoder, slices(), kind="floats")
