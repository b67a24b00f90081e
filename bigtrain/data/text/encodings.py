"""Which encoding a file that is not UTF-8 is probably in: for the hint of an error, never to read it by.

Each of a few common encodings decodes a part of the file; the one whose characters look most like text wins.
"""

from __future__ import annotations

import re
from pathlib import Path

_READ_BYTES = 1 << 20
_MARKS = {b"\xff\xfe\0\0": "utf-32", b"\0\0\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_MANY_NULS = 0.2  # of the bytes: every second one of English in UTF-16 is 0

# Encoding → what is common beyond ASCII in the texts that are written in it. Of equals the first wins.
_SIGNS = "“”‘’–—…•«»€£©®°·¿¡§²³½\u00a0„‚´×"  # noqa: RUF001 these very signs
_WESTERN = f"[àáâãäåæçèéêëìíîïñòóôõöøùúûüýœßÀÁÂÄÅÆÇÈÉÊËÍÎÑÓÔÖØÙÚÜŒ{_SIGNS}]"
_IDEOGRAPHS = "\u3001-\u301f\uff01-\uff5e\u4e00-\u9fff"
_COMMON = {
    "cp1252": _WESTERN,
    "mac_roman": _WESTERN,
    "cp1250": f"[ąćčďęěłńňóřśšťůźžżőűĄĆČĘŁŃŘŚŠŹŽŻáäéíöúüýÁÉÍÓÚ{_SIGNS}]",
    "cp1251": "[оеаинтсрвлкмду]",  # noqa: RUF001 the most frequent letters of Russian, in lower case
    "koi8_r": "[оеаинтсрвлкмду]",  # noqa: RUF001
    "cp1253": "[αοιετσνηυρπκμλάέίό]",  # noqa: RUF001 of Greek
    "shift_jis": "[\u3040-\u30ff]",  # kana: there is no Japanese sentence without
    "euc_jp": "[\u3040-\u30ff]",
    "euc_kr": "[\uac00-\ud7a3]",
    "gb18030": f"[{_IDEOGRAPHS}]",
    "big5": f"[{_IDEOGRAPHS}]",
}


def likely_encoding(path: Path, data: bytes) -> str:
    """The name of an encoding. `data`: the bytes around the place that is not UTF-8; the file's own are looked at too,
    where they are not packed. "latin1", which decodes everything, where none is likely.
    """
    if path.suffix != ".gz":
        try:
            with path.open("rb") as file:
                data = file.read(_READ_BYTES)
        except OSError:
            pass
    for mark, name in _MARKS.items():
        if data.startswith(mark):
            return name
    if data.count(0) > _MANY_NULS * len(data):
        return "utf-16-le" if data[1::2].count(0) > data[::2].count(0) else "utf-16-be"
    scores = {name: _score(name, data) for name in _COMMON}
    best = max(scores, key=lambda name: scores[name])
    return best if scores[best] > 0 else "latin1"


def _score(encoding: str, data: bytes) -> float:
    """The share of what is not ASCII that is common in such texts, weighed by how much like such words it stands."""
    try:
        text = data[: data.rfind(b"\n") + 1 or None].decode(encoding)
    except UnicodeDecodeError:
        return 0.0
    foreign = re.findall(r"[^\x00-\x7f]", text)
    if not foreign:
        return 0.0
    share = len(re.findall(_COMMON[encoding], text)) / len(foreign)
    if encoding in ("cp1252", "mac_roman", "cp1250"):  # words of ASCII with a few other letters in them
        longest = max(map(len, re.findall(r"[^\W\d_a-zA-Z]+", text)), default=0)
        return share * (1.0 if longest <= (4 if encoding == "cp1250" else 2) else 0.4)
    together = sum(map(len, re.findall(r"[^\x00-\x7f]{2,}", text))) / len(foreign)
    if encoding == "gb18030":  # two bytes make some character almost always; the frequent ones come first in it
        ordinary = [one for one in foreign if 0xB0 <= one.encode(encoding)[0] <= 0xD7 or not one.isalpha()]
        share *= len(ordinary) / len(foreign)
    if encoding in ("shift_jis", "euc_jp"):  # kana and ideographs are mixed
        share = min(1.0, 2 * share)
    return share * together
