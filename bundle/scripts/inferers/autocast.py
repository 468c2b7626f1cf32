"""Forward passes in bfloat16, on any device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer


class AutocastInferer(Inferer):
    """A plain forward pass, in bfloat16 autocast when ``amp`` is on.

    MONAI's engines know mixed precision on CUDA only; bfloat16 needs no loss scaling, so it can live here.

    Args:
        amp: use bfloat16.
        output: which of several outputs to return: an index; ``None`` for all. Of a list, such as the features of
            a ``PatchDiscriminator``, -1 is the last.
        generator: source of randomness for a network that takes one; ``None`` for torch's own.
    """

    def __init__(self, amp: bool = False, output: int | None = None, generator: Any = None) -> None:
        super().__init__()
        self.amp, self.output = amp, output
        self.arguments = {} if generator is None else {"generator": generator}

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run ``network`` on ``inputs``; results are float32."""
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=self.amp):
            result = network(inputs, *args, **self.arguments, **kwargs)
        if self.output is not None:
            result = result[self.output]
        return result.float() if isinstance(result, torch.Tensor) else result


def bfloat16_pays(device: torch.device | str) -> bool:
    """Whether the device has bfloat16 arithmetic of its own."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return kind == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False)
