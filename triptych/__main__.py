"""`triptych` and `python -m triptych`: the command line, from its first moment to its last.

Ctrl-C ends the process at once and without words while it starts and while it ends; in between,
`one_line_errors` has it unwind.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` would first load enum
import os
import sys

_FAILED = 1
_INTERRUPTED = 130


def main() -> int:
    """Run the command that the arguments name; return its exit code."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:  # else it stays ignored
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    from triptych import stdio

    stdio.prepare()
    code = _FAILED
    try:
        try:
            code = _run()
        finally:
            stdio.finish()
    except BrokenPipeError:
        return code or _FAILED  # the reader has closed the pipe, which needs no words
    except OSError as error:
        stdio.complain(f"cannot write the text: {error.strerror or error}")
        return code or _FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    return code


def _run() -> int:
    from triptych import packages, stdio

    if (complaint := packages.foreign_package()) is not None:
        stdio.complain(complaint)
        return _FAILED
    if sys.argv[1:2] != ["serve"]:
        _silence_libraries()
    from triptych.cli import app

    try:
        app(prog_name="triptych")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else _FAILED
    return 0


def _silence_libraries() -> None:
    """Leave the message about a failed call, one line, to the command."""
    import logging

    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    for name in ("grpc", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


if __name__ == "__main__":
    sys.exit(main())
