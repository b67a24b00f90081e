"""A corpus becomes token streams shard by shard, in bounded memory; what is interrupted goes on where it was.

A shard is some megabytes of text, encoded on all cores and kept as an entry of its own (`data/cache.py`: whole, or not
at all) until the streams are. Its key is a hash of its text and of the tokenizer, so a finished one is found again by
whoever comes to the same text. A corpus of a single shard needs no keeping. Where shards end does not show in the
streams: only a document longer than `LONGEST_SHARD` is cut, at a border that `data/tokenizers/subword.py` vouches for
where the tokenizer has any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bigtrain.data.cache import Chunked, Prepared, find, fingerprint_of, load_or_build, remove_untouched
from bigtrain.data.text.division import Divided, Stretch
from bigtrain.data.text.token_stream import join_documents, scored_text_bytes, token_dtype
from bigtrain.data.tokenizers.tokenizer import CharTokenizer, Tokenizer, characters_of
from bigtrain.tracking.status_line import status_line

SHARD_CHARACTERS = 8 << 20  # a shard ends with the document that brings it to as many,
LONGEST_SHARD = 32 << 20  # or inside one that brings it to as many
_ABANDONED_SECONDS = 30 * 24 * 3600.0
_COMPARED_CHARACTERS = 10_000  # of each split, to see whether the tokenizer keeps all of a text

Shard = list[Stretch]
Source = Callable[[], Prepared]  # a shard that is encoded: from disk, or held


class ShardsGone(Exception):
    """Another process, which prepared the same text, was faster and has removed the shards."""


def needs_keeping(divided: Divided) -> bool:
    """Whether a corpus is more than one shard."""
    return divided.num_characters > SHARD_CHARACTERS


def shards_of(divided: Divided) -> Iterator[Shard]:
    """The stretches in their order, those of one document joined as far as they lie in one shard."""
    shard: Shard = []
    parts: list[str] = []
    size = 0
    for split, text, ends in divided:
        parts.append(text)
        size += len(text)
        is_full = size >= (SHARD_CHARACTERS if ends else LONGEST_SHARD)
        if ends or is_full:
            shard.append(Stretch(split, "".join(parts), ends))
            parts = []
        if is_full:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def tokenise(divided: Divided, tokenizer: Tokenizer, folder: Path | None) -> Prepared:
    """The stream of each split, and of all of them `scored_bytes`, `unknown` and `exact` (see `_facts_of_splits`).

    Shards are kept in `folder`, where there is one and they are several. The streams read them there; they raise
    ShardsGone where that is not possible any more.
    """
    facts: dict[str, list[dict[str, Any]]] = {split: [] for split in divided.splits}
    sources: dict[str, list[Source]] = {split: [] for split in divided.splits}
    named, done = fingerprint_of(tokenizer.to_json()), 0
    if folder is not None:
        remove_untouched(folder.parent, "*", _ABANDONED_SECONDS)
    with status_line("Tokenising") as report:
        for shard in shards_of(divided):
            opening = [split for split in divided.splits if not facts[split]]
            if folder is not None and needs_keeping(divided):
                encoded, source = _kept(shard, opening, tokenizer, named, folder)
            else:
                encoded, source = _held(_encode(shard, opening, tokenizer))
            for split, found in encoded.meta.items():
                facts[split].append(found)
                sources[split].append(source)
            done += sum(len(stretch.text) for stretch in shard)
            report(done / divided.num_characters)
    streams = {split: _stream(split, facts[split], sources[split], tokenizer) for split in divided.splits}
    return Prepared(_facts_of_splits(facts), {}, streams)


def _kept(shard: Shard, opening: list[str], tokenizer: Tokenizer, named: str, folder: Path) -> tuple[Prepared, Source]:
    """On disk, if it takes it: there from an earlier attempt, or from now on."""
    layout = [[stretch.split, len(stretch.text), stretch.ends] for stretch in shard]
    text = "".join(stretch.text for stretch in shard).encode()
    key = fingerprint_of(named, opening, layout, np.frombuffer(text, dtype=np.uint8))
    encoded = load_or_build(folder.parent, folder.name, key, lambda: _encode(shard, opening, tokenizer))
    return (encoded, partial(_found, folder, key)) if encoded.is_kept else _held(encoded)


def _held(encoded: Prepared) -> tuple[Prepared, Source]:
    return encoded, lambda: encoded


def _found(folder: Path, key: str) -> Prepared:
    shard = find(folder.parent, folder.name, key)
    if shard is None:
        raise ShardsGone(key)
    return shard


def _stream(split: str, facts: list[dict[str, Any]], sources: list[Source], tokenizer: Tokenizer) -> Chunked:
    dtype, length = np.dtype(token_dtype(tokenizer.vocab_size)), sum(part["tokens"] for part in facts)
    return Chunked(dtype, length, lambda: (source().arrays[split] for source in sources))


def _encode(shard: Shard, opening: list[str], tokenizer: Tokenizer) -> Prepared:
    """A piece of each stream that the shard has text of, and facts about it; `opening`: splits that had none so far."""
    facts: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for split in dict.fromkeys(stretch.split for stretch in shard):
        own = [stretch for stretch in shard if stretch.split == split]
        texts, opens = [stretch.text for stretch in own], split in opening
        tokens = arrays[split] = join_documents(texts, tokenizer, opens=opens, closes=own[-1].ends)
        facts[split] = {
            "tokens": len(tokens),
            "scored_bytes": scored_text_bytes(texts, tokenizer, opens=opens),
            "unknown": 0 if tokenizer.unknown is None else int(np.count_nonzero(tokens == tokenizer.unknown)),
            "characters": "",
            "exact": not opens or _comes_back(texts[0][:_COMPARED_CHARACTERS], tokenizer),
        }
        if facts[split]["unknown"] and isinstance(tokenizer, CharTokenizer):
            facts[split]["characters"] = "".join(sorted(set(characters_of(texts)) - set(tokenizer.characters)))
    return Prepared(facts, arrays)


def _comes_back(text: str, tokenizer: Tokenizer) -> bool:
    return tokenizer.decode(tokenizer.encode(text)) == text


def _facts_of_splits(facts: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """`unknown`: of each split that has unknown tokens, their share of its tokens, and, where they are characters,
    which.
    """
    unknown = {}
    for split, parts in facts.items():
        count = sum(part["unknown"] for part in parts)
        if count:
            characters = "".join(sorted(set().union(*(part["characters"] for part in parts))))
            unknown[split] = {"share": count / sum(part["tokens"] for part in parts), "characters": characters}
    return {
        "scored_bytes": {split: sum(part["scored_bytes"] for part in parts) for split, parts in facts.items()},
        "unknown": unknown,
        "exact": all(part["exact"] for parts in facts.values() for part in parts),
    }
