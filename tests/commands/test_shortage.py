"""A failed allocation is no bug of ours: what was asked for, what was free, when, and what needs less. Exit 5."""

from __future__ import annotations

import resource
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from bigtrain import cli
from bigtrain.commands import shortage
from bigtrain.commands.shortage import asked_bytes, cheapest_overrides, phase_of, shortage_of_memory
from bigtrain.config.run import Precision
from bigtrain.distributed.world import World
from bigtrain.errors import ConfigError, ExitCode, MemoryShortage, is_memory_shortage
from bigtrain.models.config import NgramConfig
from bigtrain.planning.formula import certain_memory
from bigtrain.tracking import formatting, memory
from tests.training.conftest import make_trainer, tiny_config  # noqa: F401

from .conftest import TINY, Shell

ALONE = World(0, 1, torch.device("cpu"))
FAR_TOO_MUCH = 10**15


def raised(call):
    with pytest.raises((MemoryError, RuntimeError, OSError)) as caught:
        call()
    return caught.value


def test_words_of_every_allocator_are_known():
    on_host = raised(lambda: torch.empty(FAR_TOO_MUCH))
    by_numpy = raised(lambda: np.empty(FAR_TOO_MUCH))
    words = (
        "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1 is free."
    )
    on_gpu = torch.OutOfMemoryError(words)
    assert all(map(is_memory_shortage, (on_host, by_numpy, on_gpu, MemoryError())))
    assert not any(map(is_memory_shortage, (RuntimeError("shape"), OSError(28, "full"), ValueError("out of memory"))))
    assert asked_bytes(str(on_host)) == 4 * FAR_TOO_MUCH
    assert asked_bytes(str(by_numpy)) == pytest.approx(8 * FAR_TOO_MUCH, rel=0.01)
    assert asked_bytes(words) == 2.5 * 2**30
    assert asked_bytes("std::bad_alloc") == 0


def fail_in(trainer, *, training):
    """From now on a pass in this mode asks for more than there is."""

    def ask(module, inputs):
        if module.training == training:
            torch.empty(FAR_TOO_MUCH)

    trainer.module.register_forward_pre_hook(ask)


@pytest.mark.parametrize(("training", "phase"), [(True, r"in a training step \(step 7\)"), (False, "in an evaluation")])
def test_it_says_when_it_happened_and_where_the_run_goes_on(training, phase, make_trainer, tmp_path):  # noqa: F811
    config = tiny_config(trainer={"save_every": "6step", "max_duration": "10step"})
    trainer = make_trainer(config)
    step = trainer.tracker.step
    trainer.tracker.step = lambda number: (step(number), fail_in(trainer, training=training) if number == 6 else None)
    expected = rf"memory on the host ran out {phase}: 3638 TiB were asked for"
    with pytest.raises(MemoryShortage, match=expected) as caught, shortage_of_memory(config, ALONE, tmp_path / "run"):
        trainer.fit()
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    text = str(caught.value)
    assert text.startswith("error[MEMORY]") and "can't allocate memory" in text
    assert "trainer.micro_batch_size=4, trainer.activation_checkpointing=full" in text
    assert f"resume={tmp_path / 'run'}" in text and "checkpoint of step 6" in text


def test_it_names_what_is_enough_by_the_plan(make_trainer, monkeypatch):  # noqa: F811
    """Of 1 MiB, all of which was used when 1 MiB more was asked for: half of the activations have to go."""
    config = tiny_config()
    spec = make_trainer(config).snapshot.data.spec
    monkeypatch.setattr(shortage, "memory_total_bytes", lambda device: 1 << 20)
    monkeypatch.setattr(shortage, "free_memory_bytes", lambda device: 0)
    with pytest.raises(MemoryShortage) as caught, shortage_of_memory(config, ALONE, spec=spec):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1048576 bytes.")
    text = str(caught.value)
    state = sum(certain_memory(config, spec).values())
    assert f"by the plan the training's state takes {formatting.memory(state)}" in text
    assert "the cheapest first: trainer.micro_batch_size=" in text and "bigtrain plan" in text


def test_other_errors_pass():
    error = ConfigError.of("X", "y")
    with pytest.raises(ConfigError) as caught, shortage_of_memory(tiny_config(), ALONE):
        raise error
    assert caught.value is error
    with pytest.raises(RuntimeError, match="shape"), shortage_of_memory(tiny_config(), ALONE):
        raise RuntimeError("shape")


def test_advice_is_what_this_run_has_left():
    def advice(config):
        return [word.removeprefix("trainer.") for word in cheapest_overrides(config, ALONE)[:-1]]

    config = tiny_config()
    assert advice(config) == ["micro_batch_size=4", "activation_checkpointing=full", "data.sequence_length=8"]
    tight = {"micro_batch_size": 1, "activation_checkpointing": "full"}
    assert advice(tiny_config(trainer=tight)) == ["data.sequence_length=8"]
    assert "micro_batch_size=3" in advice(tiny_config(trainer={"batch_size": 9, "micro_batch_size": 9}))
    assert "batch_tokens=50" in advice(tiny_config(trainer={"batch_tokens": 100}))
    assert "activation_checkpointing=full" not in advice(replace(config, model=NgramConfig()))
    on_gpu = cheapest_overrides(
        tiny_config(trainer={"precision": Precision.fp32}), replace(ALONE, device=torch.device("cuda"))
    )
    assert "trainer.precision=bf16" in on_gpu


def test_the_phase_before_any_is_the_start():
    assert phase_of(raised(lambda: torch.empty(FAR_TOO_MUCH))) == "at the start"


def test_other_commands_say_it_too(monkeypatch, capsys):
    def run(*_):
        torch.empty(FAR_TOO_MUCH)

    monkeypatch.setattr(cli, "_dispatch", run)
    assert cli.main(["eval"]) == ExitCode.ENVIRONMENT
    assert "error[MEMORY]: there is not enough memory" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of address space")
def test_the_command_within_a_limit_of_memory(tmp_path):
    """A weight of 12 GiB in a process that may have 6."""
    shell = Shell(tmp_path, installed=True)
    limit = 6 * 2**30
    process = shell.start(
        *TINY,
        "model.hidden_size=32768",
        "trainer.allow_oversize=true",  # else it is refused by its settings
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    _, errors = process.communicate(timeout=200)
    assert process.returncode == ExitCode.ENVIRONMENT, errors
    assert "error[MEMORY]: memory on the host ran out while the model was built: 12 GiB were asked for" in errors
    assert "of 6.0 GiB were free" in errors and "Traceback" not in errors


def test_kills_by_the_kernel_are_counted(tmp_path, monkeypatch):
    (tmp_path / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    monkeypatch.setattr(memory, "_cgroups", lambda: iter([tmp_path / "inner", tmp_path]))
    assert memory.out_of_memory_kills() == 2
