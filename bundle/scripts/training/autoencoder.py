"""Autoencoders on MONAI's adversarial trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.engines import AdversarialTrainer, IterationEvents
from monai.utils import AdversarialKeys, CommonKeys


class AutoencoderTrainer(AdversarialTrainer):
    """MONAI's ``AdversarialTrainer`` for a generator that returns a reconstruction and what it knows of the latent.

    It differs in what the paper needs: the discriminator starts at an epoch of its own and costs nothing before,
    latents are regularised as their kind wants it (decided codes, Gaussian or quantised latents), and the total loss
    is always in the output, where logging looks for it. Mixed precision is the inferers' business (bfloat16 on any
    device), so ``amp`` stays off. Of the events it fires MONAI's ``IterationEvents`` of the generator, not those of
    ``AdversarialIterationEvents``.

    Args:
        adversarial_start_epoch: first epoch, counted from 1, that uses the discriminator; ``None`` for never.
        regularisers: by name functions of the latent, ``f(*latent)`` to a scalar, when the generator returns
            ``(reconstruction, *latent)``; each is logged under its name.
        regulariser_weights: by name their weights in the loss, 0 unless given.
        args, kwargs: of ``AdversarialTrainer``.
    """

    def __init__(
        self,
        *args: Any,
        adversarial_start_epoch: int | None = None,
        regularisers: Mapping[str, Callable[..., torch.Tensor]] | None = None,
        regulariser_weights: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.adversarial_start_epoch = adversarial_start_epoch
        self.regularisers, self.regulariser_weights = dict(regularisers or {}), dict(regulariser_weights or {})

    def _iteration(self, engine: AdversarialTrainer, batchdata: Mapping[str, torch.Tensor]) -> dict:
        """One step of the generator and, once it has started, one of the discriminator."""
        images, _ = engine.prepare_batch(batchdata, engine.state.device, engine.non_blocking, **engine.to_kwargs)
        start = self.adversarial_start_epoch
        adversarial = start is not None and engine.state.epoch >= start
        output = self._train_generator(images, adversarial)
        if adversarial:
            output |= self._train_discriminator(images, output[AdversarialKeys.FAKES])
        engine.state.output = output
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    def _train_generator(self, images: torch.Tensor, adversarial: bool) -> dict:
        state = self.state
        state.g_network.train()
        state.g_optimizer.zero_grad(set_to_none=True)
        fakes, *latent = self.g_inferer(images, state.g_network)
        self.fire_event(IterationEvents.FORWARD_COMPLETED)
        penalties = {name: penalty(*latent) for name, penalty in self.regularisers.items()}
        loss = reconstruction_loss = state.recon_loss_function(fakes, images)
        for name, penalty in penalties.items():
            loss = loss + self.regulariser_weights.get(name, 0.0) * penalty
        output = {
            CommonKeys.IMAGE: images,
            AdversarialKeys.REALS: images,
            AdversarialKeys.FAKES: fakes.detach(),
            CommonKeys.PRED: fakes.detach(),
            AdversarialKeys.RECONSTRUCTION_LOSS: reconstruction_loss.detach(),
            **{name: penalty.detach() for name, penalty in penalties.items()},
        }
        if adversarial:
            # Only the generator learns here; its gradient passes through the frozen discriminator.
            state.d_network.requires_grad_(False)
            generator_loss = state.g_loss_function(self.d_inferer(fakes, state.d_network))
            state.d_network.requires_grad_(True)
            loss = loss + generator_loss
            output[AdversarialKeys.GENERATOR_LOSS] = generator_loss.detach()
        self.fire_event(IterationEvents.LOSS_COMPLETED)
        loss.backward()
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        state.g_optimizer.step()
        return {**output, CommonKeys.LOSS: loss.detach()}

    def _train_discriminator(self, reals: torch.Tensor, fakes: torch.Tensor) -> dict:
        state = self.state
        state.d_network.train()
        state.d_optimizer.zero_grad(set_to_none=True)
        loss = state.d_loss_function(self.d_inferer(reals, state.d_network), self.d_inferer(fakes, state.d_network))
        loss.backward()
        state.d_optimizer.step()
        return {AdversarialKeys.DISCRIMINATOR_LOSS: loss.detach()}
