"""The demo's page: areas, drawings, disagreement, what is refused, and a photo's way through a server."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio_client
import httpx
import numpy as np
import pytest
import torch
from conftest import make_voc
from omegaconf import OmegaConf
from PIL import Image
from test_evaluate import train
from torch import nn
from typer.testing import CliRunner

from segstudy.cli.main import app as command_line
from segstudy.errors import ConfigError, DataError
from segstudy.inference import demo as web
from segstudy.inference.demo import Answer, Demo, ask, labels_and_confidence, number_of_answers, open_photo
from segstudy.inference.loading import LoadedRun
from segstudy.inference.model import Model

COLOURS = [(0, 0, 0), (200, 0, 0), (0, 0, 200)]
CLASSES = ["background", "cat", "<b>dog</b>"]


class Channels(nn.Module):
    """A network without context: the class is the strongest of the image's channels, in this order."""

    def __init__(self, order: tuple[int, ...] = (0, 1, 2)):
        super().__init__()
        self.order = order

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image[:, list(self.order)] * 10


def model(name: str = "one", order: tuple[int, ...] = (0, 1, 2), classes: list[str] = CLASSES) -> Model:
    record: dict[str, Any] = {"class_names": classes, "palette": COLOURS, "data": {"background": 0}}
    record["metrics"] = {"network": {"miou": 0.5}}
    cfg = OmegaConf.create({"data": {"size": [90, 120]}, "trainer": {"precision": "32-true"}})
    return Model(LoadedRun(name, Path("runs") / name, Channels(order), record, cfg), "cpu")


def stripes(height: int = 4, width: int = 8) -> np.ndarray:
    """A photo: the left half red, then a quarter green and one blue."""
    photo = np.zeros((height, width, 3), np.uint8)
    photo[:, : width // 2, 0] = photo[:, width // 2 : width * 3 // 4, 1] = photo[:, width * 3 // 4 :, 2] = 255
    return photo


@contextmanager
def served(models: Sequence[Model]) -> Iterator[str]:
    """The address of a page that is served meanwhile."""
    with web.uploads() as folder:
        blocks = web.page(Demo(models, folder))
        address, local = web.launch(blocks, folder, port=0)
        assert local
        try:
            yield address
        finally:
            blocks.close()
    assert not folder.exists()


def note_of(values: list[Any]) -> str:
    assert values[1] is None  # there are no answers
    return values[0]


def test_areas_are_counted_and_sum_to_one() -> None:
    labels = np.array([[2, 2, 2], [0, 0, 2]], np.uint8)
    confidence = np.array([[0.5, 0.6, 0.7], [0.9, 0.3, 0.2]])
    dog, background = Answer(model(), labels, confidence, 0.0).areas()
    assert dog == ("<b>dog</b>", 4 / 6, pytest.approx(0.5))
    assert background == ("background", 2 / 6, pytest.approx(0.6))
    drawn = np.random.default_rng(0).integers(0, 20, (50, 60)).astype(np.uint8)
    many = model(classes=[str(c) for c in range(21)])
    shares = [share for _, share, _ in Answer(many, drawn, np.ones(drawn.shape), 0.0).areas()]
    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)


def test_labels_are_those_of_predict_and_the_confidence_is_their_probability() -> None:
    scores = torch.randn(5, 6, 7, generator=torch.Generator().manual_seed(0))
    labels, confidence = labels_and_confidence(scores, (6, 7))
    np.testing.assert_array_equal(labels, scores.argmax(0))
    np.testing.assert_allclose(confidence, scores.softmax(0).amax(0), rtol=1e-5)
    one, photo = model(), np.random.default_rng(0).integers(0, 255, (30, 20, 3), np.uint8)
    for size in ("train", "original"):
        (answer,) = ask([one], photo, size)
        np.testing.assert_array_equal(answer.labels, one.predict(photo, size))


def test_each_class_but_the_background_is_drawn_with_the_opacity() -> None:
    regions = Answer(model(), np.array([[0, 1, 2]], np.uint8), np.ones((1, 3)), 0.0).regions(0.6)
    assert [(mask.tolist(), name) for mask, name in regions] == [
        ([[0, 0.6, 0]], "cat"), ([[0, 0, 0.6]], "<b>dog</b>"),
    ]  # fmt: skip


def answered(models: Sequence[Model], photo: np.ndarray, folder: Path) -> dict[str, Any]:
    """The values of the page's components for a photo."""
    Image.fromarray(photo).save(folder / "photo.png")
    size = "original" if photo.size < 1000 else "train"
    values = Demo(models, folder).segment({"path": str(folder / "photo.png")}, size, 60)
    n = len(models)
    keys = {"note": values[0], "tables": values[2 : 2 + n], "maps": values[2 + n : 2 + 2 * n]}
    return keys | {"pairs": values[2 + 2 * n], "drawings": values[3 + 2 * n :]}


