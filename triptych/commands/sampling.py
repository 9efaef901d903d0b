"""Default sampling: the recommendation of the model's checkpoint."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from triptych.client import Client, Model, Options

_ABSENT: tuple[Any, ...] = (None, (), {})
_TOLD = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_TOLD_IF_SET = ("presence_penalty", "frequency_penalty", "seed")


def find_model(client: Client, options: Options) -> Model | None:
    """The model that `options` name, or the only one; None where there is no such yet.

    Raises:
        TriptychError: the server does not answer.
    """
    models = client.models(timeout=options.timeout, retry_s=options.retry_s)
    if options.model is None:
        return models[0] if len(models) == 1 else None
    return next((one for one in models if one.name == options.model), None)


def adopt(options: Options, model: Model) -> Options:
    """`options`, completed by the recommendations of the checkpoint of `model`."""
    recommended = {
        name: value
        for name, value in model.generation_defaults.items()
        if getattr(options, name) in _ABSENT
    }
    return dataclasses.replace(options, **recommended)


def sentence(chosen: Options, asked: Options) -> str:
    """Sampling options in force, for people.

    Args:
        chosen: in force.
        asked: what the user said; the rest is the checkpoint's.
    """
    parts = []
    for name in (*_TOLD, *_TOLD_IF_SET):
        value = getattr(chosen, name)
        if value is not None:
            source = "" if getattr(asked, name) == value else " (checkpoint)"
            parts.append(f"{name.replace('_', ' ')} {value:g}{source}")
    return ", ".join(parts) or "temperature 1 (default)"
