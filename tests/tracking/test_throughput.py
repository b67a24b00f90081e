"""Speed, peak, FLOPs and memory: against the clock, a closed form, and a known allocation."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bigtrain.tracking.memory import memory_total_bytes
from bigtrain.tracking.throughput import flops_per_sample, measured_peak_flops

CPU = torch.device("cpu")
BATCH, TIME, WIDTH, HEADS, VOCABULARY, LAYERS = 2, 16, 32, 4, 50, 3


class SmallDecoder(nn.Module):
    """Decoder-only transformer, without anything a closed form would have to leave out."""

    def __init__(self, kv_heads: int = HEADS):
        super().__init__()
        self.kv_width = WIDTH // HEADS * kv_heads
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, WIDTH + 2 * self.kv_width, bias=False) for _ in range(LAYERS))
        self.out = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))
        self.up = nn.ModuleList(nn.Linear(WIDTH, 4 * WIDTH, bias=False) for _ in range(LAYERS))
        self.down = nn.ModuleList(nn.Linear(4 * WIDTH, WIDTH, bias=False) for _ in range(LAYERS))
        self.norm = nn.BatchNorm1d(WIDTH, affine=False)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        hidden = self.dropout(self.embedding(batch["tokens"]))
        for qkv, out, up, down in zip(self.qkv, self.out, self.up, self.down, strict=True):
            parts = qkv(hidden).split([WIDTH, self.kv_width, self.kv_width], dim=-1)
            query, key, value = (x.unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2) for x in parts)
            attended = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
            hidden = hidden + out(attended.transpose(1, 2).flatten(2))
            hidden = hidden + down(up(hidden).relu())
        return self.head(self.norm(hidden.flatten(0, 1)).view_as(hidden))


def _batch() -> dict[str, Tensor]:
    return {"tokens": torch.arange(BATCH * TIME).view(BATCH, TIME) % VOCABULARY}


@pytest.mark.parametrize("kv_heads", [HEADS, 2])
def test_flops_equal_the_closed_form(kv_heads):
    module = SmallDecoder(kv_heads)
    weights = sum(p.numel() for p in module.parameters()) - module.embedding.weight.numel()
    attention = 4 * LAYERS * TIME * TIME * WIDTH  # q·k and weights·v, 2 FLOPs per multiplication and addition
    assert flops_per_sample(module, _batch()) == 3 * (2 * weights * TIME + attention)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # fused by oneDNN, and not
def test_flops_of_a_recurrence_are_every_weight_times_every_position(kind, dtype):
    recurrence = kind(6, WIDTH, num_layers=2, batch_first=True, dtype=dtype)

    class OnBatch(nn.Module):
        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return recurrence(batch["inputs"])[0]

    weights = sum(weight.numel() for weight in recurrence.parameters() if weight.ndim == 2)
    inputs = torch.randn(BATCH, TIME, 6, dtype=dtype)
    assert flops_per_sample(OnBatch(), {"inputs": inputs}) == 3 * 2 * weights * TIME


def test_flops_forward_times_three_is_what_forward_and_backward_take():
    from torch.utils.flop_counter import FlopCounterMode

    module = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))
    inputs = torch.randn(5, 8, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        module(inputs).sum().backward()

    class OnBatch(nn.Module):
        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return module(batch["inputs"])

    assert flops_per_sample(OnBatch(), {"inputs": inputs.detach()}) == counter.get_total_flops() / 5


def test_counting_flops_leaves_no_trace():
    module = SmallDecoder()
    module.dropout.eval()  # a part deliberately in another mode than the rest
    before = {name: value.clone() for name, value in module.state_dict().items()}
    generator = torch.get_rng_state()
    flops_per_sample(module, _batch())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module.training and module.norm.training and not module.dropout.training
    assert all(parameter.grad is None for parameter in module.parameters())


def test_modes_come_back_also_when_the_count_fails():
    module = SmallDecoder()
    with pytest.raises(KeyError):
        flops_per_sample(module, {"no_tokens": torch.zeros(1)})
    assert all(part.training for part in module.modules())


def test_the_peak_is_measured_quickly_and_no_product_beats_it_by_much():
    generator = torch.get_rng_state()
    measured_peak_flops(CPU, torch.float32, seconds=0.02)  # the first use loads libraries
    start = time.perf_counter()
    peak, _ = measured_peak_flops(CPU, torch.float32)
    assert time.perf_counter() - start < 1.0  # 0.15 s on an idle machine
    assert torch.equal(torch.get_rng_state(), generator)
    left = torch.randn(256, 256)
    start = time.perf_counter()
    left @ left
    assert 1e8 < peak < 1e16
    assert 2 * 256**3 / (time.perf_counter() - start) < 3 * peak


@pytest.mark.parametrize("received, undisturbed", [(1.0, True), (0.5, False)])
def test_a_peak_says_whether_the_cores_were_shared(monkeypatch, received, undisturbed):
    clock = time.perf_counter
    monkeypatch.setattr(time, "process_time", lambda: clock() * torch.get_num_threads() * received)
    assert measured_peak_flops(CPU, torch.float32, seconds=0.02).undisturbed is undisturbed


def test_memory_is_the_most_used_so_far():
    program = (
        "import torch\n"
        "from bigtrain.tracking.memory import memory_bytes\n"
        "before = memory_bytes(torch.device('cpu'))\n"
        "block = bytearray(b'x' * 200_000_000)\n"
        "del block\n"
        "print(before, memory_bytes(torch.device('cpu')))\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)
    before, after = map(int, answer.stdout.split())
    assert before > 50e6  # Python and torch
    assert 190e6 < after - before < 450e6


def test_the_memory_of_a_container_is_what_it_may_use(tmp_path):
    whole = memory_total_bytes(CPU, tmp_path)
    assert 2**28 < whole < 2**50
    for name, limit, total in (
        ("memory.max", "max\n", whole),
        ("memory.max", "1048576\n", 2**20),
        ("memory/memory.limit_in_bytes", "2097152\n", 2**20),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(limit)
        assert memory_total_bytes(CPU, tmp_path) == total
