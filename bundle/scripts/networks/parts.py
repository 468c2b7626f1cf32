"""The networks of a method as one module with one state dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn


class Parts(nn.Module):
    """Networks by name: part ``denoiser`` is the attribute ``denoiser``, and its keys begin with ``denoiser.``.

    Args:
        channels_last: keep the weights of all in this memory format. Convolutions round otherwise with it, so it is
            set here, where whoever builds the module for inference gets the same bits.
        networks: the parts.
    """

    def __init__(self, channels_last: bool = False, **networks: nn.Module) -> None:
        super().__init__()
        for name, network in networks.items():
            self.add_module(name, network)
        if channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """A part by its name."""

    def part(self, name: str) -> nn.Module:
        """One of the networks.

        Raises:
            ValueError: when there is none of that name; names those that there are.
        """
        names = [known for known, _ in self.named_children()]
        if name not in names:
            raise ValueError(f"part: there is no {name!r}, the network has {', '.join(names)}.")
        return self.get_submodule(name)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Mean over channels of |x - x_hat|, (B, 1, H, W), x_hat the first part's ``reconstruct(x)``.

        One deterministic pass, for tools that run ``network_def`` on an image; anomaly maps come from the inferer.

        Raises:
            NotImplementedError: when no part reconstructs an image by itself.
        """
        network: Any
        for network in self.children():
            if hasattr(network, "reconstruct"):
                return (image - network.reconstruct(image)).abs().mean(dim=1, keepdim=True)
        raise NotImplementedError("no part of this network reconstructs an image in one pass; use the inferer.")

    def load_state_dict(self, state_dict: Mapping[str, torch.Tensor], strict: bool = True, assign: bool = False):
        """Load all parts; every key must match, whatever ``strict`` says.

        Callers that pass ``strict=False`` would go on with random weights, and nobody would see it.

        Raises:
            RuntimeError: when a key is missing or foreign, or a shape differs; names the first few.
        """
        own = self.state_dict()
        missing, foreign = sorted(own.keys() - state_dict.keys()), sorted(state_dict.keys() - own.keys())
        shapes = [k for k in own.keys() & state_dict.keys() if own[k].shape != state_dict[k].shape]
        problems = [
            f"{len(keys)} {what} (first: {', '.join(keys[:3])})"
            for what, keys in (("keys missing", missing), ("foreign keys", foreign), ("shapes differ", sorted(shapes)))
            if keys
        ]
        if problems:
            parts = ", ".join(name for name, _ in self.named_children())
            raise RuntimeError(f"the weights do not belong to this network of {parts}: {'; '.join(problems)}.")
        return super().load_state_dict(state_dict, strict=True, assign=assign)
