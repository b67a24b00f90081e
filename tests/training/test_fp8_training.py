"""A run in fp8: as good as one in bf16, exact on resume, the same files; on a CPU, which the tests say has fp8."""

import argparse
import json
import shutil
from dataclasses import replace

import pytest
import torch

from bigtrain.config.run import Precision
from bigtrain.data.text.config import TextCorpusConfig, Tokenizer
from bigtrain.errors import ConfigError, NumericsError
from bigtrain.models.config import LSTMConfig, TransformerConfig
from bigtrain.nn import fp8
from bigtrain.nn.fp8 import Float8Linear
from bigtrain.training import precision
from bigtrain.training.precision import ResolvedPrecision, require_arithmetic, resolve_precision

from .conftest import tiny_config

CPU = torch.device("cpu")
FORMATS = {"trainer": {"precision": Precision.fp8, "ema_decay": 0.9, "micro_batch_size": 4}}


@pytest.fixture
def with_fp8(monkeypatch):
    monkeypatch.setattr(precision, "has_fp8", lambda device: True)
    monkeypatch.setattr(fp8, "WIDE", 16)


def fp8_layers(trainer):
    return {name for name, module in trainer.module.network.named_modules() if type(module) is Float8Linear}


def test_the_linear_layers_of_the_blocks_and_no_others(make_trainer, with_fp8):
    trainer = make_trainer(tiny_config(**FORMATS))
    parts = ("attention.qkv", "attention.projection", "feedforward.expansion", "feedforward.projection")
    assert fp8_layers(trainer) == {f"backbone.blocks.{block}.{part}" for block in range(2) for part in parts}
    assert trainer.precision.name == "fp8"
    assert trainer.precision.reason == "as set: 8 of 8 linear layers in the blocks; bf16 elsewhere"
    assert trainer.precision.dtype == torch.bfloat16
    assert not trainer.precision.scaler(CPU).is_enabled()


def test_a_resumed_run_ends_with_the_same_bytes(make_trainer, with_fp8, tmp_path):
    whole = make_trainer(tiny_config(**FORMATS), "whole")
    whole.fit()
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    for path in (tmp_path / "stopped" / "checkpoints").glob("step-*"):
        if path.name > "step-00000012":
            shutil.rmtree(path)
    resumed = make_trainer(tiny_config(**FORMATS), "stopped", resume=True)
    assert resumed.state.step == 12
    assert fp8_layers(resumed)
    resumed.fit()
    files = [sorted(trainer.checkpoints.path_of(24).glob("*.safetensors")) for trainer in (whole, resumed)]
    assert len(files[0]) == len(files[1]) > 0
    for one, other in zip(*files, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_a_checkpoint_has_the_tensors_of_any_other(make_trainer, with_fp8):
    headers = []
    for number_format in (Precision.fp8, Precision.bf16):
        settings = {"precision": number_format, "max_duration": "1step"}
        trainer = make_trainer(tiny_config(trainer=settings), number_format.value)
        trainer.fit()
        file = trainer.checkpoints.path_of(1) / "model.safetensors"
        length = int.from_bytes(file.read_bytes()[:8], "little")
        headers.append(json.loads(file.read_bytes()[8 : 8 + length]))
    assert headers[0] == headers[1]


def test_it_is_evaluated_as_a_bf16_run_is(make_trainer, with_fp8):
    found = []
    for number_format in (Precision.fp8, Precision.bf16):
        trainer = make_trainer(tiny_config(trainer={"precision": number_format}), number_format.value)
        found.append(trainer.evaluator.evaluate("val").metrics)
    assert found[0] == found[1]
    trained = ResolvedPrecision("fp8", "as the run had it").autocast(CPU)  # what `eval` does with a checkpoint
    with trained:
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16


def test_a_value_that_is_not_finite_stops_the_run(make_trainer, with_fp8):
    trainer = make_trainer(tiny_config(**FORMATS))
    before = {name: value.clone() for name, value in trainer.module.network.state_dict().items()}
    with torch.no_grad():
        trainer.module.network.backbone.blocks[0].feedforward.expansion.weight[0, 0] = float("inf")
    with pytest.raises(NumericsError, match="not finite at step 0"):
        trainer.fit()
    for name, value in trainer.module.network.state_dict().items():
        if "blocks.0.feedforward.expansion.weight" not in name:
            assert torch.equal(value, before[name])


def test_it_learns_a_text_as_bf16_does(make_trainer, with_fp8):
    """200 steps on Python code, without repetitions: the mean loss of the last 40 is that of bf16 within 0.5 %."""
    losses = []
    for number_format in (Precision.bf16, Precision.fp8):
        settings = {"batch_size": 4, "max_duration": "200step", "eval_every": None, "save_every": None}
        config = tiny_config(
            model=TransformerConfig(hidden_size=32, num_layers=2, num_heads=2, max_length=32, dropout=0.0),
            data=TextCorpusConfig(path=argparse.__file__, sequence_length=32, tokenizer=Tokenizer.char),
            trainer={**settings, "precision": number_format},
        )
        trainer = make_trainer(config, number_format.value)
        trainer.fit()
        rows = [row["train/loss"] for row in trainer.recorder.rows if "train/loss" in row]
        assert rows[0] > 1.3 * rows[-1]
        losses.append(sum(rows[-10:]) / 10)
    assert abs(losses[1] / losses[0] - 1) < 0.005


def test_a_device_without_fp8_is_refused(monkeypatch):
    with pytest.raises(ConfigError) as refused:
        require_arithmetic(Precision.fp8, CPU)
    for words in ("PRECISION-DEVICE", "trainer.precision is fp8, and the CPU", "8.9", "trainer.precision=bf16"):
        assert words in str(refused.value)
    require_arithmetic(Precision.bf16, CPU)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    for capability, allowed in {(8, 0): False, (8, 6): False, (8, 9): True, (9, 0): True, (12, 0): True}.items():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, it=capability: it)
        assert precision.has_fp8(torch.device("cuda:0")) is allowed
        if not allowed:
            with pytest.raises(ConfigError, match=f"NVIDIA A100 .compute capability 8.{capability[1]}. has no"):
                require_arithmetic(Precision.fp8, torch.device("cuda:0"))


def test_a_model_without_wide_layers_is_refused(make_trainer):
    with pytest.raises(ConfigError) as refused:
        make_trainer(tiny_config(**FORMATS))
    for words in ("PRECISION-WIDTH", "1024 or more features", "16 features to 64", "trainer.precision=bf16"):
        assert words in str(refused.value)
    with pytest.raises(ConfigError, match="the blocks have no linear layers"):
        make_trainer(replace(tiny_config(**FORMATS), model=LSTMConfig(hidden_size=8)))


def test_auto_never_takes_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert resolve_precision(Precision.auto, torch.device("cuda:0"), 1e15, lambda candidate: None).name == "bf16"
