"""The model's regular expressions, which are Java's, on RE2's linear-time engine.

For: `aws.validate`. Not a general translator: it knows what service models use, and refuses the rest. Invariant: a
translated pattern takes exactly the strings of the original (as a match of the whole string; `\\p{C}` alone is short of
the unassigned code points), in time linear in the string's length, whatever the string is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, cast

import re2  # pyright: ignore[reportMissingTypeStubs]

MAX_REPEAT: Final = 1000
"""RE2's bound of a counted repetition."""
_MEMORY_BYTES: Final = 64 << 20
_re2 = cast("Any", re2)
_TOKEN: Final = re.compile(
    r"""
    (?P<unicode>\\u[0-9A-Fa-f]{4})
  | (?P<escape>\\(?:[pP]\{[A-Za-z]+\}|x[0-9A-Fa-f]{2}|.))
  | (?P<look>\(\?(?:[=!]|<[=!]|>))
  | (?P<repeat>\{[0-9]+(?:,[0-9]*)?\}[+?]?)
  | (?P<possessive>[*+?]\+)
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_ANY: Final = r"[^\n\r\x{85}\x{2028}\x{2029}]"
_SPACE: Final = r"\t\n\x0B\f\r "
_NO_SPACE: Final = r"\x00-\x08\x0E-\x1F!-\x{10FFFF}"
"""Java's line and space characters: RE2 counts fewer."""
_LEADING_REFUSAL: Final = re.compile(r"\(\?!((?:[^()\\\[]|\\.)*)\)", re.DOTALL)
_REPEAT: Final = re.compile(r"\{([0-9]+)(,?)([0-9]*)\}")
_CLASS_END: Final = re.compile(r"\[\^?(?:\\.|[^\\\]])+\]", re.DOTALL)


class Untranslatable(Exception):
    """RE2 has no equal of this pattern."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled pattern. `refused` is what the string may not begin with, if there is such."""

    source: str
    _taken: Any
    _refused: Any

    def matches(self, text: str) -> bool:
        """Whether the whole of `text` is taken. Linear in its length."""
        data = text.encode()  # RE2 reads UTF-8; given text, its module maps every position back
        if self._refused is not None and self._refused.match(data) is not None:
            return False
        return self._taken.fullmatch(data) is not None


@lru_cache(maxsize=1024)
def compile_pattern(source: str) -> Pattern:
    """Compile a model's pattern. Raises Untranslatable.

    botocore's models have the outer `^` and `$` taken off (`$|^a+` was `^$|^a+$`), so they are put back.
    """
    refused = None
    rest = source
    leading = _LEADING_REFUSAL.match(source)
    if leading is not None:
        refused = _compile(source, f"^(?:{_translate(leading[1])})")
        rest = source[leading.end() :]
        if _has_top_level_alternative(rest):
            raise Untranslatable(f"the lookahead of {source!r} governs one alternative only")
    return Pattern(source, _compile(source, f"(?:^{_translate(rest)}$)"), refused)


def _compile(source: str, translated: str) -> Any:
    options = _re2.Options()
    options.max_mem = _MEMORY_BYTES
    options.log_errors = False
    options.never_capture = True
    try:
        return _re2.compile(translated, options)
    except _re2.error as error:
        raise Untranslatable(f"{source!r}: {error}") from error


def _translate(source: str) -> str:
    """Rewrite what RE2 writes otherwise: code points, and repetitions beyond its bound."""
    out: list[str] = []
    in_class = False
    for token in _TOKEN.finditer(source):
        text = token[0]
        match token.lastgroup:
            case "unicode":
                out.append(f"\\x{{{text[2:]}}}")
            case "escape" if text in (r"\s", r"\S"):
                inner = _SPACE if text == r"\s" else _NO_SPACE
                out.append(inner if in_class else f"[{inner}]")
            case "look" | "possessive" if not in_class:
                raise Untranslatable(f"{text} in {source!r}")
            case "repeat" if not in_class:
                out.append(_repetition(source, out, text))
            case "other" if text == "." and not in_class:
                out.append(_ANY)
            case "other" if text == "[" and in_class:
                raise Untranslatable(f"a class within a class in {source!r}")
            case "other":
                in_class = text == "[" or (in_class and text != "]")
                out.append(text)
            case _:
                out.append(text)
    return "".join(out)


def _repetition(source: str, before: list[str], text: str) -> str:
    """`{m,n}`; beyond the bound as several in a row, which takes the same strings, of the atom before it."""
    counted = _REPEAT.fullmatch(text)
    if counted is None:
        raise Untranslatable(f"{text} in {source!r}")
    low = int(counted[1])
    high = int(counted[3]) if counted[3] else (low if not counted[2] else None)
    if low <= MAX_REPEAT and (high is None or high <= MAX_REPEAT):
        return text
    atom = _last_atom(source, before)
    parts: list[str] = []
    optional = None if high is None else high - low
    while low > 0:
        parts.append(f"{{{min(low, MAX_REPEAT)}}}")
        low -= MAX_REPEAT
    if optional is None:
        parts.append("*")
    while optional is not None and optional > 0:
        parts.append(f"{{0,{min(optional, MAX_REPEAT)}}}")
        optional -= MAX_REPEAT
    return atom.join(("", *parts))[len(atom) :]


def _last_atom(source: str, before: list[str]) -> str:
    written = "".join(before)
    if written.endswith("]"):
        *_, last = _CLASS_END.finditer(written)
        if last.end() == len(written):
            return last[0]
    elif before and (len(before[-1]) > 1 or before[-1] not in ")*+?}"):
        return before[-1]
    raise Untranslatable(f"a group is repeated more than {MAX_REPEAT} times in {source!r}")


def _has_top_level_alternative(source: str) -> bool:
    depth, in_class = 0, False
    for token in _TOKEN.finditer(source):
        text = token[0]
        if token.lastgroup != "other":
            continue
        if in_class:
            in_class = text != "]"
        elif text == "[":
            in_class = True
        elif text == "|" and depth == 0:
            return True
        else:
            depth += (text == "(") - (text == ")")
    return False
