"""Checkpoints written while training goes on: the same bytes, one at a time, and a failure ends the run."""

import errno
import resource
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bigtrain.config.schema import register_parts
from bigtrain.data.text.config import TextCorpusConfig
from bigtrain.errors import MachineError, NumericsError
from bigtrain.models.config import LSTMConfig, TransformerConfig
from bigtrain.optim.config import MuonConfig
from bigtrain.storage import durable
from bigtrain.storage.checkpoint import CheckpointStore, verify
from bigtrain.tracking import memory
from bigtrain.training import saver
from bigtrain.training.trainer import Trainer

from .conftest import tiny_config, with_trainer
from .test_trainer import poison

register_parts()
OFTEN = with_trainer(tiny_config(), ema_decay=0.9, eval_every="6step", save_every="3step")
CONFIGS = {
    "averaged": OFTEN,
    "muon": replace(OFTEN, optimizer=MuonConfig()),
    "recurrent": replace(
        OFTEN,
        model=LSTMConfig(hidden_size=8, num_layers=2),
        data=TextCorpusConfig(path=__file__, sequence_length=64),
    ),
}


def without_memory(monkeypatch):
    monkeypatch.setattr(saver, "available_memory_bytes", lambda: 0)


def all_files(trainer):
    """Step directory → file → bytes; of state.json what does not depend on the clock."""
    found = {}
    for step in trainer.checkpoints.steps():
        path = trainer.checkpoints.path_of(step)
        found[step] = {file.name: file.read_bytes() for file in path.glob("*.safetensors")}
        state = verify(path).read_json("state.json")
        found[step]["state"] = {key: value for key, value in state.items() if "seconds" not in key}
    return found


@contextmanager
def held_back(monkeypatch, steps):
    """Writing begins only when training has gone on for so many steps, or waits for it."""
    gates, real_save, real_step, real_wait = {}, CheckpointStore.save, Trainer.train_step, saver.Saver.wait
    alive = []

    def save(self, step, files, facts, ranks):
        gates[step] = threading.Event()
        alive.append(step)
        assert threading.current_thread() is not threading.main_thread()
        assert len(alive) == 1, "two at once"
        assert gates[step].wait(60)
        path = real_save(self, step, files, facts, ranks)
        alive.remove(step)
        return path

    def train_step(self, plan):
        real_step(self, plan)
        for step, gate in list(gates.items()):
            if self.state.step >= step + steps:
                gate.set()

    def wait(self):
        opener = threading.Timer(0.02, lambda: [gate.set() for gate in list(gates.values())])
        opener.start()
        real_wait(self)
        opener.cancel()

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "save", save)
        patch.setattr(Trainer, "train_step", train_step)
        patch.setattr(saver.Saver, "wait", wait)
        yield gates


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_written_late_is_the_state_of_its_step(make_trainer, name, monkeypatch):
    with monkeypatch.context() as patch:
        without_memory(patch)
        at_once = make_trainer(CONFIGS[name], "at_once")
        at_once.fit()
    late = make_trainer(CONFIGS[name], "late")
    with held_back(monkeypatch, steps=2) as saves:
        late.fit()
    assert list(saves) == [3, 6, 9, 12, 15, 18, 21, 24]
    assert all_files(late) == all_files(at_once)
    assert late.checkpoints.best().name == at_once.checkpoints.best().name


def test_outside_the_loop_a_save_is_on_disk_when_it_returns(make_trainer):
    trainer = make_trainer(tiny_config())
    trainer.save()
    assert trainer.checkpoints.newest().step == 0


def test_without_memory_for_a_copy_the_live_tensors_are_written(make_trainer, monkeypatch):
    threads, real = [], CheckpointStore.save

    def save(self, step, files, facts, ranks):
        threads.append(threading.current_thread())
        return real(self, step, files, facts, ranks)

    monkeypatch.setattr(CheckpointStore, "save", save)
    config = with_trainer(tiny_config(), max_duration="6step")
    enough = 2 * make_trainer(config).snapshot.size_bytes()
    monkeypatch.setattr(saver, "available_memory_bytes", lambda: enough)
    make_trainer(config, "enough").fit()
    assert threading.main_thread() not in threads
    monkeypatch.setattr(saver, "available_memory_bytes", lambda: enough - 1)
    make_trainer(config, "less").fit()
    assert threads[-1] is threading.main_thread()


def test_where_allocating_fails_there_is_no_copy(make_trainer, monkeypatch):
    trainer = make_trainer(tiny_config())
    files = trainer.snapshot.files()

    def refuse(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", refuse)
        assert trainer.saver._copied(files) is None
    assert trainer.saver._copied(files) is not None


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="not Linux")
def test_available_memory_is_a_number_of_bytes():
    total = int(Path("/proc/meminfo").read_text().split()[1]) * 1024
    assert total / 1000 < memory.available_memory_bytes() < total


def failing_from(monkeypatch, call, code=errno.ENOSPC):
    """From the `call`-th write of a file on, the disk is full."""
    real, calls = durable.write_new, []

    def write_new(path, content):
        calls.append(path)
        if len(calls) >= call:
            raise OSError(code, "No space left on device", str(path))
        return real(path, content)

    monkeypatch.setattr(durable, "write_new", write_new)
    return calls