def test_disagreement(tmp_path: Path) -> None:
    a, b, c = np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 2]]), np.array([[0, 1, 1, 0]])
    assert number_of_answers([a, b, c]).tolist() == [[1, 2, 1, 3]]
    assert number_of_answers([a, a]).tolist() == [[1, 1, 1, 1]]
    found = answered([model("a"), model("b", (0, 2, 1)), model("c", (0, 1, 2))], stripes(), tmp_path)
    assert found["pairs"] == [["all", "50.0 %"], ["a – b", "50.0 %"], ["a – c", "0.0 %"], ["b – c", "50.0 %"]]
    assert [name for _, name in found["drawings"][-1][1]] == ["two labels"]
    assert found["drawings"][-1][1][0][0].mean() == 0.5 * 0.6


def test_the_page_shows_each_runs_areas(tmp_path: Path) -> None:
    one = answered([model()], stripes(), tmp_path)
    assert one["tables"] == [
        [["background", "50.0 %", "1.00"], ["cat", "25.0 %", "1.00"], ["<b>dog</b>", "25.0 %", "1.00"]]
    ]
    assert one["pairs"] == []
    assert len(one["drawings"]) == 1
    other = [model("a"), model("b", classes=["sky", "road", "car"])]
    assert len(answered(other, stripes(), tmp_path)["drawings"]) == 2  # labels of different classes are not compared
    assert [row[4] for row in Demo(other, tmp_path).about()] == ["background, cat, <b>dog</b>", "sky, road, car"]
    assert Demo(other, tmp_path).about()[0][:4] == ["a", "a", "90×120", "0.500"]
    large = answered([model()], stripes(1500, 2048), tmp_path)
    assert "has 2048×1500 pixels and is shown and measured at 1024×750" in large["note"]
    assert large["drawings"][0][0].shape == (750, 1024, 3)


