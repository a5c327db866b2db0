"""LIKE patterns and regular expressions: correct, and in bounded time for any pattern and text."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supawire._values import patterns
from supawire._values.patterns import Like, Regex, compiled, like_without_escapes

LONG = 200_000
"""Length of a text for which exponential matching takes years, and quadratic matching hours."""


def like_by_hand(pattern: str, text: str) -> bool:
    """Evaluate LIKE by its definition."""
    if not pattern:
        return not text
    if pattern[0] == "%":
        return any(like_by_hand(pattern[1:], text[at:]) for at in range(len(text) + 1))
    return bool(text) and pattern[0] in {"_", text[0]} and like_by_hand(pattern[1:], text[1:])


@given(st.text("ab%_", max_size=8), st.text("abc", max_size=8))
def test_like_agrees_with_its_definition(pattern: str, text: str):
    """For any pattern and text the result is that of the definition."""
    assert Like(pattern).search(text) is like_by_hand(pattern, text)


def test_like_matches_the_whole_text():
    """Case can be ignored, and a backslash is an escape if enabled."""
    assert Like(r"100\%").search("100%") and not Like(r"100\%").search("100x")
    assert Like("a\\%", escapes=False).search("a\\b")
    assert Like("É%", ignore_case=True).search("éa\nb") and not Like("É%").search("éa")
    assert not Like("a").search("a\n")
    with pytest.raises(ValueError, match="must not end with escape"):
        Like("a\\")


@pytest.mark.parametrize("pattern", ["%a" * 11 + "%b", "%a%" * 5000, "%" * LONG + "b", "_%" * 50 + "b"])
def test_like_does_not_backtrack(pattern: str):
    """Patterns with many wildcards and a missing last character take linear time."""
    assert not Like(pattern).search("a" * 4000)


def test_an_expensive_like_is_refused():
    """A long part with wildcards and a long text raise an error before matching."""
    with pytest.raises(ValueError, match="too long"):
        Like("%" + "a_" * 1000 + "b%").search("a" * LONG)


SAME = st.recursive(
    st.sampled_from(["a", "b", "c", ".", "[ab]", "[^a]", "[a-b]", r"\d", "x", "^", "$", r"\w", ""]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{0,2}", "{1,}"])).map(
            lambda two: f"(?:{two[0]}){two[1]}"
        ),
    ),
    max_leaves=8,
)
"""Patterns with the same meaning in Python and PostgreSQL."""


@given(SAME, st.text("abx1", max_size=8), st.booleans())
def test_regular_expressions_agree_with_python(pattern: str, text: str, ignore_case: bool):
    """Where the two syntaxes agree, the results agree."""
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else re.NOFLAG)
    assert Regex(pattern, ignore_case=ignore_case).search(text) is (re.search(pattern, text, flags) is not None)


@pytest.mark.parametrize(
    ("pattern", "found", "not_found"),
    [
        (r"\mab\M", "x ab.", "xab"),
        (r"\yab\y", "ab", "abc"),
        (r"a\Yb", "ab", "a b"),
        ("[[:<:]]ab[[:>:]]", "an ab", "abs"),
        ("[[:upper:]][[:digit:]]", "xA1", "a1"),
        ("[]a]x", "]x", "bx"),
        ("[^]a]x", "bx", "]x"),
        (r"[\d-]+$", "1-2", "1-x"),
        (r"\x41\u0042\t", "AB\t", "AB"),
        ("***=a.b", "xa.by", "axb"),
        ("(?i)AB", "xab", "xa"),
        ("a{2,3}?b", "aab", "ab"),
        ("a{,3}", "a{,3}", "aaa"),
        ("$", "a\n", None),
        ("a$", "ba", "a\n"),
        ("|b", "", None),
        (r"\\", "\\", "/"),
        (r"\A\Z", "", "a"),
    ],
)
def test_postgresql_syntax_is_supported(pattern: str, found: str, not_found: str | None):
    """Syntax that Python lacks or interprets differently has the meaning of PostgreSQL."""
    assert Regex(pattern).search(found)
    assert not_found is None or not Regex(pattern).search(not_found)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("(", "parentheses () not balanced"),
        ("a)", "parentheses () not balanced"),
        ("[a", "brackets [] not balanced"),
        ("*a", "quantifier operand invalid"),
        ("a**", "quantifier operand invalid"),
        ("^*", "quantifier operand invalid"),
        ("a{2,1}", "invalid repetition count(s)"),
        ("a{999}", "invalid repetition count(s)"),
        ("a{2", "braces {} not balanced"),
        ("[b-a]", "invalid character range"),
        (r"\q", "invalid escape \\ sequence"),
        ("\\", "invalid escape \\ sequence"),
        (r"\U00110000", "invalid escape \\ sequence"),
        ("[[:nothing:]]", "invalid character class"),
        (r"(a)\1", "not supported without a database"),
        ("(?=a)", "not supported without a database"),
        ("(" * 1000, "too complex"),
        ("(((a{255}){255}){255}){255}", "too complex"),
    ],
)
def test_an_invalid_regular_expression_is_refused(pattern: str, expected: str):
    """The error has PostgreSQL's text; unsupported features have a text of our own."""
    with pytest.raises(ValueError, match=re.escape(expected)):
        compiled("match", pattern)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)*b", "(a*)*b", "a*a*a*a*a*b", "^(.*a){20}b"])
def test_a_regular_expression_does_not_backtrack(pattern: str):
    """Patterns for which a backtracking engine would take years take linear time."""
    assert not Regex(pattern).search("a" * LONG + "c")


def test_an_expensive_regular_expression_is_refused():
    """With exponentially many states the work is counted, and memory stays bounded."""
    text = "".join(map("".join, itertools.product("ab", repeat=14)))
    with pytest.raises(ValueError, match="too complex for this text"):
        Regex("a(a|b){250}c").search(text)


def test_long_patterns_are_not_cached():
    """Patterns may be untrusted, so the cache is bounded in bytes, too."""
    before = patterns.like_cached.cache_info().currsize, patterns.compile_cached.cache_info().currsize
    for number in range(3):
        assert not like_without_escapes(f"{number}" + "x" * 100_000, "users")
        assert not compiled("like", f"{number}" + "x" * 100_000).search("users")
        with pytest.raises(ValueError, match="too complex"):
            compiled("match", f"{number}" + "x" * 100_000)
    assert (patterns.like_cached.cache_info().currsize, patterns.compile_cached.cache_info().currsize) == before
    assert like_without_escapes("%" * 100_000 + "s", "users")
    assert patterns.like_cached("%s").search("users")
    assert patterns.like_cached.cache_info().currsize <= before[0] + 1
