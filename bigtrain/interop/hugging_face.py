"""Hugging Face folders: config.json, model.safetensors (or several), tokenizer.json. Loading one and writing one.

Never a pickle. A folder may come from a stranger: names, shapes and dtypes are compared with the network before any
tensor is read, and tensors are copied into what exists.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bigtrain.config.kinds import ModelConfig
from bigtrain.data.base import DataSpec
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.errors import CheckpointError
from bigtrain.interop.config import GPT2, Family, family_of, to_document
from bigtrain.interop.pretrained import (
    missing_weights_fix,
    only_pickles,
    read_architecture,
    read_json,
    tokenizer_file,
    unread_tokenizer,
)
from bigtrain.interop.tokenizer_files import tokenizer_files
from bigtrain.interop.weights import views
from bigtrain.models.network import Network
from bigtrain.nn.feedforward import default_feedforward_size
from bigtrain.registry import MODELS
from bigtrain.storage.durable import Content
from bigtrain.training.snapshot import loading_report, module_tensors, serialize_json
from bigtrain.training.tensor_file import TensorFile, open_tensors

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_INDEX_BYTES = 16 << 20
_DTYPES = ("F64", "F32", "F16", "BF16")
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}  # the first BERTs'


def load_folder(network: Network, folder: Path, config: ModelConfig, tokenizer_path: str | None = None) -> list[str]:
    """Copies a folder's weights into a network that was built from its settings; heads that it lacks stay as they are.

    Rows of embeddings that the network has beyond the folder's, where `config.num_embeddings` asks for them, start at
    the mean of the others (Hewitt 2021, "Initializing New Word Embeddings"). Returns what was loaded and what was not,
    in sentences. Raises CheckpointError, before anything is copied, for a backbone with missing, misshapen or unknown
    tensors. `tokenizer_path`: the file that the data's tokens are from, if any, for advice.
    """
    architecture = read_architecture(folder)
    family, settings = architecture.family, dict(architecture.settings)
    described, asked = settings.pop("num_embeddings"), config.num_embeddings
    if any(getattr(config, key, None) != value for key, value in settings.items()):
        raise CheckpointError.of(
            "PRETRAINED-MODEL",
            f"{architecture.path} does not describe the model of this run",
            cause="the folder was changed since the run began",
            fix="put the old one back, or start a new run",
        )
    tensors = module_tensors(network)
    targets = views(family, tensors, config)
    # Classes are those of the data that they were learnt from.
    targets = {name: view for name, view in targets.items() if not name.startswith("classifier.")}
    with _opened(folder) as found, torch.no_grad():
        if not any(name.startswith(family.prefix) for name in found):  # saved without a head
            found = {family.prefix + name: place for name, place in found.items()}
        found = {name: place for name, place in found.items() if not name.endswith(family.buffers)}
        tokens = len(tensors["backbone.token_embedding.weight"])
        rows = _rows_of(targets, tensors, found)
        may_add = asked is not None and asked > (described or 0)
        if rows > tokens or (rows < tokens and not may_add):
            raise _other_vocabulary(folder, rows, described, tokens, asked, tokenizer_path)
        whole = targets
        targets = {name: view[:rows] if _is_of_tokens(view, tensors) else view for name, view in whole.items()}
        _require_fitting(folder, family, targets, found)
        taken = {name: view for name, view in targets.items() if name in found}
        for name, view in taken.items():
            file, stored = found[name]
            view.copy_(file.get_tensor(stored))
            if rows < tokens and _is_of_tokens(view, tensors):
                whole[name][rows:] = view.mean(dim=0)
    loaded = _names_of(taken, tensors)
    report = loading_report(folder, len(loaded), tensors.keys() - loaded, found.keys() - taken.keys())
    added = f"init_from: embeddings {rows:,} to {tokens - 1:,} are new, and start at the mean of the others"
    return [*report, added] if rows < tokens else report


def folder_files(
    network: Network, config: ModelConfig, spec: DataSpec, tokenizer: Tokenizer | None
) -> tuple[dict[str, Content], list[str]]:
    """The files of the folder for a trained network, and what is left out of it, in sentences.

    Raises CheckpointError for a model that Hugging Face's library does not have.
    """
    settings = _complete(config)
    family = family_of(settings, MODELS.entry_of(config).name)
    tensors = module_tensors(network)
    found = views(family, tensors, config)
    special = spec.special_tokens
    document = {
        **to_document(family, settings, set(network.heads)),
        "vocab_size": len(tensors["backbone.token_embedding.weight"]),
        "bos_token_id": special.get("begin", special.get("end_of_text")),
        "eos_token_id": special.get("end_of_text"),
        "pad_token_id": special.get("padding", special.get("end_of_text")),
        "dtype": "float32",
    }
    if labels := spec.labels or [str(number) for number in range(spec.num_classes or 0)]:
        document["id2label"] = {str(number): label for number, label in enumerate(labels)}
        document["label2id"] = {label: number for number, label in enumerate(labels)}
    files: dict[str, Content] = {
        "config.json": serialize_json(document),
        WEIGHTS_FILE: TensorFile.of(found, {"format": "pt"}),
    }
    left_out = [f"left out: {name}" for name in sorted(tensors.keys() - _names_of(found, tensors))]
    if tokenizer is not None:
        positions = settings["max_length"]
        # A text that fills every position leaves a GPT-2 none to go on with.
        longest = min(spec.sequence_length or positions, positions - (positions // 4 if family is GPT2 else 0))
        mask_id = spec.mask_id if "masked_language_model" in network.heads else None
        described = tokenizer_files(tokenizer, family, longest, mask_id)
        files |= described
        if not described:
            left_out.append(f"left out: the tokenizer, {type(tokenizer).__name__}, which Hugging Face's library lacks")
    return files, left_out


def _complete(config: ModelConfig) -> dict[str, Any]:
    """The settings, what follows from others written out."""
    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    if settings.get("feedforward_size", 0) is None:
        activation = settings["activation"].value if "activation" in settings else "gelu"
        settings["feedforward_size"] = default_feedforward_size(settings["hidden_size"], activation)
    if settings.get("num_kv_heads") == settings.get("num_heads"):
        settings["num_kv_heads"] = None
    return settings


def _names_of(targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> set[str]:
    """Our names of the tensors that views look into."""
    storages = {view.untyped_storage().data_ptr() for view in targets.values()}
    return {name for name, tensor in tensors.items() if tensor.untyped_storage().data_ptr() in storages}


Places = dict[str, tuple[Any, str]]  # name → the open file that has this tensor, and its name there


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[Places]:
    """What a folder's files hold; no tensor is read yet. Raises CheckpointError for a folder without safetensors."""
    with contextlib.ExitStack() as stack:
        found: Places = {}
        for path in _weight_files(folder):
            file = stack.enter_context(open_tensors(path))
            for stored in file.keys():  # noqa: SIM118 no mapping
                name = stored
                for old, now in _OLD_NAMES.items():
                    name = name.replace(old, now)
                if name in found:
                    raise _unusable(folder, f"{name} is there twice, the second time in {path.name}")
                found[name] = (file, stored)
        yield found


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    if not (folder / INDEX_FILE).is_file():
        reason = f"it has neither {WEIGHTS_FILE} nor {INDEX_FILE}"
        others = sorted(file.name for file in folder.glob("*.safetensors"))
        cause = f"there is {others[0]}, and nothing that says what belongs together" if others else only_pickles(folder)
        raise _unusable(folder, reason, cause, missing_weights_fix(folder))
    parts = read_json(folder / INDEX_FILE, _INDEX_BYTES).get("weight_map")
    names = set(parts.values()) if isinstance(parts, dict) and all(map(_is_file_name, parts.values())) else set()
    if not names:
        raise _unusable(folder, f"{INDEX_FILE} has no weight_map from names of tensors to files beside it")
    if missing := sorted(name for name in names if not (folder / name).is_file()):
        raise _unusable(folder, f"{missing[0]} is missing, which {INDEX_FILE} names")
    return [folder / name for name in sorted(names)]


