"""RunConfig: one validated dataclass tree with everything a run depends on; and the trees of the other verbs.

One default, in one place: here, or in the `config.py` of a kind. YAML holds differences only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from omegaconf import MISSING

from bigtrain.config.kinds import DataConfig, ModelConfig, OptimizerConfig, SchedulerConfig, TaskConfig
from bigtrain.config.settings import Invalid, setting


class Precision(Enum):
    """Number format of the forward and backward pass; weights and optimizer state stay fp32."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"
    fp8 = "fp8"
    probe = "probe"


class Mode(Enum):
    """Whether a metric is better when smaller or when larger; auto: losses smaller, everything else larger."""

    auto = "auto"
    min = "min"
    max = "max"


@dataclass
class EarlyStoppingConfig:
    """Which metric of the validation split chooses the best checkpoint, and when to give up."""

    patience: int | None = setting(
        None, "Stop after this many evaluations in a row without a better metric; null: never.", at_least=1
    )
    metric: str | None = setting(None, "Metric of the validation split; default: the task's own (loss, accuracy).")
    mode: Mode = setting(Mode.auto, "min, max, or auto: losses smaller, everything else larger.")
    min_delta: float = setting(0.0, "What counts as better must be better by more than this.", at_least=0)

    def problems(self) -> list[Invalid]:
        if self.min_delta and self.patience is None:
            return [Invalid("min_delta", f"is {self.min_delta}, which has no effect without patience")]
        return []


