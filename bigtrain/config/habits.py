"""Names in Lightning, Hugging Face, nanoGPT and common scripts → the names of bigtrain.

Tables only; `hints.py` looks names up here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Convert = Callable[[str], str | None]

_NUMBER = re.compile(r"\d+(\.\d*)?([eE][+-]?\d+)?")
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "none", "null")


def plain(name: str) -> str:
    """A name without case, dashes and the like: Learning-Rate and learningrate are learning_rate."""
    return re.sub(r"[^a-z0-9/]", "", name.lower())


@dataclass(frozen=True)
class Habit:
    """`keys` of ours that mean the same (the last part of them, or all), and our `value` for theirs, None for none.
    `say`: a sentence, where no value of ours is meant, or none composes.
    """

    keys: tuple[str, ...] = ()
    value: Convert = str
    say: str = ""


def _counted(unit: str) -> Convert:
    """A bare number gets the unit that it has elsewhere; what has a unit keeps it."""
    return lambda value: value + unit if _NUMBER.fullmatch(value) else value


def _share(value: str) -> str | None:
    """0.1 of the training → 10%."""
    return f"{100 * float(value):g}%" if _NUMBER.fullmatch(value) else None


def _steps_or_share_of_epoch(value: str) -> str | None:
    """Lightning's val_check_interval: a number of steps, or a fraction of an epoch."""
    return _counted("epoch" if "." in value else "step")(value)


def _switch(on: str | None, off: str | None = None) -> Convert:
    """What stands for true, and for false."""
    return lambda value: on if value.lower() in _TRUE else off if value.lower() in _FALSE else None


def _one_of(ours: Mapping[str, str], other: Convert = str) -> Convert:
    """Some values by name; of the `other` ones what that makes of them."""
    return lambda value: ours[found] if (found := value if value in ours else plain(value)) in ours else other(value)


def _number_of(value: str) -> str | None:
    """[0,1] → 2, 0,1 → 2, 2 → 2."""
    listed = value.strip("[]").split(",")
    return str(len(listed)) if len(listed) > 1 or value.startswith("[") else value


def _metric(value: str) -> str | None:
    """val_loss, eval_accuracy, val/acc → the metric's name."""
    name = re.sub(r"^(val|valid|validation|eval)[_/.]", "", value)
    return "accuracy" if name == "acc" else name


def _not_a_switch(value: str) -> str | None:
    """A path, where others take true, too."""
    return None if value.lower() in _TRUE + _FALSE else value


DEVICES = {
    "cpu": "0",
    "cuda": "auto",
    "gpu": "auto",
    "auto": "auto",
    "cuda0": "1",
    "gpu0": "1",
    "all": "auto",
    "-1": "auto",
    "1": "1",
}
FORMATS = {
    **dict.fromkeys(("16", "half", "float16", "16mixed", "16true", "fp16mixed", "amp", "f16"), "fp16"),
    **dict.fromkeys(("bfloat16", "bf16mixed", "bf16true", "mixedbf16"), "bf16"),
    **dict.fromkeys(("8", "float8", "fp8mixed", "transformerengine", "e4m3", "f8"), "fp8"),
    **dict.fromkeys(("32", "32true", "float32", "float", "full", "single", "no", "f32", "tf32", "false"), "fp32"),
    **dict.fromkeys(("mixed", "true", "o1", "o2"), "auto"),
}
UNITS = {
    **dict.fromkeys(("m", "mins", "minute", "minutes"), "min"),
    **dict.fromkeys(("hr", "hrs", "hour", "hours"), "h"),
    **dict.fromkeys(("secs", "second", "seconds"), "s"),
    **dict.fromkeys(("it", "its", "iter", "iters", "iteration", "iterations", "batches", "updates", "st"), "step"),
    **dict.fromkeys(("ep", "eps", "e"), "epoch"),
    **dict.fromkeys(("percent", "pct"), "%"),
}
"""Other names of units of a duration."""
_WORKERS = "leave it out: the training process makes its batches itself, while the device computes"
_ACCUMULATE = (
    "gradients are accumulated where trainer.micro_batch_size (samples per forward pass) is smaller than "
    "trainer.batch_size (samples per step): 4 times 8 samples are trainer.batch_size=32 trainer.micro_batch_size=8"
)
_CALLBACKS = (
    "there are no callbacks; settings do what they are for: trainer.early_stopping.patience=3, "
    "trainer.save_every=1epoch, trainer.keep_last=2, trainer.ema_decay=0.999, trainer.profile=true; "
    "the best checkpoint is always kept"
)
_LOGGER = "leave it out: metrics go to metrics.jsonl, train.log and, by tracking.tensorboard=true, to TensorBoard"
_STRATEGY = (
    "leave it out: several GPUs, or processes, train together by themselves: trainer.gpus=2, trainer.processes=2; "
    "trainer.strategy=fsdp splits the model over them"
)
_FROM = (
    "resume=<run directory> goes on with a run, resume=latest with the newest; "
    "init_from=<run directory> starts a new one from its weights"
)
_PRETRAINED = "init_from=… names a run, a checkpoint or a Hugging Face folder whose weights a new run starts from"
_FILES = "settings of your own stand in a folder: -cd FOLDER experiment=NAME for FOLDER/experiment/NAME.yaml"
_STOP = "trainer.early_stopping.patience=3 stops after three evaluations in a row without a better metric"
_BETAS = "optimizer.betas=[0.9,0.999] gives both"
_CADENCE = "trainer.eval_every=1epoch and trainer.save_every=1epoch say how often; both take steps too: 200step"
_BEST = "leave it out: the best checkpoint is kept beside the newest, and is what eval and generate take as …/best"
_LIMIT = "trainer.limit_samples=256 takes the first samples of each split; debug=limit runs everything briefly"


