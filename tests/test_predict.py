"""Photos of every kind predicted: masks, overlays, the table; broken ones, bombs, and commands that are continued."""

import csv
import json
import os
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_tiles import model_of, seeded, smooth
from torch import Tensor, nn
from typer.testing import CliRunner

from segstudy.cli.main import app
from segstudy.console import console
from segstudy.data.images import EXIF_ORIENTATION
from segstudy.errors import ConfigError, DataError
from segstudy.inference import predict as predicting
from segstudy.inference.model import Model
from segstudy.inference.photos import find_photos
from segstudy.inference.pictures import is_ours, overlay, with_legend
from segstudy.inference.predict import PredictionPipeline, PredictionTask, kept_classes
from segstudy.inference.predictions import predict_all
from segstudy.inference.tta import TestTimeAugmentation
from segstudy.tiles import Tiles


class Strongest(nn.Module):
    """The class of a pixel is its strongest colour."""

    def forward(self, image: Tensor) -> Tensor:
        return image * 20


def colours() -> Model:
    """A model with the classes background (red), class 1 (green) and class 2 (blue)."""
    return model_of(Strongest(), 3)


def quarters(height: int = 8, width: int = 12) -> np.ndarray:
    """A photo: red above, green below; the right half of its lower part is blue."""
    photo = np.zeros((height, width, 3), np.uint8)
    photo[: height // 2, :, 0] = 200
    photo[height // 2 :, : width // 2, 1] = 200
    photo[height // 2 :, width // 2 :, 2] = 200
    return photo


def write(path: Path, values: np.ndarray | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(quarters() if values is None else values).save(path, **options)
    return path


def rows_of(out: Path) -> list[dict[str, str]]:
    with open(out / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def mask_of(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The command in tmp_path, with the model of colours for a run: its exit code and what it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("segstudy.inference.model.load", lambda run, device: colours())
    monkeypatch.setattr(console, "_width", 300)

    def call(*words: Any, code: int = 0) -> str:
        done = CliRunner().invoke(app, ["predict", "run", *map(str, words)], catch_exceptions=False)
        assert done.exit_code == code
        return " ".join(done.output.split())

    return call


# Finding


def found(*words: Any) -> list[str]:
    return [photo.mask.as_posix() for photo in find_photos([str(word) for word in words])[0]]


def test_folders_keep_their_tree_and_names_their_order(tmp_path: Path) -> None:
    for name in ("b10.png", "b9.jpg", "a/x.JPG", "a/c/x.tif", ".hidden.png", ".thumbs/x.png"):
        write(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("no photo")
    (tmp_path / "photos" / "figure.eps").write_text("%!PS-Adobe")
    assert found(tmp_path / "photos") == ["a/c/x.png", "a/x.png", "b9.png", "b10.png"]
    assert found(tmp_path / "photos" / "a") == ["c/x.png", "x.png"]
    assert found(tmp_path / "photos/a", tmp_path / "photos/b9.jpg", tmp_path / "photos/a/x.JPG") == [
        "a/c/x.png", "a/x.png", "b9.png",
    ]  # fmt: skip


def test_photos_of_one_stem_do_not_share_a_mask(tmp_path: Path) -> None:
    for name in ("x.png", "x.jpg", "X.bmp", "y.png"):
        write(tmp_path / name)
    assert sorted(found(tmp_path)) == ["X.bmp.png", "x.jpg.png", "x.png.png", "y.png"]
    assert found(tmp_path / "x.jpg") == ["x.png"]


def test_patterns_are_expanded(tmp_path: Path) -> None:
    for name in ("a1.png", "a2.png", "b.png", "deep/a3.png"):
        write(tmp_path / name)
    (tmp_path / "a.txt").write_text("no photo")
    assert found(tmp_path / "a*") == ["a1.png", "a2.png"]
    assert found(tmp_path / "**/a*.png") == ["a1.png", "a2.png", "deep/a3.png"]
    write(tmp_path / "odd[1].png")  # a name that looks like a pattern
    assert found(tmp_path / "odd[1].png") == ["odd[1].png"]


def test_a_folder_with_masks_is_noted(command: Any, tmp_path: Path) -> None:
    for name in ("images/a.png", "masks/a.png"):
        write(tmp_path / "photos" / name)
    assert "photos/masks is predicted too, as photos → name photos/images" in command("photos")
    assert "predicted too" not in command("photos/images", "--out", "other")


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    write(tmp_path / "photo.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"no such file or folder; did you mean photo\.png"):
        find_photos([str(tmp_path / "phoot.png")])
    with pytest.raises(ConfigError, match="no file matches this pattern"):
        find_photos([str(tmp_path / "*.jpg")])
    with pytest.raises(ConfigError, match="no photo in"):
        find_photos([str(tmp_path / "empty")])


# What is written


def test_masks_overlays_and_table(command: Any, tmp_path: Path) -> None:
    write(tmp_path / "photos/a/one.png")
    write(tmp_path / "photos/two.jpg", quarters(40, 60), quality=100, subsampling=0)
    said = command("photos", "--overlay", "--size", "original", "--json", "all.json")
    assert "2 of 2 photos predicted" in said
    out = tmp_path / "predictions"
    mask = Image.open(out / "a/one.png")
    assert mask.mode == "P"
    assert mask.getpalette()[:9] == [0, 255, 128, 10, 245, 128, 20, 235, 128]  # type: ignore[index]
    np.testing.assert_array_equal(np.array(mask), quarters().argmax(2))
    one, two = rows_of(out)
    assert one == {
        "file": str(tmp_path / "photos/a/one.png"), "mask": "a/one.png", "width": "12", "height": "8",
        "confidence": "1.0", "area_background": "0.5", "area_class 1": "0.25", "area_class 2": "0.25",
    }  # fmt: skip
    assert two["mask"] == "two.png"
    assert mask_of(out / "two.png").shape == (40, 60)
    drawn = np.array(Image.open(out / "overlays/two.jpg"))
    assert drawn.shape[0] > 40
    np.testing.assert_allclose(drawn[5, 30], (200, 0, 0), atol=12)  # the background stays the photo
    np.testing.assert_allclose(drawn[30, 10], (5, 222, 64), atol=12)  # half of class 1's colour
    report = json.loads((tmp_path / "all.json").read_text())
    assert [row["mask"] for row in report["results"]] == ["a/one.png", "two.png"]
    assert report["predicted"] == 2
    assert report["failed"] == []
    assert not list(out.rglob("*.partial"))


def test_every_kind_of_file(command: Any, tmp_path: Path) -> None:
    rgb = Image.fromarray(quarters(16, 24))
    folder = tmp_path / "photos"
    folder.mkdir()
    for suffix in ("png", "bmp", "tif", "webp", "ppm", "tga", "gif", "jp2"):
        rgb.save(folder / f"rgb.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    rgb.convert("RGBA").save(folder / "rgba.png")
    rgb.convert("P").save(folder / "palette.png")
    rgb.convert("CMYK").save(folder / "cmyk.tif")
    turned = Image.Exif()
    turned[EXIF_ORIENTATION] = 6
    rgb.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.png", exif=turned)  # is shown turned back
    for mode in ("L", "LA", "1"):
        rgb.convert("L").convert(mode).save(folder / f"grey_{mode}.png")
    Image.fromarray(np.full((16, 24), 40000, np.uint16)).save(folder / "deep.png")
    assert "16 of 16 photos predicted" in command("photos", "--size", "original")
    expected = np.array(rgb).argmax(2)
    for row in rows_of(tmp_path / "predictions"):
        labels = mask_of(tmp_path / "predictions" / row["mask"])
        assert labels.shape == (16, 24)
        grey = Path(row["file"]).name.startswith(("grey", "deep"))
        np.testing.assert_array_equal(labels, 0 if grey else expected, err_msg=row["file"])


def test_photos_of_12_bits_are_refused_beside_others_of_16_they_are_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 24), 2000, np.uint16)).save(tmp_path / "dark.png")
    line = PredictionPipeline(colours(), PredictionTask(), tmp_path / "out")
    with pytest.raises(DataError, match=r"1 image with 16 bits .*11-bit values 2000…2000"):
        list(line.run(find_photos([str(tmp_path)])[0]))
    Image.fromarray(np.full((16, 24), 40000, np.uint16)).save(tmp_path / "deep.png")
    assert len(list(line.run(find_photos([str(tmp_path)])[0]))) == 2


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    assert torch.get_num_threads() == 4
    torch.set_num_threads(before)


@pytest.mark.usefixtures("four_threads")
def test_batches_tiles_and_views_are_those_of_one_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "HELD", 3000)  # so that batches are also cut short, and a photo is alone
    model = model_of(seeded(nn.Conv2d(3, 6, 5, padding=2)), 6)
    files = [write(tmp_path / f"{i}.png", smooth(20 + i, 70 - i)) for i in range(7)]
    tasks = [
        PredictionTask(batch=3),
        PredictionTask(size="20x30", views=TestTimeAugmentation(True)),
        PredictionTask("original"),
        PredictionTask(tiles=Tiles(16), batch=2),
    ]
    for i, task in enumerate(tasks):
        out = tmp_path / f"out{i}"
        assert predict_all(model, task, [str(tmp_path / "*.png")], out)
        for file in files:
            expected = model.predict(file, task.size, task.views, task.tiles)
            assert (mask_of(out / file.name) == expected).mean() > 0.999
    assert [Path(row["file"]) for row in rows_of(out)] == files


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize(
    ("task", "number", "threads"),
    [
        (PredictionTask(), 12, 1),
        (PredictionTask(batch=2), 12, 2),
        (PredictionTask(batch=3), 12, 2),
        (PredictionTask(), 1, 4),
        (PredictionTask("original"), 12, 4),
    ],
)
def test_batches_share_the_threads(
    task: PredictionTask, number: int, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, used = Model.batch_scores, set()

    def counted(*arguments: Any) -> Tensor:
        used.add(torch.get_num_threads())
        return scores(*arguments)

    monkeypatch.setattr(Model, "batch_scores", counted)
    for i in range(number):
        write(tmp_path / f"{i}.png")
    assert predict_all(colours(), task, [str(tmp_path)], tmp_path / "out")
    assert used == {threads}


@pytest.mark.usefixtures("four_threads")
def test_what_was_written_before_a_full_disk_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = predicting.save_mask

    def full(labels: np.ndarray, folder: Path, name: Path, *others: Any) -> None:
        if name.name == "3.png":
            raise OSError("No space left on device")
        save(labels, folder, name, *others)

    monkeypatch.setattr(predicting, "save_mask", full)
    for i in range(16):
        write(tmp_path / f"{i}.png")
    with pytest.raises(ConfigError, match="cannot be written: No space left"):
        predict_all(colours(), PredictionTask(), [str(tmp_path)], tmp_path / "out")
    assert [row["mask"] for row in rows_of(tmp_path / "out")] == ["0.png", "1.png", "2.png"]


def test_the_share_of_a_photo_in_tiles_is_told_until_nobody_waits(tmp_path: Path) -> None:
    for i in range(2):
        write(tmp_path / f"{i}.png", smooth(40, 60))
    told: list[float] = []
    line = PredictionPipeline(colours(), PredictionTask(tiles=Tiles(16, 0), batch=1), tmp_path / "out", told.append)
    assert len(list(line.run(find_photos([str(tmp_path)])[0]))) == 2
    assert told == pytest.approx([1 / 12] * 2 * 3 * 4)
    with pytest.raises(CancelledError):
        line.advance_part(0.5)


def test_some_classes_only(command: Any, tmp_path: Path) -> None:
    write(tmp_path / "one.png")
    command("one.png", "--size", "original", "--classes", "class 2")
    np.testing.assert_array_equal(mask_of(tmp_path / "predictions/one.png"), 2 * (quarters().argmax(2) == 2))
    (row,) = rows_of(tmp_path / "predictions")
    assert (row["area_background"], row["area_class 2"]) == ("0.75", "0.25")
    assert "area_class 1" not in row
    with pytest.raises(ConfigError, match="'clas 2'; did you mean class 2"):
        kept_classes(colours(), "class 1,clas 2")
    with pytest.raises(ConfigError, match="no background"):
        kept_classes(model_of(Strongest(), 3, background=None), "class 1")


def test_the_legend_is_below_and_fits() -> None:
    photo, labels = Image.fromarray(quarters(40, 60)), quarters(40, 60).argmax(2).astype(np.uint8)
    drawn = overlay(photo, labels, [(9, 9, 9)] * 3, 1.0, background=None)
    assert np.array(drawn).max() == 9
    strip = with_legend(drawn, {f"a class with a long name {c}": ((250, 0, c), 0.2) for c in range(5)})
    values = np.array(strip)
    assert strip.width >= 60
    assert (values[:40, :60] == 9).all()
    for c in range(5):
        assert (values[40:] == (250, 0, c)).all(2).sum() > 50


# What goes wrong


def test_broken_files_are_named_at_the_end(command: Any, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    write(folder / "good1.png")
    write(folder / "good2.png")
    whole = write(folder / "cut.jpg", smooth(80, 80)).read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no picture")
    (folder / "empty.gif").write_bytes(b"")
    (folder / "program.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(touched) (w) file\n")
    Image.fromarray(np.ones((4, 4), np.float32)).save(folder / "float.tif")
    said = command("photos", "--json", "all.json", code=1)
    assert "2 of 7 photos predicted; 5 failed" in said
    assert "PostScript" in said
    failed = json.loads((tmp_path / "all.json").read_text())["failed"]
    assert [Path(f["file"]).name for f in failed] == ["cut.jpg", "empty.gif", "float.tif", "program.jpg", "text.png"]
    assert all(Path(f["file"]).name in said for f in failed)
    assert [row["mask"] for row in rows_of(tmp_path / "predictions")] == ["good1.png", "good2.png"]


def bomb(path: Path, side: int) -> Path:
    """A PNG of some bytes that says it has side × side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b""))
    return path


def test_a_bomb_is_one_line(command: Any, tmp_path: Path) -> None:
    bomb(tmp_path / "bomb.png", 60_000)
    write(tmp_path / "good.png", quarters(10, 10))
    limit = Image.MAX_IMAGE_PIXELS
    said = command("bomb.png", "good.png", code=1)
    assert "bomb.png has 3,600,000,000 pixels, more than --max-pixels 178,956,970: not decoded" in said
    assert "--max-pixels 3600000000" in said
    assert "1 of 2 photos predicted" in said
    assert "good.png has 100 pixels, more than --max-pixels 99" in command(
        "good.png", "--max-pixels", 99, "--out", "x", code=1
    )
    command("good.png", "--max-pixels", 100, "--out", "x")
    assert limit == Image.MAX_IMAGE_PIXELS
    with pytest.raises(DataError, match="cannot be read: Image size"):
        colours().predict(tmp_path / "bomb.png")


def test_impossible_wishes_are_refused_before_anything_is_written(command: Any, tmp_path: Path) -> None:
    write(tmp_path / "one.png")
    for words in (["--size", "big"], ["--tiles", 8, "--overlap", 1], ["--tta", "flop"], ["--classes", "cat"]):
        with pytest.raises(ConfigError):
            command("one.png", *words)
    assert not (tmp_path / "predictions").exists()


# Continuing


def test_what_is_there_is_skipped(command: Any, tmp_path: Path) -> None:
    files = [write(tmp_path / f"photos/{i}.png") for i in range(4)]
    command("photos")
    out = tmp_path / "predictions"
    table, before = rows_of(out), {p.name: p.stat().st_mtime_ns for p in out.glob("*.png")}
    assert "0 of 4 photos predicted; 4 already have predictions" in command("photos")
    (out / "1.png").unlink()
    os.utime(files[2], (out.stat().st_mtime + 60,) * 2)  # a photo that has changed since
    assert "2 of 4 photos predicted; 2 already have predictions" in command("photos")
    after = {p.name: p.stat().st_mtime_ns for p in out.glob("*.png")}
    assert [name for name in sorted(after) if after[name] != before[name]] == ["1.png", "2.png"]
    assert rows_of(out) == table
    write(tmp_path / "photos/new.png")
    os.utime(files[2], (0, 0))
    assert "1 of 1 photos predicted" in command("photos/new.png")  # the others' rows stay
    assert len(rows_of(out)) == 5
    assert "5 of 5 photos predicted" in command("photos", "--overlay")
    assert "5 of 5 photos predicted" in command("photos", "--overwrite")


def test_what_was_made_otherwise_is_not_mixed(command: Any, tmp_path: Path) -> None:
    write(tmp_path / "a/one.png")
    write(tmp_path / "b/one.png")
    command("a")
    with pytest.raises(
        ConfigError, match=r"predictions holds predictions made with other settings:\n  size: train, now"
    ):
        command("a", "--size", "original")
    with pytest.raises(ConfigError, match=r"not from b/one\.png"):
        command("b")
    command("b", "--overwrite", "--size", "original")
    (row,) = rows_of(tmp_path / "predictions")
    assert row["file"] == str(tmp_path / "b/one.png")


def test_an_interrupted_command_is_continued(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(12):
        write(tmp_path / f"photos/{i}.png")
    scores, calls = Model.batch_scores, []

    def interrupted(*arguments: Any) -> Tensor:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return scores(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Model, "batch_scores", interrupted)
        command("photos", "--batch", 2, code=130)
    out = tmp_path / "predictions"
    kept = {row["mask"] for row in rows_of(out)}
    assert {"0.png", "1.png"} <= kept < {f"{i}.png" for i in range(12)}
    assert all((out / name).is_file() for name in kept)
    (out / ".11.png.partial").write_bytes(b"half a file")
    said = command("photos", "--batch", 2)
    assert f"{12 - len(kept)} of 12 photos predicted" in said
    assert [row["mask"] for row in rows_of(out)] == [f"{i}.png" for i in range(12)]
    command("photos", "--out", "whole")
    assert rows_of(out) == rows_of(tmp_path / "whole")


def test_predictions_are_never_predicted(command: Any, tmp_path: Path) -> None:
    for name in ("one.jpg", "deep/two.jpg"):
        write(tmp_path / "photos" / name)
    command("photos", "--out", "photos/out", "--overlay")
    assert "0 of 2 photos predicted" in command("photos", "--out", "photos/out", "--overlay")
    assert "2 of 2 photos predicted" in command("photos", "--out", "photos/other")
    assert "2 of 2 photos predicted" in command("photos", "--out", "photos")  # masks beside the photos
    said = command("photos", "--out", "photos")
    assert "0 of 2 photos predicted; 2 already have predictions" in said
    assert "8 files skipped that are predictions themselves" in said
    assert is_ours(tmp_path / "photos/one.png")
    assert is_ours(tmp_path / "photos/out/overlays/one.jpg")
    assert not is_ours(tmp_path / "photos/one.jpg")
    with pytest.raises(ConfigError, match="predictions by segstudy: 1"):
        command("photos/one.png")


def test_other_files_are_never_written_over(command: Any, tmp_path: Path) -> None:
    photo = write(tmp_path / "photos/one.png")
    before = photo.read_bytes()
    for words in ([], ["--overwrite"]):
        with pytest.raises(ConfigError, match=r"one.png: not written by segstudy\n  → another --out"):
            command("photos", "--out", "photos", *words)
    assert photo.read_bytes() == before
