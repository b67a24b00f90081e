"""A corpus as paragraphs, for the audit: what stands between blank lines, or in one line of a paragraph that is long.

Documents are too long to be compared, lines too short: much is said twice by chance. Windows would never begin at the
same place in a copy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from bigtrain.data.originals import Original
from bigtrain.data.text.division import Divided

_SHORTEST = 60  # characters; "See also" and "Usage: %prog [options]" are no copies
_LONGEST = 4000  # a longer paragraph is taken line by line: it is a table, a list, or text with a paragraph a line
_WORD = re.compile(r"[^\W_]")
_BLANK = re.compile(r"\n[ \t]*\n\s*")


def paragraphs(divided: Divided) -> Callable[[], Iterator[Original]]:
    """Passes over the paragraphs of a corpus, of 60 characters at least. They have no label and no place."""
    return lambda: (
        Original(split, part.strip(), None, "")
        for split, paragraph in _whole(divided)
        for part in (paragraph.split("\n") if len(paragraph) > _LONGEST else [paragraph])
        if len(part.strip()) >= _SHORTEST and _WORD.search(part)  # no rule of a table
    )


def _whole(divided: Divided) -> Iterator[tuple[str, str]]:
    """Paragraphs, put together again where a document is read in pieces."""
    held = ""
    for split, text, ends in divided:
        *whole, held = _BLANK.split(held + text)
        if ends or len(held) > 1 << 20:  # nothing in it is blank: held back it would be read again with each piece
            whole, held = [*whole, held], ""
        yield from ((split, paragraph) for paragraph in whole)
