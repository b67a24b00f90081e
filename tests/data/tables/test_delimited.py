"""Which separator and which quotes a table has is read off the file, said, and may be set."""

import csv
import io

import pytest

from bigtrain.data.tables.config import Quotes
from bigtrain.data.tables.delimited import TableFormat
from bigtrain.data.tables.rows import Table, read_rows
from bigtrain.errors import DataError

NAMED = {"data.text_column": "text", "data.label_column": "label"}
PLACED = {"data.text_column": "1", "data.label_column": "2"}
TEXTS = [("good, or so", "1"), ("bad", "0"), ("fine; but long", "1"), ("50% of it", "0")]


def as_table(rows, separator, header=("text", "label"), end="\n", quoting=csv.QUOTE_MINIMAL):
    file = io.StringIO()
    csv.writer(file, delimiter=separator, lineterminator=end, quoting=quoting).writerows([header, *rows])
    return file.getvalue()


def read(tmp_path, name, content, columns=NAMED, **form):
    """The rows without their lines, and what is said about the file."""
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    notes = []
    rows = list(read_rows(Table(tmp_path / name, columns, TableFormat(**form)), notes))
    return [row for _, row in rows], notes


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.data", "a.label", "a"])
@pytest.mark.parametrize(("separator", "called"), [("\t", "tab"), (",", "comma"), (";", "semicolon"), ("|", "bar")])
def test_the_separator_is_found_and_said_where_the_name_does_not_say_it(tmp_path, name, separator, called):
    rows, notes = read(tmp_path, name, as_table(TEXTS, separator))
    assert rows == TEXTS
    expected = (name, called) in {("a.csv", "comma"), ("a.tsv", "tab")}
    assert (not notes) if expected else (len(notes) == 1 and f"a {called} between" in notes[0])


@pytest.mark.parametrize("separator", ["\t", ",", ";", "|"])
def test_it_is_found_without_a_header_too(tmp_path, separator):
    rows, _ = read(tmp_path, "a.data", as_table(TEXTS[1:], separator, TEXTS[0]), PLACED)
    assert rows == TEXTS


def test_it_may_be_set(tmp_path):
    content = "a;text,label\nx;y,1\n"
    assert read(tmp_path, "a.csv", content, PLACED, separator="semicolon")[0] == [("a", "text,label"), ("x", "y,1")]
    with pytest.raises(DataError, match="its columns: 'a;text', 'label'"):
        read(tmp_path, "a.csv", content, separator="comma")
    trec = "DESC:manner How did it end ?\nENTY:animal What is it ?\n"
    columns = {"data.text_column": "2", "data.label_column": "1"}
    rows, notes = read(tmp_path, "a.label", trec, columns, separator="space")
    assert rows == [("How did it end ?", "DESC:manner"), ("What is it ?", "ENTY:animal")] and not notes


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", "\t"])
def test_lines_may_end_in_any_way(tmp_path, separator, end):
    assert read(tmp_path, "a.txt", as_table(TEXTS, separator, end=end))[0] == TEXTS


def test_an_ending_may_be_in_capitals(tmp_path):
    assert read(tmp_path, "A.CSV", as_table(TEXTS, ",")) == (TEXTS, [])


def test_the_mark_of_an_encoding_is_no_part_of_the_first_name(tmp_path):
    content = "\ufeff".encode("utf-16-le") + as_table(TEXTS, ",").encode("utf-16-le")
    assert read(tmp_path, "a.csv", content, encoding="utf-16-le")[0] == TEXTS


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-8-sig", "gb18030"])
def test_another_encoding_is_read_when_it_is_set(tmp_path, encoding):
    texts = [("é – “ja”" if encoding != "gb18030" else "很好", "1"), ("bad", "0")]
    content = as_table(texts, ";", end="\r\n").encode(encoding)
    assert read(tmp_path, "a.csv", content, encoding=encoding)[0] == texts


QUOTED = [('she said "no"', "1"), ("plain", "0")]


