"""Who is measured, each behind the same call: bigtrain, and a loop of plain PyTorch, which may be compiled."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.rows import Row

LEARNING_RATE, BETAS, WEIGHT_DECAY, CLIP_NORM = 6e-4, (0.9, 0.95), 0.1, 1.0
SGD: dict[str, Any] = {"momentum": 0.9, "nesterov": True}
SGD_RATE, SGD_DECAY = 0.01, 5e-4
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ENDLESS = 10**8  # steps that no block reaches

Batch = dict[str, Tensor]


class Side(ABC):
    """`advance` does optimizer steps, one after the other; `losses` are those of the first `keep` steps, scalars."""

    keep = 0

    def __init__(self) -> None:
        self.losses: list[Any] = []

    @abstractmethod
    def advance(self, steps: int) -> None:
        """Does so many steps. On a GPU they may not have ended when this returns."""

    @abstractmethod
    def close(self) -> None:
        """Ends what runs in the background."""

    def note(self, loss: Tensor) -> None:
        """Keeps the loss of one of the first steps, without waiting for the device."""
        if len(self.losses) < self.keep:
            self.losses.append(loss.detach())


class Bigtrain(Side):
    """bigtrain's trainer at its defaults, but that it neither evaluates, logs nor saves; data by its own loader."""

    def __init__(self, row: Row, precision: str, device: torch.device, run_dir: Path, optimizer: str):
        super().__init__()
        self.trainer = make_trainer(row, precision, device, run_dir, optimizer)
        self.precision: str = self.trainer.precision.name
        self.resolved = dict(self.trainer.state.resolved)
        self.weights = [value.detach().cpu().clone() for value in self.trainer.module.parameters()]

    def advance(self, steps: int) -> None:
        trainer = self.trainer
        for _ in range(steps):
            trainer.train_step(trainer.plan_step())
            trainer.check_finite()
            trainer.finish_step()
            if len(self.losses) < self.keep:
                self.losses.append(trainer.loss_meter.read()["train/loss"])

    def close(self) -> None:
        self.trainer.prefetch.close()


def make_trainer(row: Row, precision: str, device: torch.device, run_dir: Path, optimizer: str) -> Any:
    """See `Bigtrain`."""
    from bigtrain.build import build_parts, build_trainer
    from bigtrain.config.run import Precision, RunConfig, TrackingConfig, TrainerConfig
    from bigtrain.data.synthetic.config import MarkovConfig
    from bigtrain.distributed.world import World
    from bigtrain.optim.config import AdamWConfig, ConstantConfig, MuonConfig, OptimizerConfig, SGDConfig
    from bigtrain.signals import StopRequest
    from bigtrain.tracking.tracker import Tracker
    from bigtrain.training.machine import prepare_device

    model, task = row.settings()
    settings = TrainerConfig(
        batch_size=row.batch,
        micro_batch_size=row.micro,
        precision=Precision[precision],
        max_duration=f"{ENDLESS}step",
        eval_every=None,
        save_every=None,
        log_every=ENDLESS,
        eval_train=False,
        clip_norm=CLIP_NORM,
    )
    chosen: OptimizerConfig = SGDConfig(learning_rate=SGD_RATE, weight_decay=SGD_DECAY, **SGD)
    if optimizer != "sgd":
        kind = {"adamw": AdamWConfig, "muon": MuonConfig}[optimizer]
        chosen = kind(learning_rate=LEARNING_RATE, betas=list(BETAS), weight_decay=WEIGHT_DECAY)
    config = RunConfig(
        model=model,
        data=MarkovConfig(),  # not read: the data is built already
        task=task,
        optimizer=chosen,
        scheduler=ConstantConfig(),
        trainer=settings,
        tracking=TrackingConfig(samples=False),
    )
    prepare_device(settings, device)
    parts = build_parts(config, row.data(), World(0, 1, device))
    trainer = build_trainer(parts, run_dir, Tracker([]), StopRequest(None), {}, None)
    trainer.module.train()
    return trainer


class Peer(Side):
    """The plain model with bigtrain's initial weights; batches lie ready in (on a GPU: pinned) memory."""

    def __init__(self, row: Row, weights: list[Tensor], batches: list[Batch], precision: str, device: torch.device):
        super().__init__()
        self.model = row.plain()
        with torch.no_grad():
            for parameter, value in zip(self.model.parameters(), weights, strict=True):
                rows = parameter[: len(value)]  # a padded vocabulary has more
                assert rows.shape == value.shape, f"{tuple(value.shape)} does not fit in {tuple(parameter.shape)}"
                rows.copy_(value)
        self.model.to(device).train()
        self.row, self.ready, self.precision, self.device = row, batches, precision, device


def pinned(batches: list[Batch], device: torch.device) -> list[Batch]:
    """In page-locked memory where the device is a GPU."""
    if device.type != "cuda":
        return batches
    return [{name: value.pin_memory() for name, value in batch.items()} for batch in batches]


def make_optimizer(row: Row, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW or SGD, fused; matrices and larger are decayed."""
    parameters, decay = list(model.parameters()), SGD_DECAY if row.optimizer == "sgd" else WEIGHT_DECAY
    groups = [
        {"params": [parameter for parameter in parameters if parameter.ndim >= 2], "weight_decay": decay},
        {"params": [parameter for parameter in parameters if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    if row.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=SGD_RATE, fused=True, **SGD)
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS, fused=True)


class Loop(Peer):
    """Batch to the device, forward, backward, clip, fused optimizer: a page of plain PyTorch; `compiled` as a whole."""

    def __init__(self, *built: Any, compiled: bool = False):
        super().__init__(*built)
        self.optimizer = make_optimizer(self.row, self.model)
        self.forward: Callable[..., Tensor] = torch.compile(self.model) if compiled else self.model
        self.position = itertools.cycle(self.ready)

    def advance(self, steps: int) -> None:
        for _ in range(steps):
            self.note(self.step(next(self.position)))

    def close(self) -> None:
        """Nothing runs."""

    def step(self, batch: Batch) -> Tensor:
        """The loss of a batch, after which the weights are updated."""
        size = self.row.micro or self.row.batch
        losses = []
        for start in range(0, self.row.batch, size):
            piece = {
                name: value[start : start + size].to(self.device, non_blocking=True) for name, value in batch.items()
            }
            with torch.autocast(self.device.type, DTYPES[self.precision], enabled=self.precision != "fp32"):
                loss = self.forward(**piece)
            (loss if size == self.row.batch else loss * (size / self.row.batch)).backward()
            losses.append(loss.detach())
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()
