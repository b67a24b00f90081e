"""The peers with a loop of their own: Lightning's and Hugging Face's Trainer; and the choice of a peer by name.

A framework runs its own `fit` in a thread of its own; a callback of it gives the turn back after the steps that were
asked for. So its loop runs as it always does, without a new start for every block. Logging, checkpoints, evaluation
and progress bars are off; the rest is left at its defaults.
"""

from __future__ import annotations

import importlib.util
import logging
import queue
import threading
import warnings
from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from benchmark.sides import CLIP_NORM, ENDLESS, Batch, Loop, Peer, make_optimizer


class Ready(Dataset):
    """The ready batches over and over, as a data set without end."""

    def __init__(self, batches: list[Batch]):
        self._batches = batches

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Batch:
        return self._batches[index % len(self._batches)]


class Framework(Peer):
    """A peer whose loop is its own: `fit` runs in a thread, and its callback calls `step_done`."""

    def __init__(self, *built: Any, folder: Path):
        super().__init__(*built)
        if self.row.micro:
            raise NotImplementedError("micro-batches are measured against the loops alone")
        self.folder = folder
        self._turns: queue.Queue[int] = queue.Queue()
        self._ends: queue.Queue[BaseException | None] = queue.Queue()
        self._left = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    @abstractmethod
    def fit(self) -> None:
        """Trains until `step_done` says stop."""

    def advance(self, steps: int) -> None:
        self._turns.put(steps)
        if self._thread.ident is None:
            self._thread.start()
        failure = self._ends.get()
        if failure is not None:
            raise failure

    def step_done(self) -> bool:
        """Called after each step: waits where it was the last of the turn. True: stop."""
        self._left -= 1
        if self._left == 0:
            self._ends.put(None)
            self._left = self._turns.get()
        return self._left == 0

    def close(self) -> None:
        if self._thread.is_alive():
            self._turns.put(0)
            self._thread.join(30)

    def loader(self) -> DataLoader:
        """What the framework draws batches from."""
        data = Ready(self.ready)
        return DataLoader(data, batch_size=None, sampler=SequentialSampler(data))

    def _run(self) -> None:
        self._left = self._turns.get()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.fit()
            failure: BaseException = RuntimeError("the framework's loop ended")
        except BaseException as error:  # whatever it is, the waiting thread must hear of it
            failure = error
        self._ends.put(failure)


class Lightning(Framework):
    """Lightning's Trainer."""

    def fit(self) -> None:
        import lightning.pytorch as lightning

        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        side = self

        class Module(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.model = side.model

            def training_step(self, batch: Batch, index: int) -> Tensor:
                loss = self.model(**batch)
                side.note(loss)
                return loss

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return make_optimizer(side.row, self.model)

            def configure_gradient_clipping(self, optimizer: Any, **_: Any) -> None:
                # Its own clipping refuses fused optimizers under mixed precision.
                nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)

            def on_train_batch_end(self, *_: Any) -> None:
                self.trainer.should_stop = side.step_done()

        trainer = lightning.Trainer(
            accelerator="gpu" if self.device.type == "cuda" else "cpu",
            devices=1,
            precision="32-true" if self.precision == "fp32" else "bf16-mixed",
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=self.folder,
        )
        trainer.fit(Module(), self.loader())


class HuggingFace(Framework):
    """The Trainer of transformers."""

    def fit(self) -> None:
        from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

        side = self

        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = side.model

            def forward(self, **batch: Tensor) -> dict[str, Tensor]:
                loss = self.model(**{name: value for name, value in batch.items() if name != "num_items_in_batch"})
                side.note(loss)
                return {"loss": loss}

        class Turns(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
                control.should_training_stop = side.step_done()
                return control

        class ReadyTrainer(Trainer):
            def get_train_dataloader(self) -> Any:
                return side.loader()

        arguments = TrainingArguments(
            output_dir=str(self.folder),
            max_steps=ENDLESS,
            bf16=self.precision == "bf16",
            use_cpu=self.device.type == "cpu",
            max_grad_norm=CLIP_NORM,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        model = Model()
        optimizer = make_optimizer(self.row, model)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        trainer = ReadyTrainer(
            model=model, args=arguments, optimizers=(optimizer, schedule), callbacks=[Turns()], train_dataset=self.ready
        )
        trainer.remove_callback(PrinterCallback)  # its last words would go to stdout
        trainer.train()


FRAMEWORKS: dict[str, tuple[type[Framework], tuple[str, ...]]] = {
    "lightning": (Lightning, ("lightning",)),
    "hf": (HuggingFace, ("transformers", "accelerate")),
}
PEERS = ("compiled", "bare", *FRAMEWORKS)


def missing(peer: str) -> str:
    """The packages that a peer needs and that are not installed."""
    packages = FRAMEWORKS[peer][1] if peer in FRAMEWORKS else ()
    return ", ".join(name for name in packages if importlib.util.find_spec(name) is None)


def make_peer(peer: str, built: tuple[Any, ...], folder: Path) -> Peer:
    """A peer by name; `built`: the arguments of `Peer`."""
    if peer in FRAMEWORKS:
        return FRAMEWORKS[peer][0](*built, folder=folder)
    return Loop(*built, compiled=peer == "compiled")
