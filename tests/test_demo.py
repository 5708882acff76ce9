"""The demo's page: areas, layers, disagreement, what is refused, and a photo's way through a server of one's own."""

import re
import threading
import time
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
from segstudy.inference.areas import answers, areas, labels_and_confidence
from segstudy.inference.demo import Demo, ask, disagreement, layer, open_photo, result
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
    with web.uploads() as folder, web.listen(port=0) as bound:
        server = web.server(web.web_app(web.page(Demo(models, folder))))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.02)
        try:
            yield web.address(bound)
        finally:
            server.should_exit = True
            thread.join(20)
    assert not thread.is_alive()
    assert not folder.exists()


def test_areas_are_counted_and_sum_to_one() -> None:
    labels = np.array([[2, 2, 2], [0, 0, 2]], np.uint8)
    confidence = np.array([[0.5, 0.6, 0.7], [0.9, 0.3, 0.2]])
    dog, background = areas(labels, confidence, CLASSES)
    assert (dog.label, dog.name, dog.share) == (2, "<b>dog</b>", 4 / 6)
    assert dog.confidence == pytest.approx(0.5)
    assert (background.name, background.share) == ("background", 2 / 6)
    assert background.confidence == pytest.approx(0.6)
    drawn = np.random.default_rng(0).integers(0, 20, (50, 60)).astype(np.uint8)
    found = areas(drawn, np.ones(drawn.shape), [str(c) for c in range(21)])
    assert sum(a.share for a in found) == pytest.approx(1)
    assert [a.share for a in found] == sorted((a.share for a in found), reverse=True)


def test_labels_are_those_of_predict_and_the_confidence_is_their_probability() -> None:
    scores = torch.randn(5, 6, 7, generator=torch.Generator().manual_seed(0))
    labels, confidence = labels_and_confidence(scores, (6, 7))
    np.testing.assert_array_equal(labels, scores.argmax(0))
    np.testing.assert_allclose(confidence, scores.softmax(0).amax(0), rtol=1e-5)
    one, photo = model(), np.random.default_rng(0).integers(0, 255, (30, 20, 3), np.uint8)
    for size in ("train", "original"):
        (answer,) = ask([one], photo, size)
        np.testing.assert_array_equal(answer.labels, one.predict(photo, size))


def test_the_layer_blends_to_the_classes_colours_and_leaves_the_background_clear() -> None:
    photo = Image.new("RGBA", (3, 1), (100, 100, 100, 255))
    over = layer(np.array([[0, 1, 2]]), COLOURS, clear=0).convert("RGBA")
    assert np.array(over)[0, :, 3].tolist() == [0, 255, 255]
    np.testing.assert_array_equal(np.array(Image.alpha_composite(photo, over))[0, 1:, :3], COLOURS[1:])
    half = np.array(Image.blend(photo, Image.alpha_composite(photo, over), 0.5))[0, :, :3]
    np.testing.assert_array_equal(half, [(100, 100, 100), (150, 50, 50), (50, 50, 150)])
    assert np.asarray(layer(np.array([[0, 1, 2]]), COLOURS)).tolist() == [[0, 1, 2]]


def test_disagreement() -> None:
    a, b, c = np.array([[0, 0, 1, 1]]), np.array([[0, 1, 1, 2]]), np.array([[0, 1, 1, 0]])
    assert answers([a, b, c]).tolist() == [[1, 2, 1, 3]]
    assert answers([a, a]).tolist() == [[1, 1, 1, 1]]
    photo = stripes()
    found = disagreement(ask([model("a"), model("b", (0, 2, 1)), model("c", (0, 1, 2))], photo, "original"))
    assert found["share"] == 0.5
    assert found["pairs"] == [("a", "b", 0.5), ("a", "c", 0.0), ("b", "c", 0.5)]
    assert [name for name, _ in found["legend"]] == ["two answers"]


