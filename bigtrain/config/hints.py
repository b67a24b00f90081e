"""Did you mean …: what a wrong key, choice or word was probably meant to be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bigtrain.config.redact import redact
from bigtrain.config.schema import ROOTS, describes_training, field_types, is_group, leaves, node_type, root_name
from bigtrain.errors import nearest
from bigtrain.registry import REGISTRIES

# What other projects call our settings, and the unit that their bare number has.
_ALIASES: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("lr", "max_lr", "base_lr", "learningrate"), ("learning_rate", "")),
    **dict.fromkeys(("wd", "l2"), ("weight_decay", "")),
    **dict.fromkeys(("bs", "batch", "batchsize", "train_batch_size"), ("batch_size", "")),
    **dict.fromkeys(("mbs", "per_device_train_batch_size", "microbatch_size"), ("micro_batch_size", "")),
    **dict.fromkeys(("epochs", "num_epochs", "max_epochs", "num_train_epochs"), ("max_duration", "epoch")),
    **dict.fromkeys(("steps", "max_steps", "num_steps", "max_iters", "iters"), ("max_duration", "step")),
    **dict.fromkeys(("warmup_steps", "warmup_iters"), ("warmup", "step")),
    **dict.fromkeys(("eval_steps", "eval_interval", "val_check_interval"), ("eval_every", "step")),
    **dict.fromkeys(("save_steps", "save_interval", "checkpoint_every"), ("save_every", "step")),
    **dict.fromkeys(("log_interval", "logging_steps", "log_every_n_steps"), ("log_every", "")),
    **dict.fromkeys(("device", "devices", "num_gpus", "n_gpus", "ngpus"), ("gpus", "")),
    **dict.fromkeys(("grad_clip", "max_grad_norm", "gradient_clip_val", "clip"), ("clip_norm", "")),
    **dict.fromkeys(("amp", "dtype", "mixed_precision"), ("precision", "")),
    **dict.fromkeys(("d_model", "dim", "n_embd", "embed_dim", "width"), ("hidden_size", "")),
    **dict.fromkeys(("n_layer", "n_layers", "layers", "depth"), ("num_layers", "")),
    **dict.fromkeys(("n_head", "n_heads", "heads", "nhead"), ("num_heads", "")),
    **dict.fromkeys(("block_size", "seq_len", "context_length", "max_seq_len"), ("sequence_length", "")),
    **dict.fromkeys(("eps",), ("epsilon", "")),
    **dict.fromkeys(("groups", "param_groups", "lr_scale", "lr_mult"), ("learning_rate_scale", "")),
    **dict.fromkeys(("llrd", "layer_lr_decay", "layerwise_lr_decay", "lr_decay_rate"), ("layer_decay", "")),
    **dict.fromkeys(("ckpt", "checkpoint_path", "ckpt_path", "run"), ("checkpoint", "")),
    **dict.fromkeys(("max_new_tokens",), ("max_tokens", "")),
    **dict.fromkeys(("pretrained", "load_from", "finetune_from"), ("init_from", "")),
}


def known_keys(node: DictConfig, path: str = "") -> Iterator[str]:
    """Every dotted key of a typed tree, groups of settings included."""
    for key, hint in field_types(node_type(node)).items():
        yield path + key
        if is_group(hint) and not OmegaConf.is_missing(node, key):
            yield from known_keys(node[key], f"{path}{key}.")


def suggest(key: str, known: Iterable[str], value: Any = None) -> list[str]:
    """Up to three valid keys (`key=value` for a value typed on the command line), best first."""
    known = list(dict.fromkeys(known))
    parent, _, last = key.rpartition(".")
    alias, unit = _ALIASES.get(last.lower(), ("", ""))
    siblings = {name.split(".")[-1]: name for name in known if name.rpartition(".")[0] == parent}
    if "." in key:  # a dotted key meant a single setting
        groups = {name.rpartition(".")[0] for name in known}
        known = [name for name in known if name not in groups]
    anywhere = {name.split(".")[-1]: name for name in reversed(known)}
    tiers = (
        [name for name in known if alias and name.split(".")[-1] == alias],
        [name for name in known if name.split(".")[-1] == last],
        [siblings[name] for name in nearest(last, siblings, limit=2)],
        [] if siblings else nearest(key, known, limit=2),
        [anywhere[name] for name in nearest(last, anywhere, limit=2)],
    )
    best = next((tier for tier in tiers if tier), [])[:3]
    if value is None or redact(value, key) != value:  # a secret is not repeated
        return best
    unit = unit if value.isdigit() and best and best[0].split(".")[-1] == alias else ""
    return [f"{name}={value}{unit}" for name in best]


def elsewhere(key: str, verb: str, root: DictConfig, choices: Any) -> str:
    """A sentence when the key exists, but for another choice or another verb; else an empty text.

    `choices(kind)` gives choice → registered part of a group.
    """
    kind, _, last = key.partition(".")
    if kind in REGISTRIES and not describes_training(verb):
        return f"the {kind} and its settings come with the checkpoint"
    if kind in REGISTRIES and not OmegaConf.is_missing(root, kind):
        here = node_type(root[kind])
        parts = {entry.name for entry in REGISTRIES[kind] if last in field_types(entry.config_class)}
        owners = [f"{kind}={choice}" for choice, part in choices(kind).items() if part in parts]
        if owners:
            now = next((entry.name for entry in REGISTRIES[kind] if entry.config_class is here), "another")
            return f"{key} belongs to {' and '.join(owners)}; this run has {now}"
    owners = [
        other
        for other, tree in ROOTS.items()
        if tree is not ROOTS[verb] and other == root_name(other) and key in dict_of_leaves(tree)
    ]
    return f"{key} belongs to {' and '.join(f'bigtrain {other}' for other in owners)}" if owners else ""


def dict_of_leaves(tree: type) -> dict[str, Any]:
    """Dotted key → type, of the settings that every run of a verb has."""
    return {path: hint for path, _, hint in leaves(tree)}


def did_you_mean(options: list[str]) -> str:
    """ "did you mean a, b or c ?", or an empty text."""
    if not options:
        return ""
    head, tail = ", ".join(options[:-1]), options[-1]
    return f"did you mean {head} or {tail} ?" if head else f"did you mean {tail} ?"
