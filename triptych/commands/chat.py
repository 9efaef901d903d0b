"""`triptych chat`: a conversation on the model's chat template."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from triptych import addresses, stdio
from triptych.commands import arguments, retry_notice

if TYPE_CHECKING:
    from triptych.client import Client, Message, Model, Options
    from triptych.commands.stream_stats import StreamStats

_ANSWER_S = 10.0
_PROMPT = "you> "
_FAREWELLS = ("/bye", "/exit", "/quit")
_HELP = '''\
/reset    forget the conversation (the system message stays)
/help     show this list; also /?
/bye      end the chat; also /exit, /quit or Ctrl-D
Ctrl-C    end an answer, or the chat
"""       begin and end a message of several lines
\\         at the end of a line: the message goes on in the next line'''
_System = Annotated[
    str | None,
    typer.Option(
        "--system", metavar="TEXT", help="System message at the start of the conversation."
    ),
]


def chat(  # noqa: PLR0913  (one parameter an option)
    address: arguments.Address = addresses.PUBLIC,
    model: arguments.ModelName = None,
    system: _System = None,
    max_tokens: arguments.MaxTokens = None,
    temperature: arguments.Temperature = None,
    top_p: arguments.TopP = None,
    top_k: arguments.TopK = None,
    seed: arguments.Seed = None,
    checkpoint_defaults: arguments.CheckpointDefaults = True,
    stop: arguments.Stop = None,
    retry_s: arguments.RetryS = retry_notice.RETRY_S,
) -> None:
    """Chat with the model in the terminal.

    /help lists the commands, /bye or Ctrl-D ends the chat, Ctrl-C ends an answer.

    If stdin is not a terminal, each of its lines is a message.
    """
    from triptych.client import Client, Options
    from triptych.commands.cli_errors import one_line_errors
    from triptych.commands.entries import as_utf8

    with one_line_errors():
        options = Options(
            model=model,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            seed=seed,
            stop=[as_utf8(one) for one in stop or ()],
            retry_s=retry_s,
        )
        retry_notice.look_up(address)
        with Client(address, on_retry=retry_notice.show) as client:
            _Chat(client, options, as_utf8(system or ""), checkpoint_defaults).run()


class _Chat:
    def __init__(
        self, client: Client, options: Options, system: str, checkpoint_defaults: bool
    ) -> None:
        from triptych.commands.conversation import Conversation

        self._client = client
        self._asked = self._options = options
        self._system = system
        self._checkpoint_defaults = checkpoint_defaults
        self._conversation = Conversation(client, system)
        self._model: Model | None = None
        self._interactive = sys.stdin.isatty()

    def run(self) -> None:
        """Take turns until the user has had enough."""
        from triptych.commands.entries import PipedLines, read_entry, read_from_terminal

        self._find_model()  # says before the first turn, not after it, that nobody is there
        self._greet()
        read = read_from_terminal if self._interactive else PipedLines().read
        while True:
            try:
                entry = read_entry(read, _PROMPT)
            except EOFError:
                self._note("")
                return
            if entry.startswith("/"):
                if self._ends_after(entry.split()[0]):
                    return
            elif entry.strip():
                self._turn(entry.strip())

    def _find_model(self) -> None:
        """Learn the model's context and defaults, which are known once it is loaded."""
        from dataclasses import replace

        from triptych.commands.sampling import adopt, find_model

        limits = replace(self._asked, timeout=_ANSWER_S + self._asked.retry_s)
        self._model = find_model(self._client, limits)
        if self._model is not None and self._checkpoint_defaults:
            self._options = adopt(self._asked, self._model)

    def _greet(self) -> None:
        from triptych.commands.sampling import sentence

        if self._model is None:
            self._note("the server has no model yet; the first answer waits for it")
        else:
            one = self._model
            self._note(f"{one.name} ({one.architecture}), context of {one.context_length} tokens")
            self._note(f"sampling: {sentence(self._options, self._asked)}")
        if self._system:
            self._note(f"system: {self._system}")
        self._note("/help lists the commands; Ctrl-C ends an answer, Ctrl-D ends the chat")

    def _note(self, note: str) -> None:
        if self._interactive:
            stdio.write_line(note)

    def _ends_after(self, command: str) -> bool:
        """Run a command; True if it ends the chat.

        Raises:
            OptionError: there is no such command, and nobody is there to type another.
        """
        from triptych.client import OptionError

        if command in ("/help", "/?"):
            stdio.write_line(_HELP)
        elif command == "/reset":
            self._conversation.reset()
            self._note("the conversation is forgotten")
        elif command not in _FAREWELLS:
            complaint = f"unknown command {command}; see /help (a leading space sends it as text)"
            if not self._interactive:
                raise OptionError(complaint)
            stdio.complain(complaint)
        return command in _FAREWELLS

    def _turn(self, entry: str) -> None:
        """Ask, print the answer as it comes, remember both.

        Raises:
            TriptychError: it failed, and nobody is there to ask again.
        """
        from triptych.client import OptionError, TriptychError
        from triptych.commands.cli_errors import describe

        try:
            if self._model is None:
                self._find_model()
            length = self._model.context_length if self._model else None
            asked, dropped = self._conversation.fit(entry, self._options, length)
            if dropped:
                turns = "turn is" if dropped == 1 else f"{dropped} turns are"
                stdio.complain(f"the context is full; the oldest {turns} forgotten")
            self._answer(asked)
        except (TriptychError, OptionError) as error:
            if not self._interactive:
                raise
            stdio.complain(describe(error) if isinstance(error, TriptychError) else str(error))

    def _answer(self, asked: list[Message]) -> None:
        from triptych.commands.stream_stats import StreamStats

        tally = StreamStats()
        try:
            for delta in self._client.stream(asked, self._options):
                tally.see(delta)
                stdio.write(delta.text)
        except KeyboardInterrupt:
            if not self._interactive:
                raise
        finally:
            if tally.text:
                stdio.write("\n")
        if tally.parts:
            self._conversation.remember(asked, tally.text, tally.usage)
            self._tell_end(tally)

    def _tell_end(self, tally: StreamStats) -> None:
        """Say why an answer is not whole, where that can be changed."""
        from triptych.client import FinishReason

        if tally.parts[-1].finish_reason is not FinishReason.LENGTH:
            return
        if self._options.max_tokens is not None:
            self._note(f"(the answer ends at --max-tokens {self._options.max_tokens})")
        else:
            self._note("(the answer ends where the context is full; /reset makes room)")
