from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from skimage.metrics import peak_signal_noise_ratio
from sklearn.metrics import log_loss

from scripts.training.metrics import bce_metric, code_uncertainty_metric, lower_is_better, psnr_metric

BATCHES = (4, 1, 2)
"""The last batch of a validation is smaller: slices count alike, batches do not."""


def values(*shape: int, seed: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def result(metric, outputs: list[dict]) -> float:
    """The metric after an evaluator's run over these outputs."""
    engine = Engine(lambda engine, output: output)
    metric.attach(engine, "value")
    engine.run(outputs)
    return float(engine.state.metrics["value"])


def test_psnr_is_the_mean_over_slices():
    images = [values(n, 2, 12, 10, seed=n) for n in BATCHES]
    noise = [torch.randn(i.shape, generator=torch.Generator().manual_seed(9)) for i in images]
    # every slice has an error of its own size
    scale = [torch.linspace(0.02, 0.3, len(i)).reshape(-1, 1, 1, 1) for i in images]
    reconstructions = [(i + s * e).clamp(0, 1) for i, s, e in zip(images, scale, noise, strict=True)]
    outputs = [{"pred": (r, None), "label": i} for r, i in zip(reconstructions, images, strict=True)]
    wanted = [
        peak_signal_noise_ratio(image.numpy(), reconstruction.numpy(), data_range=1)
        for batch in zip(images, reconstructions, strict=True)
        for image, reconstruction in zip(*batch, strict=True)
    ]
    assert result(psnr_metric(), outputs) == pytest.approx(np.mean(wanted), abs=1e-4)
    assert np.ptp(wanted) > 5


def test_psnr_clamps_reconstructions():
    image = values(2, 1, 8, 8, seed=0).round()
    wild = image * 3 - 1  # 2 where the image is 1
    near = image * 0.9 + 0.05
    clamped = result(psnr_metric(), [{"pred": (torch.where(wild > 0.5, wild, near), None), "label": image}])
    exact = result(psnr_metric(), [{"pred": (torch.where(wild > 0.5, image, near), None), "label": image}])
    assert clamped == pytest.approx(exact)


def test_code_uncertainty():
    outputs = [{"pred": (None, values(n, 3, 4, 4, seed=n) * n / 4)} for n in BATCHES]
    bits = np.concatenate([o["pred"][1].numpy().ravel() for o in outputs]).astype(np.float64)
    assert result(code_uncertainty_metric(), outputs) == pytest.approx(np.mean(bits * (1 - bits)), rel=1e-6)
    assert result(code_uncertainty_metric(), [{"pred": (None, torch.full((1, 2), 0.5))}]) == 0.25


def test_bce_against_sklearn():
    logits = [values(n, 5, 4, 4, seed=n) * 8 - 4 for n in BATCHES]
    targets = [(values(n, 5, 4, 4, seed=n + 50) < 0.3).float() for n in BATCHES]
    outputs = [{"pred": p, "label": t} for p, t in zip(logits, targets, strict=True)]
    probability = torch.cat([p.flatten() for p in logits]).double().sigmoid().numpy()
    wanted = log_loss(torch.cat([t.flatten() for t in targets]).numpy(), probability)
    assert result(bce_metric(), outputs) == pytest.approx(wanted, rel=1e-5)


def test_bce_of_chance():
    target = (values(2, 5, seed=0) < 0.5).float()
    assert result(bce_metric(), [{"pred": torch.zeros(2, 5), "label": target}]) == pytest.approx(math.log(2))


def test_bce_of_half_precision_is_computed_in_single():
    target = torch.zeros(2, 500)
    logits = torch.full((2, 500), -9.0, dtype=torch.bfloat16)
    value = result(bce_metric(), [{"pred": logits, "label": target}])
    assert value == pytest.approx(math.log1p(math.exp(-9)), rel=1e-2)


@pytest.mark.parametrize("metric", [psnr_metric, code_uncertainty_metric, bce_metric])
def test_a_second_run_starts_anew(metric):
    image = values(2, 1, 8, 8, seed=0)

    def output(seed: int) -> dict:
        other = values(2, 1, 8, 8, seed=seed)
        return {"pred": other if metric is bce_metric else (other, other), "label": image}

    engine = Engine(lambda engine, batch: batch)
    metric().attach(engine, "value")
    engine.run([output(1)])
    engine.run([output(2)])
    assert engine.state.metrics["value"] == pytest.approx(result(metric(), [output(2)]))


def test_lower_is_better():
    assert lower_is_better(0.1, 0.2)
    assert not lower_is_better(0.2, 0.1)
    assert not lower_is_better(0.2, 0.2)
    assert lower_is_better(5.0, math.inf)
