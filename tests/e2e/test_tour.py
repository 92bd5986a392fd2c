"""A tour of the console in a real browser: from the first sign-in to the plan, with the shop's recorded traffic.

It leaves its screenshots in the folder that ADUMBRA_TOUR names, if it names one.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from tests.console.audit import AUDIT
from tests.console.serving import served

from adumbra.service.workspace import Workspace

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no /usr/bin/chromium (apt-get install chromium)")
SHOP = Path(__file__).parents[2] / "examples" / "shop"
PASSWORD = "the shop's own password"
MINUTE_MS = 60_000


class Tour:
    """A browser that notes what it should not see: requests to elsewhere, errors of the console, failed loads."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.wrong: list[str] = []

    def open(self, browser: object, **kind: object) -> object:
        context = browser.new_context(**kind)  # type: ignore[attr-defined]
        page = context.new_page()
        page.set_default_timeout(2 * MINUTE_MS)
        own = (self.url, self.url.replace("http", "ws"), "data:", "blob:")
        page.on("request", lambda each: None if each.url.startswith(own) else self.wrong.append(f"asked {each.url}"))
        page.on("websocket", lambda each: None if each.url.startswith(own) else self.wrong.append(f"socket {each.url}"))
        page.on("pageerror", lambda error: self.wrong.append(f"error {error}"))
        page.on("console", lambda each: self.wrong.append(f"console {each.text}") if each.type == "error" else None)
        return page

    def shot(self, page: object, name: str, **more: object) -> None:
        page.screenshot(path=self.folder / f"console-{name}.png", **more)  # type: ignore[attr-defined]

    def audit(self, page: object) -> None:
        assert page.evaluate(AUDIT) == []  # type: ignore[attr-defined]


def test_the_tour(tmp_path: Path) -> None:
    folder = Path(os.environ.get("ADUMBRA_TOUR", "") or tmp_path / "shots")
    folder.mkdir(parents=True, exist_ok=True)
    home = tmp_path / "home"
    with served(home) as server, sync_api.sync_playwright() as started:
        url = server.url
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        tour = Tour(url, folder)
        page = tour.open(browser, viewport={"width": 1280, "height": 900})
        _sign_in_first(tour, page, server.first_token())
        _create(tour, page)
        _attach(tour, page)
        _learn(tour, page)
        _ask_what_if(tour, page)
        _read_why_and_plan(tour, page)
        _make_a_token(tour, page)
        for kind, look in (("dark", {"color_scheme": "dark"}), ("phone", {"viewport": {"width": 390, "height": 844}})):
            _look_again(tour, tour.open(browser, **{"viewport": {"width": 1280, "height": 900}, **look}), kind)
        page.click("text=Sign out")
        page.wait_for_selector("text=Password")
        page.goto(f"{url}/networks/shop")
        page.wait_for_selector("input[name=to][value='/networks/shop']", state="attached")
        browser.close()
    assert tour.wrong == []
    with Workspace(home) as workspace:
        acts = [(each.what, each.who) for each in reversed(workspace.state.access.acts())]
    assert [each for each in acts if each[0].startswith("console:")][:4] == [
        ("console: first user", "first-start"), ("console: create network", "ada"), ("console: attach source", "ada"),
        ("console: queue train", "ada"),
    ]  # fmt: skip


def _sign_in_first(tour: Tour, page: sync_api.Page, token: str) -> None:
    page.goto(tour.url)
    assert page.url.startswith(f"{tour.url}/sign-in")
    tour.audit(page)
    page.get_by_label("One-time token").fill(token)
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('Networks')")
    page.wait_for_selector("text=There are no networks yet")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"


def _create(tour: Tour, page: sync_api.Page) -> None:
    spec = (SHOP / "shop.yaml").read_text()
    text = page.get_by_label("Description of the network")
    text.fill(spec.replace("subnet: data, addresses: [10.20.2.11]", "subnet: date, addresses: [10.20.2.11]"))
    page.wait_for_selector("text=did you mean 'data'?")
    assert page.locator(".problems .at").first.inner_text() == "Line 12"
    tour.audit(page)
    tour.shot(page, "create")
    text.fill(spec)
    page.wait_for_selector("text=shop is right")
    page.get_by_role("button", name="Create the network").click()
    page.wait_for_url("**/networks/shop")
    page.wait_for_selector("h1:has-text('shop')")
    page.wait_for_selector("#topology svg >> visible=true")


def _attach(tour: Tour, page: sync_api.Page) -> None:
    source = page.get_by_label("Source", exact=True)
    source.fill("pcap")
    source.press("Enter")
    page.wait_for_selector("#sources .problem")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Send a capture").click()
    chooser.value.set_files(SHOP / "shop.pcap.zst")
    page.wait_for_selector("#sources .fine:has-text('is watched from now on')")
    page.wait_for_selector("#sources .chip:has-text('done')", timeout=8 * MINUTE_MS)
    page.wait_for_selector("#sources :text('472,944 attributed')")
    page.wait_for_selector("#charts svg path", state="attached")
    assert "0.7" in page.locator("#topology .wide").inner_text()  # the shop's last seconds: Mbps of web-1


