from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vlmguard.cli import doctor
from vlmguard.cli.main import main
from vlmguard.trace import render
from vlmguard.types import Finding, Level, Refinement, RiskReport

VERDICT = render(Refinement("They ask.", RiskReport(Finding(Level.NONE), None, None)))


def tried(capsys: pytest.CaptureFixture[str], spec: str) -> tuple[int, dict[str, tuple[bool, str]]]:
    code = main(["doctor", "--model", spec, "--json"])
    checks = json.loads(capsys.readouterr().out)["checks"]
    return code, {check["name"]: (check["ok"], check["detail"]) for check in checks}


def scripted(file: Path, *rows: dict[str, str]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"scripted:{file}"


def test_a_model_that_can_do_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = (
        {"when": "Say hello", "answer": "Hello to you."},
        {"when": "colour", "answer": "It is red."},
        {"answer": VERDICT},
    )
    code, checks = tried(capsys, scripted(tmp_path / "script.jsonl", *rows))
    assert code == 0
    assert list(checks) == ["answers", "sees", "streams", "judges"]
    assert all(ok for ok, _ in checks.values())
    assert "3 pieces" in checks["streams"][1]


@pytest.mark.parametrize(
    ("rows", "failing", "says"),
    [
        ([{"when": "colour", "answer": "red"}], "answers", "no row of the script fits"),
        ([{"answer": "I see a cat."}], "sees", "of a plain red picture: is it a vision-language model?"),
        ([{"answer": "red"}], "judges", "there is no trace"),
    ],
)
def test_the_first_fault_is_told_and_ends_the_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[dict[str, str]], failing: str, says: str
) -> None:
    code, checks = tried(capsys, scripted(tmp_path / "script.jsonl", *rows))
    assert code == 1
    assert list(checks)[-1] == failing
    assert says in checks[failing][1]


def test_an_endpoint_that_is_down(capsys: pytest.CaptureFixture[str]) -> None:
    code, checks = tried(capsys, "endpoint:http://127.0.0.1:1/v1#m")
    assert code == 1
    assert "start the server, or correct the address" in checks["answers"][1]


def test_the_models_of_an_endpoint_are_listed_where_the_one_in_the_spec_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(200, {"data": [{"id": "qwen-vl"}, {"id": "llava"}]})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(404, {"error": {"message": "no such model"}})

        def _answer(self, status: int, body: object) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        code, checks = tried(capsys, f"endpoint:http://127.0.0.1:{server.server_port}/v1#quen-vl")
        server.shutdown()
    assert code == 1
    assert "knows no model 'quen-vl'" in checks["answers"][1]
    assert "models there: qwen-vl, llava" in checks["answers"][1]


def test_an_extra_works_only_if_it_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken_library.py").write_text("raise RuntimeError('operator nms does not exist')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "EXTRAS", {"fine": ("json",), "broken": ("broken_library",), "gone": ("no_such_lib",)})
    code = main(["doctor", "--json"])
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert code == 1
    assert checks["extra fine"]["detail"] == "works"
    assert not checks["extra broken"]["ok"]
    assert "operator nms does not exist" in checks["extra broken"]["detail"]
    assert checks["extra gone"]["ok"]
    assert "not installed (no_such_lib)" in checks["extra gone"]["detail"]
