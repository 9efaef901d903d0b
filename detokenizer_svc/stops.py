"""Stop strings, matched as text comes in.

The text ends at the first character that completes an occurrence of a stop string; where several
are completed there, the longest counts, so that as much as possible is cut. How the text was cut
into tokens changes nothing. An occurrence that is completed while matching is off never counts,
but one that began then and is completed later does.

A special token that is left out of the text ends it too where a stop string names it. Then the
text is read with such tokens spelled out as well, and an occurrence has each of them whole.

Each character costs amortised constant time, however many stop strings there are.

Source: Aho and Corasick, Efficient string matching: an aid to bibliographic search, 1975.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

# Characters by which names are sought.
_FIRST = 3


class StopAutomaton:
    """A trie of stop strings with links to the longest suffix that is in the trie too.

    A state is a prefix of a stop string; state 0 is the empty one. The lists are indexed by state.
    A state's next ones are made when a text first reaches it, so that a long stop string costs as
    much as texts have of it. Where a state has its next ones, so has its suffix.

    Attributes:
        first: the characters that stop strings begin with.
        depth: length of the state.
        matched: the longest stop string that the state ends with.
        hold: length of the longest suffix of the state that a longer text may still make a stop.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        """Build the automaton of `stops`; empty ones are ignored."""
        self._stops = [tuple(dict.fromkeys(filter(None, stops)))]  # those that go on from a state
        self._next: list[dict[str, int] | None] = [None]
        self._suffix = [0]
        self.depth = [0]
        self.matched: list[str | None] = [None]
        self.hold = [0]
        self.first = frozenset(self._grow(0))

    def advance(self, state: int, character: str) -> int:
        """The state after one more character."""
        state = self._step(state, character)
        if state and self._next[state] is None:
            self._grow_with_suffixes(state)
        return state

    def _step(self, state: int, character: str) -> int:
        """The state after one more character, if `state` has its next ones."""
        while True:
            following = self._next[state] or {}
            if character in following:
                return following[character]
            if not state:
                return 0
            state = self._suffix[state]

    def _grow_with_suffixes(self, state: int) -> None:
        """Make the next states, of its suffixes first."""
        growing = []
        while self._next[state] is None:
            growing.append(state)
            state = self._suffix[state]
        for each in reversed(growing):
            self._grow(each)

    def _grow(self, state: int) -> Iterable[str]:
        """Make the next states; answer their characters."""
        depth = self.depth[state]
        by_character: dict[str, list[str]] = {}
        for stop in self._stops[state]:
            by_character.setdefault(stop[depth], []).append(stop)
        following = {
            character: self._add(
                self._step(self._suffix[state], character) if state else 0, depth + 1, stops
            )
            for character, stops in by_character.items()
        }
        self._next[state] = following
        return following

    def _add(self, suffix: int, depth: int, stops: list[str]) -> int:
        """Make a state that `stops` begin with."""
        longer = tuple(stop for stop in stops if len(stop) > depth)
        whole = next((stop for stop in stops if len(stop) == depth), None)
        self._stops.append(longer)
        self._next.append(None)
        self._suffix.append(suffix)
        self.depth.append(depth)
        self.matched.append(whole or self.matched[suffix])
        self.hold.append(depth if longer else self.hold[suffix])
        return len(self.depth) - 1


class StopMatcher:
    """One text on its way through an automaton.

    Attributes:
        held: the end of the text, held back because it may begin a stop string.
    """

    __slots__ = ("_automaton", "_include", "_state", "held")

    def __init__(self, automaton: StopAutomaton, *, include_matched: bool) -> None:
        self._automaton = automaton
        self._include = include_matched
        self._state = 0
        self.held = ""

    def feed(self, text: str, *, armed: bool) -> tuple[str, str | None]:
        """Process the next part of the text.

        Args:
            text: the part.
            armed: whether an occurrence that is completed in it counts.

        Returns:
            The text that can be said, and the stop string that ends it, if one does.
        """
        automaton, state = self._automaton, self._state
        if not state and automaton.first.isdisjoint(text):
            return text, None
        before = self.held
        for index, character in enumerate(text, 1):
            state = automaton.advance(state, character)
            if armed and (stop := automaton.matched[state]) is not None:
                end = len(before) + index
                return (before + text)[: end if self._include else end - len(stop)], stop
        self._state = state
        # What is kept anyway need not be held back.
        held = 0 if self._include else automaton.hold[state]
        whole = before + text
        self.held = whole[len(whole) - held :]
        return whole[: len(whole) - held], None


