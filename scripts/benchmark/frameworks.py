"""The peers with a loop of their own: Lightning's and Hugging Face's Trainer; and the choice of a peer by name.

A framework runs its own `fit` in a process of its own, which sleeps between its turns: a callback of it waits after
the steps that were asked for. So its loop runs as it always does, without a new start for every block. A thread would
not do: each has an OpenMP pool of its own, and with more threads than cores libgomp stops spinning in the whole
process, which slows every side. Logging, checkpoints, evaluation and progress bars are off; the rest is left at its
defaults.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import multiprocessing
import pickle
import signal
import warnings
from abc import abstractmethod
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from benchmark.sides import CLIP_NORM, ENDLESS, Batch, Loop, Peer, Side, make_optimizer, pinned

CLOSE_SECONDS = 5


class Ready(Dataset):
    """The ready batches over and over, as a data set without end."""

    def __init__(self, batches: list[Batch]):
        self._batches = batches

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Batch:
        return self._batches[index % len(self._batches)]


class Framework(Peer):
    """A peer whose loop is its own: `fit` calls `step_done` after each step. It lives in the child process."""

    def __init__(self, *built: Any, folder: Path, connection: Connection):
        super().__init__(*built)
        if self.row.micro:
            raise NotImplementedError("micro-batches are measured against the loops alone")
        self.ready = pinned(self.ready, self.device)
        self.folder = folder
        self._connection = connection
        self._left = 0

    @abstractmethod
    def fit(self) -> None:
        """Trains without end; EOFError of `step_done` ends it."""

    def advance(self, steps: int) -> None:
        raise NotImplementedError("the parent asks for steps: see Remote")

    def close(self) -> None:
        """Nothing runs besides `fit`."""

    def start_turn(self) -> None:
        """Sleeps until the parent asks for steps. Raises EOFError where it has closed its end."""
        self._left, self.keep = self._connection.recv()

    def step_done(self) -> None:
        """Called after each step; after the last of a turn it sends the first losses and waits for the next turn."""
        self._left -= 1
        if self._left == 0:
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            self._connection.send([float(loss) for loss in self.losses])
            self.start_turn()

    def loader(self) -> DataLoader:
        """What the framework draws batches from."""
        data = Ready(self.ready)
        return DataLoader(data, batch_size=None, sampler=SequentialSampler(data))


def child(connection: Connection, threads: int) -> None:
    """The child process. It receives a framework class and its arguments, then (steps, losses to keep) for each turn;
    each time it answers with the losses so far, or with a sentence: what it failed of.
    """
    from bigtrain.config.run import TrainerConfig
    from bigtrain.training.machine import prepare_device

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C too, and closes the pipe
    torch.set_num_threads(threads)
    try:
        kind, built, folder = connection.recv()
        prepare_device(TrainerConfig(), built[-1])
        framework = kind(*built, folder=folder, connection=connection)
        connection.send([])
        framework.start_turn()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            framework.fit()
        raise RuntimeError("the framework's loop ended")
    except BaseException as error:  # whatever it is, the parent must hear of it; where it closed the pipe, that is all
        with contextlib.suppress(OSError):
            connection.send(f"{type(error).__name__}: {error}"[:300])


class Remote(Side):
    """A framework in a process of its own. `built`: the arguments of `Peer`. Raises ChildProcessError for the child's
    failures.
    """

    def __init__(self, kind: type[Framework], built: tuple[Any, ...], folder: Path):
        super().__init__()
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self.process = context.Process(target=child, args=(theirs, torch.get_num_threads()), daemon=True)
        self.process.start()
        theirs.close()  # so that the end of the child closes the pipe
        self._exchange((kind, built, folder))

    def advance(self, steps: int) -> None:
        self.losses = self._exchange((steps, self.keep))

    def close(self) -> None:
        """Ends the child, which hears of the closed pipe after its turn, or is killed (Lightning ignores SIGTERM)."""
        self._connection.close()
        self.process.join(CLOSE_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def _exchange(self, message: Any) -> list[float]:
        """Sends a message and returns the losses of the answer."""
        try:
            with contextlib.suppress(BrokenPipeError):  # a dead child may have left an answer
                # Pickled here: Connection.send and Process would put tensors into shared memory.
                self._connection.send_bytes(pickle.dumps(message))
            answer = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self.close()
            raise ChildProcessError(f"exit code {self.process.exitcode}") from None
        except BaseException:
            self.close()
            raise
        if isinstance(answer, str):
            self.close()
            raise ChildProcessError(answer)
        losses: list[float] = answer
        return losses


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
                side.step_done()

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
            def on_step_end(self, *_: Any, **__: Any) -> None:
                side.step_done()

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


def make_peer(peer: str, built: tuple[Any, ...], folder: Path) -> Side:
    """A peer by name; `built`: the arguments of `Peer`."""
    if peer in FRAMEWORKS:
        return Remote(FRAMEWORKS[peer][0], built, folder)
    return Loop(*built, compiled=peer == "compiled")
