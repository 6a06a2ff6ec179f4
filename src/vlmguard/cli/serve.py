"""``vlmguard serve``: the gateway in front of a model's server (docs/gateway.md)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmguard.errors import MissingExtraError

HELP = "serve a gateway that guards every request to a model's server"

FLAGS: Mapping[str, str] = {
    "upstream": "base URL of the model's server, such as http://127.0.0.1:8000/v1",
    "host": "address to listen on (127.0.0.1); any other than loopback needs keys",
    "port": "port to listen on (8080)",
    "workers": "processes that serve (1)",
    "rewriter": "who judges (embedded)",
    "threads": "cores that each worker judges on (2)",
    "policy": "a TOML file laid over the default policy",
    "mode": "enforce, or monitor: judge and record, and change nothing",
    "on_failure": "when the guard fails: closed, degraded, open",
    "deadline": "seconds that judging one request may take (15)",
    "audit.url": "where decisions are kept: sqlite:FILE, postgresql://…, none",
    "log_level": "debug, info, warning, error",
}
"""Settings that have a flag. All have a line in the file and a variable."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``serve``."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the configuration (default: ./vlmguard.toml, if there)"
    )
    for name, help in FLAGS.items():
        flag = "--" + name.removesuffix(".url").replace("_", "-")
        parser.add_argument(flag, dest=name, metavar="VALUE", help=help)
    parser.add_argument("--monitor", action="store_true", help="the same as --mode monitor")
    parser.add_argument("--console", action="store_true", help="serve the console at /console (docs/console.md)")
    parser.add_argument(
        "--show-config", action="store_true", help="print the whole configuration, secrets hidden, and stop"
    )
    parser.add_argument("--new-key", metavar="NAME", help="make a key for a caller, print it once, and stop")
    parser.epilog = (
        "Every setting also has a variable (VLMGUARD_UPSTREAM, …). Flags outweigh variables, which outweigh the file."
    )


def run(arguments: argparse.Namespace) -> int:
    """Exit code: 0 stopped as asked. Raises ``InputError``, ``PolicyError``, ``VlmguardError`` when it cannot start."""
    try:
        from vlmguard.gateway import config, serve
    except ImportError as error:
        raise MissingExtraError("the gateway", "gateway") from error
    if arguments.new_key is not None:
        print(serve.show_new_key(arguments.new_key))
        return 0
    found = config.load(arguments.config or serve.default_file(), flags=_flags(arguments))
    if arguments.show_config:
        print(config.show(found))
        return 0
    return serve.serve(found)


def _flags(arguments: argparse.Namespace) -> dict[str, Any]:
    given = {name: value for name in FLAGS if (value := getattr(arguments, name)) is not None}
    if arguments.console:
        given["console"] = True
    return {**given, "mode": "monitor"} if arguments.monitor else given
