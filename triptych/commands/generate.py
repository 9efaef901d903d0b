"""`triptych generate`: stream one completion to the terminal."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from triptych import addresses, stdio
from triptych.commands import arguments, retry_notice

if TYPE_CHECKING:
    from triptych.client import Client, Options
    from triptych.commands.stream_stats import StreamStats


_Prompt = Annotated[
    str, typer.Argument(metavar="PROMPT", help="Text to continue; `-` reads it from stdin.")
]
_Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout", min=0.001, metavar="SECONDS", help="Give up after this long. [default: never]"
    ),
]
_AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Instead of the text, print one JSON object at the end with request_id, text, "
        "token_ids, finish_reason, matched_stop, usage, ttft_ms and tokens_per_s.",
    ),
]
_Stats = Annotated[
    bool, typer.Option("--stats", help="At the end, print token counts and speed to stderr.")
]


def generate(  # noqa: PLR0913  (one parameter an option)
    prompt: _Prompt,
    address: arguments.Address = addresses.PUBLIC,
    model: arguments.ModelName = None,
    max_tokens: arguments.MaxTokens = None,
    temperature: arguments.Temperature = None,
    top_p: arguments.TopP = None,
    top_k: arguments.TopK = None,
    seed: arguments.Seed = None,
    checkpoint_defaults: arguments.CheckpointDefaults = True,
    stop: arguments.Stop = None,
    timeout: _Timeout = None,
    retry_s: arguments.RetryS = retry_notice.RETRY_S,
    as_json: _AsJson = False,
    stats: _Stats = False,
) -> None:
    """Continue PROMPT and print the text as it is generated.

    With --stats, TTFT is the time to the first token, and tokens/s counts from the first token to
    the last.
    """
    from triptych.client import Client, Options
    from triptych.commands.cli_errors import one_line_errors
    from triptych.commands.entries import as_utf8, read_stdin

    with one_line_errors():
        options = Options(
            model=model,
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            seed=seed,
            stop=[as_utf8(one) for one in stop or ()],
            timeout=timeout,
            retry_s=retry_s,
            token_ids=as_json,
        )
        retry_notice.look_up(address)
        text = read_stdin() if prompt == "-" else as_utf8(prompt)
        with Client(address, on_retry=retry_notice.show) as client:
            if checkpoint_defaults:
                options = _with_defaults(client, options)
            tally = _stream(client, text, options, quiet=as_json)
        if as_json:
            _print_json(tally.summary())
        if stats:
            stdio.write_line(tally.sentence())


def _with_defaults(client: Client, options: Options) -> Options:
    """`options` with the checkpoint's defaults, and with what is left of the timeout."""
    from triptych.commands.sampling import adopt, find_model

    started = time.monotonic()
    model = find_model(client, options)
    if model is not None:
        options = adopt(options, model)
    if options.timeout is None:
        return options
    left_s = options.timeout - (time.monotonic() - started)
    return replace(options, timeout=max(left_s, 0.0))


def _stream(client: Client, prompt: str, options: Options, *, quiet: bool) -> StreamStats:
    """Write the text as it comes; end it with a newline where it has none."""
    from triptych.commands.stream_stats import StreamStats

    tally = StreamStats()
    try:
        for delta in client.stream(prompt, options):
            tally.see(delta)
            if not quiet:
                stdio.write(delta.text)
    finally:
        # What is said next begins a line; a text that is whole ends one.
        whole = tally.usage is not None
        if not quiet and (whole or tally.text) and not tally.text.endswith("\n"):
            stdio.write("\n")
    return tally


def _print_json(summary: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps(summary, ensure_ascii=not stdio.is_unicode()))
