"""Whether compiling a network for training can be trusted."""

from __future__ import annotations

import torch


def check_compile_mode(mode: str | None, device: torch.device | str, amp: bool) -> None:
    """Refuse what would train a network without some of its gradients.

    On a CPU in bfloat16 the compiled backward pass of torch 2.13 gives no gradient to convolutions with a stride, nor
    to what lies before them on that path: the autoencoder's encoder learns nothing, and its code collapses, while the
    forward pass looks as it should. ``benchmarks/training_speed.py`` compares the gradients.

    Args:
        mode: of ``torch.compile``; ``None`` or empty does not compile.
        device: where the network is trained.
        amp: whether its forward pass runs in bfloat16 autocast.

    Raises:
        ValueError: when the mode is none of torch's, or asked for on a CPU in bfloat16.
    """
    if not mode:
        return
    # Takes a second, which those who do not compile need not wait.
    from torch._inductor import list_mode_options

    known = list(list_mode_options())
    if mode not in known:
        raise ValueError(f"compile_mode: got {mode!r}, wanted null or one of {known}.")
    if amp and torch.device(device).type == "cpu":
        raise ValueError(
            f"compile_mode: {mode!r} on a CPU wants amp False, got amp True: compiled training in bfloat16 leaves "
            "layers without gradients there. Use compile_mode null (not compiled) or amp False."
        )
