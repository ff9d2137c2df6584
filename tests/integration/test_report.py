"""The page of a release in a browser, as people with a phone or a desk and by day or night see it."""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from gemma3build.report.report import render_report
from tests.unit.report.test_index import hostile, two
from tests.unit.report.test_index import page as index_page
from tests.unit.report.test_report import HOSTILE, many, measured, unmeasured

pytestmark = pytest.mark.integration

SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PAGES = {
    "measured": render_report(*measured()),
    "hostile": render_report(*unmeasured(HOSTILE)),
    "many": render_report(*many()),
    "index": index_page(two()).encode(),
    "hostile index": index_page(hostile(), HOSTILE).encode(),
}
SMALLEST_TEXT = 10.0  # pixels on the screen, in a chart
AA = 4.5  # contrast of text, WCAG 2.2

# Every piece of text that can be seen: what it says, its contrast with what is behind it, its size.
TEXTS = """
const luminance = ([r, g, b]) => [r, g, b]
  .map(v => v / 255)
  .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
const behind = element => {
  for (let e = element; e; e = e.parentElement) {
    const found = numbers(getComputedStyle(e).backgroundColor);
    if (found.length === 3 || found[3] === 1) return found;
  }
  throw new Error("nothing behind " + element.textContent);
};
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  const seen = element.checkVisibility() && !element.closest(".unseen, title");
  if (!seen || !walker.currentNode.data.trim()) continue;
  const style = getComputedStyle(element);
  const colour = numbers(element.closest("svg") ? style.fill : style.color);
  const [dark, light] = [luminance(colour), luminance(behind(element))].sort((a, b) => a - b);
  found.push({
    text: walker.currentNode.data.trim().slice(0, 40),
    contrast: (light + 0.05) / (dark + 0.05),
    size: parseFloat(style.fontSize),
  });
}
return found;
"""
# For each chart, its place and those of its texts and bars.
CHARTS = """
const place = (element, text) => {
  const {left, right, top, bottom} = element.getBoundingClientRect();
  return {left, right, top, bottom, text};
};
return [...document.querySelectorAll("figure.chart")].map(figure => {
  const found = [], walker = document.createTreeWalker(figure, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, range = document.createRange();
    if (!node.data.trim() || node.parentElement.closest("title")) continue;
    range.selectNodeContents(node);
    found.push(...[...range.getClientRects()].map(box => ({
      left: box.left, right: box.right, top: box.top, bottom: box.bottom, text: node.data,
    })));
  }
  found.push(...[...figure.querySelectorAll(".bars svg, .legend svg")].map(svg => place(svg, "")));
  return {...place(figure, figure.querySelector("strong").textContent), parts: found};
});
"""


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is missing: apt-get install chromium chromium-driver")
    return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = program("chromium")
    for switch in (*SWITCHES, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = Chrome(options=options, service=Service(program("chromedriver")))
    found.get("about:blank")  # away from the page that it starts with, which asks for its own parts
    yield found
    found.quit()


Show = Callable[[str], None]


@pytest.fixture(params=[360, 1280], ids=["phone", "desk"])
def width(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=["light", "dark"])
def show(request: pytest.FixtureRequest, browser: Chrome, width: int, tmp_path: Path) -> Show:
    """Opens a page at a width, by day or by night."""
    screen = {"width": width, "height": 800, "deviceScaleFactor": 2, "mobile": width < 1000}
    scheme = {"name": "prefers-color-scheme", "value": request.param}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def opened(name: str) -> None:
        page = tmp_path / "report.html"
        page.write_bytes(PAGES[name])
        for kind in ("browser", "performance"):
            log(browser, kind)  # what an earlier test left
        browser.get(page.as_uri())

    return opened


def ask(browser: Chrome, script: str) -> Any:
    return browser.execute_script(script)


def overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two places share more than a pixel each way, which the leading of two lines may."""
    across = min(one["right"], other["right"]) - max(one["left"], other["left"])
    down = min(one["bottom"], other["bottom"]) - max(one["top"], other["top"])
    return bool(across > 1 and down > 1)


def log(browser: Chrome, kind: str) -> Any:
    """What the browser noted since it was last asked."""
    return browser.get_log(kind)  # type: ignore[no-untyped-call]


def requests(browser: Chrome) -> list[str]:
    events = (json.loads(entry["message"])["message"] for entry in log(browser, "performance"))
    return [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]


@pytest.mark.parametrize("name", PAGES)
def test_the_page_fits_the_screen_and_asks_nobody_for_anything(
    browser: Chrome, show: Show, width: int, name: str
) -> None:
    show(name)
    assert ask(browser, "return document.documentElement.scrollWidth") <= width
    assert log(browser, "browser") == []
    assert {"file"} <= {url.split(":")[0] for url in requests(browser)} <= {"file", "data"}


@pytest.mark.parametrize("name", PAGES)
def test_text_can_be_read(browser: Chrome, show: Show, name: str) -> None:
    show(name)
    texts = ask(browser, TEXTS)
    assert len(texts) > 50
    assert [text for text in texts if text["contrast"] < AA] == []
    assert [text for text in texts if text["size"] < SMALLEST_TEXT] == []


@pytest.mark.parametrize("name", PAGES)
def test_charts_fit_and_their_labels_are_apart(
    browser: Chrome, show: Show, width: int, name: str
) -> None:
    show(name)
    charts = ask(browser, CHARTS)
    assert len(charts) == {"hostile": 1, "index": 4, "hostile index": 4}.get(name, 5)
    for chart in charts:
        assert chart["left"] >= 0
        assert chart["right"] <= width
        for part in chart["parts"]:
            assert chart["left"] <= part["left"] <= part["right"] <= chart["right"], part
        for one, other in itertools.combinations(chart["parts"], 2):
            assert not overlap(one, other), (chart["text"], one, other)


def test_texts_of_a_model_run_nothing(browser: Chrome, show: Show) -> None:
    show("hostile")
    assert ask(browser, "return document.scripts.length + document.images.length") == 0
    shown = ask(
        browser, "return document.querySelector('.rows .text').closest('section').innerText"
    )
    assert '<script>alert("1")</script>' in shown
