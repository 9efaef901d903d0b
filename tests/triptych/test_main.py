"""No traceback, whatever streams, encodings and interrupts the command line meets."""

import os
import signal
import subprocess
import sys

import pytest

COMMANDS = {
    "generate": ["generate", "hi"],
    "json": ["generate", "--json", "--stats", "-"],
    "chat": ["chat"],
    "status": ["status"],
    "bench": ["bench", "--requests", "1", "--max-tokens", "4"],
}
WITHOUT_SERVER = {"help": ["--help"], "version": ["--version"], "usage": ["nothing"]}
STREAMS = ["<&- >&- 2>&-", ">/dev/full", "2>/dev/full", "| true"]


def run(arguments, redirection="", cwd=None, **environment):
    """The command line in a shell; what a pipe hides of its end is not asked."""
    command = f'"$0" -m triptych "$@" {redirection}'
    return subprocess.run(
        ["sh", "-c", command, sys.executable, *arguments],
        input=b"hello\n",
        capture_output=True,
        cwd=cwd,
        env={**os.environ, "PYTHONUNBUFFERED": "", **environment},
        timeout=60,
        check=False,
    )


def with_address(arguments, server):
    return [arguments[0], "--address", server.address, *arguments[1:]]


def assert_plain(ended):
    for word in (b"Traceback", b"Exception", b"Error in"):
        assert word not in ended.stderr, ended.stderr.decode(errors="replace")


@pytest.mark.parametrize("redirection", STREAMS)
@pytest.mark.parametrize("command", COMMANDS)
def test_streams_that_are_closed_full_or_unread(server, command, redirection):
    ended = run(with_address(COMMANDS[command], server), redirection)

    assert_plain(ended)
    if redirection == ">/dev/full":
        assert ended.returncode == 1
        assert ended.stderr == b"triptych: cannot write the text: No space left on device\n"
    elif redirection == "2>/dev/full":
        assert ended.returncode == 0


@pytest.mark.parametrize("redirection", STREAMS)
@pytest.mark.parametrize("command", WITHOUT_SERVER)
def test_streams_of_what_needs_no_server(command, redirection):
    assert_plain(run(WITHOUT_SERVER[command], redirection))


ENCODINGS = [
    {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "ascii"},
]


@pytest.mark.parametrize("environment", ENCODINGS, ids=lambda one: "-".join(one.values()))
@pytest.mark.parametrize("command", COMMANDS)
def test_terminals_that_lack_characters(server, command, environment):
    server.generation.words = ("é€ ", "𝄞")
    server.generation.model.name = "modèle"

    ended = run(with_address(COMMANDS[command], server), **environment)

    assert_plain(ended)
    assert ended.returncode == 0
    if environment.get("PYTHONIOENCODING") == "ascii" and command == "generate":
        assert ended.stdout == b"\\xe9\\u20ac \\U0001d11e\n"


def test_arguments_are_utf8_whatever_the_locale_is(server):
    ended = run([*with_address(["generate"], server), "café".encode()], **ENCODINGS[0])

    assert ended.returncode == 0, ended.stderr
    assert server.generation.requests[0].text == "café"


def test_an_argument_that_is_not_utf8_is_one_line(server):
    ended = run([*with_address(["generate"], server), b"caf\xff"])

    assert (ended.returncode, ended.stderr) == (
        1,
        b"triptych: prompt: not UTF-8 at character 4\n",
    )


@pytest.mark.parametrize("command", ["generate", "status"])
def test_a_server_of_another_kind_is_one_line_without_its_log(junk, command):
    ended = run([COMMANDS[command][0], "--address", junk, *COMMANDS[command][1:]])

    assert ended.returncode == 1
    assert ended.stderr.count(b"\n") == 1
    assert ended.stderr.startswith(f"triptych: what answers at {junk} is no Triptych".encode())


@pytest.mark.parametrize("module", ["triptych.cli", "grpc"])
def test_ctrl_c_while_modules_load_has_no_words(module):
    code = (
        "import builtins, os, signal, sys\n"
        "real = builtins.__import__\n"
        "def load(name, *rest, **more):\n"
        f"    if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return real(name, *rest, **more)\n"
        "builtins.__import__ = load\n"
        "from triptych.__main__ import main\n"
        "sys.argv[1:] = ['generate', '--address', '127.0.0.1:9', 'hi']\n"
        "sys.exit(main())\n"
    )

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)

    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, b"")


def test_an_interrupt_that_is_ignored_stays_ignored(server):
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'triptych', *sys.argv[1:]])\n"
    )
    command = [sys.executable, "-c", code, "generate", "--address", server.address, "endless"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.read(5) == b"Once "
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)

    assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize("kind", ["package", "module"])
def test_another_programs_package_of_our_name_is_one_line(kind, tmp_path):
    if kind == "package":
        (tmp_path / "protos").mkdir()
        (tmp_path / "protos" / "__init__.py").touch()
    else:
        (tmp_path / "protos.py").touch()

    ended = run(["generate", "hi"], cwd=tmp_path)

    assert (ended.returncode, ended.stderr.count(b"\n")) == (1, 1)
    assert ended.stderr.startswith(b"triptych: Python finds the package 'protos' in ")
    assert str(tmp_path).encode() in ended.stderr
