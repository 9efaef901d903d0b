"""Which rounds are played, and when they strike."""

import itertools

from bench.faults import schedule
from bench.faults.schedule import Setting

PLACES = ("router", "tokenizer", "tokenizer worker", "model", "detokenizer")


def test_there_are_more_than_twenty_rounds_each_with_a_name_of_its_own():
    names = [one.name for one in schedule.rounds()]

    assert len(set(names)) == len(names) > 20


def test_each_process_is_killed_alone_and_during_the_start_of_another():
    names = {one.name for one in schedule.rounds()}

    assert {f"kill {place}" for place in PLACES} <= names
    for place in PLACES:
        assert any(name.startswith(f"kill {place} while ") for name in names), place


def test_rounds_of_one_deployment_follow_each_other():
    settings = [one.setting for one in schedule.rounds()]
    changes = sum(one is not other for one, other in itertools.pairwise(settings))

    assert changes == len(Setting) - 1


def test_only_rounds_that_kill_a_router_may_tell_clients_of_it():
    assert all(one.unavailable == ("router" in one.name.split()) for one in kills())


def kills():
    return [one for one in schedule.rounds() if "kill" in one.name]


def test_only_narrows_by_parts_of_names():
    chosen = schedule.choose(["STALL", "poisonous prompt"], None)

    assert len(chosen) > 2
    assert all("stall" in one.name or one.name == "poisonous prompt" for one in chosen)
    assert schedule.choose(["no such round"], 3) == []


def test_a_number_of_rounds_takes_the_first_or_begins_again():
    everything = schedule.choose([], None)

    assert schedule.choose([], 3) == everything[:3]
    assert schedule.choose([], len(everything) + 2) == [*everything, *everything[:2]]


def test_a_round_strikes_at_the_same_moment_for_the_same_seed_and_at_another_for_others():
    one = schedule.rounds()[0]

    def share(seed, number, name):
        return schedule.share(one, schedule.chance(seed, number, name))

    shares = {share(1, 0, "a"), share(2, 0, "a"), share(1, 1, "a"), share(1, 0, "b")}

    assert share(1, 0, "a") == share(1, 0, "a")
    assert len(shares) == 4
    assert all(0 < one < 1 for one in shares)


def test_a_round_strikes_no_later_than_it_may():
    for one in schedule.rounds():
        shares = [schedule.share(one, schedule.chance(seed, 0, "a")) for seed in range(50)]

        assert one.latest / 2 < max(shares) <= one.latest
