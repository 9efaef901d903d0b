"""`triptych generate`: stream one completion to the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from triptych import addresses
from triptych.commands import arguments, waiting

if TYPE_CHECKING:
    from triptych.client import Client, Options
    from triptych.commands.tally import Tally


_TOP_P = "Draw from the likeliest tokens that make up this probability; default 1, all."
_TOP_K = "Draw from this many likeliest tokens; 0, the default: from all."
_Prompt = Annotated[str, typer.Argument(metavar="PROMPT", help="Text; `-` reads stdin.")]
_TopP = Annotated[float | None, typer.Option("--top-p", metavar="P", help=_TOP_P)]
_TopK = Annotated[int | None, typer.Option("--top-k", min=0, metavar="K", help=_TOP_K)]
_Timeout = Annotated[
    float | None,
    typer.Option("--timeout", min=0.001, metavar="SECONDS", help="Give up after this."),
]
_AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON object at the end instead of the text: request_id, text, "
        "token_ids, finish_reason, matched_stop, usage, ttft_ms, tokens_per_s.",
    ),
]
_Stats = Annotated[
    bool, typer.Option("--stats", help="Say TTFT and tokens/s on stderr at the end.")
]


def generate(  # noqa: PLR0913  (one parameter an option)
    prompt: _Prompt,
    address: arguments.Address = addresses.PUBLIC,
    model: arguments.ModelName = None,
    max_tokens: arguments.MaxTokens = 256,
    temperature: arguments.Temperature = None,
    top_p: _TopP = None,
    top_k: _TopK = None,
    seed: arguments.Seed = None,
    stop: arguments.Stop = None,
    timeout: _Timeout = None,
    retry_s: arguments.RetryS = waiting.RETRY_S,
    as_json: _AsJson = False,
    stats: _Stats = False,
) -> None:
    """Continue PROMPT and stream the text to stdout.

    Tokens/s counts from the first token to the last.
    """
    from triptych.client import Client, Options
    from triptych.commands.endings import one_line_errors

    with one_line_errors():
        options = Options(
            model=model,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            seed=seed,
            stop=stop or (),
            timeout=timeout,
            retry_s=retry_s,
            token_ids=as_json,
        )
        text = sys.stdin.read() if prompt == "-" else prompt
        with Client(address, on_retry=waiting.tell) as client:
            tally = _stream(client, text, options, quiet=as_json)
        if as_json:
            _print_json(tally.summary())
        if stats:
            typer.echo(tally.sentence(), err=True)


def _stream(client: Client, prompt: str, options: Options, *, quiet: bool) -> Tally:
    """Write the text as it comes; end it with a newline where it has none."""
    from chassis.errors import StartError
    from triptych.client import TriptychError
    from triptych.commands.tally import Tally

    tally = Tally()
    try:
        for delta in client.stream(prompt, options):
            tally.see(delta)
            if not quiet:
                sys.stdout.write(delta.text)
                sys.stdout.flush()
    except TriptychError:
        if tally.text and not quiet:
            typer.echo()  # what is said next begins a line
        raise
    except BrokenPipeError:
        raise  # whoever read has had enough, which needs no words
    except OSError as error:
        raise StartError(f"cannot write the text: {error.strerror}") from error
    if not quiet and not tally.text.endswith("\n"):
        typer.echo()
    return tally


def _print_json(summary: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps(summary, ensure_ascii=False))
