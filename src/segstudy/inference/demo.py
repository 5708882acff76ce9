"""A local web page that shows the predictions of trained networks for a photo: `segstudy demo runs/study/v4`.

Each network predicts a photo once; the slider only redraws. The page loads nothing from other servers. Photos are kept
for at most an hour, and are removed when the server stops.
"""

import ipaddress
import logging
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import matplotlib
import numpy as np
import torch
from PIL import Image

from segstudy.data.bands import Bands
from segstudy.data.images import PILLOW_ERRORS, resize_image
from segstudy.data.tiff import SUFFIXES
from segstudy.drawing import photo_of
from segstudy.errors import ConfigError, DataError
from segstudy.inference.loading import load_each_run
from segstudy.inference.model import InputSettings, Model
from segstudy.inference.photos import pixel_limit
from segstudy.labels import scores_at
from segstudy.runs.headline import headline_metrics
from segstudy.runs.listing import size as bytes_in

if TYPE_CHECKING:
    import gradio

log = logging.getLogger(__name__)
MAX_BYTES = 32 * 2**20
"""Largest uploaded file."""
MAX_TOTAL = 2**30
"""Bytes of all photos, and pictures made of them, that the server holds at a time."""
MAX_PIXELS = 50_000_000
"""Default limit for a photo; phone cameras stay below it."""
SEEN_PIXELS = 4_000_000
"""Most pixels at which a network sees a photo: a U-Net needs about 2 KiB for each."""
SHOWN = 1024
"""The longer side, in pixels, at which predictions are shown and measured."""
HEIGHT = 420
"""Height of a picture on the page, in CSS pixels."""
KEPT = 3600
"""Seconds after which an uploaded photo is removed."""
SIZES = ("train", "original")
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
"""Accepted formats. For others, Pillow runs external programs (PostScript), or its readers are little tested."""
EXAMPLES = 6
DISAGREEMENT = {2: ("two labels", "#ffa000"), 3: ("three or more", "#c81e6e")}
"""Name and colour of pixels with two different predicted labels, and with three or more."""
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "worker-src 'self' blob:",
    "referrer-policy": "no-referrer",
}
"""The browser may load nothing from other hosts. Gradio's page needs inline scripts and `eval`."""
FONT = ("Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")


# Predictions of a photo


@dataclass(frozen=True)
class Answer:
    """A network's labels for a photo uint8 (H,W), their probabilities float32 (H,W), and the seconds it took."""

    model: Model
    labels: np.ndarray
    confidence: np.ndarray
    seconds: float

    def areas(self) -> list[tuple[str, float, float]]:
        """(class, share of the pixels, mean confidence) of the predicted classes, largest first."""
        found = [(self.model.classes[c], self.labels == c) for c in np.unique(self.labels)]
        rows = [(name, float(here.mean()), float(self.confidence[here].mean())) for name, here in found]
        return sorted(rows, key=lambda row: -row[1])

    def regions(self, opacity: float) -> list[tuple[np.ndarray, str]]:
        """For AnnotatedImage: a mask with `opacity` for each predicted class except the background."""
        there = [c for c in np.unique(self.labels) if c != self.model.background]
        return [((self.labels == c) * opacity, self.model.classes[c]) for c in there]


def open_photo(path: Path, max_pixels: int = MAX_PIXELS, bands: Bands | None = None) -> np.ndarray:
    """An uploaded file as uint8 (H,W,channels), RGB by default. Raises DataError, with one sentence, if it is no photo
    or too large."""
    bands = bands or Bands()
    try:
        with pixel_limit(max_pixels):
            if bands.are_photos or path.suffix.lower() not in SUFFIXES:
                Image.open(path, formats=FORMATS).close()
            bands.check([path])
            return bands.read(path)[0]
    except Image.DecompressionBombError as error:
        pixels = int(re.findall(r"\d+", str(error))[0])
        raise DataError(
            f"{path.name} has {pixels / 1e6:.4g} million pixels; the limit is {max_pixels / 1e6:.4g} million: make it "
            "smaller."
        ) from error
    except DataError as error:  # hides from visitors where the server keeps its files
        raise DataError(f"{str(error).splitlines()[0].replace(str(path), path.name)}.") from error
    except PILLOW_ERRORS as error:
        raise DataError(f"{path.name} cannot be read as a picture: choose a JPEG, PNG, WebP or TIFF.") from error


