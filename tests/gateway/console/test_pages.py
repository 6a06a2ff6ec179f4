"""The pages in a real browser: what people do, hostile content, keyboard, narrow screens, accessibility."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.console.kit import EXAMPLES, OPS, browser, console, png, send, sent, with_pictures
from tests.gateway.kit import FORBIDDEN, HARMFUL, HARMLESS, SAID, Running, Upstream

AXE = Path(__file__).with_name("axe.min.js").read_text()
HOSTILE = '<script>window.hurt=1</script><img src=x onerror="window.hurt=1">\u202egnp.exe\u200b</textarea>"><svg onload=window.hurt=1>'
LONG = "How do I bake bread? " * 50_000
RTL = "مرحبا، كيف أخبز الخبز في البيت؟"


@dataclass
class Site:
    """A gateway with traffic, and the ids of what was sent through it."""

    running: Running
    chromium: Any
    ids: dict[str, str]


@dataclass
class Tab:
    """A page of the browser, and what it complained of."""

    page: Any
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("gateway")
    with browser() as chromium, Upstream().running() as upstream, console(folder, upstream) as running:
        prompts = {"harmless": HARMLESS, "harmful": HARMFUL, "forbidden": FORBIDDEN, "hostile": HOSTILE, "rtl": RTL}
        ids = {name: send(running, prompt) for name, prompt in prompts.items()}
        ids["long"] = send(running, LONG)
        ids["odd"] = sent(running, with_pictures(HOSTILE, png(1, 2000), png(2000, 1), png(1, 1)))
        ids["list"] = sent(
            running, with_pictures("Fill in the list in the picture.", (EXAMPLES / "list.png").read_bytes())
        )
        ids["refused"] = sent(running, b'{"messages": "<b>no chat</b>"}')
        yield Site(running, chromium, ids)


@pytest.fixture
def tab(site: Site, request: pytest.FixtureRequest) -> Iterator[Tab]:
    """Logged in with the operator's key, as somebody types it."""
    options: dict[str, Any] = getattr(request, "param", {})
    context = site.chromium.new_context(**options)
    page = context.new_page()
    found = Tab(page)
    page.on(
        "console",
        lambda message: found.complaints.append(message.text) if message.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    page.on("dialog", lambda dialog: found.complaints.append(f"a dialog opened: {dialog.message}"))
    page.goto(f"{site.running.url}/console")
    page.locator("input:focus").wait_for()  # the field has the focus, on a busy machine a moment later
    page.keyboard.type(OPS)
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/decisions")
    yield found
    context.close()


def open_decision(site: Site, tab: Tab, name: str) -> None:
    tab.page.goto(f"{site.running.url}/console/decisions/{site.ids[name]}")
    tab.page.wait_for_selector(".again")


def test_a_filter_changes_the_list_in_place_and_a_decision_opens_by_keyboard(site: Site, tab: Tab) -> None:
    page = tab.page
    page.select_option("#f-outcome", "block")
    rows = page.locator(".decisions tbody tr")
    rows.nth(2).wait_for(state="detached")
    assert rows.count() == 2
    row = page.locator(f"a[href='/console/decisions/{site.ids['forbidden']}']")
    row.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".again")
    assert page.locator("h1").inner_text() == "Blocked"
    assert "The signature holds" in page.locator(".signature").inner_text()
    assert tab.complaints == []


def test_what_was_read_in_a_picture_is_outlined_and_the_rewrite_is_shown_as_a_difference(site: Site, tab: Tab) -> None:
    open_decision(site, tab, "list")
    page = tab.page
    assert page.locator(".picture polygon.box").count() >= 2
    assert "launder" in page.locator(".readings").inner_text()
    box, picture = page.locator("polygon.box").first.bounding_box(), page.locator(".picture").bounding_box()
    assert picture["x"] <= box["x"]
    assert box["x"] + box["width"] <= picture["x"] + picture["width"]
    assert (
        page.evaluate("fetch(document.querySelector('.picture image').href.baseVal).then((answer) => answer.status)")
        == 200
    )
    open_decision(site, tab, "harmful")
    assert page.locator("ins").count() >= 1
    assert HARMFUL in page.get_by_role("group", name="Before").inner_text()
    assert tab.complaints == []


@pytest.mark.parametrize("name", ["hostile", "odd", "long", "rtl", "refused"])
def test_hostile_content_is_shown_as_text_and_breaks_nothing(site: Site, tab: Tab, name: str) -> None:
    page = tab.page
    page.goto(f"{site.running.url}/console/decisions/{site.ids[name]}")
    page.wait_for_selector("text=cannot be read as a request" if name == "refused" else ".again")
    if name in ("hostile", "odd"):
        said = page.locator(".turn .text").last.inner_text()
        assert "<script>window.hurt=1</script>" in said
        assert "U+202E" in said
        assert "U+200B" in said
    if name == "long":
        assert "more characters" in page.locator(".turn").last.inner_text()
        assert page.evaluate("document.documentElement.outerHTML.length") < 200_000
    if name == "rtl":
        words = page.locator(".turn .text").last
        assert words.evaluate("(element) => getComputedStyle(element).direction") == "rtl"
    page.goto(f"{site.running.url}/console/decisions")
    assert page.evaluate("window.hurt") is None
    assert page.locator("body script, img").count() == 0
    assert tab.complaints == []


def test_a_mark_is_saved_in_place(site: Site, tab: Tab) -> None:
    open_decision(site, tab, "harmless")
    page = tab.page
    page.get_by_label("Missed").check()
    page.get_by_label("Note").fill(HOSTILE)
    page.get_by_role("button", name="Save").click()
    page.wait_for_selector("text=Saved.")
    page.reload()
    assert page.get_by_label("Missed").is_checked()
    assert page.get_by_label("Note").input_value() == HOSTILE.replace("\n", "")
    page.get_by_label("Not marked").check()
    page.get_by_role("button", name="Save").click()
    page.wait_for_selector("text=Saved.")
    assert tab.complaints == []