def _learn(tour: Tour, page: sync_api.Page) -> None:
    page.get_by_role("button", name="Train").click()
    page.wait_for_selector(".job:has-text('train') .chip:has-text('done')", timeout=8 * MINUTE_MS)
    page.get_by_role("button", name="Size the VMs").click()
    page.wait_for_selector("#sizes summary:has-text('Why')", timeout=3 * MINUTE_MS)
    page.wait_for_selector(".headline .chip:has-text('ready')")
    page.wait_for_selector("#charts h3:has-text('CPU') .mark.forecast", state="attached")


def _ask_what_if(tour: Tour, page: sync_api.Page) -> None:
    page.wait_for_selector("#whatif td:has-text('cores')", state="attached")
    took = []
    traffic = page.get_by_role("slider", name="Traffic")
    traffic.focus()
    for expected in ("1.5 × what was seen", "2 × what was seen", "3 × what was seen", "5 × what was seen"):
        began = time.monotonic()
        page.keyboard.press("ArrowRight")
        words = expected.split(" ")[0]
        page.wait_for_selector(f"#whatif [aria-label='With {words} times the traffic']", state="attached")
        took.append(time.monotonic() - began)
        assert traffic.get_attribute("aria-valuetext") == expected
    shortfall = page.get_by_role("slider", name="Shortfall")
    shortfall.focus()
    for words in ("2 %", "5 %"):
        began = time.monotonic()
        page.keyboard.press("ArrowRight")
        page.wait_for_selector(f"#whatif [aria-label='Sizes at a shortfall of {words}']", state="attached")
        took.append(time.monotonic() - began)
    print(f"sliders answered in {', '.join(f'{each:.2f}' for each in took)} s")  # noqa: T201 the tour's figures


def _read_why_and_plan(tour: Tour, page: sync_api.Page) -> None:
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.wait_for_timeout(300)  # until the page stands still
    tour.shot(page, "network")
    page.locator("#sizes summary", has_text="Why").first.click()
    page.wait_for_selector("#sizes details[open] li.first:has-text('cheapest type that fits')")
    page.locator("#sizes").scroll_into_view_if_needed()
    page.locator("#sizes").screenshot(path=tour.folder / "console-sizes.png")
    page.wait_for_selector("#plan .diff li.create:has-text('machine web-1')")
    page.locator("#plan").screenshot(path=tour.folder / "console-plan.png")
    page.locator("#whatif").screenshot(path=tour.folder / "console-whatif.png")
    page.locator("#charts").screenshot(path=tour.folder / "console-charts.png")
    tour.audit(page)
    for way in ("Networks", "Sources", "Frontier"):
        page.get_by_role("navigation", name="Pages").get_by_text(way).click()
        page.wait_for_selector(f"h1:has-text('{way}')")
        page.wait_for_selector(f"nav a[aria-current]:has-text('{way}')")
        tour.audit(page)
        if way != "Frontier":  # of which there is nothing to see yet
            tour.shot(page, way.lower())


def _make_a_token(tour: Tour, page: sync_api.Page) -> None:
    page.get_by_role("navigation", name="Pages").get_by_text("Access").click()
    page.get_by_label("Name of the token").fill("grafana")
    page.get_by_role("button", name="Make the token").click()
    secret = page.locator(".secret").inner_text()
    assert re.fullmatch(r"adu_[A-Za-z0-9_-]{43}", secret)
    page.get_by_role("button", name="I have kept it").click()
    page.wait_for_selector(".secret", state="detached")
    page.wait_for_selector("button[aria-label='Revoke grafana']")
    tour.audit(page)
    tour.shot(page, "access")
    page.reload()
    page.wait_for_selector("button[aria-label='Revoke grafana']")
    assert secret not in page.content()
    page.get_by_role("button", name="Revoke grafana").click()
    page.wait_for_selector("td .chip:has-text('revoked')")


def _look_again(tour: Tour, page: sync_api.Page, kind: str) -> None:
    """The pages once more, dark, or on a phone."""
    page.goto(f"{tour.url}/networks/shop")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    tour.audit(page)
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('shop')")  # where they wanted to go
    page.wait_for_selector("#whatif td:has-text('cores')", state="attached")
    page.wait_for_selector("#charts svg path", state="attached")
    tour.audit(page)
    tour.shot(page, f"network-{kind}")
    page.goto(f"{tour.url}/")
    page.wait_for_selector("th a:has-text('shop')")
    tour.audit(page)
    tour.shot(page, f"networks-{kind}")
    page.context.close()
