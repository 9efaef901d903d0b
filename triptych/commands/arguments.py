"""Options that several commands share, so that they are spelled and explained once."""

from __future__ import annotations

from typing import Annotated

import typer

Address = Annotated[
    str,
    typer.Option("--address", metavar="HOST:PORT|unix:PATH", help="Address of the server."),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        "--max-tokens",
        min=0,
        metavar="N",
        help="Maximum number of output tokens. [default: until the model ends its answer or the "
        "context is full; Ctrl-C stops it earlier]",
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        "--temperature",
        min=0.0,
        metavar="T",
        help="Randomness; 0 always takes the most likely token. "
        "[default: the checkpoint's, else 1]",
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        "--top-p",
        min=0.0,
        max=1.0,
        metavar="P",
        help="Draw only from the most likely tokens that together have this probability. "
        "[default: the checkpoint's, else 1]",
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(
        "--top-k",
        min=0,
        metavar="K",
        help="Draw only from the K most likely tokens; 0 means all. "
        "[default: the checkpoint's, else 0]",
    ),
]
CheckpointDefaults = Annotated[
    bool,
    typer.Option(
        "--checkpoint-defaults/--no-checkpoint-defaults",
        help="Use the checkpoint's recommended sampling settings if no option is given.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        min=0,
        metavar="S",
        help="Seed of the random draws; the same seed gives the same text. [default: random]",
    ),
]
Stop = Annotated[
    list[str] | None,
    typer.Option("--stop", metavar="S", help="End before this text. May be repeated."),
]
RetryS = Annotated[
    float,
    typer.Option(
        "--retry-s",
        min=0.0,
        metavar="SECONDS",
        help="If the server is unreachable, retry for up to this long; 0 disables retries.",
    ),
]
ModelName = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="Name of the model, if the server has several."),
]
