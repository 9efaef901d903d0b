"""The form in which a chat template expects messages, read from its source.

Checkpoints agree on the keys of a message, but not on how some of them are spelled: text as a
string or as a list of parts, no content as empty text, as no key or as None, arguments of calls as
objects or as JSON. Templates that take several forms get the one that transformers documents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import jinja2
from jinja2 import nodes


@dataclass(frozen=True)
class MessageForm:
    """Spellings that differ between templates.

    Attributes:
        lists_parts: content may be a list of text parts.
        tests_none: content that is not there is None, not empty text.
        tests_presence: content that is not there is a missing key, unless it is None.
        joins_arguments: arguments of tool calls are JSON in a string.
    """

    lists_parts: bool = False
    tests_none: bool = False
    tests_presence: bool = False
    joins_arguments: bool = False

    @classmethod
    def read(cls, environment: jinja2.Environment, source: str) -> MessageForm:
        """Read the form from a template's source."""
        template = environment.parse(source)
        names = {"content", *_aliases(template)}
        loops = template.find_all(nodes.For)
        return cls(
            lists_parts=any(_is_content(loop.iter, names) for loop in loops),
            tests_none=any(_is_content(node, names) for node in _tested_for_none(template)),
            tests_presence=any(_tested_for_presence(template, names)),
            joins_arguments="arguments" in map(_key, _joined(template)),
        )


def _aliases(template: nodes.Template) -> Iterator[str]:
    """Names that the template gives to a message's content."""
    for assignment in template.find_all(nodes.Assign):
        target = assignment.target
        if isinstance(target, nodes.Name) and _key(_unfiltered(assignment.node)) == "content":
            yield target.name


def _is_content(node: nodes.Node, names: set[str]) -> bool:
    node = _unfiltered(node)
    return _key(node) == "content" or (isinstance(node, nodes.Name) and node.name in names)


def _unfiltered(node: nodes.Node) -> nodes.Node:
    while isinstance(node, nodes.Filter) and node.node is not None:
        node = node.node
    return node


def _key(node: nodes.Node) -> str | None:
    """The key that an expression reads of an object: `x.key` or `x['key']`."""
    if isinstance(node, nodes.Getattr):
        return node.attr
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        return str(node.arg.value)
    return None


def _joined(template: nodes.Template) -> Iterator[nodes.Node]:
    """Expressions that the template joins to others as text."""
    for addition in template.find_all(nodes.Add):
        yield from (addition.left, addition.right)
    for joining in template.find_all(nodes.Concat):
        yield from joining.nodes


def _tested_for_none(template: nodes.Template) -> Iterator[nodes.Node]:
    for test in template.find_all(nodes.Test):
        if test.name == "none":
            yield test.node
    for comparison in template.find_all(nodes.Compare):
        sides = [operand.expr for operand in comparison.ops]
        if any(isinstance(side, nodes.Const) and side.value is None for side in sides):
            yield comparison.expr


def _tested_for_presence(template: nodes.Template, names: set[str]) -> Iterator[bool]:
    for test in template.find_all(nodes.Test):
        yield test.name in ("defined", "undefined") and _is_content(test.node, names)
    for comparison in template.find_all(nodes.Compare):
        yield (
            isinstance(comparison.expr, nodes.Const)
            and comparison.expr.value == "content"
            and any(operand.op in ("in", "notin") for operand in comparison.ops)
        )
