"""The autoencoder's trainer: what is learned when, and from which loss."""

from __future__ import annotations

import torch
from helpers import IMAGE_CHANNELS, IMAGE_SIZE, tiny_network
from ignite.engine import Events
from monai.networks.nets import PatchDiscriminator

from scripts.inferers import AutocastInferer
from scripts.training import AutoencoderTrainer, ImagePrepareBatch
from scripts.training.losses import DiscriminatorLoss, GeneratorLoss, ReconstructionLoss, code_uncertainty


def penalised(weight: float) -> dict:
    return {"regularisers": {"code_uncertainty": code_uncertainty}, "regulariser_weights": {"code_uncertainty": weight}}


def trainer(epochs: int, iterations: int = 2, lr: float = 1e-3, **settings) -> AutoencoderTrainer:
    """A trainer of the tiny autoencoder on one batch of smooth images."""
    torch.manual_seed(0)
    grid = torch.linspace(0, 1, IMAGE_SIZE)
    image = torch.stack([grid[:, None] * grid, 1 - grid[:, None] * grid]).expand(2, IMAGE_CHANNELS, -1, -1).clone()
    generator = tiny_network().autoencoder
    discriminator = PatchDiscriminator(spatial_dims=2, channels=4, in_channels=IMAGE_CHANNELS, num_layers_d=1)
    return AutoencoderTrainer(
        device="cpu",
        max_epochs=epochs,
        train_data_loader=[{"image": image}] * iterations,
        prepare_batch=ImagePrepareBatch(),
        g_network=generator,
        g_optimizer=torch.optim.Adam(generator.parameters(), lr=lr),
        g_inferer=AutocastInferer(),
        recon_loss_function=ReconstructionLoss(),
        g_loss_function=GeneratorLoss(weight=0.5),
        d_network=discriminator,
        d_optimizer=torch.optim.Adam(discriminator.parameters(), lr=lr),
        d_inferer=AutocastInferer(output=-1),
        d_loss_function=DiscriminatorLoss(),
        decollate=False,
        **settings,
    )


def copy_of(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in network.state_dict().items()}


def changed(network: torch.nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(v, before[k]) for k, v in network.state_dict().items() if v.is_floating_point())


def test_reconstruction_is_learned():
    engine = trainer(epochs=1, iterations=150, lr=1e-2)
    losses = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(e.state.output["loss"]))
    engine.run()
    assert losses[-1] < 0.3 * losses[0]


def test_discriminator_rests_until_its_epoch():
    engine = trainer(epochs=1, adversarial_start_epoch=2)
    before = copy_of(engine.state.d_network)
    engine.run()
    assert not changed(engine.state.d_network, before)
    assert "generator_loss" not in engine.state.output

    engine = trainer(epochs=2, adversarial_start_epoch=2)
    before = copy_of(engine.state.d_network)
    engine.run()
    assert changed(engine.state.d_network, before)


def test_total_loss_is_the_sum_of_its_parts():
    engine = trainer(epochs=1, adversarial_start_epoch=1, **penalised(0.7))
    engine.run()
    output = engine.state.output
    total = output["reconstruction_loss"] + output["generator_loss"] + 0.7 * output["code_uncertainty"]
    assert abs(output["loss"] - total) < 1e-6


def test_generator_step_leaves_no_gradient_in_the_discriminator():
    engine = trainer(epochs=1, adversarial_start_epoch=1)
    images = next(iter(engine.data_loader))["image"]
    engine._train_generator(images, adversarial=True)
    assert all(p.grad is None and p.requires_grad for p in engine.state.d_network.parameters())


def test_penalty_makes_codes_decide():
    uncertainty = []
    for weight in (0.0, 1.0):
        engine = trainer(epochs=1, iterations=60, lr=1e-2, **penalised(weight))
        engine.run()
        uncertainty.append(engine.state.output["code_uncertainty"])
    assert uncertainty[1] < 0.5 * uncertainty[0]


def test_any_latent_is_regularised_by_its_own_functions():
    """A generator may return several tensors of its latent; a function without a weight is only logged."""

    class Generator(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.full((1,), 2.0))

        def forward(self, image):
            return image * self.scale, self.scale.expand(3), self.scale + 5

    generator = Generator()
    engine = trainer(
        epochs=1,
        iterations=1,
        regularisers={
            "spread": lambda mean, sigma: (mean.sum() * sigma).sum(),
            "watched": lambda mean, sigma: sigma.sum(),
        },
        regulariser_weights={"spread": 0.25},
    )
    engine.state.g_network = generator
    engine.state.g_optimizer = torch.optim.SGD(generator.parameters(), lr=0.0)
    engine.run()
    output = engine.state.output
    image = output["reals"]
    assert abs(output["reconstruction_loss"] - image.square().mean()) < 1e-6
    assert (output["spread"].item(), output["watched"].item()) == (6 * 7, 7)
    assert abs(output["loss"] - (image.square().mean() + 0.25 * 42)) < 1e-5
    # d/ds of mean((s - 1)^2 x^2) + 0.25 * 3 s (s + 5)
    gradient = 2 * image.square().mean() + 0.75 * (2 * 2 + 5)
    torch.testing.assert_close(generator.scale.grad[0], gradient)
