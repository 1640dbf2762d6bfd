from __future__ import annotations

import pytest

from atlas_lm.data.wikipedia_templates import is_disambiguation, is_infobox, normal_name
from atlas_lm.data.wikipedia_text import WikitextSettings, article, is_redirect

pytest.importorskip("mwparserfromhell")
SETTINGS = WikitextSettings()


def text(wikitext: str, **settings) -> list[str]:
    document = article("T", wikitext, WikitextSettings(**settings))
    return [block.text for block in document.blocks]


@pytest.mark.parametrize(
    ("wikitext", "written"),
    [
        ("A {{lang|fr|mot}} and {{lang-de|Wort}}.", "A mot and Wort."),
        ("A ({{langx|ru|слово|slovo|word}}, {{langx|de}}) B", "A (слово) B"),
        ("{{convert|5|-|10|km|mi}} or {{cvt|3.5|kg}}", "5–10 km or 3.5 kg"),
        ("{{convert|5|ft|7|in|m|2}}, {{convert|9|mi|km|0}}, {{cvt|8|m|0}}", "5 ft 7 in, 9 mi, 8 m"),
        ("born {{circa|1400}}, {{frac|1|2}} {{frac|2|1|3}}", "born c. 1400, 1/2 2 1/3"),
        ("x{{snd}}y{{mdash}}z", "x – y—z"),
        ("{{Birth_date and age|1990|1|5}}", "1990-01-05"),
        ("a {{quote|text=words}} b {{sfn|Smith|2001}}", "a words b"),
        ("[[Kant#Life|life]], [[Kant#Life]], [[:Category:X]]", "life, Kant, Category:X"),
        ("[[Category:X]][[File:a.png|thumb|a [[b]]]]Kept", "Kept"),
        (
            "''it'' '''bold''' <small>s</small><sup>2</sup> <nowiki>[[n]]</nowiki>",
            "it bold s2 n",
        ),
        ("one<br/>two<!-- no -->", "one two"),
        ("P ({{IPA|p}}, ; ) q ({{x}}; 1900 ) .", "P q (1900)."),
        ("formula <math>x</math> and [http://a.b site]", "formula and site"),
        ("&lt;tag&gt; &amp; &ndash; 5&nbsp;m", "<tag> & – 5 m"),
    ],
)
def test_inline(wikitext, written):
    assert text(wikitext) == [written]


def test_lines_make_paragraphs_and_lists():
    wikitext = "one\nline\n\ntwo\n* a\n** b\n: c\n<ul><li>d</li><li>e</li></ul>\nthree"
    assert text(wikitext) == ["one line", "two", "- a", "- b", "c", "- d", "- e", "three"]
    assert text(wikitext, lists=False) == ["one line", "two", "c", "three"]


@pytest.mark.parametrize("lists", [True, False])
def test_items_of_left_out_templates_leave_no_dashes(lists):
    wikitext = "{items}\nText.\n== Works ==\n{items}\n".replace("{items}", "* {{cite|a}}\n" * 2)
    assert text(wikitext + "* {{cite|a}}, {{cite|b}}", lists=lists) == ["Text."]


def test_nested_and_list_templates():
    assert text("{{hlist|a|[[b]]}}") == ["- a", "- b"]
    assert text("{{plainlist|\n* a\n* b\n}}") == ["- a", "- b"]
    assert text("{{a|{{b|c}}}}Text") == ["Text"]


def test_a_skipped_section_goes_with_what_is_below_it():
    wikitext = "lead\n== See also ==\nx\n=== Deep ===\ny\n== Life ==\nz"
    document = article("T", wikitext, WikitextSettings())
    assert [(block.section, block.text) for block in document.blocks] == [
        ("", "lead"),
        ("Life", "z"),
    ]


@pytest.mark.parametrize(
    "wikitext",
    ["x {{disambiguation|geo}}", "x {{Human name disambiguation}}", "x __DISAMBIG__", "{{Dab}}"],
)
def test_disambiguations(wikitext):
    assert article("T", wikitext, WikitextSettings()) is None


def test_pages_that_only_mention_a_disambiguation_are_articles():
    assert text("x {{disambiguation needed}} {{about|x|y (disambiguation)}}") == ["x"]
    assert article("Mercury (disambiguation)", "x", WikitextSettings()) is None


def test_names():
    assert normal_name(" Template:Infobox_person\n") == "infobox person"
    assert is_infobox("infobox person")
    assert is_infobox("automatic taxobox")
    assert not is_infobox("infoboxless")
    assert not is_disambiguation("disambiguation needed")


@pytest.mark.parametrize("wikitext", ["#REDIRECT [[X]]", " #redirect: [[X]]"])
def test_redirects(wikitext):
    assert is_redirect(wikitext)
    assert not is_redirect("# item [[X]]")


def test_a_disambiguation_is_known_by_a_template_in_a_skipped_section():
    assert (
        article("Ada", "* [[x]]\n== See also ==\n{{disambiguation|given name}}", SETTINGS) is None
    )


def test_markup_that_is_not_closed_harms_its_section_alone():
    wikitext = (
        "Lead {{cite|a.\n== One ==\nText.\n{| class=wikitable\n! A\n| b\n== Two ==\n"
        "''Iliad'''s [[x|y end</ref>.\n== Three ==\n* done"
    )
    document = article("T", wikitext, SETTINGS)
    assert [(block.section, block.text) for block in document.blocks] == [
        ("", "Lead cite|a."),
        ("One", "Text."),
        ("Two", "Iliad's x|y end."),
        ("Three", "- done"),
    ]


def test_references_and_comments_go_before_parsing():
    assert text("a<ref name=x>[[b]] {{c</ref>b<!-- \n== no ==\n -->c<ref name=x />d") == ["abcd"]
