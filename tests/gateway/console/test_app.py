"""Who may look, what a form must carry, and what every page forbids: over HTTP."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest

from tests.gateway.console.kit import APP, KEYS, OPS, Visitor, console, png, send, sent, with_pictures
from tests.gateway.kit import FORBIDDEN, HARMFUL, HARMLESS, Running, Upstream, gateway, wait_until
from vlmguard.cli.main import main


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream().running() as running:
        yield running


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Running]:
    with console(tmp_path_factory.mktemp("gateway"), upstream) as found:
        yield found


PAGES = ("/console/decisions", "/console/overview", "/console/try", "/console/policy", "/console/decisions/" + "0" * 32)


@pytest.mark.parametrize("path", PAGES)
def test_who_has_not_logged_in_is_sent_to_do_so(running: Running, path: str) -> None:
    answer = httpx.get(running.url + path)
    assert (answer.status_code, answer.headers["location"]) == (303, "/console/login")


def test_a_key_of_the_gateway_opens_the_console_and_no_other_does(running: Running) -> None:
    with Visitor(running) as visitor:
        wrong = visitor.post("/console/login", key="vg-somebody-elses")
        assert wrong.status_code == 401
        assert "not known" in wrong.text
        assert visitor.get("/console/decisions").status_code == 303
        assert visitor.post("/console/login", key=OPS).status_code == 303
        assert visitor.get("/console/decisions").status_code == 200
        assert visitor.post("/console/logout").status_code == 303
        assert visitor.get("/console/decisions").status_code == 303


def test_the_cookie_is_for_the_console_alone_and_a_forged_one_opens_nothing(running: Running) -> None:
    with Visitor(running, OPS) as visitor:
        answer = visitor.client.get("/console/login")
        (cookie,) = visitor.client.cookies.jar
        assert cookie.value is not None
        assert answer.status_code == 303
    with Visitor(running) as stranger:
        given = stranger.get("/console/login").headers["set-cookie"]
    assert all(word in given for word in ("Path=/console", "HttpOnly", "SameSite=Strict"))
    name, _, rest = cookie.value.partition(".")
    for forged in (
        cookie.value[:-1] + ("0" if cookie.value[-1] != "0" else "1"),
        f"b3Bz.{rest}",
        f"{name}.x.99999999999.0",
        "x",
    ):
        if forged != cookie.value:
            answer = httpx.get(f"{running.url}/console/decisions", headers={"cookie": f"vlmguard_console={forged}"})
            assert answer.status_code == 303, forged


def test_cookies_of_other_programs_do_not_log_anybody_out(running: Running) -> None:
    with Visitor(running, OPS) as visitor:
        (cookie,) = visitor.client.cookies.jar
    others = f'prefs={{"a": [1, "é"]}}; =; x; vlmguard_console={cookie.value}; y="'
    answer = httpx.get(f"{running.url}/console/decisions", headers=[(b"cookie", others.encode())])
    assert answer.status_code == 200


def test_a_form_without_the_token_or_from_elsewhere_does_nothing(running: Running) -> None:
    id = send(running, HARMLESS)
    with Visitor(running, OPS) as visitor:
        path = f"/console/decisions/{id}/mark"
        for fields in ({}, {"token": "0" * 64}, {"token": "ü"}):
            assert visitor.client.post(path, data={"mark": "missed", **fields}).status_code == 403
        for headers in ({"origin": "https://elsewhere.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
            assert visitor.post(path, mark="missed", headers=headers).status_code == 403
        assert visitor.client.post(path, content=b"{}", headers={"content-type": "application/json"}).status_code == 415
        assert "Marked" not in visitor.get(f"/console/decisions/{id}").text
        assert visitor.post(path, mark="missed", headers={"origin": running.url}).status_code == 303
        assert "Marked by ops" in visitor.get(f"/console/decisions/{id}").text


@pytest.mark.parametrize("path", [*PAGES, "/console/login", "/console/nowhere", "/console/static/console.js"])
def test_every_answer_forbids_scripts_and_frames_of_others(running: Running, path: str) -> None:
    with Visitor(running, OPS) as visitor:
        headers = visitor.get(path).headers
    policy = dict(entry.strip().partition(" ")[::2] for entry in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"


def test_a_key_sees_its_own_decisions_and_an_operators_key_sees_all(running: Running) -> None:
    theirs, ours = send(running, "How do I bake bread? app", APP), send(running, "How do I bake bread? ops", OPS)
    with Visitor(running, APP) as app, Visitor(running, OPS) as ops:
        listed = app.get("/console/decisions?owner=ops").text
        assert theirs in listed
        assert ours not in listed
        for suffix in ("", "/again", "/raw", "/pictures/0"):
            assert app.get(f"/console/decisions/{ours}{suffix}").status_code == 404
        assert app.post(f"/console/decisions/{ours}/mark", mark="missed").status_code == 404
        everything = ops.get("/console/decisions").text
        assert theirs in everything
        assert ours in everything
        assert ops.get(f"/console/decisions/{theirs}").status_code == 200


def test_only_an_operators_key_asks_the_model_without_the_guard(running: Running, upstream: Upstream) -> None:
    for key, count in ((APP, 1), (OPS, 2)):
        before = len(upstream.received)
        with Visitor(running, key) as visitor:
            answer = visitor.post("/console/try", prompt=HARMFUL, model="tiny", ask="1", ask_unguarded="1")
        assert answer.status_code == 200
        sent_on = [received.json["messages"] for received in upstream.received[before:]]
        assert len(sent_on) == count, key
        assert ([{"role": "user", "content": [{"type": "text", "text": HARMFUL}]}] in sent_on) == (key == OPS)
    with Visitor(running, OPS) as visitor:
        # What went to the model from here is on record.
        record = "/console/decisions?route=/console/try&outcome=unguarded"
        wait_until(lambda: HARMFUL in visitor.get(record).text)


def test_a_trial_tells_what_it_finds_piece_by_piece(running: Running) -> None:
    with Visitor(running, OPS) as visitor:
        token = visitor.token
        answer = visitor.client.post(
            "/console/try",
            data={"token": token, "prompt": HARMFUL},
            files={"picture": ("x.png", png(40, 30), "image/png")},
        )
        nothing = visitor.post("/console/try", prompt="")
        broken = visitor.client.post(
            "/console/try",
            data={"token": token, "prompt": "x"},
            files={"picture": ("x.png", b"no picture", "image/png")},
        )
    pieces = [json.loads(line) for line in answer.text.splitlines()]
    assert [piece["into"] for piece in pieces] == [
        "try-pictures",
        "try-evidence",
        "try-report",
        "try-rewrite",
        "try-status",
    ]
    assert "indiscriminate weapons" in pieces[2]["html"]
    assert "nothing to judge" in nothing.text
    assert "could not be used" in broken.text


def test_a_proposed_policy_is_checked_and_compared_and_not_applied(running: Running) -> None:
    id = send(running, HARMFUL)
    with Visitor(running, OPS) as visitor:
        wrong = visitor.post("/console/policy", text='[categories.hate]\naction = "blok"', count="50")
        assert "did you mean" in wrong.text
        assert ":2:" in wrong.text
        same = visitor.post("/console/policy", text="", count="50")
        assert "nothing would change" in same.text
        text = '[categories.indiscriminate_weapons]\naction = "block"'
        found = visitor.post("/console/policy", text=text, count="50").text
    assert id in found
    assert "judged again from their kept words" in found
    assert running.chat(HARMFUL, authorization=f"Bearer {OPS}").headers["x-vlmguard-outcome"] == "rewrite"


def test_filters_find_what_they_ask_for(running: Running) -> None:
    harmful, harmless = send(running, f"{HARMFUL} ünïcode"), send(running, HARMLESS)
    with Visitor(running, OPS) as visitor:

        def shown(query: str) -> set[str]:
            text = visitor.get(f"/console/decisions?{query}").text
            return {id for id in (harmful, harmless) if id in text}

        assert shown("") == {harmful, harmless}
        assert shown("outcome=rewrite") == shown("level=high") == shown("category=indiscriminate_weapons") == {harmful}
        assert shown("outcome=forward&level=none") == {harmless}
        assert shown("text=label+say") == {harmless}
        assert shown("text=%C3%BCn%C3%AFcode") == {harmful}
        assert shown("text=%25") == shown("text=_abel") == set()
        assert shown("since=2999-01-01") == shown("until=2000-01-01") == shown("route=/v1/messages") == set()
        assert shown("since=nonsense&before=nonsense") == {harmful, harmless}
        for hostile in (
            "before=%27~%27",
            "text=%00",
            "owner=%27%22%3Cscript%3E",
            "category=%5C%25",
            "since=0001-01-01T00:00%2B14:00",
        ):
            answer = visitor.get(f"/console/decisions?{hostile}")
            assert answer.status_code == 200
            assert "<script>" not in answer.text.replace("<script src", "")


def test_a_word_is_looked_for_in_words_and_not_in_the_letters_of_a_picture(running: Running) -> None:
    id = sent(running, with_pictures("What is on this card?", png(30, 31)))
    with Visitor(running, OPS) as visitor:
        assert id in visitor.get("/console/decisions?text=on+this+CARD").text
        assert f"/decisions/{id}" not in visitor.get("/console/decisions?text=iVBORw0KGgo").text


def test_pictures_are_drawn_anew_and_words_can_be_downloaded(running: Running) -> None:
    body = with_pictures(HARMLESS, png(1, 900), png(900, 1), png(1, 1), png(40, 40))
    id = sent(running, body)
    with Visitor(running, OPS) as visitor:
        for number in range(4):
            answer = visitor.get(f"/console/decisions/{id}/pictures/{number}")
            assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
            assert answer.content.startswith(b"\x89PNG")
        assert visitor.get(f"/console/decisions/{id}/pictures/4").status_code == 404
        raw = visitor.get(f"/console/decisions/{id}/raw")
        assert json.loads(raw.text) == body
        assert raw.headers["content-type"].startswith("text/plain")
        assert raw.headers["content-disposition"].startswith("attachment")


def test_a_changed_receipt_is_seen(running: Running, tmp_path: Path, upstream: Upstream) -> None:
    with console(tmp_path, upstream, keyed=False) as own:
        answer = own.chat(FORBIDDEN)
        id = answer.headers["x-vlmguard-id"]
        own.receipt(answer)
        with Visitor(own) as visitor:
            wait_until(lambda: visitor.get(f"/console/decisions/{id}").status_code == 200)
            assert "signature-valid" in visitor.get(f"/console/decisions/{id}").text
            database = sqlite3.connect(tmp_path / "audit.db")
            database.execute("UPDATE vlmguard_decisions SET outcome = 'forward'")
            database.commit()
            changed = visitor.get(f"/console/decisions/{id}").text
            assert "signature-valid" in changed
            assert "outcome: forward in the database, block in the receipt" in changed
            database.execute("""UPDATE vlmguard_decisions SET receipt = replace(receipt, '"block"', '"forward"')""")
            database.commit()
            database.close()
            assert "signature-broken" in visitor.get(f"/console/decisions/{id}").text


def test_without_kept_words_the_pages_say_so(tmp_path: Path, upstream: Upstream) -> None:
    with console(tmp_path, upstream, keyed=False, audit__raw=False) as own:
        own.receipt(own.chat(HARMFUL))
        with Visitor(own) as visitor:
            wait_until(lambda: "Rewritten" in visitor.get("/console/decisions?part=rows").text)
            page = visitor.get("/console/decisions").text
            assert "not kept" in page
            found = re.search(r"/console/decisions/([0-9a-f]{32})", page)
            assert found
            assert "were not kept" in visitor.get(f"/console/decisions/{found[1]}").text
            text = '[categories.indiscriminate_weapons]\naction = "block"'
            replayed = visitor.post("/console/policy", text=text, count="50").text
            assert "1 were decided again" in replayed
            assert found[1] in replayed


def test_the_configuration_shows_who_turned_the_console_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VLMGUARD_CONSOLE", raising=False)
    asked = ["serve", "--upstream", "http://127.0.0.1:1/v1", "--show-config"]
    assert main(asked) == 0
    assert "console = false  # default" in capsys.readouterr().out
    assert main([*asked, "--console"]) == 0
    assert "console = true  # flag" in capsys.readouterr().out


def test_a_page_of_another_name_reaches_nothing_where_no_keys_are_asked_for(tmp_path: Path, upstream: Upstream) -> None:
    with console(tmp_path, upstream, keyed=False) as own:
        assert own.get("/console/decisions").status_code == 200
        assert own.get("/console/decisions", host="evil.example").status_code == 421


def test_marks_are_exported_as_rows_for_calibrate(
    tmp_path: Path, upstream: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    with console(tmp_path, upstream) as own:
        words, picture = send(own, HARMFUL), sent(own, with_pictures("What is this? ü", png(9, 9)))
        with Visitor(own, OPS) as visitor:
            visitor.post(f"/console/decisions/{words}/mark", mark="false_alarm", note="a film's title")
            visitor.post(f"/console/decisions/{picture}/mark", mark="false_alarm")
            visitor.post(f"/console/decisions/{picture}/mark", mark="missed")
            assert words in visitor.get("/console/decisions?marked=1").text
    database, out = f"sqlite:{tmp_path / 'audit.db'}", tmp_path / "marks.jsonl"
    assert main(["audit", "export", "--database", database, "--marks", "--out", str(out)]) == 0
    first, second = (json.loads(line) for line in out.read_text().splitlines())
    assert (first["prompt"], first["label"], first["note"], first["images"]) == (
        HARMFUL,
        "benign",
        "a film's title",
        [],
    )
    assert (second["prompt"], second["label"]) == ("What is this? ü", "harmful")
    assert (tmp_path / second["images"][0]).read_bytes() == png(9, 9)
    assert main(["audit", "export", "--database", database, "--marks"]) == 2  # pictures need a place beside a file
    assert main(["audit", "erase", "--database", database, words]) == 0
    capsys.readouterr()
    assert main(["audit", "export", "--database", database, "--marks", "--out", str(out)]) == 0
    assert len(out.read_text().splitlines()) == 1  # a note goes with its decision


def test_who_does_not_ask_for_the_console_does_not_load_it(tmp_path: Path, upstream: Upstream) -> None:
    with gateway(tmp_path, upstream.url) as own:
        assert own.get("/console").status_code == 404
    code = "import sys, vlmguard.gateway.serve; print([name for name in sys.modules if 'console' in name or 'jinja2' in name])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"


def test_a_console_without_decisions_or_without_an_audit_says_so(tmp_path: Path, upstream: Upstream) -> None:
    with console(tmp_path, upstream, keyed=False) as own:
        assert "No decisions yet." in own.get("/console/decisions").text
        assert "No decisions in this time." in own.get("/console/overview").text
        assert own.get("/console/decisions/" + "0" * 32).status_code == 404
    with console(tmp_path, upstream, keyed=False, audit__url="none") as own:
        answer = own.get("/console/decisions")
        assert answer.status_code == 404
        assert "No decisions are kept here" in answer.text
        assert own.get("/console/try").status_code == own.get("/console/policy").status_code == 200


def test_an_audit_that_cannot_be_read_is_told_and_not_hidden(tmp_path: Path, upstream: Upstream) -> None:
    folder = tmp_path / "mount"
    folder.mkdir()
    with console(tmp_path, upstream, keyed=False, audit__url=f"sqlite:{folder / 'audit.db'}") as own:
        assert own.get("/console/decisions").status_code == 200
        folder.rename(tmp_path / "away")
        answer = own.get("/console/decisions")
        assert answer.status_code == 503
        assert "The audit database cannot be read just now" in answer.text
        part = own.get("/console/decisions/newer?than=0~0", hx_request="true")
        assert part.status_code == 503
        assert "<html" not in part.text
        (tmp_path / "away").rename(folder)
        assert own.get("/console/decisions").status_code == 200


def test_nothing_is_read_of_what_a_stranger_sends(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), timeout=20) as raw:
        kind = b"content-type: application/x-www-form-urlencoded\r\n"
        raw.sendall(
            b"POST /console/try HTTP/1.1\r\nhost: localhost\r\n" + kind + b"content-length: 20000000\r\n\r\nprompt="
        )
        assert raw.recv(65536).startswith(b"HTTP/1.1 303 ")  # before the rest of the body comes
    with Visitor(running) as stranger:
        assert stranger.post("/console/login", key="k" * 10_000).status_code == 413


def test_forms_share_the_room_for_bodies_and_give_it_back(tmp_path: Path, upstream: Upstream) -> None:
    toml = KEYS + "[limits]\nbody_bytes = 100_000\nheld_bytes = 100_000\n"
    with console(tmp_path, upstream, keyed=False, toml=toml) as running, Visitor(running, OPS) as visitor:
        answer = visitor.post("/console/policy", text="x" * 150_000)
        assert answer.status_code == 503
        assert "fill the memory" in answer.text
        for _ in range(3):
            assert "no policy yet" in visitor.post("/console/policy", text="x" * 60_000).text


def test_pages_are_counted_among_the_requests_under_way(tmp_path: Path, upstream: Upstream) -> None:
    with console(tmp_path, upstream, keyed=False, toml=KEYS + "[limits]\nin_flight = 1\n") as running:
        with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), timeout=20) as raw:
            kind = b"content-type: application/x-www-form-urlencoded\r\n"
            raw.sendall(
                b"POST /console/login HTTP/1.1\r\nhost: localhost\r\n" + kind + b"content-length: 100\r\n\r\nkey="
            )
            wait_until(lambda: httpx.get(f"{running.url}/console/login").status_code == 503)
        wait_until(lambda: httpx.get(f"{running.url}/console/login").status_code == 200)
