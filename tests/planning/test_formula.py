"""Parameters by formula: those of the built network, and those that papers and libraries publish; what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_networks import PAIRS, TEXT, serving, tiny_config, tiny_network

from bigtrain.build import OPTIMIZERS
from bigtrain.config.kinds import DataConfig, SchedulerConfig
from bigtrain.config.run import RunConfig, TrainerConfig
from bigtrain.data.base import DataSpec
from bigtrain.errors import ExitCode, MachineError
from bigtrain.models.config import (
    Activation,
    BertConfig,
    Cell,
    LSTMConfig,
    Norm,
    NormPosition,
    Positional,
    Seq2SeqConfig,
    TransformerConfig,
)
from bigtrain.models.vision.config import CNNConfig, MLPConfig, ResNetConfig, VGGConfig
from bigtrain.optim.config import AdamWConfig, LionConfig, MuonConfig, SGDConfig
from bigtrain.planning.changes import cheapest_changes
from bigtrain.planning.formula import (
    certain_memory,
    parameter_counts,
    refuse_oversize,
    smallest_spec,
    untraced_situation,
)
from bigtrain.planning.setup import Setup
from bigtrain.registry import TASKS
from bigtrain.tasks.config import (
    ClassificationConfig,
    LanguageModelingConfig,
    MaskedLanguageModelingConfig,
    Seq2SeqTaskConfig,
)

VARIANTS = [
    (TransformerConfig, {"activation": Activation.swiglu, "num_kv_heads": 2, "bias": True, "norm": Norm.layernorm}),
    (TransformerConfig, {"positional": Positional.learned, "tie_embeddings": True, "feedforward_size": 7}),
    (TransformerConfig, {"num_embeddings": 64, "num_layers": 3}),
    (LSTMConfig, {"cell": Cell.gru, "embedding_size": 10, "tie_embeddings": True}),
    (LSTMConfig, {"cell": Cell.rnn, "num_layers": 3}),
    (BertConfig, {"norm_position": NormPosition.pre, "tie_embeddings": False, "num_embeddings": 30}),
    (Seq2SeqConfig, {"tie_embeddings": False, "positional": Positional.learned, "activation": Activation.swiglu}),
    (Seq2SeqConfig, {"norm_position": NormPosition.post}),
    (CNNConfig, {"batch_norm": True, "convolutions_per_stage": 2, "kernel_size": 5, "widths": [4, 6, 5, 7]}),
    (ResNetConfig, {"depth": 18, "width": None}),
    (ResNetConfig, {"depth": 50, "width": 8, "stem": "7x7"}),
    (ResNetConfig, {"depth": 20, "width": 4, "projection": True}),
    (VGGConfig, {"depth": 16, "batch_norm": True}),
    (MLPConfig, {"widths": [], "batch_norm": True}),
    (MLPConfig, {"widths": [5, 6, 7], "batch_norm": True}),
]


def run_config(model, task, optimizer=None, **trainer) -> RunConfig:
    return RunConfig(
        model=model,
        data=DataConfig(),
        task=task,
        optimizer=optimizer or AdamWConfig(),
        scheduler=SchedulerConfig(),
        trainer=TrainerConfig(**trainer),
    )


def built(model, task, spec):
    with torch.device("meta"):
        return tiny_network(model, task_config=task, spec=spec)[1]


def numbers(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def require_equal(model, task, spec) -> None:
    counts = parameter_counts(run_config(model, task), spec)
    assert counts is not None, "a registered model needs a formula in bigtrain/models/sizes.py"
    network = built(model, task, spec)
    assert counts.total == numbers(network)
    assert counts.head == numbers(network) - numbers(network.backbone)
    if counts.num_blocks:
        assert counts.num_blocks == len(network.backbone.ordered_blocks())
    assert counts.matrices == sum(matrix.numel() for matrix in network.backbone.hidden_matrices())


@pytest.mark.parametrize(
    ("model", "task", "spec"),
    [pytest.param(*case, id=f"{case[0].name}-{case[1].name}-{case[2].kind}") for case in serving()],
)
def test_the_formula_counts_the_parameters_of_every_pair(model, task, spec):
    require_equal(tiny_config(model.config_class), task.config_class(), spec)


@pytest.mark.parametrize(("model_class", "changes"), VARIANTS)
def test_the_formula_follows_every_setting(model_class, changes):
    model = tiny_config(model_class, **changes)
    _, task, spec = next(case for case in serving() if case[0].config_class is model_class)
    require_equal(model, task.config_class(), spec)


def test_a_head_for_the_next_sentence_keeps_the_pooler():
    require_equal(tiny_config(BertConfig), MaskedLanguageModelingConfig(next_sentence=True), TEXT)


GPT2 = {"hidden_size": 768, "num_layers": 12, "num_heads": 12, "norm": Norm.layernorm, "bias": True}
GPT2 |= {"positional": Positional.learned, "activation": Activation.gelu_tanh, "tie_embeddings": True}
LLAMA = {"hidden_size": 8192, "num_layers": 80, "num_heads": 64, "num_kv_heads": 8, "feedforward_size": 28672}
LLAMA |= {"activation": Activation.swiglu, "max_length": 8192}
IMAGENET = DataSpec("images", "", {}, input_shape=(3, 224, 224), num_classes=1000)
PUBLISHED = [
    ("GPT-2 124M", TransformerConfig(**GPT2), LanguageModelingConfig(), replace(TEXT, vocab_size=50257), 124_439_808),
    (
        "Llama 2 70B",
        TransformerConfig(**LLAMA),
        LanguageModelingConfig(),
        replace(TEXT, vocab_size=32000),
        68_976_648_192,
    ),
    (
        "Llama 3 70B",
        TransformerConfig(**LLAMA, num_embeddings=128256),
        LanguageModelingConfig(),
        TEXT,
        70_553_706_496,
    ),
    ("ResNet-18", ResNetConfig(depth=18), ClassificationConfig(), IMAGENET, 11_689_512),
    ("ResNet-50", ResNetConfig(depth=50), ClassificationConfig(), IMAGENET, 25_557_032),
    ("VGG-16", VGGConfig(depth=16), ClassificationConfig(), IMAGENET, 138_357_544),
    (
        "Transformer base without its vocabulary",
        Seq2SeqConfig(hidden_size=512, num_layers=6, num_heads=8),
        Seq2SeqTaskConfig(),
        replace(PAIRS, vocab_size=1),
        44_138_496 + 2 * 2 * 512 + 512,  # torch.nn.Transformer's has both last norms, too
    ),
]


@pytest.mark.parametrize(
    ("model", "task", "spec", "count"), [case[1:] for case in PUBLISHED], ids=[c[0] for c in PUBLISHED]
)
def test_published_numbers_of_parameters(model, task, spec, count):
    counts = parameter_counts(run_config(model, task), spec)
    assert counts is not None
    assert counts.total == count


@pytest.mark.parametrize(
    "optimizer", [AdamWConfig(), LionConfig(), MuonConfig(), SGDConfig()], ids=lambda one: type(one).__name__
)
def test_the_certain_state_is_that_of_the_optimizer_but_for_step_counts(optimizer):
    model, task = tiny_config(TransformerConfig), LanguageModelingConfig()
    network = built(model, task, TEXT)
    state = OPTIMIZERS.entry_of(optimizer).load()(optimizer, network).state
    held = sum(value.nbytes for values in state.values() for value in values.values() if value.ndim)
    assert certain_memory(run_config(model, task, optimizer), TEXT)["optimizer state"] == held


def test_what_is_frozen_is_not_certain_to_have_gradients():
    model, task = tiny_config(TransformerConfig), LanguageModelingConfig()
    parts = certain_memory(run_config(model, task, AdamWConfig(freeze=["backbone"])), TEXT)
    assert set(parts) == {"weights"}


@pytest.mark.parametrize("model", [case[1] for case in PUBLISHED[:3]], ids=[case[0] for case in PUBLISHED[:3]])
def test_without_its_data_a_model_counts_less(model):
    config = run_config(model, LanguageModelingConfig())
    assert parameter_counts(config, smallest_spec(config)).total <= parameter_counts(config, TEXT).total


def oversize(**trainer) -> RunConfig:
    return run_config(TransformerConfig(**LLAMA), LanguageModelingConfig(), **trainer)


def test_what_can_not_fit_is_refused_with_its_numbers_and_overrides():
    with pytest.raises(MachineError) as refused:
        refuse_oversize(oversize(), TEXT, 1, 1, 80 * 10**9, "H100")
    assert refused.value.exit_code == ExitCode.ENVIRONMENT
    (problem,) = refused.value.problems
    assert problem.code == "MEMORY-MODEL"
    assert "68.5G parameters" in problem.message
    assert "75 GiB" in problem.message
    assert "optimizer state 510 GiB" in problem.cause
    assert "trainer.strategy=fsdp trainer.gpus=16" in problem.fix
    assert "trainer.allow_oversize=true" in problem.fix
    refuse_oversize(oversize(allow_oversize=True), TEXT, 1, 1, 80 * 10**9, "H100")


def test_nothing_that_fits_is_refused():
    config = oversize()
    needed = sum(certain_memory(config, TEXT).values())
    refuse_oversize(config, TEXT, 1, 1, needed, "cpu")
    with pytest.raises(MachineError):
        refuse_oversize(config, TEXT, 1, 1, needed - 1, "cpu")
    refuse_oversize(config, TEXT, 16, 1, -(-needed // 16), "H100")  # which may be split
    with pytest.raises(MachineError):
        refuse_oversize(config, TEXT, 16, 1, needed // 16 - 1, "H100")


def test_out_of_memory_what_is_no_state_counts_as_activations():
    config = run_config(TransformerConfig(**GPT2), LanguageModelingConfig(), batch_size=64)
    spec, used = replace(TEXT, vocab_size=50257), 40 << 30
    situation = untraced_situation(config, spec, Setup.of(config, 1, False), 24 << 30, False, used)
    assert situation.needed == used
    found = cheapest_changes(situation)
    assert found[0].overrides == ("trainer.micro_batch_size=32",)
    assert ("trainer.activation_checkpointing=full",) in [change.overrides for change in found]


def test_every_task_has_a_formula_for_its_heads():
    assert {task.name for _, task, _ in serving()} == {task.name for task in TASKS}
