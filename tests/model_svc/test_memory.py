"""How many KV slots fit, and who gets how many of them."""

import pytest

from chassis.errors import StartError
from model_svc.memory import LEAST_SLOTS, choose_slots

SLOT_BYTES = 1000
AVAILABLE = 400_000 * SLOT_BYTES


def test_by_itself_the_pool_takes_a_quarter_of_the_memory():
    assert choose_slots(0, SLOT_BYTES, AVAILABLE) == 100_000


@pytest.mark.parametrize("sharers", [2, 4])
def test_model_processes_on_one_machine_divide_that_quarter(sharers):
    assert choose_slots(0, SLOT_BYTES, AVAILABLE, sharers=sharers) == 100_000 // sharers


def test_what_was_asked_for_is_not_divided():
    assert choose_slots(7000, SLOT_BYTES, AVAILABLE, sharers=4) == 7000


def test_a_share_too_small_for_a_request_is_refused_with_the_setting():
    with pytest.raises(StartError, match="TRIPTYCH_MODEL_KV_TOKENS"):
        choose_slots(0, SLOT_BYTES, 8 * LEAST_SLOTS * SLOT_BYTES, sharers=3)


def test_more_than_there_is_is_refused_with_what_fits():
    with pytest.raises(StartError, match="to at most 400000"):
        choose_slots(400_001, SLOT_BYTES, AVAILABLE)
