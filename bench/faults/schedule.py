"""Rounds: a fault, its deployment and its moment.

A round's chance depends on the seed and on its own name and number alone, so that a round played by
itself is the same round.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Iterable
from dataclasses import dataclass

from bench.faults.clients.workload import POISON_TOKEN
from bench.faults.deployment.counters import RESUBMITTED
from bench.faults.deployment.processes import (
    DETOKENIZER,
    MODEL,
    OTHER_DETOKENIZER,
    OTHER_MODEL,
    ROUTER,
    TOKENIZER,
    WORKER,
    Place,
)
from bench.faults.faults import Fault, Kill, KillDuringStart, Poison, Sleep, Stall

_SLEEP_S = 5.0
_STALL_S = 5.0
# Of the messages of the undisturbed run: later, too few requests are left.
_EARLIEST, _LATEST = 0.02, 0.65
_LATEST_MOVE = 0.2  # who is missed only after seconds must have enough to do until then


class Setting(enum.Enum):
    """A deployment that rounds are played on."""

    ONE_REPLICA = "one replica"
    TWO_REPLICAS = "two replicas"
    LINKS = "four commands, links through proxies"
    POISONED = "one replica that dies of a token"
    POISONED_LATER = "one replica that dies of a token, after a few more"


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        name: says what happens.
        setting: where.
        fault: to inject.
        unavailable: whether streams that have got messages may end UNAVAILABLE.
        rising: counters that have to rise more than undisturbed.
        latest: share of the undisturbed run's messages after which it strikes at the latest.
    """

    name: str
    setting: Setting
    fault: Fault
    unavailable: bool = False
    rising: tuple[str, ...] = ()
    latest: float = _LATEST


def rounds() -> tuple[Round, ...]:
    """All rounds; those on one deployment follow each other."""
    return (*_kills(), *_starts(), *_two_replicas(), *_links(), *_poison())


def choose(only: Iterable[str], count: int | None) -> list[Round]:
    """The rounds to play.

    Args:
        only: parts of names; empty: all rounds.
        count: how many: the first of them, or all of them again and again; None: each once.
    """
    wanted = [part.lower() for part in only]
    chosen = [
        one for one in rounds() if not wanted or any(part in one.name.lower() for part in wanted)
    ]
    if count is None or not chosen:
        return chosen
    return [chosen[number % len(chosen)] for number in range(count)]


def chance(seed: int, number: int, name: str) -> random.Random:
    """The chance of the round `name`, played as the `number`-th."""
    return random.Random(f"{seed}/{number}/{name}")


def share(one: Round, draw: random.Random) -> float:
    """Moment of a round's fault, as a share of the undisturbed run's messages."""
    return draw.uniform(_EARLIEST, one.latest)


def _kills() -> list[Round]:
    together = [
        (ROUTER,),
        (TOKENIZER,),
        (WORKER,),
        (MODEL,),
        (DETOKENIZER,),
        (MODEL, DETOKENIZER),
        (MODEL, TOKENIZER),
        (TOKENIZER, DETOKENIZER),
        (ROUTER, MODEL),
        (ROUTER, DETOKENIZER),
    ]
    return [
        Round(
            f"kill {_names(places)}",
            Setting.ONE_REPLICA,
            Kill(places),
            unavailable=ROUTER in places,
        )
        for places in together
    ]


def _starts() -> list[Round]:
    pairs = [
        (MODEL, DETOKENIZER),
        (DETOKENIZER, MODEL),
        (MODEL, TOKENIZER),
        (TOKENIZER, MODEL),
        (MODEL, WORKER),
        (MODEL, ROUTER),
        (ROUTER, MODEL),
        (MODEL, MODEL),
    ]
    return [
        Round(
            f"kill {other} while {starting} starts",
            Setting.ONE_REPLICA,
            KillDuringStart(starting, other),
            unavailable=ROUTER in (starting, other),
        )
        for starting, other in pairs
    ]


def _two_replicas() -> list[Round]:
    setting = Setting.TWO_REPLICAS
    resubmitted = (RESUBMITTED,)
    kills = [
        ((MODEL,), resubmitted),
        ((OTHER_DETOKENIZER,), ()),
        ((OTHER_MODEL, OTHER_DETOKENIZER), resubmitted),
        ((MODEL, OTHER_MODEL), resubmitted),
    ]
    return [
        *(
            Round(f"of two replicas, kill {_names(places)}", setting, Kill(places), rising=rising)
            for places, rising in kills
        ),
        Round(
            f"of two replicas, stop model for {_SLEEP_S:.0f} s",
            setting,
            Sleep(MODEL, _SLEEP_S),
            rising=resubmitted,
            latest=_LATEST_MOVE,
        ),
        Round(
            f"of two replicas, stop detokenizer for {_SLEEP_S:.0f} s",
            setting,
            Sleep(DETOKENIZER, _SLEEP_S),
        ),
    ]


def _links() -> list[Round]:
    names = ("router-tokenizer", "router-detokenizer", "detokenizer-model")
    stalls = [
        Round(f"stall {name} for {_STALL_S:.0f} s", Setting.LINKS, Stall(name, _STALL_S))
        for name in names
    ]
    name = "router-model"
    return [
        *stalls,
        Round(
            f"stall {name} for {_STALL_S:.0f} s",
            Setting.LINKS,
            Stall(name, _STALL_S),
            rising=(RESUBMITTED,),
            latest=_LATEST_MOVE,
        ),
        Round(
            f"stall {name}, new connections too",
            Setting.LINKS,
            Stall(name, _STALL_S, new_too=True),
        ),
    ]


def _poison() -> list[Round]:
    poison = Poison(POISON_TOKEN)
    return [
        Round("poisonous prompt", Setting.POISONED, poison),
        Round("poisonous output", Setting.POISONED_LATER, poison),
        Round(
            "poisonous output, detokenizer behind",
            Setting.POISONED_LATER,
            Poison(POISON_TOKEN, behind=True),
        ),
    ]


def _names(places: Iterable[Place]) -> str:
    return " and ".join(map(str, places))