@dataclass
class TrainerConfig:
    """The loop."""

    gpus: str = setting("auto", "GPUs to use on this machine: auto (all that divide the batch), 0, or a number.")
    processes: int = setting(1, "Processes (ranks) to train in on the CPU, instead of GPUs.", at_least=1)
    max_restarts: int = setting(
        0, "Times that ranks killed from outside are started again, from the last checkpoint.", at_least=0
    )
    rank_timeout: str = setting("10min", "How long a rank waits for the others before it gives up.", duration="time")
    strategy: str = setting(
        "auto",
        "How ranks share the model. ddp: each holds all of it; fsdp: each holds a part, and weights are gathered block "
        "by block as they are needed; hsdp: so within a machine, and the same on every machine; auto: ddp, and fsdp "
        "where weights, gradients and optimizer state would take more than half of a GPU's memory (docs/gpu.md).",
        choices=("auto", "ddp", "fsdp", "hsdp"),
        before="ddp",
    )
    tensor_parallel: int = setting(
        1,
        "Ranks that compute each transformer block together, on the same samples; each has a part of the attention "
        "heads and of the feed-forward. The other ranks are data-parallel, under fsdp (docs/gpu.md).",
        at_least=1,
        before=1,
    )
    precision: Precision = setting(
        Precision.auto,
        "auto follows a fixed rule (bf16 where the hardware has it and the shapes are worth it); "
        "probe times the candidates and records the choice; fp8: bf16, with wide linear layers in fp8 (docs/gpu.md).",
    )
    compile: str = setting(
        "auto",
        "torch.compile: true: each block of the model; whole: all of it as one region; auto: each block, on a GPU and "
        "where steps are not recorded (cuda_graph).",
        choices=("auto", "true", "false", "whole"),
    )
    cuda_graph: str = setting(
        "auto",
        "Record a step and replay it as one CUDA graph: auto (small steps, whose cost is launches), true, false.",
        choices=("auto", "true", "false"),
        before="false",
    )
    deterministic: bool = setting(
        False, "Refuse GPU kernels whose result may differ between runs (CPU runs always repeat)."
    )
    batch_size: int = setting(32, "Samples per optimizer step, over all ranks.", at_least=1)
    batch_tokens: int | None = setting(
        None,
        "Tokens per optimizer step, padding included, instead of batch_size: for texts of different lengths.",
        at_least=1,
    )
    micro_batch_size: int | str | None = setting(
        None,
        "Samples per rank and forward pass; smaller saves memory. Default: a rank's whole share; auto: as many as fit "
        "(docs/memory.md).",
        at_least=1,
    )
    activation_checkpointing: str = setting(
        "off",
        "Compute activations again in the backward pass instead of keeping them: full (of every block), a number N (of "
        "every N-th block), attention (of each block's attention only), off (docs/memory.md).",
        before="off",
    )
    max_duration: str = setting("1000step", "Length of the training.", duration="whole")
    time_limit: str | None = setting(
        None, "Stop after this time, state saved, exit 75: for instance 30min.", duration="time"
    )
    eval_every: str | None = setting(
        "250step",
        "How often the validation split is evaluated; a share of the training: 10%; null: only at the end.",
        duration="part",
    )
    eval_samples: str = setting(
        "auto",
        "Validation samples that an evaluation in training reads, always the same: auto (all of a small split; of a "
        "large one what costs a tenth of the training between two of them: docs/evaluate.md), all, or a number. The "
        "end of the run and `bigtrain eval` read all.",
        before="all",
    )
    eval_train: bool = setting(
        True,
        "Each evaluation measures a fixed sample of the training split too, a fifth as large as that of the validation "
        "split: train_eval/… beside val/… shows overfitting.",
    )
    save_every: str | None = setting(
        "250step",
        "How often a checkpoint is written; a share of the training: 25%; null: only at the end.",
        duration="part",
    )
    log_every: int = setting(10, "Steps between logged rows.", at_least=1)
    keep_last: int = setting(2, "Newest checkpoints kept; the best one is kept besides.", at_least=2)
    clip_norm: float | None = setting(
        1.0, "Global gradient norm above which gradients are scaled down; null: off.", above=0
    )
    ema_decay: float | None = setting(
        None,
        "Keep a moving average of the weights with this decay per step, and evaluate that; for instance 0.999.",
        above=0,
        below=1,
    )
    early_stopping: EarlyStoppingConfig = setting(EarlyStoppingConfig, "The best checkpoint, and when to give up.")
    limit_samples: int | None = setting(
        None,
        "Use only the first so many samples of each split; of each class in turn, where those lack one.",
        at_least=1,
    )
    overfit: bool = setting(False, "Validate on the training samples: can the model learn them at all?")
    profile: bool = setting(False, "Profile a few steps; the table and the trace go to <run>/profile/.")
    allow_oversize: bool = setting(
        False,
        "Start although weights, gradients and optimizer state alone take more memory than there is.",
        before=False,
    )
    find_nonfinite: bool = setting(False, "Slow: name the module where a value first stops being finite.")

    def problems(self) -> list[Invalid]:
        found = []
        if self.gpus != "auto" and not self.gpus.isdigit():
            found.append(Invalid("gpus", f"is {self.gpus!r}; allowed: auto, 0, or a number of GPUs"))
        elif self.gpus not in ("auto", "0") and self.processes > 1:
            sentence = f"is {self.processes}, on the CPU, but gpus={self.gpus}; give one of the two"
            found.append(Invalid("processes", sentence))
        if self.eval_samples not in ("auto", "all") and not (self.eval_samples.isdecimal() and int(self.eval_samples)):
            found.append(
                Invalid("eval_samples", f"is {self.eval_samples!r}; allowed: auto, all, or a number of samples above 0")
            )
        keeps = self.activation_checkpointing
        if keeps not in ("off", "full", "attention") and not (keeps.isdecimal() and int(keeps)):
            sentence = f"is {keeps!r}; allowed: off, full, attention, or a number N for every N-th block"
            found.append(Invalid("activation_checkpointing", sentence))
        size = self.fixed_micro_batch_size
        if size and self.batch_size % size:
            found.append(Invalid("batch_size", f"is {self.batch_size}, which micro_batch_size={size} does not divide"))
        if isinstance(self.micro_batch_size, str) and self.micro_batch_size != "auto":
            sentence = f"is {self.micro_batch_size!r}; allowed: a number of samples, auto, or null"
            found.append(Invalid("micro_batch_size", sentence))
        elif self.micro_batch_size == "auto" and self.batch_tokens is not None:
            sentence = "is auto, but batch_tokens says already what fits; give one of the two"
            found.append(Invalid("micro_batch_size", sentence))
        return found

    @property
    def fixed_micro_batch_size(self) -> int | None:
        """`micro_batch_size` where it is a number."""
        return self.micro_batch_size if isinstance(self.micro_batch_size, int) else None


@dataclass
class TrackingConfig:
    """What is recorded beside metrics.jsonl."""

    tensorboard: bool = setting(True, "Write TensorBoard event files.")
    report: bool = setting(True, "At the end, write report.md and report.html: results, curves, overfitting, cost.")
    samples: bool = setting(True, "At each evaluation, record generated text or an image grid with predictions.")
    sample_prompt: str = setting(
        "", "Prompt of the generated samples; empty: the beginning of the validation text.", verbatim=True
    )
    sample_tokens: int = setting(300, "Tokens of each generated sample.", at_least=1)


