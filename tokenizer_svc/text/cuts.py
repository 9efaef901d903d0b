"""Places where a long text can be cut so that its pieces' ids, laid end to end, are the text's.

A cut is only made where no token can cross it: at a single space, or a line's end, that the
tokenizer's own rules always split at or that no token of the vocabulary holds after a character.
Rules that are not known here have no cuts.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from tokenizers import Tokenizer

from chassis.errors import InvalidRequest, refuse_failures
from tokenizer_svc.text.rules import Spelling, read_spelling, read_splits

# Characters beside a cut: normalizers leave each a letter, digit or sign.
_ASCII = "!-~"
_WIDE = _ASCII + "À-ÖØ-öø-ɏΑ-ΡΣ-ώА-ӿぁ-んァ-ヶ一-鿿가-힣"
_IDEOGRAPHS = "ぁ-んァ-ヶ一-鿿"
_STOPS = "\uff0c\u3002\u3001"  # comma, full stop and list comma of ideographic text

_SAMPLE = (
    "def f(x):\n\treturn x + 1  # it's a sample, isn't it?\n\n  The end of 12 3456 days…\n"
    "Größe; naïve café. Да, всё хорошо! 世界很大\uff0c今天天气好。他说、是的 안녕 세계 🌍 ok\n"
    "a,b,c\n1,2,3\n<b>bold</b> -- x_y = {z: 'w'} \r\nend of it   "
)


@dataclass(frozen=True)
class Cuts:
    """Places to cut texts at, for one tokenizer.

    Attributes:
        pattern: matches the space or the full stop after a cut, or the line end before one.
        drops_space: a piece begins after the space of its cut, because the tokenizer puts one
            before whatever it is given.
    """

    pattern: re.Pattern[str]
    drops_space: bool

    def spans(self, text: str, characters: int) -> list[tuple[int, int]]:
        """Cut `text` into pieces of at least `characters`, but for the last.

        Returns:
            The start and the end of each piece.
        """
        spans = []
        begin = 0
        while found := self.pattern.search(text, begin + characters):
            cut = found.end() if found[0] == "\n" else found.start()
            spans.append((begin, cut))
            begin = found.end() if self.drops_space else cut
        spans.append((begin, len(text)))
        return spans


def find_cuts(tokenizer: Tokenizer, tokens: Collection[str]) -> Cuts | None:
    """Work out where texts can be cut.

    Args:
        tokenizer: to cut texts for.
        tokens: of its model.

    Returns:
        The places, or None where none is known to be safe.
    """
    spelling = read_spelling(tokenizer)
    if spelling is None:
        return None
    splits = read_splits(tokenizer, spelling)
    if splits is None:
        return None
    barred = _edges_of_added_tokens(tokenizer, spelling)
    if barred is None:
        return None
    if "space" not in splits.at:
        before = _characters_before_a_mark(tokenizer, tokens, splits.mark)
        if before is None or not spelling.plain:
            return None
        barred |= before
    marks = splits.at if spelling.plain and not spelling.prepends else splits.at & {"space"}
    cuts = Cuts(_pattern(marks, barred, _WIDE if spelling.plain else _ASCII), spelling.prepends)
    return cuts if _holds(tokenizer, cuts) else None


def _pattern(at: frozenset[str], barred: set[str], characters: str) -> re.Pattern[str]:
    """Build the pattern of cuts, none of them beside a character in `barred`.

    Each alternative begins with its own character, which `re` finds fast.
    """
    never = "".join(re.escape(character) for character in sorted(barred)) or r"\n"

    def after(mark: str, left: str) -> str:
        return rf"{mark}(?<=[{left}]{mark})(?<![{never}]{mark})"

    forms = [rf"{after(' ', characters)}(?![{never}])(?=[{characters}])"]
    if "line" in at and "\n" not in barred:
        forms.append(rf"{after(chr(10), characters)}(?![{never}])(?=[0-9A-Za-z])")
    if "stop" in at and not barred & set(_STOPS):
        forms.extend(after(stop, _IDEOGRAPHS) for stop in _STOPS)
    return re.compile("|".join(forms))


def _edges_of_added_tokens(tokenizer: Tokenizer, spelling: Spelling) -> set[str] | None:
    """First and last characters of added tokens, and line ends and full stops inside.

    A token that swallows spaces around it, or minds its neighbours, cannot reach a cut that is not
    beside it. None where a token could lie across a cut.
    """
    edges: set[str] = set()
    for token in tokenizer.get_added_tokens_decoder().values():
        spelled = [token.content]
        if token.normalized and tokenizer.normalizer is not None:
            text = tokenizer.normalizer.normalize_str(token.content)
            spelled.append(text.removeprefix(spelling.prepended).replace(spelling.mark, " "))
        for text in spelled:
            if re.search(r"(?<! ) (?! )", text):
                return None
            for form in (text, text.lower(), text.upper()):
                edges.update(form[:1], form[-1:], set(form) & {"\n", *_STOPS})
    return edges


def _characters_before_a_mark(
    tokenizer: Tokenizer, tokens: Collection[str], mark: str
) -> set[str] | None:
    """Characters that some token holds before `mark`, where a text is one word to the model.

    None where the model does not work from the inside of tokens alone, lacks the mark, or joins the
    neighbours of a character that it lacks.
    """
    model = tokenizer.model
    by_merges = (
        type(model).__name__ == "BPE"
        and not model.dropout
        and not model.ignore_merges
        and not model.continuing_subword_prefix
        and not model.end_of_word_suffix
    )
    if not by_merges or mark not in tokens or model.unk_token not in tokens:
        return None
    return set(re.findall(rf"([^{re.escape(mark)}\0]){re.escape(mark)}", "\0".join(tokens)))


def _holds(tokenizer: Tokenizer, cuts: Cuts) -> bool:
    """Compare the ids of a sample's smallest pieces with those of the whole."""
    pieces = [_SAMPLE[begin:end] for begin, end in cuts.spans(_SAMPLE, 1)]
    try:
        with refuse_failures("text", "the tokenizer"):
            encodings = tokenizer.encode_batch_fast([_SAMPLE, *pieces], add_special_tokens=False)
    except InvalidRequest:
        return False
    whole, *parts = [encoding.ids for encoding in encodings]
    return whole == [id_ for part in parts for id_ in part]
