"""Small steps are computed on one thread, large ones on all."""

import torch

from model_svc.engine.threads import ThreadChoice, most_threads


def test_a_small_model_takes_one_thread_until_its_step_is_large():
    choice = ThreadChoice(parameters=6_000_000, most=2)

    assert [choice.choose(tokens) for tokens in (1, 32, 512)] == [1, 1, 2]


def test_a_large_model_takes_all_threads_for_one_token():
    assert ThreadChoice(parameters=8_000_000_000, most=16).choose(1) == 16


def test_the_choice_is_what_torch_computes_with():
    before = torch.get_num_threads()
    try:
        ThreadChoice(parameters=6_000_000, most=2).apply(1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_models_on_one_machine_divide_its_cpus_and_each_gets_one_at_least():
    assert [most_threads(0, 8, sharers=sharers) for sharers in (1, 2, 3, 16)] == [8, 4, 2, 1]


def test_threads_that_were_asked_for_are_not_divided():
    assert most_threads(6, 8, sharers=4) == 6
