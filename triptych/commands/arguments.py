"""Options that several commands share, so that they are spelled and explained once."""

from __future__ import annotations

from typing import Annotated

import typer

Address = Annotated[
    str, typer.Option("--address", metavar="HOST:PORT", help="Where `triptych serve` listens.")
]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", min=0, metavar="N", help="Output tokens at most."),
]
Temperature = Annotated[
    float | None,
    typer.Option("--temperature", min=0.0, metavar="T", help="0 is greedy; server default 1."),
]
Seed = Annotated[
    int | None,
    typer.Option("--seed", min=0, metavar="S", help="The same seed draws the same tokens."),
]
Stop = Annotated[
    list[str] | None,
    typer.Option("--stop", metavar="S", help="Stop before this text. May be repeated."),
]
RetryS = Annotated[
    float,
    typer.Option(
        "--retry-s",
        min=0.0,
        metavar="SECONDS",
        help="Look this long for a server that does not answer yet.",
    ),
]
ModelName = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="Which model, where there are several."),
]
