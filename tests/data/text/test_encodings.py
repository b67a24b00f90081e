"""The hint for a file that is not UTF-8 names an encoding that gives its text."""

import pytest

from bigtrain.data.text.encodings import likely_encoding
from bigtrain.data.text.lines import read_lines
from bigtrain.errors import DataError

TEXTS = {
    "cp1252": ["text,label\ncafé “quoted”,1\n", "Größe über Straße\n", "I don’t know\n", "naïve façade, señor, 5 €\n"],
    "mac_roman": ["café résumé, it’s “so”\n"],
    "cp1250": ["žluťoučký kůň\n", "zażółć gęślą jaźń\n"],
    "cp1251": ["Привет, мир! Это хороший фильм,1\n"],
    "koi8_r": ["Привет, мир! Это хороший фильм,1\n"],
    "cp1253": ["Καλημέρα κόσμε, αυτή είναι καλή ταινία\n"],
    "shift_jis": ["これは良い映画です。,1\n", "面白くない、退屈,0\n"],
    "euc_jp": ["これは良い映画です。,1\n"],
    "euc_kr": ["좋은 영화입니다,1\n재미없다,0\n"],
    "gb18030": ["这是一部好电影,1\n不好看,0\n"],
    "big5": ["這是一部好電影,1\n不好看,0\n"],
    "utf-16": ["text,label\ngood,1\n"],
    "utf-16-le": ["text,label\ngood,1\n"],
    "utf-16-be": ["text,label\ngood,1\n"],
}


@pytest.mark.parametrize(("encoding", "text"), [(name, text) for name, texts in TEXTS.items() for text in texts])
def test_the_encoding_that_is_named_gives_the_text(tmp_path, encoding, text):
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode(encoding))
    found = likely_encoding(path, b"")
    assert text.encode(encoding).decode(found) == text
    with pytest.raises(DataError, match=f"data.encoding={found}"):
        list(read_lines(path))
    assert "".join(line for _, line in read_lines(path, True, encoding=found)) == text


@pytest.mark.parametrize(
    ("data", "encoding", "line"),
    [(b"a\nb\n\x81\n", "cp1252", 3), (b"a\nb", "utf-16", 1), (b"a\r\xff\r", None, 2), (b"a\nb\0\n", "latin1", 2)],
)
def test_what_the_encoding_does_not_have_is_said_with_its_place(tmp_path, data, encoding, line):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(DataError, match=f"a.txt:{line}\n.*{encoding or 'UTF-8'}"):
        list(read_lines(tmp_path / "a.txt", encoding=encoding))