def test_the_page_shows_each_runs_areas_and_escapes_names() -> None:
    photo = stripes()
    html = result(ask([model()], photo, "original"), photo)
    assert "&lt;b&gt;dog" in html
    assert "<b>dog" not in html
    assert re.findall(r"[\d.]+ %", html) == ["50.0 %", "25.0 %", "25.0 %"]
    assert "disagree" not in html
    two = result(ask([model("a"), model("b", (0, 2, 1))], photo, "original"), photo)
    assert "Where they disagree: 50.0 % of the photo" in two
    other = [model("a"), model("b", classes=["sky", "road", "car"])]
    assert "where they disagree is not shown" in result(ask(other, photo, "original"), photo)
    about = Demo(other, Path()).about()
    assert all(name in about for name in ("sky", "road", "car", "cat", "0.500"))
    large = result(ask([model()], stripes(1500, 2048), "train"), stripes(1500, 2048))
    assert "has 2048×1500 pixels and is shown and measured at 1024×750" in large


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
        "text.png": "text.png is no picture that can be read here: choose a JPEG",
        "program.eps": "program.eps is no picture that can be read here",
        "bomb.png": "bomb.png has more than the 50 million pixels that are taken here",
    }
    demo = Demo([model()], tmp_path)
    for name, sentence in said.items():
        html = demo.segment({"path": str(tmp_path / name)})
        assert 'role="alert"' in html
        assert sentence in html
        assert str(tmp_path) not in html
    with pytest.raises(DataError, match=r"0\.01 million pixels .* \(0\.012 million\)"):
        open_photo(tmp_path / "photo.jpg", max_pixels=10_000)
    with pytest.raises(DataError, match="too large for the network in its original size"):
        ask([model()], np.zeros((2001, 2000, 3), np.uint8), "original")
    assert "one of train, original" in demo.segment({"path": str(tmp_path / "photo.jpg")}, "20000x20000")
    assert "no other file" in demo.segment({"path": "/etc/hostname"})
    (tmp_path / "link.jpg").symlink_to(Path(__file__))
    assert "no other file" in demo.segment({"path": str(tmp_path / "link.jpg")})
    assert demo.segment(None) == ""


def test_a_fault_of_ours_is_told_without_its_details(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = model()
    broken.network = SimpleNamespace()  # type: ignore[assignment]
    Image.fromarray(stripes()).save(tmp_path / "photo.png")
    assert "The server failed on this photo" in Demo([broken], tmp_path).segment({"path": str(tmp_path / "photo.png")})
    assert "not callable" in caplog.text


def test_bound_to_this_machine_unless_told_otherwise() -> None:
    with web.listen(port=0) as bound:
        assert bound.getsockname()[0] == "127.0.0.1"
        assert web.is_local(bound)
        port = bound.getsockname()[1]
        assert web.address(bound) == f"http://127.0.0.1:{port}"
        with pytest.raises(ConfigError, match=r"(?s)in use.*--port 0"):
            web.listen(port=port)
    with web.listen("0.0.0.0", 0) as bound:
        assert not web.is_local(bound)
        assert web.address(bound).startswith("http://127.0.0.1:")
    with pytest.raises(ConfigError, match=r"--host 203\.0\.113\.7"):
        web.listen("203.0.113.7", 0)


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
        html = client.predict(gradio_client.handle_file(photo), "train", api_name="/segment")
        shares = np.unique(models[0].predict(photo), return_counts=True)[1] / (40 * 56)
        assert web.percent(max(shares)) in html
        assert html.count('class="stack"') == 3
        assert "Where they disagree: 0.0 %" in html
        (tmp_path / "text.jpg").write_text("no photo")
        refused = client.predict(gradio_client.handle_file(tmp_path / "text.jpg"), "train", api_name="/segment")
        assert "text.jpg is no picture" in refused


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
            event = http.post("/gradio_api/call/segment", json={"data": [asked, "train"]}).json()["event_id"]
            said = http.get(f"/gradio_api/call/segment/{event}").text
            assert "Upload the photo itself" in said
            assert "data:image" not in said
        upload = {"files": ("large.jpg", bytes(web.MAX_BYTES + 1))}
        assert http.post("/gradio_api/upload", files=upload).status_code == 413
