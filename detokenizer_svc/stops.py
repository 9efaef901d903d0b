"""Stop strings, matched as text comes in.

The text ends at the first character that completes an occurrence of a stop string; where several
are completed there, the longest counts, so that as much as possible is cut. How the text was cut
into tokens changes nothing. An occurrence that is completed while matching is off never counts,
but one that began then and is completed later does.

Each character costs amortised constant time, however many stop strings there are.

Source: Aho and Corasick, Efficient string matching: an aid to bibliographic search, 1975.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class StopAutomaton:
    """A trie of stop strings with links to the longest suffix that is in the trie too.

    A state is a prefix of a stop string; state 0 is the empty one. The lists are indexed by state.

    Attributes:
        matched: the longest stop string that the state ends with.
        hold: length of the longest suffix of the state that a longer text may still make a stop.
    """

    def __init__(self, stops: Iterable[str]) -> None:
        """Build the automaton of `stops`; empty ones are ignored."""
        self._next: list[dict[str, int]] = [{}]
        self._suffix = [0]
        self.matched: list[str | None] = [None]
        self.hold = [0]
        for stop in stops:
            self._add(stop)
        self._link()

    def advance(self, state: int, character: str) -> int:
        """The state after one more character."""
        while state and character not in self._next[state]:
            state = self._suffix[state]
        return self._next[state].get(character, 0)

    def _add(self, stop: str) -> None:
        state = 0
        for depth, character in enumerate(stop, 1):
            if character not in self._next[state]:
                self._next[state][character] = len(self._next)
                self._next.append({})
                self._suffix.append(0)
                self.matched.append(None)
                self.hold.append(depth)
            state = self._next[state][character]
        if state:
            self.matched[state] = stop

    def _link(self) -> None:
        """Give each state its links, shorter states first."""
        states = deque(self._next[0].values())
        while states:
            state = states.popleft()
            suffix = self._suffix[state]
            if self.matched[state] is None:
                self.matched[state] = self.matched[suffix]
            if not self._next[state]:
                self.hold[state] = self.hold[suffix]
            for character, longer in self._next[state].items():
                self._suffix[longer] = self.advance(suffix, character)
                states.append(longer)


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
        """Take in the next part of the text.

        Args:
            text: the part.
            armed: whether an occurrence that is completed in it counts.

        Returns:
            The text that can be said, and the stop string that ends it, if one does.
        """
        automaton, state = self._automaton, self._state
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