def _is_file_name(name: Any) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and "/" not in name


def _rows_of(targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor], found: Places) -> int:
    """Rows of the folder's token embedding; those of ours where it has none, which is said with all that is missing."""
    embedding = tensors["backbone.token_embedding.weight"]
    name = next(name for name, view in targets.items() if view is embedding)
    shape = found[name][0].get_slice(found[name][1]).get_shape() if name in found else []
    return shape[0] if len(shape) == 2 else len(embedding)


def _is_of_tokens(view: Tensor, tensors: Mapping[str, Tensor]) -> bool:
    """Whether there is a row in it for each token."""
    names = ("backbone.token_embedding", "heads.language_model", "heads.masked_language_model")
    kinds = (f"{name}.{kind}" for name in names for kind in ("weight", "bias"))
    return any(view.data_ptr() == tensors[name].data_ptr() for name in kinds if name in tensors)


def _other_vocabulary(
    folder: Path, rows: int, described: int | None, tokens: int, asked: int | None, tokenizer_path: str | None
) -> CheckpointError:
    """The error for embeddings of another number of tokens than the network's, with what was not tried yet."""
    cause, fix = "", f"model.num_embeddings={max(rows, tokens)}"
    if asked is None and tokenizer_file(folder) is None:
        cause, get_file = unread_tokenizer(folder)
        if tokenizer_path is None:
            fix = f"{get_file}: embeddings belong to the tokens that they were trained with"
        else:
            fix = f"if {tokenizer_path} has the tokens of this model, {fix}; otherwise, {get_file}"
    elif described is not None and described != rows:
        cause = f"its config.json says {described:,}"
        fix = "get the whole folder again" if rows < tokens else fix
    has = f"this data has {tokens:,} tokens" if asked is None else f"model.num_embeddings is {tokens:,}"
    return CheckpointError.of(
        "PRETRAINED-VOCABULARY", f"{folder} has vectors for {rows:,} tokens, but {has}", cause=cause, fix=fix
    )


def _require_fitting(folder: Path, family: Family, targets: Mapping[str, Tensor], found: Places) -> None:
    """Every tensor of the backbone is there, as it should be, and no other."""
    problems = []
    for name, view in targets.items():
        in_backbone = name.startswith(family.prefix)
        if name not in found:
            needed = in_backbone and not (family.optional and name.startswith(family.optional))
            problems += [f"{name} is missing"] if needed else []
            continue
        file, stored = found[name]
        entry = file.get_slice(stored)
        shape, dtype = tuple(entry.get_shape()), entry.get_dtype()
        if shape != tuple(view.shape) or dtype not in _DTYPES:
            problems.append(f"{name} is {dtype} {shape}, expected {' or '.join(_DTYPES)} {tuple(view.shape)}")
    problems += [
        f"{name} is not expected"
        for name in sorted(found.keys() - targets.keys())
        if name.startswith(family.prefix) and not (family.optional and name.startswith(family.optional))
    ]
    if problems:
        raise _unusable(folder, "; ".join(problems[:4]), cause=f"{len(problems)} of its tensors are wrong")


def _unusable(folder: Path, reason: str, cause: str = "", fix: str = "") -> CheckpointError:
    return CheckpointError.of(
        "PRETRAINED-WEIGHTS",
        f"{folder} does not hold the weights that its config.json describes: {reason}",
        cause=cause,
        fix=fix or "get the whole folder again; if it was published so, it is another model than bigtrain has",
    )