@pytest.mark.parametrize(
    ("rows", "quoting"),
    [
        (QUOTED, csv.QUOTE_MINIMAL),
        (TEXTS, csv.QUOTE_ALL),
        (TEXTS, csv.QUOTE_NONNUMERIC),
        ([*QUOTED, ("two\nlines", "1"), ("a\ttab", "0")], csv.QUOTE_MINIMAL),
    ],
)
def test_quotes_of_a_tsv_are_taken_off_and_said_where_all_are_well_formed(tmp_path, rows, quoting):
    content = as_table(rows, "\t", quoting=quoting)
    found, notes = read(tmp_path, "a.tsv", content)
    assert found == rows and len(notes) == 1 and "data.quotes=none" in notes[0]
    if len(rows) == 2:
        assert read(tmp_path, "a.tsv", content, quotes=Quotes.none)[0][0] == ('"she said ""no"""', "1")


@pytest.mark.parametrize(
    "lines",
    [
        ['"Great" was it\t1', "dull\t0"],  # the quote ends before the field
        ['"Wow!\t1', 'He left."\t0'],  # and here two lines after
        ['"A title"\t1', 'she said "no"\t0'],  # who quotes fields would have quoted the second
        ['"', '"'],
    ],
)
def test_quotation_marks_of_a_text_stay_in_it(tmp_path, lines):
    lines = [line if "\t" in line else f"{line}\t1" for line in lines]
    found, notes = read(tmp_path, "a.tsv", "text\tlabel\n" + "".join(line + "\n" for line in lines))
    assert [list(row) for row in found] == [line.split("\t") for line in lines] and not notes


def test_quotes_may_be_characters_in_a_csv(tmp_path):
    content = 'text,label\n"Great" was it,1\n'
    with pytest.raises(DataError, match=r"a.csv:2\n(.|\n)*data.quotes=none"):
        read(tmp_path, "a.csv", content)
    assert read(tmp_path, "a.csv", content, quotes=Quotes.none)[0] == [('"Great" was it', "1")]


def test_empty_rows_and_columns_of_a_spreadsheet_are_left_out_and_counted(tmp_path):
    rows, notes = read(tmp_path, "a.csv", "text,label,,\na,1\nb,0,,\n,,,\n  \n,\n")
    assert rows == [("a", "1"), ("b", "0")] and "3 empty row(s) are left out, the first in line 4" in notes[0]
    assert read(tmp_path, "a.csv", "text,label\na,1,,\n")[0] == [("a", "1")]
    with pytest.raises(DataError, match="it has 3 field"):
        read(tmp_path, "a.csv", "text,label\na,1,x\n")


def test_a_name_in_the_header_may_have_spaces_around_it(tmp_path):
    assert read(tmp_path, "a.csv", "text, label \na,1\n")[0] == [("a", "1")]


@pytest.mark.parametrize(
    ("name", "first"), [("a.csv", "sep=;"), ("a.csv", '"sep=|"'), ("a.txt", "sep=,"), ("a.csv", "sep=\t")]
)
def test_a_first_line_that_names_the_separator_is_no_row(tmp_path, name, first):
    sign = first.strip('"')[-1]
    for columns in (NAMED, PLACED):
        table = f"{first}\r\n" + as_table(TEXTS, sign, end="\r\n", quoting=csv.QUOTE_ALL)
        expected = TEXTS if columns is NAMED else [("text", "label"), *TEXTS]
        assert read(tmp_path, name, table, columns, quotes=Quotes.double)[0] == expected


def test_of_columns_of_one_name_a_position_is_advised(tmp_path):
    table = "text,text,label\na,b,1\n"
    with pytest.raises(DataError, match="more than one column 'text'(.|\n)*data.text_column=1$"):
        read(tmp_path, "a.csv", table)
    assert read(tmp_path, "a.csv", table, NAMED | {"data.text_column": "1"})[0] == [("a", "1")]
