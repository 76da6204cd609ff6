"""A real Chromium for tests of the page: one process for all of them."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

WIDTHS = (360, 820, 1440)
SCHEMES = ("light", "dark")


def find_chromium() -> str | None:
    """Return the path of a Chromium, if there is one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def open_browser(path: str) -> Generator[Any]:
    """Start a browser for the block."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Tab:
    """A page of the browser that records its errors."""

    def __init__(self, browser: Any, home: str, **options: Any) -> None:
        """Open an empty page.

        Args:
            browser: From `open_browser`.
            home: The beginning of all addresses that may be asked for.
            options: As playwright's `new_page` takes them.
        """
        self.page: Any = browser.new_page(**{"viewport": {"width": 1440, "height": 900}, **options})
        self.page.set_default_timeout(120_000)
        self.faults: list[str] = []
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.faults.append(said.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", lambda asked: self._see(asked.url, home))

    def _see(self, url: str, home: str) -> None:
        if not url.startswith((home, "data:", "blob:")):
            self.faults.append(f"asked for {url}")

    def look(self, name: str, folder: Any = None) -> list[str]:
        """Check the page at every width, light and dark; return its faults: overflow, and what axe reports.

        Args:
            name: Of the view, for messages and screenshots.
            folder: For screenshots; without it, none are made.
        """
        from axe_playwright_python.sync_playwright import Axe

        found: list[str] = []
        for scheme in SCHEMES:
            self.page.emulate_media(color_scheme=scheme)
            for width in WIDTHS:
                self.page.set_viewport_size({"width": width, "height": 900})
                where = f"{name}, {width} pixels, {scheme}"
                over = self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
                if over > 0:
                    found.append(f"{where}: {over} pixels too wide")
                if folder is not None:
                    self.page.screenshot(path=folder / f"{name}-{width}-{scheme}.png", full_page=True)
                for fault in Axe().run(self.page).response["violations"]:
                    if fault["impact"] in ("serious", "critical"):
                        nodes = [node["html"][:120] for node in fault["nodes"][:3]]
                        found.append(f"{where}: {fault['id']}: {fault['help']}: {nodes}")
        return found

    def close(self) -> None:
        """Close the page."""
        self.page.close()