def ask(models: Sequence[Model], photo: np.ndarray, size: str) -> list[Answer]:
    """Each network's prediction of a photo (H,W,channels) at one of SIZES, interpolated to the shown size.

    Raises DataError for another size, and for a photo that a network would see with too many pixels.
    """
    if size not in SIZES:
        raise DataError(f"The size must be one of {', '.join(SIZES)}.")
    for model in models:
        (height, width), _ = model.input_of(photo.shape[:2], InputSettings(size))
        if height * width > SEEN_PIXELS:
            raise DataError(
                f"{model.name} would see this photo at {width}×{height}, which is too large (limit: "
                f"{SEEN_PIXELS / 1e6:g} million pixels): make it smaller, choose another size, or use "
                "`segstudy predict`."
            )
    found = []
    for model in models:
        began = time.perf_counter()
        labels, confidence = labels_and_confidence(model.scores(photo, InputSettings(size)), shown_size(photo))
        found.append(Answer(model, labels, confidence, time.perf_counter() - began))
    return found


def labels_and_confidence(logits: torch.Tensor, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Labels uint8 (H,W) from logits (C,h,w), interpolated to `shape` as in a run's test, and their probabilities."""
    logits = scores_at(logits, shape).float()
    best, labels = logits.max(0)
    confidence = (best - logits.logsumexp(0)).exp().clamp(max=1)  # rounding may exceed 1
    return labels.to(torch.uint8).cpu().numpy(), confidence.cpu().numpy()


def shown_size(photo: np.ndarray) -> tuple[int, int]:
    """(H,W) at which a photo (H,W,3) is shown: its own, or scaled so that the longer side has SHOWN pixels."""
    height, width = photo.shape[:2]
    scale = min(1, SHOWN / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def number_of_answers(labels: Sequence[np.ndarray]) -> np.ndarray:
    """The number of different labels of each pixel among several predictions (H,W): int64 (H,W), 1 where all agree."""
    ordered = np.sort(np.stack(labels), axis=0)
    return 1 + (ordered[1:] != ordered[:-1]).sum(0)


def percent(share: float) -> str:
    """12.3 %, or < 0.1 % for a small share above 0."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


# The page


class Demo:
    """The functions behind the page: from a photo's file to the values of the page's components."""

    def __init__(self, models: Sequence[Model], uploads: Path, max_pixels: int = MAX_PIXELS):
        """uploads: the folder of uploaded photos; no other file is read."""
        self.models, self.uploads, self.max_pixels = list(models), uploads.resolve(), max_pixels
        # With different classes, equal labels have different meanings.
        self.comparable = len(models) > 1 and all(m.classes == models[0].classes for m in models)

    def uploaded(self, path: str) -> Path:
        """The file at a path that a visitor sent. Raises DataError if it is not an uploaded one."""
        file = Path(path).resolve()
        if not file.is_relative_to(self.uploads):
            raise DataError("Upload the photo itself: other files and addresses are not read.")
        return file

    def segment(self, photo: Mapping[str, Any] | None, size: str, opacity: float) -> list[Any]:
        """Predict a photo; returns a note, the state for `redraw`, tables, confidence maps, disagreement and drawings.

        photo: has the "path" of the upload. size: one of SIZES. On an error, the note is one sentence with the reason.
        """
        note = ""
        try:
            if photo:
                pixels = open_photo(self.uploaded(photo["path"]), self.max_pixels, self.models[0].bands)
                return self._shown(pixels, ask(self.models, pixels, size), opacity)
        except DataError as error:
            note = str(error)
        except torch.OutOfMemoryError:
            note = "There is not enough memory for this photo: make it smaller, or choose another size."
        except Exception:  # a bug: the visitor sees that there is one, the terminal shows it
            log.exception("on a photo")
            note = "The server failed on this photo; its terminal shows the error."
        return [note, None, *([] for _ in self.models), *(None for _ in self.models), [], *self.redraw(None, 0)]

    def _shown(self, pixels: np.ndarray, found: list[Answer], opacity: float) -> list[Any]:
        """The values of `segment` for a photo (H,W,channels) and its predictions."""
        height, width = shown_size(pixels)
        shown = resize_image(np.ascontiguousarray(photo_of(pixels)), (height, width))
        note = "Confidence is the network's probability of the predicted class; it can be high for a wrong class."
        if pixels.shape[:2] != shown.shape[:2]:
            note += f" The photo has {pixels.shape[1]}×{pixels.shape[0]} pixels and is shown and measured at "
            note += f"{width}×{height}."
        means = [f"{a.model.name}: mean confidence {a.confidence.mean():.2f}, {a.seconds:.2f} s" for a in found]
        note += f" {'; '.join(means)}."
        tables = [[[name, percent(share), f"{sure:.2f}"] for name, share, sure in a.areas()] for a in found]
        maps = [matplotlib.colormaps["viridis"](a.confidence, bytes=True)[..., :3] for a in found]
        pairs = self._disagreement(found) if self.comparable else []
        return [note, (shown, found), *tables, *maps, pairs, *self.redraw((shown, found), opacity)]

    def redraw(self, state: tuple[np.ndarray, list[Answer]] | None, opacity: float) -> list[Any]:
        """The photo with each network's classes in colour, and with the disagreement. opacity: of the colours, in %."""
        if state is None:
            return [None] * (len(self.models) + self.comparable)
        photo, found = state
        layers = [a.regions(opacity / 100) for a in found]
        if self.comparable:
            number = number_of_answers([a.labels for a in found]).clip(max=3)
            there = [n for n in DISAGREEMENT if (number == n).any()]
            layers.append([((number == n) * (opacity / 100), DISAGREEMENT[n][0]) for n in there])
        return [(photo, regions) for regions in layers]

    def _disagreement(self, found: Sequence[Answer]) -> list[list[str]]:
        """The share of pixels on which the runs disagree: all runs, and each pair."""
        share = float((number_of_answers([a.labels for a in found]) > 1).mean())
        pairs = [
            [f"{a.model.name} – {b.model.name}", percent(float((a.labels != b.labels).mean()))]
            for a, b in combinations(found, 2)
        ]
        return [["all", percent(share)], *(pairs if len(pairs) > 1 else [])]

    def about(self) -> list[list[str]]:
        """Name, folder, sizes of training and test, test mIoU and classes of each network."""
        return [
            [m.name, m.folder.name, str(m.fit), f"{headline_metrics(m.record)['miou']:.3f}",
             ", ".join(m.classes)]
            for m in self.models
        ]  # fmt: skip


def page(demo: Demo, examples: Sequence[Path] = ()) -> "gradio.Blocks":
    """The page: its components and their events."""
    gr = _gradio()
    tested = " or ".join(sorted({m.fit.seen for m in demo.models}))
    sizes = [(f"as tested ({tested})", "train"), ("the photo's own", "original")]
    drawings, tables, maps = [], [], []
    with gr.Blocks(title="segstudy demo", analytics_enabled=False, delete_cache=(KEPT // 4, KEPT)) as blocks:
        with gr.Accordion("The networks", open=False):
            gr.Dataframe(demo.about(), headers=["run", "folder", "input", "test mIoU", "classes"], wrap=True)
        with gr.Row():
            photo = gr.Image(
                type="filepath", sources=["upload", "clipboard"], height=240, label="Photo", elem_id="photo"
            )
            with gr.Column():
                size = gr.Dropdown(sizes, value="train", label="Size of the network's input", elem_id="size")
                opacity = gr.Slider(0, 100, 60, step=1, label="Opacity of the colours (%)", elem_id="opacity")
                if examples:
                    gr.Examples([str(e) for e in examples], photo, label="Examples", examples_per_page=EXAMPLES)
        note = gr.Textbox(show_label=False, interactive=False, container=False, elem_id="note")
        with gr.Row():
            for model in demo.models:
                colors = {n: "#" + bytes(rgb).hex() for n, rgb in zip(model.classes, model.palette, strict=True)}
                with gr.Column(min_width=280):
                    drawings.append(gr.AnnotatedImage(label=model.name, color_map=colors, height=HEIGHT))
                    maps.append(
                        gr.Image(
                            label="Confidence, from 0 (dark) to 1 (light)",
                            interactive=False,
                            height=HEIGHT,
                            buttons=["fullscreen"],
                        )
                    )  # no button that shares it
                    tables.append(gr.Dataframe(headers=["class", "share of the photo", "confidence"]))
        with gr.Row(visible=demo.comparable):
            if demo.comparable:
                drawings.append(
                    gr.AnnotatedImage(label="Where they disagree", color_map=dict(DISAGREEMENT.values()), height=HEIGHT)
                )
            pairs = gr.Dataframe(headers=["runs", "share of pixels with disagreement"])
        if len(demo.models) > 1 and not demo.comparable:
            gr.Markdown("The runs have different classes, so their disagreement is not shown.")
        state = gr.State()
        _take_uploads_only(photo, demo)
        # Without preprocessing: Gradio would decode the file before its size is checked.
        gr.on(
            [photo.change, size.change], demo.segment, [photo, size, opacity],
            [note, state, *tables, *maps, pairs, *drawings], preprocess=False, api_name="segment",
            trigger_mode="always_last", show_progress="minimal",
        )  # fmt: skip
        opacity.release(demo.redraw, [state, opacity], drawings, show_progress="hidden", api_name=False)
    return blocks.queue(max_size=16, default_concurrency_limit=1)


def _gradio() -> Any:
    """Import Gradio. Raises ConfigError if it is not installed."""
    if find_spec("gradio") is None:
        raise ConfigError("the demo's page needs gradio, which is not installed\n  → pip install 'segstudy[demo]'")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before the import, which reads it
    import gradio

    return gradio


def _take_uploads_only(photo: Any, demo: Demo) -> None:
    """Let the component accept only uploaded files: Gradio would also download a URL, or copy another file."""
    move = photo.async_move_resource_to_block_cache

    async def move_upload(path: Any) -> Any:
        try:
            return await move(None if path is None else str(demo.uploaded(str(path))))
        except DataError as error:
            raise _gradio().Error(str(error), print_exception=False) from error

    photo.async_move_resource_to_block_cache = move_upload


# The server


def guard(host: str, uploads: Path) -> Any:
    """What each request passes. It adds HEADERS, and refuses uploads beyond MAX_TOTAL and requests of another web page
    or under a name that is not this server's: such a page could reach the server through the visitor's browser.
    """
    from starlette.responses import PlainTextResponse

    names = {"localhost", socket.gethostname().lower(), host.lower()}

    async def dispatch(request: Any, call_next: Any) -> Any:
        asked, origin = request.headers.get("host", ""), request.headers.get("origin")
        if not _is_address(name := urlsplit(f"//{asked}").hostname or "") and name.removesuffix(".local") not in names:
            return PlainTextResponse(f"This server is not called {name}: open the address that it printed.\n", 421)
        if origin not in (None, f"http://{asked}", f"https://{asked}"):
            return PlainTextResponse("Requests of other web pages are refused.\n", 403)
        if request.method == "POST" and request.url.path.endswith("/upload") and bytes_in(uploads) > MAX_TOTAL:
            return PlainTextResponse("The server holds too many photos: try again in an hour.\n", 507)
        response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    return dispatch


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def launch(blocks: "gradio.Blocks", uploads: Path, host: str = "127.0.0.1", port: int = 7860) -> tuple[str, bool]:
    """Serve the page in a thread; returns its address, and whether only this machine can reach it.

    uploads: the folder of uploaded photos. port: 0 for a free one. Wait with `blocks.block_thread()`, stop with
    `blocks.close()`. Raises ConfigError if the address is not available.
    """
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware

    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family) as probe:
            bound, port = probe.getsockname()[:2]
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigError(f"--host {host} --port {port}: {why}\n  → --port 0 chooses a free one") from error
    guarded = Middleware(BaseHTTPMiddleware, dispatch=guard(host, uploads))
    blocks.launch(
        server_name=host, server_port=port, prevent_thread_lock=True, quiet=True, share=False, show_error=False,
        max_file_size=MAX_BYTES, allowed_paths=[], footer_links=[], run_history=False, ssr_mode=False, pwa=False,
        mcp_server=False, enable_monitoring=False, theme=_gradio().themes.Base(font=FONT, font_mono=("monospace",)),
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None, "middleware": [guarded]},
    )  # fmt: skip
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}", ipaddress.ip_address(bound).is_loopback


@contextmanager
def uploads() -> Iterator[Path]:
    """A private folder for uploaded photos and the pictures made from them; removed at the end."""
    with tempfile.TemporaryDirectory(prefix="segstudy-demo-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield Path(folder)
        finally:
            del os.environ["GRADIO_TEMP_DIR"]


def open_demo(folders: Sequence[Path], uploads: Path, device: str = "auto", max_pixels: int = MAX_PIXELS) -> Demo:
    """Load the runs for the demo; their classes may differ. Raises ConfigError if a folder holds no run."""
    _gradio()
    models = [Model(member, device) for member in load_each_run(folders)]
    for model in models:
        if model.name == str(model.folder):  # the page does not show the server's paths
            model.name = model.folder.name
        elif len(models) == 1:  # a single model needs no longer name
            model.name = model.name.partition(" ")[0]
    if len({model.bands for model in models}) > 1:
        found = "\n  ".join(f"{model.name}: {model.bands}" for model in models)
        raise ConfigError(f"the runs see other channels of an image\n  {found}\n  → show them one by one")
    return Demo(models, uploads, max_pixels)


def examples_in(folder: Path, uploads: Path) -> list[Path]:
    """Copies of a folder's first photos, sorted by name. Raises ConfigError if there are none."""
    photos = sorted(p for p in folder.glob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    if not photos:
        raise ConfigError(f"--examples {folder}: no .jpg, .png or .webp file there")
    kept = uploads / "examples"
    kept.mkdir()
    return [Path(shutil.copy(photo, kept)) for photo in photos[:EXAMPLES]]
