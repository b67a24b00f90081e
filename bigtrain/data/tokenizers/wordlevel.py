"""Whole words as tokens, as word-level language models have them: trained by Hugging Face's `tokenizers`.

A word is what stands between spaces, as it is written; marks that are to be tokens of their own stand apart in the
text, as in the Penn Treebank. What the vocabulary lacks is `[UNK]`. The result is a `SubwordTokenizer`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from bigtrain.data.tokenizers.bpe import END_OF_TEXT
from bigtrain.data.tokenizers.subword import SubwordTokenizer, learn

UNKNOWN = "[UNK]"
_LEAST_COUNT = 2  # from the words that occur once, a model learns what an unknown word is like


def train_wordlevel(documents: Sequence[str], vocab_size: int, end_of_text: bool) -> SubwordTokenizer:
    """At most `vocab_size` ids: `[UNK]`, the commonest words, equally common ones in code-point order, then, if asked
    for, end_of_text. Fewer where no more words occur twice.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    rust = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    rust.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocab_size - end_of_text,
        min_frequency=_LEAST_COUNT,
        special_tokens=[UNKNOWN],
        show_progress=False,
    )
    learn(rust, trainer, documents)
    if end_of_text:
        rust.add_special_tokens([END_OF_TEXT])
    return SubwordTokenizer(json.loads(rust.to_str()), END_OF_TEXT if end_of_text else None)
