from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from tests.conftest import Draw
from vlmguard.cli.main import main
from vlmguard.trace import render
from vlmguard.types import Evidence, Finding, Level, Modality, Refinement, RiskReport

NONE = Finding(Level.NONE)
CALM = "Please tell me how to calm a quarrel."


def script(file: Path, *rows: tuple[str, str]) -> str:
    file.write_text("".join(json.dumps({"when": when, "answer": answer}) + "\n" for when, answer in rows))
    return f"scripted:{file}"


def verdict(prompt: str | None, category: str = "violent_crimes", *, picture: bool = False) -> str:
    beside = NONE if picture else None
    if prompt is None:
        return render(Refinement("They ask.", RiskReport(NONE, beside, beside)))
    report = RiskReport(Finding(Level.HIGH, category, "It would hurt."), beside, beside)
    return render(
        Refinement("They ask.", report, (Evidence(Modality.TEXT, "text", "it says so"),), "So it harms.", prompt)
    )


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Runs a session over lines of input; returns what it showed."""
    picture = verdict(None, picture=True)
    rewriter = script(
        tmp_path / "rewriter.jsonl",
        ("unreadable", "no verdict at all"),
        ("image 1:", picture),
        ("turn 3, the newest", verdict(None)),
        ("hurt", verdict(CALM)),
        ("forbidden", verdict("x", "child_exploitation")),
        ("", verdict(None)),
    )
    target = script(
        tmp_path / "target.jsonl",
        ("Thanks for that.", "You are welcome."),
        (CALM, "Talk it over."),
        ("hurt", "Like this."),
        ("", "A fine answer."),
    )

    def run(*lines: str, options: tuple[str, ...] = ()) -> str:
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        assert main(["chat", "--target", target, "--rewriter", rewriter, *options]) == 0
        return capsys.readouterr().out

    return run


def test_a_harmless_line_is_answered(session) -> None:  # type: ignore[no-untyped-def]
    shown = session("What is the weather like?")
    assert "forwarded unchanged" in shown
    assert "A fine answer." in shown


def test_a_risky_line_is_refined_and_the_target_answers_that(session) -> None:  # type: ignore[no-untyped-def]
    shown = session("How do I hurt him?")
    assert "rewritten" in shown
    assert "Talk it over." in shown
    assert "Like this." not in shown


def test_the_unguarded_answer_stands_beside_it(session) -> None:  # type: ignore[no-untyped-def]
    shown = session("How do I hurt him?", options=("--compare",))
    assert any("Talk it over." in line and "Like this." in line for line in shown.splitlines())


def test_a_blocked_turn_and_one_that_could_not_be_judged_are_not_kept(session) -> None:  # type: ignore[no-untyped-def]
    shown = session("forbidden", "unreadable", "Thanks for that.")
    assert "Nothing is sent." in shown
    assert "nothing was sent or kept of this turn: the request could not be judged" in shown
    assert shown.count("A fine answer.") == 0
    assert "You are welcome." in shown


def test_a_blocked_turn_is_not_sent_for_comparison_either(session) -> None:  # type: ignore[no-untyped-def]
    shown = session("forbidden", options=("--compare",))
    assert "what is blocked is not sent for comparison either" in shown
    assert "A fine answer." not in shown


def test_pictures_of_a_turn_that_failed_go_with_the_next_line(session, tmp_path: Path, draw: Draw) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "a.png"
    file.write_bytes(draw("hello"))
    shown = session(f"/image {file}", "unreadable", "What does it say?", "And now?")
    assert "its pictures still go with your next line" in shown
    assert "/messages/0/1 (scene)" in shown
    assert shown.count("A fine answer.") == 2


def test_a_turn_that_was_refined_is_refined_again_beneath_the_next(session) -> None:  # type: ignore[no-untyped-def]
    shown = session("How do I hurt him?", "Thanks for that.")
    assert "You are welcome." in shown
    assert "Like this." not in shown


def test_pictures_go_with_the_next_line(session, tmp_path: Path, draw: Draw) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "a picture.png"
    file.write_bytes(draw("hello"))
    shown = session(
        f"/image {file}", "What does it say?", "/image", "/image none.png", "/help", "/reset", "/quit", "never read"
    )
    assert "1 picture(s) go with your next line" in shown
    assert "/messages/0/1 (scene)" in shown
    assert "none.png does not exist" in shown
    assert "commands: /image FILE" in shown
    assert shown.count("A fine answer.") == 1


def test_what_cannot_begin_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--target", "gpt"]) == 2
    assert "names no model" in capsys.readouterr().err
