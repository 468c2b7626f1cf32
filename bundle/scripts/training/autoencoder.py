"""Stage 1: the binarising autoencoder on MONAI's adversarial trainer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from monai.engines import AdversarialTrainer, IterationEvents
from monai.utils import AdversarialKeys, CommonKeys

from .losses import code_uncertainty


class AutoencoderTrainer(AdversarialTrainer):
    """MONAI's ``AdversarialTrainer`` for a generator that returns a reconstruction and its code probability.

    It differs in what the paper needs: the discriminator starts at an epoch of its own and costs nothing before,
    codes can be pushed to decide, and the total loss is always in the output, where logging looks for it. Mixed
    precision is the inferers' business (bfloat16 on any device), so ``amp`` stays off. Of the events it fires MONAI's
    ``IterationEvents`` of the generator, not those of ``AdversarialIterationEvents``.

    Args:
        adversarial_start_epoch: first epoch, counted from 1, that uses the discriminator; ``None`` for never.
        uncertainty_weight: weight of the mean of y (1 - y).
        args, kwargs: of ``AdversarialTrainer``.
    """

    def __init__(
        self, *args, adversarial_start_epoch: int | None = None, uncertainty_weight: float = 0.0, **kwargs
    ) -> None:
        super().__init__(*args, **kwargs)
        self.adversarial_start_epoch, self.uncertainty_weight = adversarial_start_epoch, uncertainty_weight

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
        fakes, probability = self.g_inferer(images, state.g_network)
        self.fire_event(IterationEvents.FORWARD_COMPLETED)
        uncertainty = code_uncertainty(probability)
        reconstruction_loss = state.recon_loss_function(fakes, images)
        loss = reconstruction_loss + self.uncertainty_weight * uncertainty
        output = {
            CommonKeys.IMAGE: images,
            AdversarialKeys.REALS: images,
            AdversarialKeys.FAKES: fakes.detach(),
            CommonKeys.PRED: fakes.detach(),
            AdversarialKeys.RECONSTRUCTION_LOSS: reconstruction_loss.detach(),
            "code_uncertainty": uncertainty.detach(),
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
