"""Stop strings end a text at the first character that completes one, however it was cut."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detokenizer_svc.stops import SpecialMatcher, SpecialNames, StopAutomaton, StopMatcher

LETTERS = st.text("ab", max_size=12)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4)


def first_completed(text: str, stops: Sequence[str], begin: int = 0) -> tuple[int, str] | None:
    """Where the first stop that ends after `begin` ends, and which it is; by trying all."""
    for end in range(begin + 1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return end, max(ending, key=len)
    return None


def run(matcher: StopMatcher, parts: Sequence[str], armed_from: int = 0) -> tuple[str, str | None]:
    said = ""
    for number, part in enumerate(parts):
        text, stop = matcher.feed(part, armed=number >= armed_from)
        said += text
        if stop is not None:
            return said, stop
    return said + matcher.held, None


def matcher(stops: Sequence[str], *, include: bool = False) -> StopMatcher:
    return StopMatcher(StopAutomaton(stops), include_matched=include)


@given(st.lists(LETTERS), STOPS, st.booleans(), st.integers(0, 4))
def test_finds_what_trying_all_would_find(
    parts: list[str], stops: list[str], include: bool, armed_from: int
) -> None:
    text = "".join(parts)
    begin = len("".join(parts[:armed_from]))
    expected: tuple[str, str | None] = (text, None)
    if found := first_completed(text, stops, begin):
        end, stop = found
        expected = (text[: end if include else end - len(stop)], stop)
    assert run(matcher(stops, include=include), parts, armed_from) == expected


@given(LETTERS, STOPS)
def test_holds_exactly_what_may_begin_a_stop(text: str, stops: list[str]) -> None:
    subject = matcher(stops)
    _, stop = subject.feed(text, armed=True)
    if stop is None:
        beginnings = {stop[:length] for stop in stops for length in range(1, len(stop))}
        held = [start for start in range(len(text)) if text[start:] in beginnings]
        assert subject.held == (text[held[0] :] if held else "")


@given(LETTERS, STOPS)
def test_holds_nothing_where_the_match_is_kept(text: str, stops: list[str]) -> None:
    subject = matcher(stops, include=True)
    said, _ = subject.feed(text, armed=True)
    assert text.startswith(said)
    assert subject.held == ""


def test_matches_across_parts() -> None:
    subject = matcher(["END"])
    assert subject.feed("the E", armed=True) == ("the ", None)
    assert subject.feed("N", armed=True) == ("", None)
    assert subject.feed("D and more", armed=True) == ("", "END")


def test_lets_go_of_a_beginning_that_led_nowhere() -> None:
    subject = matcher(["END"])
    assert subject.feed("E", armed=True) == ("", None)
    assert subject.feed("EL", armed=True) == ("EEL", None)


def test_the_first_to_be_completed_wins() -> None:
    assert matcher(["abcdef", "cd"]).feed("abcdef", armed=True) == ("ab", "cd")


def test_the_longest_of_those_completed_together_wins() -> None:
    assert matcher(["d", "bcd", "cd"]).feed("abcd", armed=True) == ("a", "bcd")


def test_a_match_that_begins_unarmed_counts_if_it_is_completed_armed() -> None:
    subject = matcher(["END"])
    assert subject.feed("END E", armed=False) == ("END ", None)
    assert subject.feed("ND", armed=True) == ("", "END")


@pytest.mark.parametrize("stops", [[], [""]])
def test_nothing_to_match_matches_nothing(stops: list[str]) -> None:
    assert run(matcher(stops), ["ab", "", "c"]) == ("abc", None)


def test_characters_beyond_the_basic_plane_count_as_one() -> None:
    assert matcher(["🌍!"]).feed("né🌍!", armed=True) == ("né", "🌍!")


NAMES = ("<x>", "<yy>")


def feed_all(
    stops: list[str], parts: list[str], *, include: bool, armed_from: int = 0
) -> tuple[str, str | None]:
    """Text said for parts of a text and special tokens that it leaves out."""
    matcher = SpecialMatcher(StopAutomaton(stops), include_matched=include)
    said = ""
    for index, part in enumerate(parts):
        armed = index >= armed_from
        if part in NAMES:
            more, stop = matcher.feed_special(part, "", armed=armed)
        else:
            more, stop = matcher.feed(part, armed=armed)
        said += more
        if stop is not None:
            return said, stop
    return said + matcher.held, None


def read_at_once(stops: list[str], parts: list[str], *, include: bool) -> tuple[str, str | None]:
    """The same, found by looking at all that came so far after each character and token."""
    symbols: list[str] = []
    for part in parts:
        for symbol in [part] if part in NAMES else part:
            symbols.append(symbol)
            visible = [symbol for symbol in symbols if symbol not in NAMES]
            for read in (visible, symbols) if symbol not in NAMES else (symbols,):
                ends = [stop for stop in stops if "".join(read).endswith(stop)]
                stop = max(ends, key=len, default="")
                inside = next((n for n in range(len(read)) if "".join(read[n:]) == stop), None)
                if not stop or inside is None:
                    continue
                if read is symbols and not any(symbol in NAMES for symbol in read[inside:]):
                    continue
                before = "".join(s for s in read[:inside] if s not in NAMES)
                return before + (stop if include else ""), stop
    return "".join(symbol for symbol in symbols if symbol not in NAMES), None


PARTS = st.lists(st.sampled_from([*NAMES, "a", "b", "ab", ">"]), min_size=1, max_size=8)


@settings(max_examples=400)
@given(PARTS, st.data(), st.booleans())
def test_special_tokens_match_though_the_text_leaves_them_out(
    parts: list[str], data: st.DataObject, include: bool
) -> None:
    spelled = "".join(parts)
    cuts = st.tuples(st.integers(0, len(spelled) - 1), st.integers(1, 9))
    stops = [spelled[at : at + size] for at, size in data.draw(st.lists(cuts, max_size=3))]
    assert feed_all(stops, parts, include=include) == read_at_once(stops, parts, include=include)


@pytest.mark.parametrize(("include", "said"), [(False, "a"), (True, "ab<x>b")])
def test_text_around_a_special_token_is_cut_with_it(include: bool, said: str) -> None:
    assert feed_all(["b<x>b"], ["ab", "<x>", "b", "a"], include=include) == (said, "b<x>b")


def test_part_of_a_special_token_is_no_match() -> None:
    assert feed_all([">"], ["a", "<x>", "b"], include=False) == ("ab", None)
    assert feed_all(["<x>"], ["a<", "x>", "b"], include=False) == ("a", "<x>")


def test_a_special_token_that_comes_before_matching_is_on_ends_nothing() -> None:
    parts = ["a", "<x>", "b", "<x>", "a"]
    assert feed_all(["<x>"], parts, include=False, armed_from=2) == ("ab", "<x>")


def test_names_are_found_wherever_they_are_in_a_stop_string() -> None:
    names = SpecialNames([("<x>", 1), (" <x>", 1), ("<xy>", 2), ("<x>", 3), ("", 4)])
    assert names.found_in(["\n<x>", "no <xy"]) == {1: "<x>"}
    assert names.found_in(["a <x><xy>"]) == {1: " <x>", 2: "<xy>"}
    assert names.found_in(["a", ""]) == {}
    longer = SpecialNames([("_<x>", 1), ("<x>", 1), ("<xyz>", 2)])
    assert longer.found_in(["_<x>"]) == {1: "_<x>"}


def test_a_long_stop_string_costs_as_much_as_a_text_has_of_it() -> None:
    automaton = StopAutomaton(["a" * 16_384, "ab" * 5_000, "abab"])
    assert len(automaton.depth) == 2
    matcher = StopMatcher(automaton, include_matched=False)
    assert matcher.feed("c" * 100 + "aab", armed=True) == ("c" * 100 + "a", None)
    assert len(automaton.depth) < 20
    assert matcher.feed("ab", armed=True) == ("", "abab")
