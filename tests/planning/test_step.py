"""Predicted memory of a step: beside the allocator's own record, and of many layers from two and three."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_networks import TEXT, tiny_config
from tiny_runs import TinyData

from bigtrain.models.config import BertConfig, LSTMConfig, TransformerConfig
from bigtrain.nn.cpu import as_on_gpu, is_cpu, is_gpu
from bigtrain.planning import step as planned
from bigtrain.planning.changes import ACTIVATIONS, AVERAGE, COPIES, GATHERED, GRADIENTS, OPTIMIZER, WEIGHTS
from bigtrain.planning.setup import Setup
from bigtrain.planning.step import measure_step
from bigtrain.tasks.config import ClassificationConfig, LanguageModelingConfig
from tests.planning.test_formula import run_config

ROOT = Path(__file__).parents[2]
TINY = {
    "transformer, muon, EMA, micro-batches": [
        *("model.hidden_size=64", "optimizer=muon", "trainer.ema_decay=0.9", "data.sequence_length=64"),
        *("trainer.batch_size=8", "trainer.micro_batch_size=2", "trainer.precision=bf16"),
    ],
    "lstm, adamw": ["model=lstm", "model.hidden_size=32", "data.sequence_length=32", "trainer.batch_size=8"],
    "resnet, sgd": [
        *(
            "model=resnet",
            "model.depth=8",
            "data=synthetic/disks",
            "task=regression",
            "optimizer=sgd",
            "trainer.batch_size=16",
        )
    ],
}


@pytest.fixture(scope="module")
def compare():
    path = str(ROOT / "scripts/plan_accuracy")
    loader = importlib.machinery.SourceFileLoader("plan_accuracy", path)
    script = importlib.util.module_from_spec(importlib.util.spec_from_loader("plan_accuracy", loader))
    loader.exec_module(script)
    return script.compare


@pytest.mark.parametrize("overrides", TINY.values(), ids=list(TINY))
@pytest.mark.filterwarnings("ignore")
def test_the_prediction_is_what_the_allocator_records(compare, overrides):
    predicted, measured = compare(overrides)
    assert predicted == pytest.approx(measured, rel=0.05)


def measured(config, spec=TEXT, gpu=None, **setup):
    chosen = Setup(ranks=1, batch=4, micro_batch=2, **setup)
    return measure_step(config, TinyData(replace(spec, sizes={"train": 8, "val": 2})), chosen, gpu)


def layers(model_class, count):
    return run_config(tiny_config(model_class, num_layers=count), LanguageModelingConfig())


@pytest.mark.parametrize(("model_class", "checkpointing"), [(TransformerConfig, "full"), (LSTMConfig, "off")])
def test_two_and_three_layers_tell_what_many_hold(model_class, checkpointing, monkeypatch):
    config = layers(model_class, 6)
    extended = measured(config, checkpointing=checkpointing)
    monkeypatch.setattr(planned, "_FEW", 99)
    whole = measured(config, checkpointing=checkpointing)
    setup = Setup(1, 4, 2)
    assert sum(extended.peak(setup).values()) == pytest.approx(sum(whole.peak(setup).values()), rel=1e-3)
    assert extended.flops_per_sample == whole.flops_per_sample
    assert extended.in_blocks == pytest.approx(whole.in_blocks)
    assert extended.snapshot == whole.snapshot


def test_state_is_counted_by_its_tensors():
    config = run_config(tiny_config(TransformerConfig), LanguageModelingConfig(), ema_decay=0.9)
    update = measured(config).phases["update"]
    weights = update[WEIGHTS]
    assert update[GRADIENTS] == update[AVERAGE] == weights
    assert 2 * weights <= update[OPTIMIZER] <= 2 * weights + 400  # and step counts


def test_recomputed_blocks_keep_their_inputs_only():
    config = layers(TransformerConfig, 4)
    off, full = measured(config), measured(config, checkpointing="full")
    kept, block_input = full.block_bytes
    assert kept <= 2 * block_input < off.block_bytes[0]
    setup = Setup(1, 4, 2)
    assert full.peak(setup)[ACTIVATIONS] < off.peak(setup)[ACTIVATIONS]


def test_a_gpu_has_no_copies_of_its_own_for_a_cpu():
    config = run_config(tiny_config(BertConfig, dropout=0.1), ClassificationConfig())
    spec = replace(TEXT, kind="sentences", num_classes=4)
    on_cpu, on_gpu = measured(config, spec), measured(config, spec, gpu=80 << 30)
    setup = Setup(1, 4, 2)
    assert on_gpu.peak(setup)[ACTIVATIONS] < on_cpu.peak(setup)[ACTIVATIONS]


def test_the_switch_to_a_gpu_ends_with_its_block():
    device = torch.device("cpu")
    assert is_cpu(device)
    with as_on_gpu():
        assert is_gpu(device)
        assert not is_cpu(device)
    assert is_cpu(device)
    assert not is_gpu(device)


def test_sharding_splits_state_and_gathers_a_block_at_a_time():
    step = measured(layers(TransformerConfig, 4), precision="bf16")
    alone, split = Setup(1, 4, 2, "bf16"), Setup(4, 16, 2, "bf16", "fsdp")
    parts = step.peak(split)
    assert parts[WEIGHTS] == -(-step.phases["update"][WEIGHTS] // 4)
    assert parts[GATHERED] < step.peak(alone)[WEIGHTS]
    assert COPIES not in parts
    assert GATHERED not in step.peak(alone)


def test_planning_leaves_the_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with planned.unchanged_generator():
        measured(layers(TransformerConfig, 2))
    assert torch.equal(torch.get_rng_state(), before)