_STEPS, _EPOCHS = _counted("step"), _counted("epoch")
_GROUPS: dict[str, Habit] = {  # names that mean the same → ours
    "lr max_lr base_lr peak_lr init_lr learning_rate step_size": Habit(("learning_rate",)),
    "min_lr eta_min min_learning_rate": Habit(say="scheduler.final_fraction=0.1 ends at a tenth of the peak rate"),
    "wd l2 weightdecay": Habit(("weight_decay",)),
    "bs batch train_batch_size global_batch_size train_bs": Habit(("batch_size",)),
    "per_device_train_batch_size per_gpu_train_batch_size": Habit(("batch_size", "micro_batch_size")),
    "mbs microbatch_size device_batch_size": Habit(("micro_batch_size",)),
    "eval_batch_size per_device_eval_batch_size val_batch_size test_batch_size": Habit(
        say="trainer.micro_batch_size says how many samples a forward pass of an evaluation takes, too"
    ),
    "accumulate_grad_batches gradient_accumulation_steps grad_accum_steps grad_accum accumulation_steps "
    "gradient_accumulation accum_iter": Habit(say=_ACCUMULATE),
    "gradient_checkpointing activation_checkpoint use_checkpoint": Habit(
        ("activation_checkpointing",), _switch("full", "off")
    ),
    "epochs epoch num_epochs max_epochs max_epoch n_epochs nb_epochs num_train_epochs": Habit(
        ("max_duration",), _EPOCHS
    ),
    "steps max_steps num_steps max_step n_steps total_steps train_steps num_train_steps num_training_steps "
    "max_train_steps max_iters iters iterations max_iterations num_iterations": Habit(("max_duration",), _STEPS),
    "duration length train_length max_tokens_to_train": Habit(("max_duration",)),
    "max_time time_budget": Habit(("time_limit",), say="trainer.time_limit=2h stops then, with the state saved"),
    "warmup_steps warmup_iters num_warmup_steps warm_up_steps lr_warmup_steps": Habit(("warmup",), _STEPS),
    "warmup_epochs lr_warmup_epochs": Habit(("warmup",), _EPOCHS),
    "warmup_ratio warmup_fraction warmup_proportion pct_start": Habit(
        ("warmup",), _share, "scheduler.warmup=100step: so long the rate rises; also in epochs: 0.5epoch"
    ),
    "eval_steps eval_interval eval_iters eval_freq eval_frequency val_interval val_every": Habit(
        ("eval_every",), _STEPS
    ),
    "val_check_interval": Habit(("eval_every",), _steps_or_share_of_epoch),
    "check_val_every_n_epoch eval_epochs": Habit(("eval_every",), _EPOCHS),
    "save_steps save_interval checkpoint_every save_freq every_n_train_steps checkpoint_interval": Habit(
        ("save_every",), _STEPS
    ),
    "every_n_epochs save_epochs": Habit(("save_every",), _EPOCHS),
    "evaluation_strategy eval_strategy": Habit(
        ("eval_every",), _one_of({"epoch": "1epoch", "no": "null"}, lambda _: None), _CADENCE
    ),
    "save_strategy": Habit(("save_every",), _one_of({"epoch": "1epoch", "no": "null"}, lambda _: None), _CADENCE),
    "log_interval logging_steps log_every_n_steps log_freq print_freq print_every log_steps": Habit(("log_every",)),
    "save_total_limit save_top_k keep keep_checkpoints max_checkpoints": Habit(("keep_last",)),
    "load_best_model_at_end save_best save_best_only": Habit(say=_BEST),
    "metric_for_best_model monitor": Habit(("early_stopping.metric",), _metric),
    "greater_is_better": Habit(("early_stopping.mode",), _switch("max", "min")),
    "patience early_stopping_patience": Habit(("early_stopping.patience",)),
    "early_stopping early_stop": Habit(("early_stopping.patience",), _not_a_switch, _STOP),
    "callbacks callback enable_checkpointing enable_progress_bar": Habit(say=_CALLBACKS),
    "device devices gpus num_gpus n_gpus n_gpu ngpus gpu gpu_ids accelerator nproc_per_node": Habit(
        ("gpus",), _one_of(DEVICES, _number_of)
    ),
    "no_cuda use_cpu cpu cpu_only": Habit(("gpus",), _switch("0", "auto")),
    "cuda use_cuda use_gpu": Habit(("gpus",), _switch("auto", "0")),
    "num_processes nprocs world_size local_rank": Habit(("processes",), say=_STRATEGY),
    "num_nodes nnodes nodes": Habit(say="torchrun --nnodes=N starts bigtrain on several machines; see docs/cluster.md"),
    "distributed ddp fsdp deepspeed distributed_backend use_ddp data_parallel": Habit(say=_STRATEGY),
    "fp16": Habit(("precision",), _switch("fp16", "fp32")),
    "bf16": Habit(("precision",), _switch("bf16", "fp32")),
    "fp8 float8 enable_fp8 use_fp8": Habit(("precision",), _switch("fp8", "bf16")),
    "amp use_amp mixed_precision dtype torch_dtype precision autocast": Habit(("precision",), _one_of(FORMATS)),
    "tf32": Habit(say="leave it out: products of fp32 take TF32 where the GPU has it"),
    "torch_compile compile_model": Habit(("compile",)),
    "benchmark cudnn_benchmark": Habit(say="leave it out: trainer.deterministic=true is what repeats bit by bit"),
    "grad_clip max_grad_norm gradient_clip_val gradient_clip_norm clip clip_grad_norm clip_grad max_norm": Habit(
        ("clip_norm",)
    ),
    "gradient_clip_algorithm": Habit(say="trainer.clip_norm=1.0 bounds the global norm, which is the only way"),
    "ema use_ema ema_rate": Habit(("ema_decay",), _not_a_switch, "trainer.ema_decay=0.999 evaluates a mean"),
    "fast_dev_run dry_run smoke_test debug_mode": Habit(("debug",), _switch("limit")),
    "overfit_batches overfit_single_batch": Habit(("debug",), lambda _: "overfit"),
    "detect_anomaly": Habit(("debug",), _switch("nan")),
    "profiler": Habit(("debug",), lambda _: "profile"),
    "limit_train_batches limit_val_batches max_train_samples subset num_samples_train": Habit(say=_LIMIT),
    "max_eval_samples max_val_samples n_eval_samples num_eval_samples": Habit(("eval_samples",)),
    "num_workers workers n_workers num_worker dataloader_num_workers pin_memory persistent_workers "
    "prefetch_factor dataloader_pin_memory": Habit(say=_WORKERS),
    "plugin plug_in plug_ins": Habit(say="plugins=[my_package] on the command line brings a package of yours"),
    "shuffle drop_last sampler": Habit(say="leave it out: each epoch takes every training sample once, shuffled"),
    "d_model dim n_embd embed_dim width hidden_dim emb_dim embedding_dim model_dim n_hidden": Habit(("hidden_size",)),
    "n_layer n_layers layers depth num_hidden_layers num_blocks n_blocks": Habit(("num_layers",)),
    "n_head n_heads heads nhead num_attention_heads": Habit(("num_heads",)),
    "n_kv_head n_kv_heads num_key_value_heads": Habit(("num_kv_heads",)),
    "intermediate_size d_ff ffn_dim dim_feedforward ff_dim n_inner feedforward_dim ffn_size": Habit(
        ("feedforward_size",)
    ),
    "drop drop_rate dropout_rate dropout_prob hidden_dropout_prob resid_pdrop attn_pdrop p_dropout": Habit(
        ("dropout",)
    ),
    "block_size seq_len seq_length context_length max_seq_len max_seq_length n_ctx bptt model_max_length": Habit(
        ("sequence_length",)
    ),
    "label_smoothing_factor smoothing": Habit(("label_smoothing",)),
    "mlm_probability masking_rate": Habit(("mask_rate",)),
    "eps adam_epsilon": Habit(("epsilon",)),
    "beta1 beta2 adam_beta1 adam_beta2": Habit(say=_BETAS),
    "groups param_groups lr_scale lr_mult": Habit(("learning_rate_scale",)),
    "llrd layer_lr_decay layerwise_lr_decay lr_decay_rate": Habit(("layer_decay",)),
    "optim optimiser optimizer_name optimizer_type opt": Habit(("optimizer",)),
    "lr_scheduler lr_scheduler_type scheduler_type lr_schedule schedule lr_policy": Habit(("scheduler",)),
    "arch architecture backbone model_type net network model_name": Habit(("model",)),
    "dataset dataset_name": Habit(("data",)),
    "task_type task_name objective": Habit(("task",)),
    "ckpt checkpoint_path ckpt_path run load_checkpoint": Habit(("checkpoint",), say=_FROM),
    "resume_from_checkpoint resume_from continue_from auto_resume resume_training load": Habit(
        ("resume",), _one_of({"last": "latest", "true": "latest", "auto": "auto"}), _FROM
    ),
    "pretrained load_from finetune_from init_checkpoint pretrained_model model_name_or_path weights init": Habit(
        ("init_from",), _not_a_switch, _PRETRAINED
    ),
    "output output_path out_dir outdir save_dir save_path log_dir logdir work_dir workdir checkpoint_dir "
    "logging_dir default_root_dir results_dir run_dir": Habit(
        ("output_dir",), say="output_dir=outputs says where runs go"
    ),
    "run_name exp_name experiment_name project project_name wandb_run_name": Habit(("name",)),
    "seed_everything random_seed rng_seed manual_seed random_state": Habit(("seed",)),
    "logger loggers report_to log_with wandb use_wandb wandb_project mlflow": Habit(
        ("tensorboard",), _one_of({"tensorboard": "true", "none": "false"}, lambda _: None), _LOGGER
    ),
    "do_train do_eval do_predict do_test eval_only test_only evaluate mode": Habit(
        say="the verb says what is done: bigtrain trains, bigtrain eval checkpoint=… evaluates"
    ),
    "config cfg config_file cfg_file config_path yaml": Habit(say=_FILES),
    "data_path data_dir dataset_path dataset_dir datadir root data_root train_dir file input_file "
    "data_file corpus": Habit(("data.path",)),
    "train_file train_data train_files": Habit(("train_path",)),
    "val_file validation_file valid_file dev_file eval_file val_data": Habit(("val_path",)),
    "test_file test_data": Habit(("test_path", "data.path")),
    "text text_field text_col text_column_name sentence_column": Habit(("text_column", "prompt")),
    "label label_field label_col label_column_name target_column": Habit(("label_column",)),
    "img_size image_size resolution input_size": Habit(("size",)),
    "tokenizer_name tokenizer_file": Habit(("tokenizer_path",)),
    "split": Habit(("split",), _one_of({"valid": "val", "validation": "val", "dev": "val", "training": "train"})),
    "max_new_tokens max_length max_len num_tokens": Habit(("max_tokens", "sequence_length")),
    "num_return_sequences n_samples": Habit(("num_samples",)),
    "beam_size beams beam": Habit(("num_beams",)),
    "temp": Habit(("temperature",)),
    "k": Habit(("top_k",)),
    "p": Habit(("top_p",)),
    "do_sample greedy": Habit(say="temperature=0 takes the most probable token each time, more draws one"),
    "input question start": Habit(("prompt",)),
    "_target_ class_path": Habit(say="parts are chosen by name: model=cnn optimizer=sgd; --help lists them"),
    "local_files_only trust_remote_code use_auth_token push_to_hub": Habit(say="leave it out: nothing is downloaded"),
}

