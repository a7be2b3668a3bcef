"""The model's patterns on RE2, against Python's engine on strings that are near the edge."""

from __future__ import annotations

import re

import pytest
from aws_parts import SERVICES, service
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from freehold.aws.patterns import Untranslatable, compile_pattern
from freehold.aws.validate import untranslatable

PATTERNS = sorted({shape.pattern for name in SERVICES for shape in service(name).shapes.values() if shape.pattern})
PYTHONS = [pattern for pattern in PATTERNS if r"\p{" not in pattern]


def python_takes(pattern: str, text: str) -> bool:
    return re.fullmatch(f"(?:^{pattern}$)", text, re.ASCII) is not None


@pytest.mark.parametrize("name", SERVICES)
def test_every_pattern_of_the_model_compiles(name: str):
    assert untranslatable(service(name)) == {}
    assert sum(shape.pattern is not None for shape in service(name).shapes.values()) > 100


@pytest.mark.parametrize("pattern", PYTHONS)
def test_a_pattern_takes_what_python_takes(pattern: str):
    compiled = compile_pattern(pattern)

    @settings(max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(
        st.from_regex(re.compile(f"(?:^{pattern}$)", re.ASCII), fullmatch=True),
        st.integers(0, 10_000),
        st.sampled_from(["", "a", "A", "0", "-", "/", ":", ".", "$", "\n", "ä", "_"]),
    )
    def check(text: str, at: int, other: str) -> None:
        at %= len(text) + 1
        for near in (text, text[:at] + other + text[at:], text[:at] + other + text[at + 1 :], text + other, text[:at]):
            if not set("\r\x85\u2028\u2029\x1c\x1d\x1e\x1f") & set(near):  # line ends and spaces of Java and Python
                assert compiled.matches(near) == python_takes(pattern, near), near

    check()


@pytest.mark.parametrize(
    ("pattern", "taken", "refused"),
    [
        ("$|^[a-z]+", ["", "a"], ["a1", "1", "\n"]),
        (
            r"s3://.{1,2043}",
            ["s3://a", "s3://" + "a" * 2043],
            ["s3://", "s3://" + "a" * 2044, "s3://\n", "s3://\u2028"],
        ),
        (r"[a-z]{1500}", ["a" * 1500], ["a" * 1499, "a" * 1501]),
        (r"[a-z\]]{1001,}", ["]" * 1001, "a" * 5000], ["a" * 1000]),
        ("(?!memoryId$|actorId$)[a-zA-Z]+", ["memory", "memoryIds"], ["memoryId", "actorId", ""]),
        (r"[\u0009\u0020-\u007E]+", ["\t ~"], ["\n", "\x7f"]),
        (r"[^\p{C}]*", ["", "aä€"], ["\x00", "\u200b"]),
        (r"\S+", ["a\x00"], ["a b", "\x0b"]),
        (r"[\s\S]+", ["\n \x0b\u2028"], [""]),
        (r"https://.*", ["https://"], ["https://\r\n", "http://"]),
        (r"\d", ["1"], ["\u0661"]),
    ],
)
def test_java_is_kept_to_where_re2_differs(pattern: str, taken: list[str], refused: list[str]):
    compiled = compile_pattern(pattern)
    assert [text for text in taken if not compiled.matches(text)] == []
    assert [text for text in refused if compiled.matches(text)] == []


@pytest.mark.parametrize(
    "pattern",
    ["a(?=b)c", "(?<!a)b", "(?>a)b", "a*+b", "(a)\\1", "[a-z&&[^b]]", "(ab){1,2000}", "(?!a)b|c", "(", r"\Qa\E{2000}"],
)
def test_what_has_no_equal_is_refused(pattern: str):
    with pytest.raises(Untranslatable):
        compile_pattern(pattern)


def test_hostile_text_costs_no_more_than_its_length():
    """Each of these takes a backtracking engine years, or quadratic time; a megabyte is read once."""
    for pattern in PATTERNS:
        compiled = compile_pattern(pattern)
        for text in ("a" * 1_000_000, "a-" * 500_000, "arn:aws:" + "-a" * 500_000, "/" * 1_000_000 + "!"):
            compiled.matches(text)
