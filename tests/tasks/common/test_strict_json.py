"""JSON from outside holds only what every JSON parser reads the same way, and what can be sent again."""

import json

import pytest

from tasks.common.strict_json import LARGEST, JSONError, parse_json, parse_object, sendable


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ("NaN", "NaN is not a JSON value"),
        ('{"a": [-Infinity]}', "-Infinity is not"),
        ("1e999", "out of range"),
        ("[-1e999]", "out of range"),
        ("1" * 10_000, "out of range"),
        ("-" + "9" * 5000, "out of range"),
        ("18446744073709551616", "out of range"),
        (r'"\ud800"', "half a surrogate pair"),
        (r'{"\udfff": 1}', "half a surrogate pair"),
        (r'[[{"a": ["b", "\ude00\ud83d"]}]]', "half a surrogate pair"),
        ('"\ud800"', "half a surrogate pair"),
        (r'{"client_id": "a\u0000"}', "NUL"),
        (b'"\xff"', "utf-8"),
        (json.dumps({"a": 1}).encode("utf-16"), "utf-8"),
        (b'"\xed\xa0\x80"', "utf-8"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' is given twice"),
        ("[" * 65 + "]" * 65, "64 levels"),
        ('{"a":' * 65 + "1" + "}" * 65, "64 levels"),
        ("[" * LARGEST, "64 levels"),
        ('"' + r"\"" * (LARGEST // 2 - 1), "not valid JSON"),
        ("[" * (LARGEST + 1), "longer than 1024 KiB"),
        ("1,", "not valid JSON"),
        ('"a\nb"', "not valid JSON"),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_what_is_not_json_is_refused_with_the_reason(content, words):
    with pytest.raises(JSONError, match="params") as refused:
        parse_json(content, "params")
    assert words in str(refused.value)
    str(refused.value).encode()  # can be sent


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b'\xef\xbb\xbf{"label": "HGG"}', {"label": "HGG"}),
        (r'"\ud83d\ude00 é \\ud800"', "😀 é \\ud800"),
        ("[" * 64 + "]" * 64, json.loads("[" * 64 + "]" * 64)),
        ('"' + "[" * 1000 + r"\"" + "{" * 1000 + '"', "[" * 1000 + '"' + "{" * 1000),
        ("[" + "[]," * 1000 + "1]", [[]] * 1000 + [1]),
        ("[18446744073709551615, -9223372036854775808, 1.5e300, -0.0]", [2**64 - 1, -(2**63), 1.5e300, -0.0]),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_what_is_json_is_read_as_it_is(content, value):
    assert parse_json(content, "params") == value


def test_an_object_is_asked_for_and_nothing_is_an_empty_one():
    assert parse_object("", "info") == parse_object(b" ", "info") == {}
    for content in ("[1]", "null", '"text"', "3"):
        with pytest.raises(JSONError, match="info must be a JSON object"):
            parse_object(content, "info")


def test_what_older_versions_stored_can_be_sent():
    stored = {"a\ud800": [float("nan"), {"b": (float("-inf"), "x\x00\udc00")}], "c": 1.5, "d": True, "e": None}
    text = json.dumps(sendable(stored), allow_nan=False, ensure_ascii=False).encode()
    assert json.loads(text) == {"a\ufffd": [None, {"b": [None, "x\ufffd\ufffd"]}], "c": 1.5, "d": True, "e": None}
