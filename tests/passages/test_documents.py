from __future__ import annotations

from itertools import pairwise

import pytest

from atlas_lm.passages.chunk import chunks
from atlas_lm.passages.documents import Block, Document, read_document
from atlas_lm.runtime.errors import InputError

MARKDOWN = """---
title: The Guide
valid_from: 2020-01-02
tags: [a, b]
---
# Start

Some *text* with a [link](http://x.y) and `code`.
Wrapped <b>line</b>.

## Lists
- one
  - inner
- two

1. first
2. second

| a | b |
|---|---|
| 1 | 2 |

### Deeper
```python
x = 1
y = 2
```
# Other
<div>raw &amp; <script>no()</script>html</div>
"""

HTML = """<!doctype html><html lang="en"><head><title>A  page</title>
<meta name="author" content="Ann"><style>p {color: red}</style></head>
<body><nav><a href="/">Home</a></nav><h1>Top</h1><p>One &eacute;<br>two <b>bold</b>
<script>alert("<p>no</p>")</script>
<p>Unclosed <ul><li>item<ul><li>nested</li></ul></li><li>more</ul>
<h2>Part</h2><table><tr><th>a<th>b<tr><td><p>1</p></td><td>2</td></tr></table>
<pre>x = 1
  y</pre><ol><li>first</ol><noscript>no</noscript></body></html>"""


def read(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_document(path)


def test_markdown(tmp_path):
    document = read(tmp_path, "guide.md", MARKDOWN)
    assert document.title == "The Guide"
    assert document.metadata == {"valid_from": "2020-01-02", "tags": ["a", "b"]}
    assert [(block.section, block.text) for block in document.blocks] == [
        ("Start", "Some text with a link and code. Wrapped line."),
        ("Start > Lists", "- one"),
        ("Start > Lists", "  - inner"),
        ("Start > Lists", "- two"),
        ("Start > Lists", "1. first"),
        ("Start > Lists", "2. second"),
        ("Start > Lists", "a | b"),
        ("Start > Lists", "1 | 2"),
        ("Start > Lists > Deeper", "x = 1\ny = 2"),
        ("Other", "raw & html"),
    ]


def test_the_only_top_heading_is_the_title(tmp_path):
    document = read(tmp_path, "x.md", "# Title\n\nText.\n\n## Part\n\nMore.\n")
    assert document.title == "Title"
    assert [block.section for block in document.blocks] == ["", "Part"]
    assert read(tmp_path, "name.md", "No heading.").title == "name"
    assert read(tmp_path, "y.md", "---\nnot: [yaml\n---\nText.").blocks


def test_html(tmp_path):
    document = read(tmp_path, "page.html", HTML)
    assert document.title == "A page"
    assert document.metadata == {"language": "en", "author": "Ann"}
    assert [(block.section, block.text) for block in document.blocks] == [
        ("", "One é two bold"),
        ("", "Unclosed"),
        ("", "- item"),
        ("", "  - nested"),
        ("", "- more"),
        ("Part", "a | b"),
        ("Part", "1 | 2"),
        ("Part", "x = 1\n  y"),
        ("Part", "1. first"),
    ]


@pytest.mark.parametrize(
    "content",
    [
        "<body><div><nav><ul><li><a>no</a></ul></div><p>Kept.</body>",
        "<header><nav><nav>no<br></header><p>Kept.",
        "<p><button>no<p>no</p></p><p>Kept.",
        "<table><tr><td><select><option>no</option><option>no</td></tr></table><p>Kept.</p>",
        "<nav><div>no</div></nav>Kept.<svg/>",
        "<div><nav>no<li>no</li>no</div><div>Kept.</div></nav>",
    ],
)
def test_what_is_left_open_ends_with_what_it_stands_in(tmp_path, content):
    blocks = read(tmp_path, "page.html", content).blocks
    assert [block.text for block in blocks] == ["Kept."]


def test_plain_text_and_nothing(tmp_path):
    document = read(tmp_path, "a.txt", b"\xef\xbb\xbfOne\r\ntwo.\r\n\r\n\r\nThree.\n")
    assert [block.text for block in document.blocks] == ["One two.", "Three."]
    for name in ("e.txt", "e.md", "e.html"):
        assert read(tmp_path, name, "").blocks == ()
    assert read(tmp_path, "s.html", "<script>x").blocks == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ok\nbad \xe9 here", r"x\.txt:2: byte 7 \(0xe9\) is not utf-8; .*--encoding"),
        (b"PK\x03\0\0", r"x\.txt: a binary file \(byte 3 is zero\)"),
        ("Text.".encode("utf-16"), r"x\.txt: is UTF-16; give --encoding utf-16"),
    ],
)
def test_bytes_that_are_no_text(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, "x.txt", content)


def test_other_encodings(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes("Größe".encode("latin-1"))
    assert read_document(path, encoding="latin-1").blocks[0].text == "Größe"
    path.write_bytes("Größe".encode("utf-16"))
    assert read_document(path, encoding="utf-16").blocks[0].text == "Größe"
    path.write_text("plain")
    with pytest.raises(InputError, match="--encoding klingon: unknown"):
        read_document(path, encoding="klingon")


def document(*blocks):
    return Document("T", tuple(Block(section, text) for section, text in blocks))


def sentence(words: int, first: str = "W") -> str:
    return " ".join([first, *["w"] * (words - 1)]) + "."


def test_passages_end_at_sentences_and_have_even_lengths():
    text = " ".join(sentence(10, f"S{n}") for n in range(23))
    found = [text for _, text in chunks(document(("", text)), words=100)]
    assert " ".join(found) == text
    assert all(80 <= len(part.split()) <= 120 for part in found)
    assert all(part.startswith("S") and part.endswith(".") for part in found)


def test_passages_do_not_cross_sections():
    found = list(chunks(document(("A", "One. Two."), ("B", "Three.")), words=100))
    assert found == [("A", "One. Two."), ("B", "Three.")]


def test_paragraph_ends_are_preferred():
    blocks = [("", f"{sentence(45)} {sentence(45)}") for _ in range(3)]
    assert [t.count("\n") for _, t in chunks(document(*blocks), words=95)] == [0, 0, 0]


def test_a_huge_paragraph_without_sentences_is_cut_between_words():
    words = [f"w{n}" for n in range(1050)]
    found = [text for _, text in chunks(document(("", " ".join(words))), words=100)]
    assert " ".join(found).split() == words
    assert all(len(text.split()) <= 150 for text in found)
    cjk = [text for _, text in chunks(document(("", "字" * 450)), words=100)]
    assert "".join(cjk).replace(" ", "") == "字" * 450
    assert len(cjk) >= 4


def test_overlap_repeats_whole_sentences():
    text = " ".join(sentence(10, f"S{n}") for n in range(20))
    found = [text for _, text in chunks(document(("", text)), words=50, overlap=20)]
    for one, other in pairwise(found):
        assert other.startswith(" ".join(one.split()[-20:]))


def test_abbreviations_end_no_sentence():
    from atlas_lm.passages.chunk import _sentences

    assert _sentences('Dr. A. Bell (b. 1847) spoke. "He left." Then e.g. London. 是。不。') == [
        "Dr. A. Bell (b. 1847) spoke.",
        '"He left."',
        "Then e.g. London.",
        "是。",
        "不。",
    ]
