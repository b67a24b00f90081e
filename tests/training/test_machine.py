"""The order of attention kernels on GPUs, read back: nothing here needs one."""

import pytest
import torch
from torch._C import _SDPBackend as SDPBackend

from bigtrain.training.machine import order_attention_kernels

H100, B200, A100, RTX_PRO_6000 = (9, 0), (10, 0), (8, 0), (12, 0)


@pytest.fixture(autouse=True)
def as_before():
    """Torch's own order and switches, afterwards."""
    order, enabled = torch._C._get_sdp_priority_order(), torch.backends.cuda.cudnn_sdp_enabled()
    yield
    torch._C._set_sdp_priority_order(order)
    torch.backends.cuda.enable_cudnn_sdp(enabled)


def kernels():
    """The enabled kernels for attention, in their order."""
    names = {
        int(SDPBackend.CUDNN_ATTENTION): ("cudnn", torch.backends.cuda.cudnn_sdp_enabled()),
        int(SDPBackend.FLASH_ATTENTION): ("flash", torch.backends.cuda.flash_sdp_enabled()),
        int(SDPBackend.EFFICIENT_ATTENTION): ("efficient", torch.backends.cuda.mem_efficient_sdp_enabled()),
        int(SDPBackend.MATH): ("math", torch.backends.cuda.math_sdp_enabled()),
    }
    found = (names.get(number, ("", False)) for number in torch._C._get_sdp_priority_order())
    return [name for name, enabled in found if enabled]


@pytest.mark.parametrize("capability", [H100, B200])
def test_cudnn_attends_where_it_is_the_fastest(capability):
    order_attention_kernels(capability, deterministic=False)
    assert kernels() == ["cudnn", "flash", "efficient", "math"]


@pytest.mark.parametrize("capability", [A100, RTX_PRO_6000])
def test_elsewhere_flash_attends(capability):
    order_attention_kernels(capability, deterministic=False)
    assert kernels() == ["flash", "efficient", "math", "cudnn"]


@pytest.mark.parametrize("capability", [H100, A100])
def test_deterministic_runs_leave_cudnn_out(capability):
    """Switched off: at the first attention on an H100 torch sets an order of its own, with cuDNN first."""
    order_attention_kernels(capability, deterministic=True)
    torch._C._set_sdp_priority_order([3, 1, 2, 0, 4])
    assert kernels() == ["flash", "efficient", "math"]


def test_a_run_in_the_same_process_that_is_not_deterministic_has_cudnn_back():
    order_attention_kernels(H100, deterministic=True)
    order_attention_kernels(H100, deterministic=False)
    assert kernels()[0] == "cudnn"
