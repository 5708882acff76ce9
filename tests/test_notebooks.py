"""The notebooks run from their first cell to their last on small data, and are kept without outputs."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from conftest import make_pet, make_voc
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

from segstudy.config.check import check
from segstudy.config.compose import compose_config
from segstudy.config.run_folder import claim_folder
from segstudy.study.analysis import analyse
from segstudy.train_and_test import run

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelManager]:
    """One kernel for all notebooks, on one thread of the CPU: importing takes longer than most cells."""
    place = tmp_path_factory.mktemp("jupyter")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            (place / name).mkdir()
            patch.setenv(name, str(place / name))
        patch.setenv("PYTHONWARNINGS", "ignore:IProgress not found")  # tqdm's: the widgets come with a real Jupyter
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        manager = KernelManager()
        manager.start_kernel()
        yield manager
        manager.shutdown_kernel(now=True)


def execute(name: str, folder: Path, kernel: KernelManager, **settings: Any) -> nbformat.NotebookNode:
    """The executed notebook; settings go over those of its first cell. Raises CellExecutionError where a cell fails."""
    given = {f"NOTEBOOK_{key}": str(value) for key, value in settings.items()}
    given["SEGSTUDY_CACHE"] = os.environ["SEGSTUDY_CACHE"]
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    start = nbformat.v4.new_code_cell(
        f"import os\nos.chdir({str(folder)!r})\n"  # first of all: the folder of the notebook before is gone
        "%reset -f\nimport os\n"
        "for key in [key for key in os.environ if key.startswith('NOTEBOOK_')]:\n    del os.environ[key]\n"
        f"os.environ |= {given!r}"
    )
    notebook.cells.insert(0, start)
    NotebookClient(notebook, timeout=120, km=kernel).execute()
    return notebook


def printed(notebook: nbformat.NotebookNode) -> str:
    """What all cells printed, tables included, without colours."""
    texts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs(notebook)]
    return re.sub(r"\x1b\[[\d;]*m", "", "\n".join(texts))


def pictures(notebook: nbformat.NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def complaints(notebook: nbformat.NotebookNode) -> list[str]:
    """What was printed as an error or a warning."""
    return [output.text for output in outputs(notebook) if output.get("name") == "stderr"]


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def after(words: str, text: str) -> float:
    """The number that follows these words."""
    found = re.search(re.escape(words) + r"\s*([\d.]+)", text)
    assert found, f"{words!r} is not in:\n{text}"
    return float(found[1])


def mean_over_batches(rows: np.ndarray, size: int) -> float:
    """The mean of the batches' mIoU from (image, truth, prediction, pixels), class by class."""
    means = []
    for batch in np.unique(rows[:, 0] // size):
        _, truth, prediction, pixels = rows[rows[:, 0] // size == batch].T
        ious = [
            pixels[(truth == c) & (prediction == c)].sum() / pixels[(truth == c) | (prediction == c)].sum()
            for c in np.unique(truth)
        ]
        means.append(np.mean(ious))
    return float(np.mean(means))


def test_voc_notebook(tmp_path: Path, kernel: KernelManager) -> None:
    make_voc(tmp_path / "my photos", train=16, val=20, size=(32, 40))
    notebook = execute(
        "voc_notebook", tmp_path, kernel, ROOT=tmp_path / "my photos", RUNS=tmp_path / "runs", SIZE=32, EPOCHS=1,
        LEARNING_RATE=0.003, ENCODER="resnet18", WEIGHTS="null", FINETUNE_IMAGES=4, FINETUNE_EPOCHS=1,
    )  # fmt: skip
    first, tuned = (
        json.loads((tmp_path / "runs" / "voc_notebook" / name / "record.json").read_text())
        for name in ("smp_unet", "finetuned")
    )
    assert (first["status"], tuned["status"]) == ("done", "done")
    assert tuned["metrics_before"] == first["metrics"]
    assert tuned["data"]["roles"]["fit"]["images"] == 4
    text, miou = printed(notebook), first["metrics"]["network"]["miou"]
    assert after("mIoU of one confusion matrix:", text) == pytest.approx(miou, abs=1e-6)
    rows = np.load(tmp_path / "runs" / "voc_notebook" / "smp_unet" / "test" / "counts.npz")["network"]
    for size, words in ((1, "batches of 1 "), (4, "batches of 4 "), (16, "batches of 16 "), (20, "the whole split")):
        assert after(words, text) == pytest.approx(mean_over_batches(rows, size), abs=6e-4)
    assert mean_over_batches(rows, 20) == pytest.approx(miou)
    assert mean_over_batches(rows, 1) > miou + 0.01
    assert pictures(notebook) == 4
    assert complaints(notebook) == []


def test_pet_compare(tmp_path: Path, kernel: KernelManager) -> None:
    make_pet(tmp_path / "photos", {"Abyssinian": 12, "Bengal": 12}, test=4)
    study, records = tmp_path / "runs" / "pet-benchmark", {}
    for model in ("pet_1", "pet_4"):
        cfg = compose_config([
            "experiment=pet_benchmark", f"model={model}", f"data.root={tmp_path / 'photos'}", "data.size=32",
            "data.batch_size=8", "trainer.accelerator=cpu", "trainer.max_epochs=3", "encoder.widths=[8,8,8,8,8]",
            "decoder.widths=[8,8,8,8]", "callbacks.pictures.count=1", "optim.lr=0.01",
        ])  # fmt: skip
        check(cfg)
        records[model] = claim_folder(study / model, cfg)
        run(cfg, study / model, records[model])
    # a run that failed is named in the table, and left out of all that follows
    claim_folder(study / "pet_2", cfg).note(status="failed", error="stopped")
    notebook = execute("pet_compare", tmp_path, kernel, STUDY=study, ROOT=tmp_path / "photos", IMAGES=5, SHOWN=2)
    text = printed(notebook)
    for model, record in records.items():
        line = f"{model}: {record.values['parameters']:,} parameters, mIoU"
        assert after(line, text) == pytest.approx(record.values["metrics"]["network"]["miou"], abs=1e-3)
    assert "pet_2: stopped" in text
    assert "pet_2: " not in text.replace("pet_2: stopped", "")
    assert re.search(r"pet_1 +1\.000 +[\d.]+\n +pet_4 +[\d.]+ +1\.000\n", text)
    assert pictures(notebook) == 3
    assert complaints(notebook) == []


def test_study(tmp_path: Path, kernel: KernelManager) -> None:
    study = tmp_path / "runs" / "study"
    for model in ("v1", "v2"):
        cfg = compose_config([
            f"model={model}", "data.size=32", "data.train_images=16", "data.val_images=24", "trainer=cpu",
            "trainer.max_epochs=1", "encoder.widths=[8,8,8,8,8]", "decoder.widths=[8,8,8,8]",
            "callbacks.pictures.count=1", "optim.lr=0.01",
        ])  # fmt: skip
        run(cfg, study / model, claim_folder(study / model, cfg))
    claim_folder(study / "v3", cfg).note(status="failed", error="stopped")
    notebook = execute("study", tmp_path, kernel, STUDY=study)
    text, record = printed(notebook), json.loads((study / "v1" / "record.json").read_text())
    findings, _ = analyse.analyse_study(study)
    group = findings.groups[0]
    assert findings.sentence in text
    assert "left out: v3: failed: stopped" in text
    assert group.differences[0].words in text
    assert after("\n  by hand:", text) == pytest.approx(record["metrics"]["network"]["miou"], abs=1e-6)
    first = group.variants[0]
    assert after("supported classes, by hand:", text) == pytest.approx(first.miou.value, abs=1e-6)
    for mode in ("missed", "hallucinated"):
        assert after(f"{mode} by hand:", text) == pytest.approx(first.metrics[mode].value, abs=1e-6)
    assert pictures(notebook) == 4
    assert complaints(notebook) == []


def test_python(tmp_path: Path, kernel: KernelManager) -> None:
    settings = {"SIZE": 32, "IMAGES": 16, "EPOCHS": 1, "WIDTH": 8, "CACHE": tmp_path / "cache"}
    notebook = execute("python", tmp_path, kernel, **settings)
    text = printed(notebook)
    assert 0 <= after("v1 mIoU", text) <= 1
    assert re.search(r"v3.* in mIoU", text)
    assert re.search(r"background +in +\d+ images, IoU 0\.\d{3}", text)
    assert pictures(notebook) == 1


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebooks_are_kept_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for before, cell in zip([None, *notebook.cells], notebook.cells, strict=False):
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
            assert before is not None
            assert before.cell_type == "markdown", f"no words before:\n{cell.source}"
