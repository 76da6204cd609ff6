"""The page as it is used: in Chromium, by keyboard alone, at three widths, light and dark, without a fault."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serve.browser import Tab, find_chromium, open_browser
from tests.serve.conftest import OpenSite, Site
from tests.serve.test_viewer import write_viewer
from tests.serve.test_workers import spread_offer

pytest.importorskip("playwright", reason="no playwright here")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
PICTURES = os.environ.get("MILR_PICTURES")
"""A folder for screenshots of every view; none are made without it."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = find_chromium()
    if path is None:
        pytest.skip("no chromium here: apt-get install chromium")
    with open_browser(path) as opened:
        yield opened


@pytest.fixture
def tab(browser: Any, site: Site) -> Iterator[Tab]:
    tab = Tab(browser, site.url)
    yield tab
    tab.close()
    assert tab.faults == []


def look(tab: Tab, name: str) -> None:
    folder = Path(PICTURES) if PICTURES else None
    assert tab.look(name, folder) == []


NAME = """() => {
    const at = document.activeElement;
    return at === null || at === document.body ? "" : (at.labels?.[0] ?? at).textContent;
}"""


def tab_to(page: Any, wanted: str) -> None:
    """Press Tab until the focus is on an element with this name."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if wanted in page.evaluate(NAME):
            return
    raise AssertionError(f"{wanted!r} cannot be reached by Tab")


def test_a_search_can_be_followed_by_keyboard_alone(tab: Tab, site: Site) -> None:
    page = tab.page
    page.goto(site.url)
    page.get_by_role("heading", name="Watch a search").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    tab_to(page, "Prompt")
    page.keyboard.type("a purple dog")
    page.keyboard.press("Enter")
    page.get_by_text("finished", exact=True).wait_for()
    assert "#/watch/search_" in page.url, "the search has a link of its own"
    tab_to(page, "Step")
    last = int(page.evaluate("document.activeElement.value"))
    assert last > 2
    page.keyboard.press("ArrowLeft")
    page.get_by_text(f"Step {last - 1}", exact=True).wait_for()
    page.keyboard.press("Home")
    page.get_by_text("Step 0", exact=True).wait_for()
    tab_to(page, "Play")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Pause").wait_for()
    page.keyboard.press("Enter")
    tab_to(page, "step 0")
    for press, shown in (("Home", 0), ("ArrowRight", 1), ("End", last), ("ArrowLeft", last - 1)):
        page.keyboard.press(press)
        page.get_by_text(f"Step {shown}", exact=True).wait_for()
    assert page.locator(".text .word").count() > 0 and page.locator(".text .word[title*='moved by']").count() > 0
    assert page.locator(".text mark").count() > 0, "words that changed"
    with page.expect_download() as caught:
        tab_to(page, "Download GIF")
        page.keyboard.press("Enter")
    assert Path(caught.value.path()).read_bytes()[:3] == b"GIF"
    look(tab, "watch")


def test_the_race_is_compared_by_images_and_seconds(tab: Tab, site: Site) -> None:
    page = tab.page
    page.goto(f"{site.url}/#/race")
    page.get_by_label("Prompt").fill("a purple cow")
    page.get_by_role("button", name="Race").click()
    lanes = page.locator(".columns > section")
    for lane in range(3):
        lanes.nth(lane).get_by_text("out of").first.wait_for()
    assert page.get_by_text("bright, which only watches").count() == 3
    assert page.locator("svg path.watched").count() == 3
    assert page.get_by_text(" images", exact=False).count() >= 3
    page.get_by_label("seconds").check()
    assert page.locator("svg text", has_text=" s").count() == 3
    link = page.url
    assert link.count("search_") == 3
    look(tab, "race")
    page.goto("about:blank")
    page.goto(link)
    lanes.nth(2).get_by_text("out of").first.wait_for()


def test_runs_are_found_opened_and_compared(tab: Tab, site: Site) -> None:
    asked = {"method": "best-of-n", "settings": {"steps": 2}}
    for seed in (1, 2):
        site.result(
            site.search("a green yak", "an easy green yak", **{**asked, "settings": {"steps": 2, "seed": seed}})
        )
    page = tab.page
    page.goto(f"{site.url}/#/runs")
    page.get_by_label("Words").fill("green yak")
    page.get_by_label("Order").select_option("gain")
    page.get_by_role("button", name="Find").click()
    page.get_by_text("2 runs").wait_for()
    assert "text=green+yak" in page.url and "sort=gain" in page.url
    look(tab, "runs")
    page.get_by_role("button", name="Compare: a green yak").first.click()
    page.get_by_role("button", name="Compare with the chosen one: a green yak").click()
    page.get_by_role("heading", name="Two runs, prompt by prompt").wait_for()
    assert page.locator("tbody tr").count() == 2
    ids = page.url.split("/")[-2:]
    look(tab, "compare")
    page.goto(f"{site.url}/#/runs/{ids[0]}/0.0/1")
    page.get_by_text("Before and after").wait_for()
    page.get_by_text("Step 1", exact=True).wait_for()
    slider = page.get_by_label("First image")
    slider.focus()
    slider.press("ArrowRight")
    assert page.locator(".picture .after").evaluate("one => getComputedStyle(one).clipPath").count("51%") == 1
    page.get_by_label("Prompt and image").select_option("1.0")
    page.get_by_role("region", name="an easy green yak").wait_for()
    assert page.url.endswith("/1.0/0"), "each prompt and step has a link"
    look(tab, "run")


def test_settings_are_a_form_with_presets(tab: Tab, site: Site) -> None:
    page = tab.page
    page.goto(site.url)
    page.get_by_text("Settings", exact=True).click()
    page.get_by_label("Preset").select_option(label="best of 21")
    assert page.get_by_label("Method").input_value() == "best-of-n"
    assert page.get_by_label("steps", exact=True).input_value() == "20"
    page.get_by_label("steps", exact=True).fill("1")
    look(tab, "settings")
    page.get_by_label("Prompt").fill("a purple fox")
    page.get_by_role("button", name="Draw").click()
    page.get_by_text("finished", exact=True).wait_for()
    found = site.http.get("/v1/searches", params={"text": "purple fox"}).json()["data"][0]
    asked = site.http.get(f"/v1/searches/{found['id']}").json()
    assert found["method"] == "best-of-n" and asked["results"][0]["step"] == 1


def test_a_run_in_a_file_opens_without_a_server(browser: Any, site: Site, tmp_path: Path) -> None:
    write_viewer(site, tmp_path / "run.html")
    address = (tmp_path / "run.html").as_uri()
    tab = Tab(browser, address)
    tab.page.goto(address)
    tab.page.get_by_text("Before and after").wait_for()
    tab.page.get_by_label("Step", exact=True).press("ArrowLeft")
    tab.page.get_by_text("Step 1", exact=True).wait_for()
    assert tab.page.url == f"{address}#0.0/1"
    loaded = "[...document.images].filter((one) => one.complete && one.naturalWidth > 0).length"
    assert tab.page.evaluate(loaded) == tab.page.locator("img").count() > 3
    look(tab, "file")
    tab.close()
    assert tab.faults == []


def test_the_server_shows_its_workers(browser: Any, tab: Tab, site: Site, serve: OpenSite) -> None:
    tab.page.goto(f"{site.url}/#/server")
    tab.page.get_by_text("other is not in memory").wait_for()
    with serve(spread_offer([])) as spread:
        spread.result(spread.search("two dogs", "a red cat", method="one-shot"))
        workers = Tab(browser, spread.url)
        workers.page.goto(f"{spread.url}/#/server")
        workers.page.get_by_role("region", name="Workers").wait_for()
        assert workers.page.locator("tbody tr").count() == 2
        look(workers, "server")
        workers.close()
        assert workers.faults == []
