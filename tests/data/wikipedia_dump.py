"""A small dump in the format of MediaWiki's export, schema 0.11, as dumps.wikimedia.org has it."""

from __future__ import annotations

import bz2
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

SHA = "phoiac9h4m842xq45sp7s6u21eteeq1"
HEAD = """\
<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" \
xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" \
xsi:schemaLocation="http://www.mediawiki.org/xml/export-0.11/ \
http://www.mediawiki.org/xml/export-0.11.xsd" version="0.11" xml:lang="en">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <dbname>enwiki</dbname>
    <base>https://en.wikipedia.org/wiki/Main_Page</base>
    <generator>MediaWiki 1.43.0-wmf.2</generator>
    <case>first-letter</case>
    <namespaces>
      <namespace key="-2" case="first-letter">Media</namespace>
      <namespace key="0" case="first-letter" />
      <namespace key="1" case="first-letter">Talk</namespace>
      <namespace key="6" case="first-letter">Datei</namespace>
      <namespace key="14" case="first-letter">Kategorie</namespace>
    </namespaces>
  </siteinfo>
"""
TAIL = "</mediawiki>\n"

ADA = """\
{{Short description|English mathematician (1815–1852)}}
{{Infobox person
| name = Ada Lovelace
| image = Ada.jpg
| caption = Portrait
| birth_date = {{birth date|1815|12|10|df=y}}
| birth_place = [[London]], England
| known_for = {{plainlist|
* [[Mathematics]]
* The ''engine''
}}
| spouse = {{nowrap|William King}} <br /> (m. 1835)
| awards =
}}
'''Augusta Ada King''' ({{IPA|x}}; 10&nbsp;December 1815 – 1852)\
<ref name="a">{{cite book|title=X}}</ref> was an English [[mathematician|maths person]].\
<ref name="a" /> She walked {{convert|5|km|mi}}.
[[Datei:Ada.jpg|thumb|A [[portrait]] of her]]

She wrote ''notes'' on the [[Analytical Engine]].<!-- hidden -->

== Works ==
{{Main|Notes}}
=== Writings ===
* Note A
** deeper
# numbered
{| class="wikitable"
! Year !! Work
|-
| 1843 || Notes
|}

== Legacy ==
A language, [[Ada (programming language)]], bears her name.

== References ==
{{reflist}}
=== Citations ===
Gone with its parent.

== External links ==
* [http://example.org Site]
[[Kategorie:Mathematicians]]
"""


def page(id: int, title: str, text: str, *, ns: int = 0, redirect: str = "") -> str:
    lead = f"    <redirect title={quoteattr(redirect)} />\n" if redirect else ""
    size = len(text.encode())
    return f"""\
  <page>
    <title>{escape(title)}</title>
    <ns>{ns}</ns>
    <id>{id}</id>
{lead}    <revision>
      <id>{1000 + id}</id>
      <parentid>{900 + id}</parentid>
      <timestamp>2024-05-01T12:00:00Z</timestamp>
      <contributor>
        <username>Someone</username>
        <id>7</id>
      </contributor>
      <minor />
      <comment>/* x */ fix</comment>
      <origin>{1000 + id}</origin>
      <model>wikitext</model>
      <format>text/x-wiki</format>
      <text bytes="{size}" sha1="{SHA}" xml:space="preserve">{escape(text)}</text>
      <sha1>{SHA}</sha1>
    </revision>
  </page>
"""


PAGES = [
    page(10, "AccessibleComputing", "#REDIRECT [[Computer accessibility]]", redirect="Computer"),
    page(12, "Ada Lovelace", ADA),
    page(13, "Ada", "'''Ada''' may refer to:\n* [[Ada Lovelace]]\n{{disambiguation}}"),
    page(14, "Mercury (disambiguation)", "* [[Mercury]]"),
    page(15, "Talk:Ada", "Chatter.", ns=1),
    page(16, "Nothing", "{{stub}}"),
    page(17, "AT&T <Inc>", "A company & more. Second sentence."),
    page(18, "Old redirect", "#redirect [[Elsewhere]]"),
]


def dump(path: Path, pages: list[str] | None = None, *, streams: bool = True) -> Path:
    """Write a dump; a .bz2 in several streams, as the multistream files are."""
    parts = [HEAD, *(PAGES if pages is None else pages), TAIL]
    if path.suffix == ".bz2":
        path.write_bytes(
            b"".join(bz2.compress(part.encode()) for part in parts)
            if streams
            else bz2.compress("".join(parts).encode())
        )
    else:
        path.write_text("".join(parts), encoding="utf-8")
    return path
