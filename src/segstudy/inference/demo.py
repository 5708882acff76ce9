"""A local web page that shows what trained networks see in a photo: `segstudy demo runs/study/v4`.

A photo goes through each network once; its answer is drawn as layers, and the browser blends them. The page asks for
nothing outside of this server, no photo is kept longer than an hour, and none when the server has ended.
"""

import base64
import ipaddress
import logging
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from io import BytesIO
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jinja2 import Environment
from matplotlib import colormaps
from PIL import Image

from segstudy.data.images import PILLOW_ERRORS, read_image
from segstudy.drawing import Palette
from segstudy.errors import ConfigError, DataError
from segstudy.inference.areas import Area, answers, areas, labels_and_confidence
from segstudy.inference.loading import load_each_run
from segstudy.inference.model import Model

if TYPE_CHECKING:
    import gradio
    import uvicorn
    from fastapi import FastAPI

log = logging.getLogger(__name__)
MAX_BYTES = 32 * 2**20
"""Of an uploaded file."""
MAX_PIXELS = 50_000_000
"""Of a photo, unless asked for otherwise: as many as a telephone's camera takes."""
ORIGINAL_PIXELS = 4_000_000
"""Of a photo that a network sees in its original size: a U-Net takes about 2 KiB for each."""
SHOWN = 1024
"""The longer side of what is shown and measured, in pixels."""
KEPT = 3600
"""Seconds after which an uploaded photo is removed."""
SIZES = ("train", "original")
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
"""Those that Pillow reads by itself: for others it runs programs (PostScript), or their readers are little tested."""
EXAMPLES = 6
DIFFERENT = {2: (255, 160, 0), 3: (200, 30, 110)}
"""Colours of pixels with two different answers, and with three or more."""
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:"
)
"""What the browser may load: nothing of other hosts. Gradio's page runs scripts and templates of its own text."""
FONT = ("Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
SHOW = """() => {
  const slider = document.getElementById('opacity'), there = document.querySelector('#result .answers')
  if (there && slider.getBoundingClientRect().top > innerHeight / 2) slider.scrollIntoView({behavior: 'smooth'})
}"""
"""On a small screen the answer lies below what is seen."""
SLIDE = "v => { document.documentElement.style.setProperty('--overlay', v / 100) }"


@dataclass(frozen=True)
class Answer:
    """What a network says of a photo: labels uint8 (H,W), the probability of each, and the seconds that it took."""

    model: Model
    labels: np.ndarray
    confidence: np.ndarray
    seconds: float

    @property
    def areas(self) -> list[Area]:
        return areas(self.labels, self.confidence, self.model.classes)


def open_photo(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """RGB uint8 (H,W,3) of an uploaded file. Raises DataError, in one sentence, for what is no photo or too large."""
    large = f"{path.name} has more than the {max_pixels / 1e6:.4g} million pixels that are taken here"
    try:
        with Image.open(path, formats=FORMATS) as picture:
            pixels = picture.width * picture.height
    except Image.DecompressionBombError as error:
        raise DataError(f"{large}: make it smaller.") from error
    except PILLOW_ERRORS as error:
        raise DataError(
            f"{path.name} is no picture that can be read here: choose a JPEG, PNG, WebP or TIFF."
        ) from error
    if pixels > max_pixels:
        raise DataError(f"{large} ({pixels / 1e6:.4g} million): make it smaller.")
    try:
        return read_image(path)[0]
    except DataError as error:  # the page does not tell where the server keeps its files
        raise DataError(f"{str(error).splitlines()[0].replace(str(path), path.name)}.") from error


def ask(models: Sequence[Model], photo: np.ndarray, size: str) -> list[Answer]:
    """Each network's answer on a photo (H,W,3) at SIZES' `size`, in the size that is shown.

    Raises DataError for another size, and for a photo too large to be seen in its original one.
    """
    if size not in SIZES:
        raise DataError(f"The network's size is one of {', '.join(SIZES)}.")
    pixels = photo.shape[0] * photo.shape[1]
    if size == "original" and pixels > ORIGINAL_PIXELS:
        raise DataError(
            f"A photo of {pixels / 1e6:.3g} million pixels is too large for the network in its original size (up to "
            f"{ORIGINAL_PIXELS / 1e6:g} million): choose the training's, or `segstudy predict`."
        )
    found = []
    for model in models:
        began = time.perf_counter()
        labels, confidence = labels_and_confidence(model.scores(photo, size), shown_size(photo))
        found.append(Answer(model, labels, confidence, time.perf_counter() - began))
    return found


def shown_size(photo: np.ndarray) -> tuple[int, int]:
    """(H,W) of a photo (H,W,3) as it is shown: its own, or with the longer side of SHOWN pixels."""
    height, width = photo.shape[:2]
    scale = min(1, SHOWN / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def layer(labels: np.ndarray, palette: Palette, clear: int | None = None) -> Image.Image:
    """An indexed picture of labels (H,W) in their colours, to lie over a photo; the class `clear` is transparent."""
    picture = Image.fromarray(labels.astype(np.uint8), mode=None)
    picture.putpalette([value for rgb in palette for value in rgb])
    if clear is not None:
        picture.info["transparency"] = clear
    return picture


def confidence_map(confidence: np.ndarray) -> Image.Image:
    """Values (H,W) in 0…1 from dark to light (viridis)."""
    table = (np.asarray(colormaps["viridis"].colors) * 255).round().astype(np.uint8)  # type: ignore[attr-defined]
    return Image.fromarray(table[(confidence * 255).round().astype(np.uint8)])


def uri(picture: Image.Image, kind: str) -> str:
    """A picture as an address that holds it. kind: png for sharp edges, jpeg for photos."""
    file = BytesIO()
    picture.save(file, kind, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def result(found: Sequence[Answer], photo: np.ndarray) -> str:
    """The HTML of the networks' answers on a photo."""
    height, width = shown_size(photo)
    small = Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR)
    return _render(
        "result",
        photo=uri(small, "jpeg"),
        size=(width, height),
        original=photo.shape[1::-1],
        runs=[
            {
                "model": a.model,
                "overlay": uri(layer(a.labels, a.model.palette, a.model.background), "png"),
                "confidence": uri(confidence_map(a.confidence), "jpeg"),
                "mean": float(a.confidence.mean()),
                "areas": a.areas,
                "seconds": a.seconds,
            }
            for a in found
        ],
        disagreement=disagreement(found) if comparable([a.model for a in found]) else None,
    )


def comparable(models: Sequence[Model]) -> bool:
    """Whether there are several, with the same classes: otherwise equal labels would not mean the same."""
    return len(models) > 1 and all(m.classes == models[0].classes for m in models)


def disagreement(found: Sequence[Answer]) -> dict[str, Any]:
    """Where answers differ: a layer, the share of pixels where not all agree, and that of each pair of runs."""
    number = answers([a.labels for a in found])
    colours = [(0, 0, 0), (0, 0, 0), *DIFFERENT.values()]
    return {
        "layer": uri(layer(number.clip(1, 3), colours, clear=1), "png"),
        "share": float((number > 1).mean()),
        "pairs": [
            (a.model.name, b.model.name, float((a.labels != b.labels).mean())) for a, b in combinations(found, 2)
        ],
        "legend": [("two answers", DIFFERENT[2])] + [("three or more", DIFFERENT[3])] * (int(number.max()) > 2),
    }


def _render(part: str, **values: Any) -> str:
    """A part of demo.html; all names are the users' and are escaped."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = percent
    text = files("segstudy.inference").joinpath("demo.html").read_text(encoding="utf-8")
    return getattr(environment.from_string(text).make_module(), part)(**values)


def percent(share: float) -> str:
    """A share as people read it: 12.3 %, and below 0.1 % as that."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


class Demo:
    """What the page does: a photo's file goes in, the HTML of the answers comes out."""

    def __init__(self, models: Sequence[Model], uploads: Path, max_pixels: int = MAX_PIXELS):
        """uploads: the folder of uploaded photos; a visitor can name no other file."""
        self.models, self.uploads, self.max_pixels = list(models), uploads.resolve(), max_pixels

    def segment(self, photo: Mapping[str, Any] | None, size: str = "train") -> str:
        """The answers on an uploaded photo, or one sentence that says why there are none.

        photo: of the upload, its "path". size: that the network sees: train or original.
        """
        if not photo:
            return ""
        try:
            pixels = open_photo(self.uploaded(photo["path"]), self.max_pixels)
            return result(ask(self.models, pixels, size), pixels)
        except DataError as error:
            return _render("refusal", sentence=str(error))
        except torch.OutOfMemoryError:
            return _render("refusal", sentence="The memory is too small for this photo: choose the training's size.")
        except Exception:  # a fault of ours: the visitor is told that there is one, the terminal what it is
            log.exception("on a photo")
            return _render("refusal", sentence="The server failed on this photo: its terminal tells why.")

    def uploaded(self, path: str) -> Path:
        """The file at a path that a visitor sent. Raises DataError if it is not one of those uploaded.

        Gradio checks this only for a page that it serves itself, not for one that is part of another application.
        """
        file = Path(path).resolve()
        if not file.is_relative_to(self.uploads):
            raise DataError("Upload the photo itself: no other file or address is read.")
        return file

    def about(self) -> str:
        """The HTML of what the networks are: their classes, and what they reached in their test."""
        return _render("about", models=self.models, alike=len(self.models) == 1 or comparable(self.models))


def page(demo: Demo, examples: Sequence[Path] = ()) -> "gradio.Blocks":
    """The page's parts and what they do."""
    gr = _gradio()
    trained = sorted({"×".join(map(str, m.size)) for m in demo.models})
    with gr.Blocks(
        title="segstudy demo", analytics_enabled=False, fill_width=True, delete_cache=(KEPT // 4, KEPT)
    ) as blocks:
        gr.HTML(demo.about(), apply_default_css=False, js_on_load=None, elem_id="about")
        with gr.Row():
            with gr.Column(scale=3, min_width=280):
                photo = gr.Image(
                    type="filepath", sources=["upload", "clipboard"], buttons=[], height=240, label="Photo",
                    show_label=False, elem_id="photo",
                )  # fmt: skip
                photo.async_move_resource_to_block_cache = _checked(photo, demo)
            with gr.Column(scale=3, min_width=280):
                size = gr.Radio(
                    [(f"as trained ({', '.join(trained)})", "train"), ("the photo's own", "original")],
                    value="train", label="Size that the network sees", elem_id="size",
                )  # fmt: skip
                if examples:
                    gr.Examples([str(e) for e in examples], photo, label="Examples", examples_per_page=EXAMPLES)
        opacity = gr.Slider(0, 100, 60, step=1, label="Opacity of the colours (%)", elem_id="opacity")
        shown = gr.HTML("", apply_default_css=False, js_on_load=None, elem_id="result")
        # Without preprocessing: Gradio would decode the file before its size is known.
        answered = gr.on(
            [photo.change, size.change], demo.segment, [photo, size], shown, preprocess=False, api_name="segment",
            trigger_mode="always_last", show_progress="minimal",
        )  # fmt: skip
        answered.then(None, js=SHOW)
        opacity.input(None, opacity, js=SLIDE)
    return blocks.queue(max_size=16, default_concurrency_limit=1)


def _gradio() -> Any:
    """The package. Raises ConfigError if it is not there."""
    if find_spec("gradio") is None:
        raise ConfigError("the demo's page needs gradio, which is not installed\n  → pip install 'segstudy[demo]'")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before the import, which reads it
    import gradio

    return gradio


def _checked(photo: Any, demo: Demo) -> Any:
    """Gradio's way of a file to its component, for uploaded ones: it would also copy any of the server's, or fetch."""
    move = photo.async_move_resource_to_block_cache

    async def checked(path: Any) -> Any:
        try:
            return await move(None if path is None else str(demo.uploaded(str(path))))
        except DataError as error:
            raise _gradio().Error(str(error), print_exception=False) from error

    return checked


def web_app(blocks: "gradio.Blocks") -> "FastAPI":
    """The page as an application to be served."""
    gr = _gradio()
    from fastapi import FastAPI

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guarded)
    return gr.mount_gradio_app(
        app, blocks, "/", footer_links=[], run_history=False, allowed_paths=[], max_file_size=MAX_BYTES,
        show_error=False, ssr_mode=False, pwa=False, mcp_server=False, enable_monitoring=False,
        theme=gr.themes.Base(font=FONT, font_mono=("monospace",)),
        head=f"<style>{files('segstudy.inference').joinpath('demo.css').read_text(encoding='utf-8')}</style>",
    )  # fmt: skip


class Guarded:
    """An application whose answers tell the browser to load nothing of other hosts."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = {"content-security-policy": POLICY, "referrer-policy": "no-referrer"}
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in headers.items())]
            await send(message)

        await self.app(scope, receive, guarded)


def listen(host: str = "127.0.0.1", port: int = 7860) -> socket.socket:
    """A socket bound to an address; port 0 is any that is free. Raises ConfigError if it cannot be had."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigError(f"--host {host} --port {port}: {why}\n  → --port 0 takes any that is free") from error


def server(app: "FastAPI") -> "uvicorn.Server":
    """What serves the page. It ends at once at Ctrl-C, though a browser still holds the page open."""
    import uvicorn

    return uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False, timeout_graceful_shutdown=1))


def serve(served: "uvicorn.Server", bound: socket.socket) -> None:
    """Serve until Ctrl-C, or until the process is asked to end (SIGTERM): then too, what was uploaded is removed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        served.run(sockets=[bound])
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGTERM, before)


def address(bound: socket.socket) -> str:
    """Where a browser on this machine finds the page."""
    host, port = bound.getsockname()[:2]
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"


def is_local(bound: socket.socket) -> bool:
    """Whether only this machine reaches the socket."""
    return ipaddress.ip_address(bound.getsockname()[0]).is_loopback


@contextmanager
def uploads() -> Iterator[Path]:
    """A private folder for uploaded photos, removed at the end."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    with tempfile.TemporaryDirectory(prefix="segstudy-demo-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield Path(folder)
        finally:
            del os.environ["GRADIO_TEMP_DIR"]
            if before is not None:
                os.environ["GRADIO_TEMP_DIR"] = before


def open_demo(folders: Sequence[Path], uploads: Path, device: str = "auto", max_pixels: int = MAX_PIXELS) -> Demo:
    """The runs of folders, ready for photos; their classes may differ. Raises ConfigError if one is no run."""
    _gradio()
    if max_pixels > (Image.MAX_IMAGE_PIXELS or max_pixels):
        Image.MAX_IMAGE_PIXELS = max_pixels  # what is asked for is no attack
    models = [Model(member, device) for member in load_each_run(folders)]
    for model in models:
        if model.name == str(model.folder):  # the page does not tell where runs are kept
            model.name = model.folder.name
        elif len(models) == 1:  # nothing to tell it from
            model.name = model.name.partition(" ")[0]
    return Demo(models, uploads, max_pixels)


def examples_in(folder: Path, uploads: Path) -> list[Path]:
    """Copies of the first photos of a folder, by name. Raises ConfigError if there is none."""
    photos = sorted(p for p in folder.glob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    if not photos:
        raise ConfigError(f"--examples {folder}: no .jpg, .png or .webp there")
    kept = uploads / "examples"
    kept.mkdir()
    return [Path(shutil.copy(photo, kept)) for photo in photos[:EXAMPLES]]
