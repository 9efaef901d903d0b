"""One process: how its end is told, and that it never outlives being told to stop."""

import os
import signal
import sys

import pytest

from triptych.supervisor.child import Child, Ended
from triptych.supervisor.plan import ServicePlan


def child(code, on_line=lambda *_: None):
    command = (sys.executable, "-c", code)
    return Child(ServicePlan("model", 1, "unix:/x", command, {}, 20), on_line)


@pytest.mark.parametrize(
    ("ended", "cause", "sentence"),
    [
        (Ended("model/1", -9, ""), "killed by SIGKILL", "the model/1 was killed by SIGKILL"),
        (Ended("router", -40, ""), "killed by signal 40", "the router was killed by signal 40"),
        (Ended("router", 3, ""), "exit code 3", "the router ended with exit code 3; its log says"),
        (Ended("router", 1, "no room"), "no room", "router: no room"),
        (Ended("router", None, "cannot"), "cannot", "router: cannot"),
    ],
)
def test_an_end_is_told_in_words(ended, cause, sentence):
    assert ended.cause == cause
    assert ended.describe().startswith(sentence)


async def test_its_last_word_is_the_reason():
    ended = await child("import sys; sys.exit('triptych model: no room')").run()

    assert ended == Ended("model/1", 1, "no room")


async def test_it_is_told_where_to_listen_and_how_often_it_was_started_again():
    said = []
    told = "(os.environ[f'TRIPTYCH_MODEL_{one}'] for one in ('LISTEN', 'RESTARTS'))"
    one = child(f"import os; print(*{told})", lambda _, line: said.append(line))
    one.restarts = 2
    one.address = "127.0.0.1:4711"

    await one.run()

    assert said == ["127.0.0.1:4711 2"]


async def test_a_process_that_outlives_it_holds_nobody_up():
    forks = "import os, signal; os.fork() or signal.pause()"
    groups = []
    code = f"import os; print(os.getpid(), flush=True); {forks}"

    ended = await child(code, lambda _, line: groups.append(int(line))).run()

    assert ended.code == 0
    os.killpg(groups[0], signal.SIGKILL)


async def test_what_was_told_to_stop_while_it_was_started_does_not_stay():
    one = child("import signal; signal.pause()")

    await one.stop(grace_s=10.0)

    assert (await one.run()).code == -signal.SIGKILL


async def test_a_line_without_end_is_cut_and_those_after_it_come():
    said = []
    code = "import sys; sys.stdout.write('x' * (8 << 20) + '\\nnext\\n' + 'y' * (1 << 20))"

    await child(code, lambda _, line: said.append(line)).run()

    assert [line[:4] for line in said] == ["xxxx", "next", "yyyy"]
    assert max(map(len, said)) == 1 << 16


async def test_its_last_word_cannot_steer_a_terminal():
    ended = await child("import sys; sys.exit('triptych model: no \\x1b[2J room')").run()

    assert ended.reason == r"no \x1b[2J room"