NAMES = {plain(name): habit for names, habit in _GROUPS.items() for name in names.split()}

CHOICES: dict[str, dict[str, str]] = {
    "model": {
        **dict.fromkeys(("gpt", "nanogpt", "decoder", "lm", "transformerdecoder", "minigpt"), "model=transformer"),
        **dict.fromkeys(("gpt2small", "gpt2medium", "gptneo", "gptj"), "model=gpt2"),
        **dict.fromkeys(("llama2", "llama3", "mistral", "qwen", "gemma"), "model=llama"),
        **dict.fromkeys(("roberta", "distilbert", "albert", "electra", "encoder", "deberta"), "model=bert"),
        **dict.fromkeys(("bertbaseuncased", "bertbasecased"), "model=bert_base"),
        **dict.fromkeys(("t5", "bart", "encoderdecoder", "marian", "seqtoseq"), "model=seq2seq"),
        **dict.fromkeys(("rnn", "gru", "bilstm", "awdlstm"), "model=lstm"),
        **dict.fromkeys(("convnet", "conv", "lenet", "convolutional"), "model=cnn"),
        **dict.fromkeys(("perceptron", "ffn", "feedforward", "dense", "linear"), "model=mlp"),
        **{f"resnet{depth}": f"model=resnet model.depth={depth}" for depth in (18, 34, 50, 20, 32, 44, 56)},
        **{f"vgg{depth}": f"model=vgg model.depth={depth}" for depth in (11, 13, 16, 19)},
    },
    "task": {
        **dict.fromkeys(("lm", "clm", "causallm", "gpt", "languagemodelling", "generation"), "task=language_modeling"),
        **dict.fromkeys(("mlm", "maskedlanguagemodeling", "fillmask"), "task=masked_lm"),
        **dict.fromkeys(("translation", "summarization", "mt", "pairs"), "task=seq2seq"),
        **dict.fromkeys(("textclassification", "imageclassification", "sentiment", "classify"), "task=classification"),
        **dict.fromkeys(("regress", "sts", "values"), "task=regression"),
    },
    "optimizer": {
        **dict.fromkeys(("adamwtorch", "adamwtorchfused", "adamwhf", "fusedadamw", "bertadam"), "optimizer=adamw"),
        **dict.fromkeys(("sgdm", "momentum", "nesterov"), "optimizer=sgd optimizer.momentum=0.9"),
    },
    "scheduler": {
        **dict.fromkeys(("cosinewithwarmup", "cosineannealing", "cosineannealinglr", "cosinelr"), "scheduler=cosine"),
        **dict.fromkeys(("linearwithwarmup", "linearlr", "polynomial", "polynomiallr"), "scheduler=linear"),
        **dict.fromkeys(("none", "null", "const", "constantlr", "constantwithwarmup", "false"), "scheduler=constant"),
        **dict.fromkeys(("onecyclelr", "cyclic"), "scheduler=one_cycle"),
        **dict.fromkeys(("warmupstabledecay", "trapezoidal"), "scheduler=wsd"),
    },
}
"""Group → other names of its choices → our words."""

