"""``vlmguard``: the command and its exit codes.

0 done · 1 the guard failed, or a signature does not hold · 2 bad usage or bad input · 3 a batch finished with error rows · 130 interrupted
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Sequence

from vlmguard import __version__
from vlmguard.cli import audit, calibrate, chat, doctor, evaluate, refine, report, serve, synth, train, verify
from vlmguard.errors import InputError, PolicyError, VlmguardError

COMMANDS = {
    "refine": refine,
    "chat": chat,
    "serve": serve,
    "verify": verify,
    "audit": audit,
    "calibrate": calibrate,
    "synth": synth,
    "train": train,
    "eval": evaluate,
    "report": report,
    "doctor": doctor,
}
"""Each has ``HELP``, ``add_arguments(parser)`` and ``run(arguments) -> exit code``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without our letters is no reason to fail
    quiet_decoders()
    arguments = _parser().parse_args(argv)
    try:
        code: int = COMMANDS[arguments.command].run(arguments)
    except (InputError, PolicyError) as error:
        return _fail(error, 2)
    except VlmguardError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        print("vlmguard: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output went away; Python must not try to flush into it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def quiet_decoders() -> None:
    """A picture of too many pixels is refused with our own words; the decoder need not warn of it as well."""
    warnings.filterwarnings("ignore", message=r"Image size \(\d+ pixels\) exceeds limit")


def _fail(error: Exception, code: int) -> int:
    from vlmguard.cli.panel import printable  # file names are somebody's words as well

    print(f"vlmguard: {printable(str(error)).replace(chr(10), '·')}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vlmguard",
        description="A safety layer for vision-language models: reads text and images together and rewrites the prompt.",
    )
    parser.add_argument("--version", action="version", version=f"vlmguard {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        module.add_arguments(commands.add_parser(name, help=module.HELP, description=module.HELP))
    return parser


if __name__ == "__main__":
    sys.exit(main())