def test_what_is_refused_is_said_in_one_sentence(tmp_path: Path) -> None:
    Image.fromarray(stripes(100, 120)).save(tmp_path / "photo.jpg")
    whole = (tmp_path / "photo.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (20, 20)).save(tmp_path / "program.eps")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    assert open_photo(tmp_path / "photo.jpg").shape == (100, 120, 3)
    said = {
        "cut.jpg": "cut.jpg cannot be read: image file is truncated",
        "text.png": "text.png cannot be read as a picture: choose a JPEG",
        "program.eps": "program.eps cannot be read as a picture",
        "bomb.png": "the limit is 50 million",
    }
    demo = Demo([model()], tmp_path)
    for name, sentence in said.items():
        note = note_of(demo.segment({"path": str(tmp_path / name)}, "train", 60))
        assert sentence in note
        assert str(tmp_path) not in note
    with pytest.raises(DataError, match=r"0\.012 million pixels; the limit is 0\.01 million"):
        open_photo(tmp_path / "photo.jpg", max_pixels=10_000)
    with pytest.raises(DataError, match="one would see this photo at 2000×2001, which is too large"):
        ask([model()], np.zeros((2001, 2000, 3), np.uint8), "original")
    assert "one of train, original" in note_of(demo.segment({"path": str(tmp_path / "photo.jpg")}, "20000x20000", 60))
    assert "other files and addresses are not read" in note_of(demo.segment({"path": "/etc/hostname"}, "train", 60))
    (tmp_path / "link.jpg").symlink_to(Path(__file__))
    assert "other files and addresses are not read" in note_of(
        demo.segment({"path": str(tmp_path / "link.jpg")}, "train", 60)
    )
    assert note_of(demo.segment(None, "train", 60)) == ""


def test_a_fault_of_ours_is_told_without_its_details(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = model()
    broken.network = SimpleNamespace()  # type: ignore[assignment]
    Image.fromarray(stripes()).save(tmp_path / "photo.png")
    values = Demo([broken], tmp_path).segment({"path": str(tmp_path / "photo.png")}, "train", 60)
    assert "The server failed on this photo" in note_of(values)
    assert "not callable" in caplog.text


def test_bound_to_this_machine_unless_told_otherwise(tmp_path: Path) -> None:
    with served([model()]) as address:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
        with pytest.raises(ConfigError, match=r"(?s)in use.*--port 0"):
            web.launch(web.page(Demo([model()], tmp_path)), tmp_path, port=int(address.rpartition(":")[2]))
    blocks = web.page(Demo([model()], tmp_path))
    address, local = web.launch(blocks, tmp_path, "0.0.0.0", 0)
    blocks.close()
    assert not local
    assert address.startswith("http://127.0.0.1:")
    with pytest.raises(ConfigError, match=r"--host 203\.0\.113\.7"):
        web.launch(blocks, tmp_path, "203.0.113.7", 0)


def test_without_gradio_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(web, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'segstudy\[demo\]'"):
        CliRunner().invoke(command_line, ["demo", str(tmp_path), "--port", "0"], catch_exceptions=False)


def test_examples_are_the_first_photos_of_a_folder(tmp_path: Path) -> None:
    photos, uploads = tmp_path / "photos", tmp_path / "uploads"
    photos.mkdir()
    uploads.mkdir()
    with pytest.raises(ConfigError, match=r"no \.jpg"):
        web.examples_in(photos, uploads)
    for i in range(9):
        (photos / f"{i}.JPG").touch()
    (photos / "0.txt").touch()
    kept = web.examples_in(photos, uploads)
    assert kept == [uploads / "examples" / f"{i}.JPG" for i in range(web.EXAMPLES)]


def test_a_photo_goes_through_a_server(tmp_path: Path) -> None:
    make_voc(tmp_path / "photos")
    run = ["data=voc", f"data.root={tmp_path / 'photos'}", "data.size=32", "trainer.precision=32-true"]
    models = web.open_demo([train(tmp_path / "a", *run)], tmp_path, "cpu").models
    assert models[0].name == "a"
    photo = next((tmp_path / "photos").rglob("*.jpg"))
    with served([*models, *models]) as address:
        client = gradio_client.Client(address, verbose=False, analytics_enabled=False)
        values = client.predict(gradio_client.handle_file(photo), "train", 60, api_name="/segment")
        shares = np.unique(models[0].predict(photo), return_counts=True)[1] / (40 * 56)
        note, first, second, *maps, pairs, _, _, disagreement = values
        assert note.startswith("Confidence is")
        assert first["data"][0][1] == second["data"][0][1] == web.percent(max(shares))
        assert len(maps) == 2
        assert pairs["data"] == [["all", "0.0 %"]]
        assert disagreement["annotations"] == []
        (tmp_path / "text.jpg").write_text("no photo")
        refused = client.predict(gradio_client.handle_file(tmp_path / "text.jpg"), "train", 60, api_name="/segment")
        assert "text.jpg cannot be read as a picture" in refused[0]


def test_the_server_refuses_other_pages_names_and_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    with served([model()]) as address, httpx.Client(base_url=address, trust_env=False) as http:
        port = address.rpartition(":")[2]
        for host, origin, expected in (
            (f"localhost:{port}", f"http://localhost:{port}", 200),
            (f"127.0.0.1:{port}", None, 200),
            (f"[::1]:{port}", f"http://[::1]:{port}", 200),
            (f"evil.example:{port}", None, 421),
            (f"localhost.evil.example:{port}", None, 421),
            (f"127.0.0.1:{port}", "http://evil.example", 403),
            (f"127.0.0.1:{port}", "null", 403),
            (f"127.0.0.1:{port}", f"http://localhost:{int(port) + 1}", 403),
        ):
            headers = {"host": host} | ({"origin": origin} if origin else {})
            assert http.get("/", headers=headers).status_code == expected, (host, origin)
        photo = {"files": ("a.png", b"0" * 999, "image/png")}
        assert http.post("/gradio_api/upload", files=photo).status_code == 200
        monkeypatch.setattr(web, "MAX_TOTAL", 900)
        refused = http.post("/gradio_api/upload", files=photo)
        assert refused.status_code == 507
        assert "try again in an hour" in refused.text


def test_the_server_gives_and_fetches_nothing_else(tmp_path: Path) -> None:
    Image.fromarray(stripes()).save(tmp_path / "private.png")
    with served([model()]) as address, httpx.Client(base_url=address, trust_env=False) as http:
        page = http.get("/")
        assert page.status_code == 200
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert not re.search(r"(src|href)=\"https?://", page.text)
        assert "googleapis" not in page.text + http.get("/theme.css").text
        assert http.get(f"/gradio_api/file={tmp_path / 'private.png'}").status_code == 403
        assert http.get(f"/gradio_api/file={Path(__file__).resolve()}").status_code == 403
        meta = {"meta": {"_type": "gradio.FileData"}}
        for asked in (
            {"path": str(tmp_path / "private.png")},
            {"path": str(tmp_path / "private.png"), **meta},
            {"path": f"{address}/theme.css", **meta},
            {"path": "https://example.com/photo.jpg", **meta},
        ):
            event = http.post("/gradio_api/call/segment", json={"data": [asked, "train", 60]}).json()["event_id"]
            said = http.get(f"/gradio_api/call/segment/{event}").text
            refused_by_gradio = said == 'event: error\ndata: {"error": null}\n\n'
            assert refused_by_gradio or "Upload the photo itself" in said
            assert "data:image" not in said
        upload = {"files": ("large.jpg", bytes(web.MAX_BYTES + 1))}
        assert http.post("/gradio_api/upload", files=upload).status_code == 413
