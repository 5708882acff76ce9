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
        page.wait_for_function("document.querySelector('#note textarea, #note input')?.value.startsWith('Confidence')")
        page.wait_for_selector(".mask")
        text = page.inner_text("body")
        assert "50.0 %" in text
        assert ("Where they disagree" in text) is (runs > 1)
        assert page.locator(".mask").count() >= 2 * runs  # of each run, two classes beside the background
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
