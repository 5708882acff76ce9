"""The demo in a real browser: an upload, its answer, the slider, and that nothing is asked of other hosts."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_demo import model, served, stripes

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the path")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("width", [1280, 375])
def test_a_photo_is_dropped_and_read(runs: int, width: int, browser: Any, tmp_path: Path) -> None:
    Image.fromarray(stripes(90, 120)).save(tmp_path / "photo.png")
    models = [model("a"), model("b", (0, 2, 1)), model("c", (2, 1, 0))][:runs]
    asked: list[str] = []
    with served(models) as address:
        page = browser.new_page(viewport={"width": width, "height": 700})
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.set_input_files("#photo input[type=file]", tmp_path / "photo.png")
        page.wait_for_selector("#result .areas")
        assert page.locator("#result .areas").first.inner_text().split("\n")[0].startswith("class")
        assert "50.0 %" in page.inner_text("#result .areas >> nth=0")
        assert page.locator("#result .over").count() == (1 if runs == 1 else runs + 1)
        assert ("Where they disagree" in page.inner_text("#result")) is (runs > 1)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        number, shown = len(asked), "getComputedStyle(document.querySelector('#result .over')).opacity"
        assert page.evaluate(shown) == "0.6"
        page.locator("#opacity input[type=range]").focus()
        page.keyboard.press("End")
        page.wait_for_function(f"{shown} == '1'")
        assert asked[number:] == []  # the browser blends: nothing is computed again
        page.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
