"""Generation: one loop that continues a prompt, for every backbone that has `initial_state`.

One forward pass reads the prompt; each further pass reads one new token with the backbone's state (a cache of keys and
values, …). When the context is full, its last half is read again into a new state: at least half a window of context
is left, and the cost per token is bounded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.nn.backbone import Backbone
from bigtrain.tasks.base import evaluation_mode

_BEFORE_TOKENS = 8  # whole words of context: some decoders write a token differently at the start of a text


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. Applied in this order: temperature, top_k, top_p."""

    temperature: float = 1.0  # 0: the argmax
    top_k: int | None = None  # keep the k tokens of the largest logits
    top_p: float | None = None  # keep the smallest set of tokens that holds this probability (arXiv:1904.09751)


def stream(
    network: nn.Module,
    prompt: Tensor | Sequence[Sequence[int]],
    max_tokens: int,
    sampling: Sampling,
    *,
    generator: torch.Generator | None = None,
    stop_id: int | None = None,
    max_length: int | None = None,
) -> Iterator[Tensor]:
    """Yields the next ids, (B,) int64 on the network's device, up to `max_tokens` times.

    `prompt` is (B, T) ids with T ≥ 1, all rows of one length; of a prompt over `max_length` the end is read.
    `max_length` is the longest context: by default as long as in training, at most the positions there are. A
    row that has produced `stop_id` repeats it; when all have, the stream ends. `generator` lives on the
    network's device. The network is in eval mode meanwhile, and back in its own mode when the stream ends or
    is closed. Raises ValueError for a prompt that is empty, or whose rows differ in length.
    """
    context_BT = _prompt_ids(prompt).to(next(network.parameters()).device)
    limit = _context_limit(network, context_BT.shape[1] + max_tokens, max_length)
    context_BT = context_BT[:, -limit:]
    with evaluation_mode(network):
        state, inputs_BT = None, context_BT
        finished_B = torch.zeros(len(context_BT), dtype=torch.bool, device=context_BT.device)
        for _ in range(max_tokens):
            if context_BT.shape[1] > limit:
                context_BT = context_BT[:, -max(1, limit // 2) :]
                state, inputs_BT = None, context_BT
            with torch.inference_mode(), eagerly(network):
                if state is None:
                    state = network.backbone.initial_state(len(context_BT), limit)
                output = network(inputs_BT, state)
                ids_B = choose(output.predictions["language_model"].last_logits(), sampling, generator)
            state = output.state
            if stop_id is not None:
                ids_B = ids_B.masked_fill(finished_B, stop_id)
                finished_B = finished_B | (ids_B == stop_id)
            yield ids_B
            if stop_id is not None and bool(finished_B.all()):
                return
            inputs_BT = ids_B[:, None]
            context_BT = torch.cat((context_BT, inputs_BT), dim=1)


def generate(
    network: nn.Module,
    prompt: Tensor | Sequence[Sequence[int]],
    max_tokens: int,
    sampling: Sampling,
    *,
    generator: torch.Generator | None = None,
    stop_id: int | None = None,
    max_length: int | None = None,
) -> Tensor:
    """All new ids at once, (B, N) int64 with N ≤ max_tokens; the arguments are `stream`'s."""
    steps = stream(network, prompt, max_tokens, sampling, generator=generator, stop_id=stop_id, max_length=max_length)
    ids = list(steps)
    return torch.stack(ids, dim=1) if ids else _prompt_ids(prompt)[:, :0]


def text_pieces(tokenizer: Tokenizer, context: Sequence[int], ids: Iterable[int]) -> Iterator[str]:
    """The text of `ids`, which continue `context`, in pieces: each as soon as its characters are complete in UTF-8.

    Joined, the pieces are the text that the ids add to the decoded context; each time only the newest few are decoded.
    """
    before, waiting = list(context)[-_BEFORE_TOKENS:], []
    for number in ids:
        waiting.append(number)
        text = _added_text(tokenizer, before, waiting)
        if not text.endswith("\ufffd"):
            yield text
            before, waiting = (before + waiting)[-_BEFORE_TOKENS:], []
    if waiting:  # the last character is incomplete
        yield _added_text(tokenizer, before, waiting)


def _added_text(tokenizer: Tokenizer, before: list[int], ids: list[int]) -> str:
    known = tokenizer.decode(np.array(before, dtype=np.int64))
    return tokenizer.decode(np.array(before + ids, dtype=np.int64))[len(known) :]


def choose(logits_BV: Tensor, sampling: Sampling, generator: torch.Generator | None = None) -> Tensor:
    """The next id of each row, (B,) int64, from logits (B, V)."""
    if sampling.temperature == 0:
        return logits_BV.argmax(dim=-1)
    logits_BV = top_k_top_p_filtering(logits_BV / sampling.temperature, sampling.top_k, sampling.top_p)
    return torch.multinomial(logits_BV.softmax(dim=-1), num_samples=1, generator=generator).squeeze(1)


def top_k_top_p_filtering(logits_BV: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """The logits, -inf outside the `top_k` largest and the nucleus of probability `top_p` (at least one token stays).

    Exactly min(k, V) tokens stay for top_k, also among equals.
    """
    if top_k is None and top_p is None:
        return logits_BV
    # topk and a stable sort may order equals differently; one order serves both filters.
    sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        sorted_BV[:, top_k:] = -torch.inf
    if top_p is not None:
        probability_BV = sorted_BV.softmax(dim=-1)
        before_BV = probability_BV.cumsum(dim=-1) - probability_BV
        before_BV[:, 0] = 0.0
        sorted_BV[before_BV >= top_p] = -torch.inf

    return torch.empty_like(logits_BV).scatter_(1, order_BV, sorted_BV)


def _prompt_ids(prompt: Tensor | Sequence[Sequence[int]]) -> Tensor:
    try:
        ids_BT = torch.as_tensor(prompt, dtype=torch.int64)
    except ValueError as error:
        raise ValueError("prompts generated together must have the same number of tokens") from error
    if ids_BT.ndim != 2 or ids_BT.numel() == 0:
        raise ValueError("a prompt is (B, T) ids with at least one token; end_of_text can begin an empty one")
    return ids_BT


def _context_limit(network: nn.Module, needed: int, max_length: int | None) -> int:
    """The longest context in tokens: `max_length`, or that of the training; at most the positions of the model, and no
    more than `needed`.
    """
    backbone: Backbone = network.backbone  # type: ignore[assignment]
    wanted = max_length or backbone.context_length
    return min(limit for limit in (needed, wanted, backbone.max_length) if limit is not None)


@contextlib.contextmanager
def eagerly(network: nn.Module) -> Iterator[None]:
    """A context for shapes that come once. Compiled blocks run eagerly: each new length would be compiled again. cuDNN
    does not compute attention: it would plan each new length, for some 30 ms.
    """
    compiled = any(module._compiled_call_impl is not None for module in network.modules())
    uses_cudnn = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        with torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
            yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(uses_cudnn)
