"""`triptych chat`: a conversation on the model's chat template.

The history holds only turns that were answered, so a refused turn can be asked again differently.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from triptych import addresses
from triptych.commands import arguments, waiting

if TYPE_CHECKING:
    from rich.console import Console

    from triptych.client import Client, Message, Options

_ANSWER_S = 10.0
_FAREWELLS = frozenset({"/exit", "/quit"})


def chat(  # noqa: PLR0913  (one parameter an option)
    address: arguments.Address = addresses.PUBLIC,
    model: arguments.ModelName = None,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="A system message to begin with.")
    ] = None,
    max_tokens: arguments.MaxTokens = 512,
    temperature: arguments.Temperature = None,
    seed: arguments.Seed = None,
    stop: arguments.Stop = None,
    retry_s: arguments.RetryS = waiting.RETRY_S,
) -> None:
    """Talk with the model.

    `/reset` forgets the conversation, `/exit` or end of input ends it; Ctrl-C ends an answer.

    Where stdin is not a terminal, each of its lines is a turn.
    """
    from triptych.client import Client, Options
    from triptych.commands.endings import one_line_errors

    with one_line_errors():
        options = Options(
            model=model, max_tokens=max_tokens, temperature=temperature, seed=seed, stop=stop or ()
        )
        with Client(address, on_retry=waiting.tell) as client:
            # Say before the first turn, not after it, if nobody is there.
            client.models(timeout=_ANSWER_S + retry_s, retry_s=retry_s)
            _Conversation(client, options, system).run()


class _Conversation:
    def __init__(self, client: Client, options: Options, system: str | None) -> None:
        self._client = client
        self._options = options
        self._system = system
        self._messages: list[Message] = []
        self._interactive = sys.stdin.isatty()

    def run(self) -> None:
        """Take turns until the user has had enough."""
        self._reset()
        self._tell(
            "/reset forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C ends an answer"
        )
        for line in self._lines():
            if line in _FAREWELLS:
                return
            if line == "/reset":
                self._reset()
                self._tell("the conversation is forgotten")
            elif line:
                self._turn(line)

    def _reset(self) -> None:
        from triptych.client import Message

        self._messages = [Message("system", self._system)] if self._system else []

    def _tell(self, note: str) -> None:
        if self._interactive:
            typer.echo(note, err=True)

    def _lines(self) -> Iterator[str]:
        if not self._interactive:
            yield from (line.strip() for line in sys.stdin)
            return
        console = _terminal()
        while True:
            try:
                yield console.input("[bold cyan]you>[/] ").strip()
            except EOFError:
                typer.echo()
                return

    def _turn(self, line: str) -> None:
        """Ask, stream the answer, remember both.

        Raises:
            InvalidRequest: refused, and nobody is there to ask differently.
        """
        from triptych.client import InvalidRequest, Message
        from triptych.commands.endings import complain, describe

        asked = [*self._messages, Message("user", line)]
        try:
            answer = self._answer(asked)
        except InvalidRequest as error:
            if not self._interactive:
                raise
            complain(describe(error))
            return
        self._messages = [*asked, Message("assistant", answer)]

    def _answer(self, messages: list[Message]) -> str:
        parts = []
        try:
            for delta in self._client.stream(messages, self._options):
                parts.append(delta.text)
                sys.stdout.write(delta.text)
                sys.stdout.flush()
        except KeyboardInterrupt:
            if not self._interactive:
                raise
        finally:
            if parts:
                typer.echo()
        return "".join(parts)


def _terminal() -> Console:
    """A console whose prompt has line editing and history."""
    import readline

    from rich.console import Console

    readline.set_auto_history(True)
    return Console()
