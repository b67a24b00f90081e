"""Reports: whatever stands in them is shown as it stands, in Markdown and in HTML."""

import re
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from bigtrain.report.curves import Panel, Series, curves_png
from bigtrain.report.document import (
    Heading,
    Listing,
    Paragraph,
    Picture,
    Table,
    Verbatim,
    html_page,
    markdown,
    write_document,
)

HOSTILE = '<script>alert("1")</script>\x1b[31m &lt; | `x` {body} {title} </pre><img src=x onerror=y>'


def blocks(text):
    return [
        Heading(text),
        Paragraph(text),
        Listing([text]),
        Listing([text], code=True),
        Table([text, "n"], [[text, "1"]]),
        Verbatim(text),
        Picture("x.png", b"png", text),
    ]


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, sorted(name for name, _ in attributes)))

    def handle_data(self, data):
        self.text += data


def parsed(page):
    elements = Elements()
    elements.feed(page)
    return elements


@given(st.text() | st.just(HOSTILE))
def test_text_adds_no_element_to_the_page(text):
    assert parsed(html_page(text, blocks(text))).tags == parsed(html_page("plain", blocks("plain"))).tags


def test_text_is_shown_as_it_stands():
    page = parsed(html_page("title", blocks(HOSTILE)))
    assert page.text.count('<script>alert("1")</script>\\x1b[31m &lt; | `x` {body}') == 7
    assert "\x1b" not in page.text


@given(st.text() | st.just(HOSTILE))
def test_markdown_has_its_lines_and_no_html(text):
    lines = markdown("t", [Table([text, "n"], [[text, "1"]])]).splitlines()
    assert len([line for line in lines if line.startswith("|")]) == 3
    assert not re.search(r"(?<!\\)<", "\n".join(lines))
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", lines[-1])) == 3


def test_files_are_the_users_alone_and_the_page_needs_nothing_else(tmp_path):
    png = curves_png([Panel("$a_$", [Series("_x", [1, 2], [1e-3, 1.0])], ("optimum", 0.5), ("turn", 2))])
    assert png.startswith(b"\x89PNG")
    write_document(tmp_path, "report", "t", [Picture("curves.png", png, "c")])
    files = {path.name: path for path in tmp_path.iterdir()}
    assert set(files) == {"report.md", "report.html", "curves.png"}
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o600}
    page = files["report.html"].read_text()
    assert "data:image/png;base64," in page and "script" not in page and "http" not in page.replace("http-equiv", "")
    assert "![c](curves.png)" in files["report.md"].read_text()