class SpecialNames:
    """Names of special tokens, to be found in stop strings."""

    def __init__(self, names: Iterable[tuple[str, int]]) -> None:
        """Store names with their ids; of two equal names the first counts."""
        self._ids: dict[str, int] = {}
        self._lengths: dict[str, set[int]] = {}  # by first characters
        for name, token_id in names:
            if name:
                self._ids.setdefault(name, token_id)
                self._lengths.setdefault(name[:_FIRST], set()).add(len(name))
        self._firsts = {len(first) for first in self._lengths}

    def found_in(self, stops: Iterable[str]) -> Mapping[int, str]:
        """The ids whose names are in `stops`, each with the longest of its names there."""
        found: dict[int, str] = {}
        for name in (name for stop in stops for name in self._names_in(stop)):
            token_id = self._ids.get(name)
            if token_id is not None and len(name) > len(found.get(token_id, "")):
                found[token_id] = name
        return found

    def _names_in(self, stop: str) -> Iterator[str]:
        """Parts of `stop` that may be names."""
        for first in self._firsts:
            for start in range(len(stop) - first + 1):
                for length in self._lengths.get(stop[start : start + first], ()):
                    yield stop[start : start + length]


class SpecialMatcher(StopMatcher):
    """Matches stop strings in a text and in the special tokens that it leaves out.

    From the first such token on, the text is matched once more with the tokens spelled out. Places
    in the text spelled out count from where that began.
    """

    __slots__ = ("_place", "_spans", "_spelled")

    def __init__(self, automaton: StopAutomaton, *, include_matched: bool) -> None:
        super().__init__(automaton, include_matched=include_matched)
        self._spelled: int | None = None  # the state of the text spelled out
        self._place = 0
        self._spans: list[tuple[int, int]] = []  # first and end of the tokens in that state

    def feed_special(self, name: str, held: str, *, armed: bool) -> tuple[str, str | None]:
        """Process a special token that is left out of the text.

        Args:
            name: its own text.
            held: the end of the text before it, which is not fed yet.
            armed: whether an occurrence that is completed by it counts.

        Returns:
            All that can be said and the stop string that ends it, or nothing.
        """
        state = self._state if self._spelled is None else self._spelled
        state = self._spell(self._spell(state, held), name)
        self._spans.append((self._place - len(name), self._place))
        if armed and (stop := self._completed(state)) is not None:
            return self._cut(self.held + held, stop), stop
        self._go_on(None if held else state)
        return "", None

    def feed(self, text: str, *, armed: bool) -> tuple[str, str | None]:
        """Process the next part of the text, as `StopMatcher.feed` does."""
        if self._spelled is None:
            return super().feed(text, armed=armed)
        automaton, spelled, visible = self._automaton, self._spelled, self.held
        for character in text:
            visible += character
            self._state = automaton.advance(self._state, character)
            spelled = self._spell(spelled, character)
            if armed and (stop := automaton.matched[self._state]) is not None:
                return visible[: len(visible) - (0 if self._include else len(stop))], stop
            if armed and (stop := self._completed(spelled)) is not None:
                return self._cut(visible, stop), stop
            self._go_on(spelled)
        held = 0 if self._include else automaton.hold[self._state]
        end = max(0, len(visible) - max(held, self._visible_in(automaton.depth[spelled])))
        self.held = visible[end:]
        return visible[:end], None

    def _spell(self, state: int, text: str) -> int:
        for character in text:
            state = self._automaton.advance(state, character)
        self._place += len(text)
        return state

    def _go_on(self, state: int | None) -> None:
        self._spelled = state
        start = self._place - (0 if state is None else self._automaton.depth[state])
        self._spans = [span for span in self._spans if span[1] > start]

    def _whole_in(self, length: int) -> list[tuple[int, int]]:
        """The special tokens that are whole in the last `length` characters spelled out."""
        return [span for span in self._spans if span[0] >= self._place - length]

    def _completed(self, state: int) -> str | None:
        """The stop string that `state` completes, if it has special tokens, each of them whole."""
        stop = self._automaton.matched[state]
        if stop is None or not self._whole_in(len(stop)):
            return None
        start = self._place - len(stop)
        return None if any(first < start < end for first, end in self._spans) else stop

    def _visible_in(self, length: int) -> int:
        """Number of visible characters, among the last `length` spelled out, to hold back."""
        spans = self._whole_in(length)
        if not spans:
            return 0
        start = spans[0][0] if self._include else self._place - length
        return self._place - start - sum(end - first for first, end in spans)

    def _cut(self, visible: str, stop: str) -> str:
        """Cut the text at `stop`; return the rest of the final text."""
        kept = visible[: max(0, len(visible) - self._visible_in(len(stop)))]
        if not self._include:
            return kept
        first, _ = self._whole_in(len(stop))[0]
        return kept + stop[first - self._place :]