@dataclass
class RunConfig:
    """Everything a training run depends on."""

    name: str = setting("", "Folder under output_dir; default: <model>-<data>, or the experiment's name.")
    seed: int = setting(0, "Seed of initialisation, data order and dropout.", at_least=0)
    tags: list[str] = setting([], "Words to find the run by; written to status.json.")
    output_dir: str = setting("outputs", "Where runs go.", path=True)
    init_from: str | None = setting(
        None, "Run, checkpoint or Hugging Face folder whose weights a new run starts from.", path=True
    )
    resume: str | None = setting(
        None, "Run directory to go on with, or latest; auto: the newest run of this name, or a new one.", path=True
    )
    extra: dict[str, Any] = setting({}, "Anything you want kept with the run: +extra.note=...")
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    task: TaskConfig = MISSING
    optimizer: OptimizerConfig = MISSING
    scheduler: SchedulerConfig = MISSING
    trainer: TrainerConfig = setting(TrainerConfig, "The loop.")
    tracking: TrackingConfig = setting(TrackingConfig, "What is recorded.")


@dataclass
class EvalDataConfig:
    """Other data of the same kind for `eval`."""

    path: str | None = setting(None, "Data to evaluate on instead of the run's own.", path=True)
    cache_dir: str | None = setting(None, "Where prepared data is cached.", path=True)


@dataclass
class EvalConfig:
    """`bigtrain eval`."""

    checkpoint: str = setting("", "Run directory, step directory, <run>/checkpoints/best or latest.", path=True)
    split: str = setting(
        "auto", "Split to evaluate; auto: test, or val of data without one.", choices=("auto", "train", "val", "test")
    )
    batch_size: int = setting(0, "Samples per forward pass; 0: the run's own.", at_least=0)
    gpus: str = setting("auto", "GPUs to use: auto, 0 or 1.", choices=("auto", "0", "1"))
    tracking: TrackingConfig = setting(TrackingConfig, "What is recorded.")
    data: EvalDataConfig = setting(EvalDataConfig, "Other data of the same kind.")


@dataclass
class GenerateConfig:
    """`bigtrain generate`."""

    checkpoint: str = setting("", "Run directory, step directory, <run>/checkpoints/best or latest.", path=True)
    prompt: str | None = setting(None, "Text to continue; without it, an interactive prompt.", verbatim=True)
    max_tokens: int = setting(300, "Tokens to generate.", at_least=1)
    temperature: float = setting(0.8, "Below 1 sharper, above 1 flatter; 0 takes the most probable token.", at_least=0)
    top_k: int | None = setting(None, "Sample among the k most probable tokens.", at_least=1)
    top_p: float | None = setting(
        None, "Sample among the most probable tokens that hold this probability.", above=0, at_most=1
    )
    num_samples: int = setting(1, "Continuations of the prompt; of a translation, the best ones found.", at_least=1)
    num_beams: int | None = setting(
        None, "For a translation: beams of the search, 1 is greedy; default: the run's task.num_beams.", at_least=1
    )
    length_penalty: float | None = setting(
        None, "For a translation: more makes it longer; default: the run's task.length_penalty.", at_least=0
    )
    seed: int = setting(0, "Seed of the sampling.", at_least=0)
    gpus: str = setting("auto", "GPUs to use: auto, 0 or 1.", choices=("auto", "0", "1"))


@dataclass
class CompareConfig:
    """`bigtrain compare RUN RUN …`: run directories, folders that hold some, or patterns."""

    metric: str = setting("", "Metric to compare, such as val/loss; default: what chose the best weights of the first.")
    path: str = setting("outputs/compare", "Folder for compare.png and compare.csv, which are replaced.", path=True)


@dataclass
class ExportConfig:
    """`bigtrain export`."""

    checkpoint: str = setting("", "Run directory, step directory, <run>/checkpoints/best or latest.", path=True)
    format: str = setting(
        "hugging_face",
        "What is written: a folder that Hugging Face's transformers loads, or the checkpoint, optimizer included, with "
        "whole tensors in one file of a kind.",
        choices=("hugging_face", "checkpoint"),
    )
    path: str = setting("", "Folder to write; it must not be there yet.", path=True)
