"""Pack what a GPU machine without network needs for `make gpu-day`: data as tars, Python packages as wheels.

The photos are re-encoded so that everything fits into 64 MiB: VOC's at 256 pixels on the long side, which the
studies at 256² and 128² lose little by; CamVid's at their own size, since its figures are set beside published ones.
They are WebP, a third smaller than JPEG, under their old names: Pillow goes by what is in a file.
The Pet stand-in's photos are VOC's, so its tar holds their names and the masks alone.
"""

import io
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image

MIB = 2**20
WHEELS = (  # what the machine lacks beside PyTorch, Lightning, torchmetrics and timm, of the pinned versions
    "hydra-core==1.3.8", "omegaconf==2.3.1", "segmentation-models-pytorch==0.6.0", "pydantic==2.14.4",
    "pycocotools==2.0.11",
)  # fmt: skip
WITHOUT_PIN = (
    "pydantic-core",
    "typing-inspection",
    "annotated-types",
    "kornia==0.7.0",
)  # the last kornia without a compiled package


class Tar:
    """A tar that photos, masks and files are added to."""

    def __init__(self, path: Path):
        self.path = path
        self.file = tarfile.open(path, "w:gz")  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> "Tar":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        print(f"{self.path.name}: {self.path.stat().st_size / MIB:.1f} MiB")

    def add(self, name: str, content: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        self.file.addfile(info, io.BytesIO(content))

    def link(self, name: str, target: str) -> None:
        """A symbolic link; its target is relative to the link's folder."""
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, target
        self.file.addfile(info)

    def photo(self, name: str, source: Path, side: int | None, quality: int) -> None:
        content = io.BytesIO()
        with Image.open(source) as image:
            shrunk(image.convert("RGB"), side, Image.Resampling.LANCZOS).save(
                content, "WEBP", quality=quality, method=4
            )
        self.add(name, content.getvalue())

    def mask(self, name: str, source: Path, side: int | None) -> None:
        content = io.BytesIO()
        with Image.open(source) as image:
            shrunk(image, side, Image.Resampling.NEAREST).save(content, "PNG", optimize=True)
        self.add(name, content.getvalue())


def shrunk(image: Image.Image, side: int | None, how: Image.Resampling) -> Image.Image:
    """The image with at most `side` pixels on its long side."""
    scale = 1.0 if side is None else side / max(image.size)
    if scale >= 1:
        return image
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), how)


def linked(path: Path) -> Path:
    """The photo that a link names; a checkout without links holds its target as text instead."""
    if path.stat().st_size < 200:
        return (path.parent / path.read_text().strip()).resolve()
    return path.resolve()


def files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def pack(base: Path, target: Path, side: int | None, quality: int) -> None:
    """Photos re-encoded, those that are links to VOC's as links; masks at most `side` pixels long; lists as they are.

    Once all tars are unpacked in one folder, the links lead to VOC's photos.
    """
    root = base.parent.resolve()
    with Tar(target) as tar:
        for path in files(base):
            name = str(path.relative_to(base.parent))
            if path.suffix == ".jpg":
                photo = linked(path)
                if photo != path.resolve() or path.is_symlink():
                    tar.link(name, f"{'../' * name.count('/')}{photo.relative_to(root)}")
                else:
                    tar.photo(name, path, side, quality)
            elif path.suffix == ".png":
                tar.mask(name, path, side)
            elif path.suffix in (".txt", ".csv", ".yaml"):
                tar.add(name, path.read_bytes())


def pack_weights(file: Path, out: Path) -> None:
    """A state dict in half precision: half the size, and the weights are of 8-bit precision anyway."""
    state = torch.load(file, map_location="cpu", weights_only=True)
    content = io.BytesIO()
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, content)
    with Tar(out / "weights.tar.gz") as tar:
        tar.add(f"weights/{file.name}", content.getvalue())


def fetch_wheels(out: Path, python: str) -> None:
    """The wheels for that Python on Linux with an x86-64 processor."""
    platforms = [f"--platform=manylinux_2_{n}_x86_64" for n in (28, 27, 24, 17)] + ["--platform=manylinux2014_x86_64"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    core = (
        subprocess.run([*pip, "show", "pydantic-core"], capture_output=True, text=True, check=True)
        .stdout.partition("Version: ")[2]
        .split()[0]
    )
    packages = [*WHEELS, *(f"pydantic-core=={core}" if p == "pydantic-core" else p for p in WITHOUT_PIN)]
    subprocess.run(
        [*pip, "download", "--quiet", "--no-deps", "--only-binary=:all:", f"--python-version={python}",
         "--implementation=cp", *platforms, "-d", str(out), *packages],
        check=True,
    )  # fmt: skip
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "-w", str(out), "antlr4-python3-runtime==4.9.3"], check=True)


def main(
    root: Annotated[
        Path, typer.Argument(help="holds VOCdevkit, pet_standin, camvid and ade20k_standin, or some of them")
    ],
    weights: Annotated[Path | None, typer.Option(help="MobileNetV2's ImageNet weights, a state dict")] = None,
    out: Annotated[Path, typer.Option(help="folder for data/ and wheels/")] = Path(".gpu"),
    side: Annotated[int, typer.Option(help="long side of VOC's photos and masks")] = 256,
    quality: Annotated[int, typer.Option(help="of the photos")] = 70,
    camvid_side: Annotated[int | None, typer.Option(help="long side of CamVid's frames; own size if not given")] = None,
    python: Annotated[str, typer.Option(help="version of the GPU machine's Python; empty: no wheels")] = "3.12",
    limit: Annotated[float, typer.Option(help="MiB that may travel, beside the 4 of the repository")] = 60,
) -> None:
    """Write OUT/data/*.tar.gz and OUT/wheels/*.whl."""
    data, wheels = out / "data", out / "wheels"
    for folder in (data, wheels):
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
    parts = {
        "VOCdevkit": ("voc", side), "pet_standin": ("pet", side), "ade20k_standin": ("ade", side),
        "camvid": ("camvid", camvid_side),
    }  # fmt: skip
    for name, (tar, longest) in parts.items():
        if (root / name).is_dir():
            pack(root / name, data / f"{tar}.tar.gz", longest, quality)
        else:
            print(f"{root / name} is not there: its steps will be left out")
    if weights is not None:
        pack_weights(weights, data)
    if python:
        fetch_wheels(wheels, python)
    size = sum(path.stat().st_size for path in files(out)) / MIB
    print(f"{out}: {size:.1f} MiB in all")
    if size > limit:
        sys.exit(f"that is more than {limit} MiB → --quality, --side or --camvid-side")


if __name__ == "__main__":
    typer.run(main)
