"""`triptych serve` where it cannot start."""

import socket

import pytest
from typer.testing import CliRunner

from triptych.cli import app


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    return str(tmp_path)


def serve(*arguments):
    return CliRunner().invoke(app, ["serve", *arguments])


def test_a_folder_that_is_not_there_is_one_line():
    ended = serve("--model", "/nowhere/demo")

    assert ended.exit_code == 1
    assert ended.stderr.startswith("triptych: there is no folder /nowhere/demo")
    assert ended.stderr.count("\n") == 1


def test_a_metrics_port_in_use_is_one_line(checkpoint):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = serve("--model", checkpoint, "--metrics-listen", address)

    assert ended.exit_code == 1
    assert ended.stderr.startswith(f"triptych: cannot serve metrics on {address}")


@pytest.mark.parametrize(
    ("option", "value"), [("--log-format", "xml"), ("--log-level", "loud"), ("--kv-tokens", "-1")]
)
def test_an_unknown_value_is_refused(checkpoint, option, value):
    ended = serve("--model", checkpoint, option, value)

    assert ended.exit_code != 0
    assert value in ended.stderr or option in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--dtype", "fp32"], "--dtype: 'fp32' is not one of auto, float32, bfloat16, float16"),
        (["--device", "gpu"], "--device: 'gpu' is not one of auto, cpu, cuda, interpret"),
        (["--quantize", "q4"], "--quantize: 'q4' is not one of none, int8, int4, w8a8"),
        (["--kv-dtype", "fp8"], "--kv-dtype: 'fp8' is not one of auto, int8"),
        (["--log-level", "loud"], "--log-level: 'loud' is not one of debug, info, warning, error"),
        (["--log-format", "xml"], "--log-format: 'xml' is not one of text, json"),
        (["--replicas", "0"], "--replicas: 0 is less than 1"),
        (["--kv-tokens", "-1"], "--kv-tokens: -1 is less than 0"),
        (["--max-batch-tokens", "-1"], "--max-batch-tokens: -1 is less than 0"),
        (["--listen", "unix:"], "--listen: address 'unix:': expected unix:PATH, a socket's"),
        (["--listen", "unix:/" + "d" * 110], "--listen: cannot listen on unix:/ddd"),
        (["--listen", "https://a:1"], "--listen: address 'https://a:1': expected HOST:PORT, such"),
        (["--listen", "127.0.0.1:65536"], "--listen: address '127.0.0.1:65536': port 65536 is"),
        (["--listen", "no.such.host.invalid:1"], "--listen: cannot listen on no.such.host.invalid"),
        (["--listen", "unix:/nowhere/a"], "--listen: cannot listen on unix:/nowhere/a: No such"),
        (["--device", "cuda", "--quantize", "int8"], "--quantize int8 works on the CPU only; use"),
        (["--kv-dtype", "int8", "--dtype", "float32"], "--kv-dtype int8 works with 16 bits only"),
        (["--listen", "nowhere"], "--listen: address 'nowhere': expected HOST:PORT, such as 127.0"),
    ],
)
def test_each_wrong_option_has_its_own_line(checkpoint, arguments, line):
    ended = serve("--model", checkpoint, *arguments)

    assert ended.exit_code == 1
    assert ended.stderr.startswith(f"triptych: {line}")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("option", ["--listen", "--metrics-listen"])
def test_an_address_that_is_none_is_one_line_with_the_option(checkpoint, option):
    ended = serve("--model", checkpoint, option, "nowhere")

    assert ended.exit_code == 1
    assert ended.stderr.startswith(f"triptych: {option}: address 'nowhere': expected HOST:PORT")
    assert ended.stderr.count("\n") == 1