def test_newer_decisions_are_announced_and_shown_when_asked(site: Site, tab: Tab) -> None:
    page = tab.page
    site.running.chat("What is a newer question?", authorization=f"Bearer {OPS}")
    page.get_by_role("link", name="1 newer: show").click(timeout=20_000)
    page.wait_for_selector("text=What is a newer question?")
    assert tab.complaints == []


def test_a_trial_shows_evidence_report_rewrite_and_both_answers(site: Site, tab: Tab) -> None:
    page = tab.page
    page.goto(f"{site.running.url}/console/try")
    page.get_by_role("button", name="A plain question").click()
    assert page.locator("#prompt").input_value()
    page.fill("#prompt", HARMFUL)
    page.set_input_files("#picture", EXAMPLES / "list.png")
    page.check("#ask")
    page.check("#ask_unguarded")
    page.fill("#model", "tiny")
    page.get_by_role("button", name="Judge").click()
    page.wait_for_selector("text=Done.")
    assert page.locator("#try-pictures polygon.box").count() >= 2
    assert "indiscriminate weapons" in page.locator("#try-report").inner_text()
    assert page.locator("#try-rewrite ins").count() >= 1
    assert page.locator("#try-guarded").inner_text() == page.locator("#try-unguarded").inner_text() == SAID
    assert tab.complaints == []


def test_a_trial_that_cannot_be_says_why(site: Site, tab: Tab) -> None:
    page = tab.page
    page.goto(f"{site.running.url}/console/try")
    page.get_by_role("button", name="Judge").click()
    page.wait_for_selector("text=there is nothing to judge")
    page.fill("#prompt", HARMLESS)
    page.set_input_files("#picture", {"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"})
    page.get_by_role("button", name="Judge").click()
    page.wait_for_selector("text=This could not be used")
    assert tab.complaints == []


def test_a_proposed_policy_shows_what_would_have_changed(site: Site, tab: Tab) -> None:
    page = tab.page
    page.goto(f"{site.running.url}/console/policy")
    page.fill("#text", '[categories.indiscriminate_weapons]\naction = "blok"')
    page.get_by_role("button", name="Check").click()
    page.wait_for_selector("text=did you mean 'block'?")
    page.fill("#text", '[categories.indiscriminate_weapons]\naction = "block"')
    page.get_by_role("button", name="Check").click()
    page.wait_for_selector("text=What would have changed", timeout=60_000)
    assert page.locator(f"#replay a[href='/console/decisions/{site.ids['harmful']}']").count() == 1
    assert tab.complaints == []


NARROW = {"viewport": {"width": 360, "height": 740}}
PATHS = (
    "/console/decisions",
    "/console/overview",
    "/console/try",
    "/console/policy",
    "list",
    "odd",
    "refused",
    "forbidden",
)


def visit(site: Site, tab: Tab, path: str) -> None:
    if path.startswith("/"):
        tab.page.goto(site.running.url + path)
    elif path == "refused":
        tab.page.goto(f"{site.running.url}/console/decisions/{site.ids[path]}")
        tab.page.wait_for_selector("text=cannot be read as a request")
    else:
        open_decision(site, tab, path)


@pytest.mark.parametrize("tab", [NARROW], indirect=True)
def test_no_page_is_wider_than_a_narrow_screen(site: Site, tab: Tab) -> None:
    for path in PATHS:
        visit(site, tab, path)
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= 360, path


@pytest.mark.parametrize("tab", [NARROW], indirect=True)
def test_nothing_is_cut_off_on_a_narrow_screen(site: Site, tab: Tab) -> None:
    visit(site, tab, "/console/decisions")
    widths = "[...document.querySelectorAll('.moment input')].map((one) => one.getBoundingClientRect().width)"
    assert min(tab.page.evaluate(widths)) > 250  # a date and a time of day
    for path in ("/console/overview", "list"):
        visit(site, tab, path)
        tab.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        outside = """[...document.querySelectorAll('.chart text')].filter((one) => one.getBoundingClientRect().left <
            one.closest(one.matches('.label') ? '.chart' : '.card').getBoundingClientRect().left - 0.5).map((one) => one.textContent)"""
        assert tab.page.evaluate(outside) == []
        wide = "[...document.querySelectorAll('table')].filter((one) => one.scrollWidth > 360).map((one) => one.textContent.slice(0, 80) + one.scrollWidth)"
        assert tab.page.evaluate(wide) == []


@pytest.mark.parametrize(
    "tab", [{"color_scheme": "light"}, {"color_scheme": "dark"}, {"color_scheme": "dark", **NARROW}], indirect=True
)
def test_axe_finds_nothing(site: Site, tab: Tab) -> None:
    """All of WCAG 2.2 A and AA that axe-core knows, and its best practices."""
    wrong: list[str] = []
    for path in (*PATHS, "/console/login-page"):
        if path == "/console/login-page":
            tab.page.context.clear_cookies()
            tab.page.goto(f"{site.running.url}/console/login")
        else:
            visit(site, tab, path)
            tab.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        tab.page.evaluate(AXE)
        found = tab.page.evaluate("axe.run(document)")
        assert found["passes"]
        wrong += [
            f"{path}: {rule['id']}: {rule['help']}: {rule['nodes'][0]['html'][:200]}" for rule in found["violations"]
        ]
    assert wrong == []
    assert tab.complaints == []
