from __future__ import annotations

import dataclasses

import pytest

from atlas_lm.retriever import EncoderSettings
from atlas_lm.retriever.settings import settings_from
from atlas_lm.runtime.errors import InputError


def test_option_names() -> None:
    assert {field.name: field.default for field in dataclasses.fields(EncoderSettings)} == {
        "pooling": dataclasses.MISSING,
        "similarity": dataclasses.MISSING,
        "normalize": False,
        "query_template": "{query}",
        "passage_template": "{title} {text}",
        "query_prompt": "",
        "passage_prompt": "",
        "query_maxlength": 256,
        "passage_maxlength": 256,
        "lowercase": False,
        "reference_layernorm": False,
    }


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pooling": "maen"}, "pooling='maen' is not one of mean, cls, last, sqrt.*'mean'"),
        ({"similarity": "l2"}, "similarity='l2' is not one of dot, cosine"),
        ({"query_maxlength": 2}, "query_maxlength=2: allow at least 3"),
        ({"passage_template": "{title}"}, r"does not contain \{text\}"),
        ({"passage_template": "{titel} {text}"}, "'titel'.*known: {title}, {text}, {section}"),
        ({"query_template": "query"}, r"does not contain \{query\}"),
        ({"passage_template": "{text"}, "write a field as"),
        ({"passage_template": "{text!r}"}, "without format codes"),
    ],
)
def test_wrong_values_are_refused_with_the_remedy(changed: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EncoderSettings(**{"pooling": "mean", "similarity": "dot", **changed})


def test_nothing_is_guessed() -> None:
    with pytest.raises(
        InputError, match=r"some/dir: does not say its pooling and similarity.*--po"
    ):
        settings_from({}, None, place="some/dir")
    with pytest.raises(InputError, match=r"does not say its similarity.*--similarity dot|cosine"):
        settings_from({"pooling": "cls"}, {"query_maxlength": 32}, place="some/dir")


def test_single_values_replace_what_is_stated() -> None:
    stated = {"pooling": "cls", "similarity": "dot", "query_maxlength": 64}
    settings = settings_from(stated, {"pooling": "mean"}, place="some/dir")
    assert (settings.pooling, settings.query_maxlength) == ("mean", 64)
    with pytest.raises(InputError, match=r"unknown key 'poling'.*'pooling'"):
        settings_from(stated, {"poling": "mean"}, place="some/dir")


def test_braces_in_a_query_are_text() -> None:
    settings = EncoderSettings(
        pooling="mean", similarity="dot", query_prompt="query: ", query_template="ask {query}!"
    )
    assert settings.query_text("{title} {") == "query: ask {title} {!"
    braced = dataclasses.replace(settings, query_template="{{{query}}}")
    assert braced.query_text("who") == "query: {who}"
    assert settings.unit_length is False
    assert dataclasses.replace(settings, similarity="cosine").unit_length is True
