"""What the gateway is told, and what it refuses to be told."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from vlmguard.cli.main import main
from vlmguard.errors import InputError
from vlmguard.gateway import config, serve
from vlmguard.gateway.audit_store import Store
from vlmguard.gateway.config import FetchSettings, hint, load, settings, show, variable
from vlmguard.gateway.keys import hash_key
from vlmguard.gateway.serve import show_new_key
from vlmguard.types import Mode

UPSTREAM = "http://127.0.0.1:8000/v1"
KEY = f'[keys.bob]\nhash = "sha256:{hash_key("one")}"\n'


def written(tmp_path: Path, toml: str) -> Path:
    file = tmp_path / "vlmguard.toml"
    file.write_text(toml)
    return file


def test_an_upstream_is_enough() -> None:
    found = load(None, {}, {"upstream": UPSTREAM})
    assert (found.upstream, found.host, found.mode, found.on_failure) == (UPSTREAM, "127.0.0.1", Mode.ENFORCE, "closed")
    assert found.fetch == FetchSettings()


def test_flags_outweigh_variables_which_outweigh_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, f'upstream = "{UPSTREAM}"\nport = 1\nworkers = 1\nthreads = 1\n[fetch]\nseconds = 1\n')
    variables = {"VLMGUARD_PORT": "2", "VLMGUARD_THREADS": "2", "VLMGUARD_FETCH_SECONDS": "2.5"}
    found = load(file, variables, {"port": "3"})
    assert (found.port, found.threads, found.workers, found.fetch.seconds) == (3, 2, 1, 2.5)
    assert found.origin["port"] == "flag"
    assert found.origin["threads"] == "VLMGUARD_THREADS"
    assert found.origin["workers"] == str(file)


@pytest.mark.parametrize("name", settings())
def test_every_setting_can_be_said_in_the_file_and_in_a_variable(tmp_path: Path, name: str) -> None:
    words: dict[str, tuple[str, str]] = {
        "upstream": (f'"{UPSTREAM}"', UPSTREAM),
        "host": ('"::1"', "::1"),
        "mode": ('"monitor"', "monitor"),
        "on_failure": ('"open"', "open"),
        "blocked": ('"error"', "error"),
        "log_level": ('"debug"', "debug"),
        "fetch.enabled": ("false", "false"),
        "limits.held_bytes": ("70000000", "70000000"),
        "audit.when_full": ('"fail"', "fail"),
        "pass_through": ('["GET /v1/files"]', "GET /v1/files"),
        "fetch.allow": ('["10.0.0.0/8", "host:9"]', "10.0.0.0/8, host:9"),
    }
    by_kind: dict[Any, tuple[str, str]] = {bool: ("true", "true"), int: ("7", "7"), float: ("7", "7")}
    line, text = (
        words.get(name) or by_kind.get(hint(name)) or (('["x"]', "x") if "tuple" in str(hint(name)) else ('"x"', "x"))
    )
    section, _, last = name.rpartition(".")
    base = "" if name == "upstream" else f'upstream = "{UPSTREAM}"\n'
    toml = f"{base}[{section}]\n{last} = {line}\n" if section else f"{base}{last} = {line}\n"
    by_file = load(written(tmp_path, toml), {}, {})
    by_variable = load(None, {"VLMGUARD_UPSTREAM": UPSTREAM, variable(name): text}, {})
    assert by_file == by_variable
    if name != "upstream":
        assert by_file != load(None, {}, {"upstream": UPSTREAM})


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("prot = 1", "did you mean 'port'"),
        ('port = "x"', "whole number"),
        ("port = 70000", "65535"),
        ("port = true", "whole number"),
        ("workers = 0", "above 0"),
        ("deadline = -1", "above 0"),
        ("deadline = nan", "above 0"),
        ("deadline = inf", "above 0"),
        (f"deadline = {'9' * 400}", "deadline is a number"),
        (f"[limits]\nbody_bytes = {'9' * 400}", "body_bytes is a number"),
        ('upstream_key = "a\\nb"', "no header takes"),
        ('mode = "off"', "enforce, monitor"),
        ('on_failure = "shut"', "closed, degraded, open"),
        ("pass_through = 3", "list of texts"),
        ('pass_through = ["/v1/files"]', "method and a plain path"),
        ('pass_through = ["POST /v1/chat/completions"]', "guarded"),
        ('pass_through = ["POST /v1/../x"]', "plain path"),
        ("[fetch]\nsecond = 1", "did you mean 'fetch.seconds'"),
        ('[routes."/v1/other"]\nmode = "monitor"', "none of the guarded paths"),
        ('[keys.bob]\nmode = "monitor"', "lacks its hash"),
        ('[keys.bob]\nhash = "one"', "SHA-256"),
        (KEY + KEY.replace("bob", "eve"), "same hash"),
        (KEY + "requests_per_minute = -1", "requests_per_minute"),
        ('upstream_key = "env:NOWHERE"', "NOWHERE"),
        (
            'upstream_key = "a"\n[routes."/v1/messages"]\nupstream = "https://other.example/v1"',
            "upstream_key of its own",
        ),
        ("port = ", "not valid TOML"),
        ('allowed_hosts = ["https://gw.internal"]', "allowed_hosts holds"),
        ('allowed_hosts = ["gw.internal:8080"]', "allowed_hosts holds"),
        ('allowed_hosts = ["*.internal"]', "allowed_hosts holds"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(tmp_path: Path, toml: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        load(written(tmp_path, toml), {}, {"upstream": UPSTREAM})


@pytest.mark.parametrize(
    "upstream", ["", "127.0.0.1:8000", "ftp://a/v1", "http://", "http://u:p@a/v1", "http://a/v1?x=1", "http://a:x/v1"]
)
def test_an_upstream_is_a_plain_url(upstream: str) -> None:
    with pytest.raises(InputError):
        load(None, {}, {"upstream": upstream})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "gateway.internal"])
def test_listening_for_others_without_keys_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(InputError, match="--new-key"):
        load(None, {}, {"upstream": UPSTREAM, "host": host})
    assert load(written(tmp_path, KEY), {}, {"upstream": UPSTREAM, "host": host}).host == host


def test_the_whole_is_shown_without_secrets(tmp_path: Path) -> None:
    toml = f"""
        upstream_key = "env:UP"
        receipt_key = "rrrrrrrr"
        [audit]
        url = "postgresql://me:pppppppp@db/audit"
        {KEY}
        [routes."/v1/messages"]
        upstream = "https://other.example/v1"
        upstream_key = "aaaaaaaa"
    """
    found = load(written(tmp_path, toml), {"UP": "uuuuuuuu"}, {"upstream": UPSTREAM})
    assert found.upstream_key == "uuuuuuuu"
    text = show(found)
    for secret in ("uuuuuuuu", "rrrrrrrr", "pppppppp", "aaaaaaaa", hash_key("one")):
        assert secret not in text + repr(found)
    for name in settings():
        assert f"{name.rpartition('.')[2]} = " in text
    assert "https://other.example/v1" in text


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:pppp@pppp/pp@db/audit",
        "postgresql://me@db/audit?password=pppp",
        "postgresql://me@db/audit?a=b&PASSFILE=pppp&sslpassword=pppp",
    ],
)
def test_no_spelling_of_a_password_is_shown(url: str, tmp_path: Path) -> None:
    flags = {"upstream": UPSTREAM, "audit.url": url}
    shown = show(load(written(tmp_path, ""), {}, flags))
    assert "pppp" not in shown
    assert "@db/audit" in shown
    if "?" in url:
        assert "pppp" not in Store(url).name


def test_a_key_from_a_file_may_end_in_a_line_end(tmp_path: Path) -> None:
    toml = 'upstream_key = "env:UP"'
    assert load(written(tmp_path, toml), {"UP": "uuuu\n"}, {"upstream": UPSTREAM}).upstream_key == "uuuu"
    variables = {variable("upstream_key"): "uuuu\r\n"}
    assert load(written(tmp_path, ""), variables, {"upstream": UPSTREAM}).upstream_key == "uuuu"


@pytest.mark.parametrize("name", ["bob", "bob@x", 'b "o" b', "bob.x"])
def test_a_new_keys_lines_are_toml(name: str) -> None:
    lines = show_new_key(name).partition("configuration:\n")[2]
    assert list(tomllib.loads(lines)["keys"]) == [name]


def test_the_command_shows_and_refuses(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "port = 4321\n")
    assert main(["serve", "--upstream", UPSTREAM, "--show-config", "--monitor"]) == 0
    shown = capsys.readouterr().out
    assert "port = 4321  # vlmguard.toml" in shown
    assert 'mode = "monitor"  # flag' in shown
    assert main(["serve", "--upstream", UPSTREAM, "--host", "0.0.0.0"]) == 2
    assert "--new-key" in capsys.readouterr().err
    assert main(["serve", "--new-key", "bob"]) == 0
    key, rest = capsys.readouterr().out.split("\n", 1)
    assert hash_key(key) in rest
    assert key not in rest


@pytest.mark.parametrize(
    ("toml", "code", "says"),
    [
        ('rewriter = "nobody"', 2, "names no rewriter"),
        ('policy = "missing.toml"', 2, "missing.toml"),
        ('receipt_key = "short"', 2, "at least 32"),
        ('[fetch]\nca_file = "missing.pem"', 2, "missing.pem"),
        ('[fetch]\nallow = ["10.0.0.0/99"]', 2, "fetch.allow"),
        ('[audit]\nurl = "mysql://x"', 1, "mysql"),
    ],
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_configuration_in_which_a_guard_cannot_run_does_not_start(
    tmp_path: Path, toml: str, code: int, says: str, workers: str
) -> None:
    written(tmp_path, toml)
    command = [
        sys.executable,
        "-m",
        "vlmguard.cli.main",
        "serve",
        "--upstream",
        UPSTREAM,
        "--port",
        "0",
        "--workers",
        workers,
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_without_its_packages_the_command_says_what_to_install(capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys; sys.modules['uvicorn'] = None; from vlmguard.cli.main import main; sys.exit(main(['serve', '--upstream', 'http://x/v1']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, "pip install 'vlmguard[gateway]'" in done.stderr) == (1, True)


def test_nothing_is_said_twice() -> None:
    variables = [variable(name) for name in settings()]
    assert len(set(variables)) == len(variables)
    assert config.GUARDED == ("/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1/completions")


def test_a_variable_that_is_nearly_a_setting_is_refused_and_others_are_told() -> None:
    with pytest.raises(InputError, match=r"VLMGUARD_ONFAILURE.*did you mean 'VLMGUARD_ON_FAILURE'"):
        load(None, {"VLMGUARD_ONFAILURE": "closed"}, {"upstream": UPSTREAM})
    with pytest.raises(InputError, match=r"VLMGUARD_AUDIT_KEEPDAYS"):
        load(None, {"VLMGUARD_AUDIT_KEEPDAYS": "9"}, {"upstream": UPSTREAM})
    strange = {"VLMGUARD_KEY": "x", "VLMGUARD_WHATEVER_THIS_IS": "1", "HOME": "/", "VLMGUARD_API_KEY": "of a model"}
    found = load(None, strange, {"upstream": UPSTREAM})
    assert found.unknown == ("VLMGUARD_KEY", "VLMGUARD_WHATEVER_THIS_IS")
    assert "VLMGUARD_WHATEVER_THIS_IS" in show(found)


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("VLMGUARD_UPSTRAEM", "VLMGUARD_UPSTREAM"),
        ("VLMGAURD_UPSTREAM", "VLMGUARD_UPSTREAM"),
        ("VLM_GUARD_UPSTREAM", "VLMGUARD_UPSTREAM"),
        ("vlmguard_upstream", "VLMGUARD_UPSTREAM"),
        ("VLMGUARD_PROT", "VLMGUARD_PORT"),
    ],
)
def test_a_slip_is_told_before_what_it_leaves_missing(slip: str, meant: str) -> None:
    with pytest.raises(InputError, match=f"unknown variable {slip}; did you mean '{meant}'"):
        load(None, {slip: UPSTREAM})


def test_what_is_told_of_a_variable_names_the_nearest_setting() -> None:
    found = load(None, {"VLMGUARD_UPSTREAM_PORT": "8000", "VLM_SERVER": "theirs"}, {"upstream": UPSTREAM})
    assert found.unknown == ("VLMGUARD_UPSTREAM_PORT",)
    told = "the variable VLMGUARD_UPSTREAM_PORT is set, and is no setting: nothing reads it; the nearest that is one: VLMGUARD_UPSTREAM"
    assert told in show(found)
    assert told.partition(";")[0].replace("UPSTREAM_PORT", "XYZ") == config.about_unknown("VLMGUARD_XYZ")


def test_variables_of_other_commands_are_known() -> None:
    """The whole package's: whoever adds one adds it to the gateway's."""
    source = Path(config.__file__).parents[1]
    named = {name for file in source.rglob("*.py") for name in re.findall(r'"(VLMGUARD_[A-Z_]+)"', file.read_text())}
    assert {"VLMGUARD_API_KEY", "VLMGUARD_RECEIPT_KEY"} <= named
    assert load(None, dict.fromkeys(named - {variable("audit.url")}, "x"), {"upstream": UPSTREAM}).unknown == ()


def test_a_variable_that_the_file_names_is_known(tmp_path: Path) -> None:
    file = written(tmp_path, f'upstream = "{UPSTREAM}"\nupstream_key = "env:VLMGUARD_UPSTREAM_KEYS"\n')
    assert load(file, {"VLMGUARD_UPSTREAM_KEYS": "x"}).unknown == ()


def test_what_kubernetes_sets_for_a_service_of_that_name_is_no_setting() -> None:
    links = {
        "VLMGUARD_PORT": "tcp://10.0.0.1:8080",
        "VLMGUARD_UPSTREAM_PORT": "tcp://10.0.0.2:80",
        "VLMGUARD_SERVICE_HOST": "10.0.0.1",
        "VLMGUARD_SERVICE_PORT": "8080",
        "VLMGUARD_SERVICE_PORT_HTTP": "8080",
        "VLMGUARD_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "VLMGUARD_PORT_8080_TCP_PORT": "8080",
        "VLMGUARD_PORT_8080_TCP_ADDR": "10.0.0.1",
        "VLMGUARD_PORT_8080_TCP_PROTO": "tcp",
    }
    found = load(None, links, {"upstream": UPSTREAM})
    assert (found.port, found.unknown) == (8080, ())


@pytest.mark.parametrize("said", ["flag", "file", "variable"])
def test_the_audits_address_may_stand_in_a_variable(tmp_path: Path, said: str) -> None:
    environment = {"THEIRS": "postgresql://u:secret@db/x\n"}
    file = written(tmp_path, f'upstream = "{UPSTREAM}"\n' + ('[audit]\nurl = "env:THEIRS"\n' if said == "file" else ""))
    if said == "variable":
        environment["VLMGUARD_AUDIT_URL"] = "env:THEIRS"
    found = load(file, environment, {"audit.url": "env:THEIRS"} if said == "flag" else {})
    assert found.audit.url == "postgresql://u:secret@db/x"
    assert "secret" not in show(found)
    with pytest.raises(InputError, match="THEIRS, which is not set"):
        load(file, {}, {"audit.url": "env:THEIRS"})


def test_two_gateways_do_not_share_a_port() -> None:
    found = load(None, {}, {"upstream": UPSTREAM, "port": 0})
    with serve.listen(found) as first:
        again = dataclasses.replace(found, port=first.getsockname()[1])
        with pytest.raises(InputError, match=rf"cannot listen on 127\.0\.0\.1:{again.port}"):
            serve.listen(again)


def test_a_second_gateway_on_a_port_exits(tmp_path: Path) -> None:
    found = load(None, {}, {"upstream": UPSTREAM, "port": 0})
    with serve.listen(found) as first:
        port = str(first.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "vlmguard", "serve", "--upstream", UPSTREAM, "--port", port],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


def test_memory_for_bodies_takes_the_largest_body() -> None:
    with pytest.raises(InputError, match="held_bytes"):
        load(None, {}, {"upstream": UPSTREAM, "limits.held_bytes": "1000"})