# One save writes model, optimizer, average, state, config, data_spec, manifest, then latest (and best).
@pytest.mark.parametrize("call", range(1, 11))
def test_a_full_disk_ends_the_run_and_leaves_the_earlier_checkpoint(make_trainer, monkeypatch, call):
    trainer = make_trainer(with_trainer(OFTEN, max_duration="100000step", eval_every="6step"))
    failing_from(monkeypatch, 8 + call)
    with pytest.raises(MachineError, match="no space"):
        trainer.fit()
    assert trainer.state.step < 1000, "it ended at once"
    monkeypatch.undo()
    assert trainer.checkpoints.newest().step >= 3
    assert all(Path(path).name.startswith("step-") for path in trainer.checkpoints.root.glob("*-*"))
    best = trainer.checkpoints.best()
    assert best is None or best.is_dir()


def test_a_failed_write_stops_at_the_next_step_and_marks_nothing(make_trainer, monkeypatch):
    trainer = make_trainer(OFTEN)
    failed, real = threading.Event(), trainer.finish_step

    def save(self, step, files, facts, ranks):
        with durable.disk_errors(self.root):
            failed.set()
            raise OSError(errno.EIO, "Input/output error")

    def finish_step():
        if trainer.saver._jobs:
            failed.wait(60)
            while not all(job.done() for job in trainer.saver._jobs):  # the write, and marking the best after it
                time.sleep(0.001)
        real()

    monkeypatch.setattr(trainer, "finish_step", finish_step)
    monkeypatch.setattr(CheckpointStore, "save", save)
    trainer.cadences = replace(trainer.cadences, save=trainer.cadences.evaluate)
    with pytest.raises(MachineError, match="Input/output error"):
        trainer.fit()
    assert trainer.state.step == 7, "the next after the evaluation of step 6"
    assert trainer.state.best_step == 6
    assert trainer.checkpoints.best() is None


def test_a_failure_of_the_last_write_is_the_end_of_fit(make_trainer, monkeypatch):
    trainer = make_trainer(with_trainer(tiny_config(), max_duration="4step", eval_every=None))
    calls = failing_from(monkeypatch, 3)
    with pytest.raises(MachineError, match="no space"):
        trainer.fit()
    assert len(calls) == 3
    assert trainer.state.step == 4
    assert list(trainer.checkpoints.root.iterdir()) == []


def test_the_checkpoint_before_a_bad_step_is_on_disk_when_the_error_names_it(make_trainer):
    trainer = make_trainer(OFTEN)
    poison(trainer, 7)
    with pytest.raises(NumericsError) as caught:
        trainer.fit()
    assert str(trainer.checkpoints.newest().path) in str(caught.value)


def test_an_interrupted_run_still_writes_what_it_has_begun(make_trainer, monkeypatch):
    trainer = make_trainer(OFTEN)
    real = Trainer.train_step

    def train_step(self, plan):
        if self.state.step == 9:
            raise KeyboardInterrupt
        real(self, plan)

    with held_back(monkeypatch, steps=100):
        monkeypatch.setattr(trainer, "train_step", lambda plan: train_step(trainer, plan))
        with pytest.raises(KeyboardInterrupt):
            trainer.fit()
    assert trainer.checkpoints.newest().step == 9
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]


def test_a_limit_on_file_sizes_is_named(make_trainer):
    """The kernel's own refusal, in the background."""
    config = replace(OFTEN, model=TransformerConfig(hidden_size=64, num_layers=2, num_heads=2, max_length=32))
    trainer = make_trainer(config)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(MachineError, match="larger than this process may write"):
            trainer.fit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(trainer.checkpoints.root.iterdir()) == []


def test_the_copy_is_made_once_and_its_memory_used_again(make_trainer, monkeypatch):
    trainer = make_trainer(OFTEN)
    buffers = set()
    real = saver.Saver._copied

    def copied(self, files):
        found = real(self, files)
        buffers.update((name, buffer.data_ptr()) for name, buffer in self._copies.items())
        assert sum(map(len, self._copies.values())) == self._snapshot.size_bytes()
        return found

    monkeypatch.setattr(saver.Saver, "_copied", copied)
    trainer.fit()
    assert len(buffers) == 3, "model, optimizer, average"
    assert not trainer.saver._copies, "given back at the end"


def test_the_status_line_stands_only_while_the_loop_waits(make_trainer, monkeypatch):
    shown = []

    @contextmanager
    def status_line(what, remark):
        shown.append(what)
        yield

    monkeypatch.setattr(saver, "status_line", status_line)
    trainer = make_trainer(tiny_config())
    with trainer.saver:
        trainer.save()
        trainer.saver._jobs[0].result()
        trainer.saver.raise_failure()
        assert shown == []
        with held_back(monkeypatch, steps=100):
            trainer.state.step = 1
            trainer.save()
            trainer.saver.wait()
    assert shown == ["Writing a checkpoint"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_copy_from_a_gpu_is_pinned_and_of_its_moment():
    weight = torch.zeros(1 << 24, device="cuda")
    file = saver.TensorFile.of({"weight": weight})
    buffer = torch.empty(file.data_bytes, dtype=torch.uint8, pin_memory=True)
    assert buffer.is_pinned()
    copied = file.copied(buffer)
    event = torch.cuda.Event()
    event.record()
    weight += 1  # enqueued behind the copy
    event.synchronize()
    assert not buffer.view(torch.float32).any()
    _, *pieces = copied.pieces()
    assert sum(piece.nbytes for piece in pieces) == weight.nbytes
