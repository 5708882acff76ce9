"""The pages of docs/ say what the code does: names, cut-offs, the measured table, the commands, the links."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from segstudy.config.overrides import check_overrides
from segstudy.measures import objects
from segstudy.study.analysis.metrics import METRICS
from segstudy.study.analysis.plan import IMAGE_METRICS

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
FAILURES = (ROOT / "docs" / "failure_modes.md").read_text()


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("failure_table", ROOT / "benchmarks" / "failure_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_failure_modes_is_what_the_code_gives(script: ModuleType) -> None:
    shown = FAILURES.split(script.BEGIN)[1].split(script.END)[0]
    assert shown == script.table(script.stories_tested())


def test_the_script_writes_the_page_and_a_small_picture(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "failure_modes.md").write_text(f"before\n{script.BEGIN}old{script.END}after\n")
    script.main(tmp_path)
    text = (tmp_path / "failure_modes.md").read_text()
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| `missed` |" in text
    for folder in (tmp_path, ROOT / "docs"):
        assert 10_000 < (folder / "failure_modes.png").stat().st_size < 150_000


def test_every_figure_is_explained() -> None:
    page = re.sub(r"`_(\d)`", r"`blockiness_\1`", FAILURES)
    above = page.split("## Nine constructed predictors")[0]
    missing = [name for name in (*(f.name for f in METRICS), *IMAGE_METRICS) if f"`{name}`" not in above]
    assert missing == []


def test_the_cut_offs_are_the_codes() -> None:
    for name in ("SMALLEST", "FOUND_AT_ALL", "FOUND_WHOLE", "PURE", "PIECE", "SIZES"):
        value = getattr(objects, name)
        text = ", ".join(f"{v:g}" for v in (value if isinstance(value, tuple) else (value,)))
        assert f"| `{name}` | {text} |" in FAILURES


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_commands_and_links_of_a_page_hold(page: Path) -> None:
    text = page.read_text()
    for line in re.findall(r"python train\.py ([^`\n#]*)", text):
        given = line.replace("…", "x").split()
        swept = [o for o in given if re.fullmatch(r"seed=[\d,]+", o)]
        check_overrides([o for o in given if o not in swept])
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link