VERBS: dict[str, str] = {
    **dict.fromkeys(("help", "usage", "man"), "bigtrain --help lists verbs, choices and settings"),
    "version": "bigtrain --version",
    **dict.fromkeys(
        ("resume", "continue", "restart"), "bigtrain resume={path} goes on with a run; resume=latest: the newest"
    ),
    **dict.fromkeys(
        ("finetune", "fine-tune", "transfer"),
        "bigtrain init_from={path} starts a new run from its weights, with the data that you give",
    ),
    **dict.fromkeys(("fit", "run", "pretrain", "start", "learn", "trainer"), "bigtrain train, or bigtrain alone"),
    **dict.fromkeys(("test", "evaluate", "score", "benchmark"), "bigtrain eval checkpoint={path} split=test"),
    **dict.fromkeys(("validate", "val", "validation"), "bigtrain eval checkpoint={path} split=val"),
    **dict.fromkeys(
        ("predict", "infer", "inference", "sample", "translate", "chat", "complete", "classify"),
        'bigtrain generate checkpoint={path} prompt="…"',
    ),
    **dict.fromkeys(
        ("sweep", "search", "tune", "hpo", "optuna", "multirun", "grid"),
        "bigtrain -m optimizer.learning_rate=1e-3,3e-3 tries each; "
        "bigtrain -m sweep=optuna 'optimizer.learning_rate=interval(1e-4,1e-2)' searches",
    ),
    **dict.fromkeys(("convert", "save", "onnx", "push"), "bigtrain export checkpoint={path} path=<new folder>"),
    **dict.fromkeys(("audit", "check", "inspect", "data"), "bigtrain check-data"),
    **dict.fromkeys(("report", "diff", "plot", "results", "list", "ls"), "bigtrain compare outputs"),
    **dict.fromkeys(("pipeline", "stages"), "bigtrain pipeline=quickstart"),
    **dict.fromkeys(("config", "cfg", "show"), "bigtrain --cfg job prints the settings of a run"),
    **dict.fromkeys(("tensorboard", "board", "logs"), "tensorboard --logdir outputs"),
    **dict.fromkeys(("init", "new", "create"), "nothing has to be set up: bigtrain trains; bigtrain --help"),
    **dict.fromkeys(
        ("download", "get", "fetch"), "nothing is downloaded; bigtrain alone trains on Python's own documentation"
    ),
}
"""Other words for a verb → what to type; {path} is the word after it, or a run directory."""
