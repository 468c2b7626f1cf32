from __future__ import annotations

import pytest
import torch
from helpers import CODE_SHAPE, IMAGE_CHANNELS, IMAGE_SIZE, random_volume, tiny_network
from monai.transforms import RandFlipd, RandScaleIntensityd
from torch.utils.data import DataLoader

from scripts.data.selection import SliceSelector
from scripts.data.slices import HealthySliceDataset
from scripts.training.latents import CodeDataset, collate

SLICES = 5
VARIANTS = 3


@pytest.fixture(scope="module")
def autoencoder():
    return tiny_network().autoencoder


def slices(augmented: bool = True) -> HealthySliceDataset:
    volume = random_volume(SLICES)
    item = {"subject": "s", "image": volume, "label": torch.zeros(1, IMAGE_SIZE, IMAGE_SIZE, SLICES)}
    transform = [RandFlipd("image", prob=0.5), RandScaleIntensityd("image", prob=1, factors=0.5)]
    return HealthySliceDataset(
        [item], lambda item: item, SliceSelector(), transform if augmented else None, progress=False
    )


def encoded(autoencoder, data: HealthySliceDataset, epoch: int) -> torch.Tensor:
    """Codes of all slices as that epoch shows them, one by one."""
    data.set_epoch(epoch)
    with torch.no_grad():
        return torch.cat([autoencoder.encode(data[i]["image"][None]) for i in range(len(data))])


def cache(autoencoder, data, **kwargs) -> CodeDataset:
    return CodeDataset(data, autoencoder, progress=False, **kwargs)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_codes_of_plain_slices(autoencoder, batch_size):
    data = slices(augmented=False)
    codes = cache(autoencoder, data, batch_size=batch_size)
    wanted = encoded(autoencoder, data, 0)
    assert len(codes) == SLICES
    for index in range(SLICES):
        kept = codes[index]["probability"]
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
            difference = (codes[index]["probability"].float() / 255 - wanted[variant, index]).abs().max()
            assert float(difference) <= 1 / 510 + 1e-6, (epoch, index)


def test_further_draws_of_an_epoch_take_further_variants(autoencoder):
    codes = cache(autoencoder, slices(), variants=VARIANTS)
    codes.set_epoch(4)
    for index in range(SLICES):
        drawn = [codes[index + draw * SLICES]["probability"] for draw in range(VARIANTS + 1)]
        assert torch.equal(drawn[0], codes[index]["probability"])
        assert torch.equal(drawn[0], drawn[VARIANTS])
        kept = codes.probabilities.reshape(VARIANTS, SLICES, *CODE_SHAPE)[:, index]
        shown = {d.numpy().tobytes() for d in drawn}
        assert shown == {k.numpy().tobytes() for k in kept}
        assert len(shown) == VARIANTS


def test_what_is_kept_is_a_byte_a_bit(autoencoder):
    codes = cache(autoencoder, slices(), variants=2)
    assert codes.probabilities.dtype == torch.uint8
    assert codes.probabilities.numel() == 2 * SLICES * torch.Size(CODE_SHAPE).numel()


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
        assert torch.equal(codes[index]["probability"], 255 * (data[index]["image"] > 0.5).byte())


def test_no_gradients_and_evaluation_mode(autoencoder):
    autoencoder.train()
    encode, seen = autoencoder.encode, []

    def watched(images):
        seen.append((torch.is_grad_enabled(), autoencoder.training))
        return encode(images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoencoder, "encode", watched)
        cache(autoencoder, slices(augmented=False), batch_size=None)
    assert seen == [(False, False)]


def test_amp(autoencoder):
    data = slices(augmented=False)
    codes = cache(autoencoder, data, amp=True)
    wanted = encoded(autoencoder, data, 0)
    difference = torch.stack([(codes[i]["probability"] / 255 - wanted[i]).abs().max() for i in range(SLICES)])
    assert 1 / 510 < float(difference.max()) < 0.05


def test_a_loader_gathers_whole_batches(autoencoder):
    codes = cache(autoencoder, slices(), variants=VARIANTS)
    codes.set_epoch(1)
    draws = [3, 0, 4 + SLICES, 1, 2 + 2 * SLICES]
    batches = list(DataLoader(codes, batch_size=2, sampler=draws, collate_fn=collate))
    assert [len(batch["probability"]) for batch in batches] == [2, 2, 1]
    together = torch.cat([batch["probability"] for batch in batches])
    assert torch.equal(together, torch.stack([codes[draw]["probability"] for draw in draws]))


def test_single_items_are_put_together():
    batch = collate([{"image": torch.zeros(2)}, {"image": torch.ones(2)}])
    assert torch.equal(batch["image"], torch.tensor([[0.0, 0.0], [1.0, 1.0]]))


@pytest.mark.parametrize("variants", [0, -1])
def test_variants_out_of_range(autoencoder, variants):
    with pytest.raises(ValueError, match=rf"variants must be at least 1, got {variants}"):
        cache(autoencoder, slices(), variants=variants)


def test_channels_fit():
    assert slices()[0]["image"].shape == (IMAGE_CHANNELS, IMAGE_SIZE, IMAGE_SIZE)
