from __future__ import annotations

import pytest
import torch

from scripts.training import check_compile_mode


@pytest.mark.parametrize(
    ("mode", "device", "amp"),
    [
        (None, "cpu", True),
        ("", "cpu", True),
        (False, "cpu", True),
        ("default", "cpu", False),
        ("default", "cuda", True),
        (None, torch.device("cuda"), True),
    ],
)
def test_what_can_be_trusted(mode, device, amp):
    check_compile_mode(mode, device, amp)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_refused(device):
    with pytest.raises(ValueError, match=r"compile_mode: 'default' on a CPU wants amp False, got amp True"):
        check_compile_mode("default", device, True)


def test_unknown_mode():
    with pytest.raises(ValueError, match=r"compile_mode: got 'fas', wanted null or one of \['default', "):
        check_compile_mode("fas", "cuda", True)
