"""What a new run starts from: the weights, and the tokenizer, of a checkpoint of ours or of a Hugging Face folder.

The model's settings that a Hugging Face folder brings are in place by then (`interop/pretrained.py`).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from bigtrain.build import Parts, build_network
from bigtrain.config.compose import Composed
from bigtrain.config.overrides import escape
from bigtrain.config.run import RunConfig
from bigtrain.data.tokenizers.subword_definition import is_extension
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.data.tokenizers.tokenizer_file import read_tokenizer, tokenizer_from_json
from bigtrain.distributed.shards import copy_part
from bigtrain.errors import CheckpointError, DataError
from bigtrain.interop.hugging_face import load_folder
from bigtrain.interop.pretrained import recognises, tokenizer_file, unread_tokenizer
from bigtrain.interop.tokenizer_files import definition_of
from bigtrain.storage.checkpoint import Checkpoint
from bigtrain.storage.finding import find_checkpoint
from bigtrain.storage.run_directory import find_latest_run
from bigtrain.training.snapshot import load_matching, module_tensors


def settled(composed: Composed) -> Composed:
    """`init_from` as an absolute path, as "latest" may mean another run later or on another rank; and its tokenizer in
    place of the data's, unless the user has typed one.
    """
    config: RunConfig = composed.config
    if not config.init_from or composed.resumed is not None:
        return composed
    if recognises(config.init_from):
        source = Path(config.init_from).expanduser().absolute()
    elif config.init_from not in ("latest", "best") and not Path(config.init_from).expanduser().exists():
        name = Path(config.init_from).name
        raise CheckpointError.of(
            "CHECKPOINT-MISSING",
            f"init_from={config.init_from}: there is no such folder",
            cause="it takes a run, a checkpoint or a Hugging Face model that lies on this machine; nothing is fetched",
            fix=f"a Hugging Face model of this name: hf download {config.init_from} --local-dir {name} (the command "
            f"is of huggingface_hub), then init_from={name}; a run: init_from=outputs/<name>/<run>, or latest",
        )
    else:
        source = find_checkpoint(config.init_from, find_latest_run(Path(config.output_dir))).path.absolute()
    document = composed.document | {"init_from": escape(str(source))}
    data, tokenizer = config.data, tokenizer_file(source)
    typed = any(key.startswith(("data.tokenizer", "data.vocab_size")) for key in composed.typed)
    if tokenizer is not None and not typed:
        data = config.data.with_tokenizer(str(tokenizer))
    if data is not config.data:
        brought = {"tokenizer": "file", "tokenizer_path": escape(str(tokenizer)), "vocab_size": None}
        document["data"] = document["data"] | brought
    return replace(composed, config=replace(config, init_from=str(source), data=data), document=document)


def brought_tokenizer(config: RunConfig, resumed: Checkpoint | None) -> Tokenizer | None:
    """A tokenizer that the data must use without fitting or growing it; None: it makes its own. Of a resumed run the
    checkpoint's; else that of `init_from`, whose embeddings belong to its tokens, or the file typed in its place.
    """
    path = config.data.tokenizer_path
    if path is None:
        return None
    if resumed is not None:
        return tokenizer_from_json(resumed.read_json("tokenizer.json"))
    if _is_tokenizer_of_source(path, config):
        return _read_own(Path(path))
    return read_tokenizer(path, may_grow=False) if config.init_from and recognises(config.init_from) else None


def initialise(config: RunConfig, parts: Parts) -> list[str]:
    """Loads the weights of `init_from`, where it is given; returns sentences on what was loaded."""
    if not config.init_from:
        return []
    source, path = Path(config.init_from), config.data.tokenizer_path
    notes = []
    if parts.data.tokenizer is not None:
        if (file := tokenizer_file(source)) is None:
            found, _ = unread_tokenizer(source)
            notes.append(f"init_from: it brings no tokenizer ({found}); its tokens are taken to be the data's")
        elif _is_tokenizer_of_source(path, config):
            notes.append(f"init_from: text becomes tokens as {file} has it")
        else:
            notes += _compared_tokens(file, parts.data.tokenizer, path)
    if recognises(config.init_from):
        notes.append(f"init_from: the settings of the model are those of {source / 'config.json'}")
        spare = (config.model.num_embeddings or 0) - (parts.data.spec.vocab_size or 0)
        notes += [f"init_from: {spare:,} embeddings are of no token: kept, and never generated"] if spare > 0 else []
        return notes + _load_folder(parts, source, path)
    return notes + load_matching(parts.network, find_checkpoint(config.init_from, ranks=parts.world))


def _load_folder(parts: Parts, source: Path, tokenizer_path: str | None) -> list[str]:
    """`load_folder`; where the network is split over ranks, each rank loads all of it in host memory, and keeps its
    part.
    """
    config = parts.config
    if not parts.strategy.shards:
        return load_folder(parts.network, source, config.model, tokenizer_path)
    whole = build_network(config, parts.task, parts.data.spec, torch.device("cpu"))
    report = load_folder(whole, source, config.model, tokenizer_path)
    given = module_tensors(whole)
    for name, target in module_tensors(parts.network).items():
        copy_part(target, given[name])
    return report


def _is_tokenizer_of_source(path: str | None, config: RunConfig) -> bool:
    """Whether `path`, a `data.tokenizer_path`, is the tokenizer file of `init_from`."""
    if path is None or not config.init_from:
        return False
    file = tokenizer_file(Path(config.init_from))
    return file is not None and Path(path).expanduser().resolve() == file.resolve()


def _compared_tokens(file: Path, tokenizer: Tokenizer, path: str | None) -> list[str]:
    """Raises DataError where `init_from` was trained with another tokenizer than the data's: its embeddings would load,
    but belong to other tokens. The data's may have further tokens; `path` is its file, if any. Returns notes.
    """
    try:
        own = _read_own(file)
    except DataError:
        if path is None:
            raise
        return [f"init_from: {file} can't be used; its tokens are taken to be those of {path}"]
    same = own.to_json() == json.loads(json.dumps(tokenizer.to_json()))
    if same or (recognises(str(file.parent)) and is_extension(definition_of(tokenizer), definition_of(own))):
        more = tokenizer.vocab_size - own.vocab_size
        return [f"init_from: tokens that the data has beyond those of {file}: {more:,}"] if more else []
    raise DataError.of(
        "DATA-TOKENIZER",
        f"{file.parent} was trained with another tokenizer than this data has",
        cause="init_from takes its embeddings, which belong to its tokens",
        fix=f"data.tokenizer=file data.tokenizer_path={file}",
    )


def _read_own(file: Path) -> Tokenizer:
    """The tokenizer of `init_from`."""
    try:
        return read_tokenizer(str(file), may_grow=False)
    except DataError as error:
        what = error.problems[0]
        fix = "give its tokens in a file that bigtrain reads: data.tokenizer=file data.tokenizer_path=…; "
        raise DataError.of(what.code, what.message, cause=what.cause, fix=fix + "or start from another model") from None
