"""The decode-once cache: right arrays, read once, keyed by what shapes them, and never half of one."""

import errno
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_voc, save_mask
from PIL import Image

from segstudy.data import cache as module
from segstudy.data.cache import Cache, CacheSource, open_cache
from segstudy.data.fit import Fit
from segstudy.data.images import Sample, read_pair
from segstudy.errors import DamagedFile, DataError

SIZE = (24, 32)


def read(sample: Sample) -> tuple[np.ndarray, np.ndarray, str]:
    return read_pair(sample, 21)


def refuse(sample: Sample) -> tuple[np.ndarray, np.ndarray, str]:
    raise AssertionError(f"{sample.name} was read again")


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    home = make_voc(tmp_path, train=5, val=0)
    names = sorted(p.stem for p in (home / "JPEGImages").iterdir())
    return [Sample(n, home / "JPEGImages" / f"{n}.jpg", home / "SegmentationClass" / f"{n}.png") for n in names]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "arrays"


def build(samples: list[Sample], folder: Path, reader: Any = read, stored: bool = True, **changes: Any) -> Cache:
    settings: dict[str, Any] = {"fit": Fit(SIZE), "num_classes": 21, "recipe": ["test"]} | changes
    return open_cache(CacheSource(samples, reader, **settings), folder, stored)


def image_of(sample: Sample) -> Path:
    assert sample.image is not None
    return sample.image


def mask_of(sample: Sample) -> Path:
    assert sample.mask is not None
    return sample.mask


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


# What it holds


def test_arrays_equal_pillow_decoding_and_resizing(samples: list[Sample], folder: Path) -> None:
    cache = build(samples, folder)
    assert cache.images.shape == (5, 24, 32, 3)
    assert cache.masks.shape == (5, 24, 32)
    assert cache.images.dtype == cache.masks.dtype == np.uint8
    for i, sample in enumerate(samples):
        image = Image.open(image_of(sample)).resize((32, 24), Image.Resampling.BILINEAR)
        mask = Image.open(mask_of(sample)).resize((32, 24), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(cache.images[i], np.asarray(image))
        np.testing.assert_array_equal(cache.masks[i], np.asarray(mask))


def test_at_its_own_size_an_image_is_not_resampled(samples: list[Sample], folder: Path) -> None:
    cache = build(samples, folder, fit=Fit((40, 56)))
    np.testing.assert_array_equal(cache.images[2], np.asarray(Image.open(image_of(samples[2]))))
    np.testing.assert_array_equal(cache.masks[2], np.asarray(Image.open(mask_of(samples[2]))))


def test_labels_are_counted_for_each_image(samples: list[Sample], folder: Path) -> None:
    cache = build(samples, folder)
    assert cache.pixels.shape == (5, 21)
    for i in range(5):
        assert cache.pixels[i].tolist() == [(cache.masks[i] == c).sum() for c in range(21)]
    assert cache.pixels.sum() == (cache.masks != 255).sum() < cache.masks.size


def test_conversions_are_stated_and_stay_stated(samples: list[Sample], folder: Path) -> None:
    for sample in samples[:2]:
        Image.open(image_of(sample)).convert("L").save(image_of(sample))
    first = build(samples, folder)
    assert first.notes == ["converted to upright 8-bit images: 2 greyscale"]
    assert build(samples, folder, refuse).notes == first.notes


# When it is built


def test_second_opening_reads_no_file(samples: list[Sample], folder: Path) -> None:
    first = build(samples, folder)
    second = build(samples, folder, refuse)
    assert isinstance(second.images, np.memmap)
    assert first.key == second.key
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.pixels, second.pixels)


@pytest.mark.parametrize(
    "change",
    [{"fit": Fit((32, 24))}, {"recipe": ["other"]}, {"num_classes": 22}, "image", "mask", "fewer", "order"],
    ids=str,
)
def test_whatever_shapes_the_arrays_gives_another_key(samples: list[Sample], folder: Path, change: Any) -> None:
    before = build(samples, folder)
    settings = change if isinstance(change, dict) else {}
    if change in ("image", "mask"):
        touch(image_of(samples[3]) if change == "image" else mask_of(samples[3]))
    chosen = {"fewer": samples[:-1], "order": samples[::-1]}.get(str(change), samples)
    after = build(chosen, folder, **settings)
    assert after.key != before.key
    assert sorted(p.name for p in folder.iterdir()) == sorted([before.key, after.key])


def test_a_changed_file_gives_changed_arrays(samples: list[Sample], folder: Path) -> None:
    before = build(samples, folder)
    save_mask(np.full((40, 56), 5), mask_of(samples[1]))
    after = build(samples, folder)
    assert (after.masks[1] == 5).all()
    assert not (before.masks[1] == 5).all()


# What goes wrong


def test_all_broken_files_are_listed_and_nothing_remains(samples: list[Sample], folder: Path) -> None:
    image_of(samples[0]).write_bytes(image_of(samples[0]).read_bytes()[:200])
    Image.new("RGB", (56, 40)).save(mask_of(samples[2]))
    save_mask(np.full((40, 56), 77), mask_of(samples[4]))
    with pytest.raises(DataError) as caught:
        build(samples, folder)
    message = str(caught.value)
    assert message.startswith("3 of 5 images cannot be used:")
    assert str(image_of(samples[0])) in message
    assert f"{mask_of(samples[2])} is a colour picture" in message
    assert f"{mask_of(samples[4])} holds the labels 77" in message
    assert str(image_of(samples[1])) not in message
    assert list(folder.iterdir()) == []


def test_a_missing_file_is_named(samples: list[Sample], folder: Path) -> None:
    mask_of(samples[3]).unlink()
    with pytest.raises(DataError, match=rf"{samples[3].name}\.png is listed but missing"):
        build(samples, folder)


def test_a_killed_build_is_never_taken_for_whole(samples: list[Sample], folder: Path) -> None:
    def read_and_die(sample: Sample) -> tuple[np.ndarray, np.ndarray, str]:
        if sample is samples[3]:
            time.sleep(0.2)  # the first images are written
            os.kill(os.getpid(), signal.SIGKILL)
        return read(sample)

    victim = multiprocessing.get_context("fork").Process(target=build, args=(samples, folder, read_and_die))
    victim.start()
    victim.join(30)
    assert victim.exitcode == -signal.SIGKILL
    (left,) = folder.iterdir()
    assert left.name.endswith(".partial")
    cache = build(samples, folder)
    np.testing.assert_array_equal(cache.masks[4], np.asarray(build([samples[4]], folder).masks[0]))
    assert not left.exists()  # the disk space comes back


def test_the_folder_of_a_build_that_goes_on_is_not_removed(samples: list[Sample], folder: Path) -> None:
    seen: list[Path] = []

    def read_meanwhile(sample: Sample) -> tuple[np.ndarray, np.ndarray, str]:
        if sample is samples[3]:
            build(samples[:2], folder)  # as another process
            seen.extend(folder.glob("*.partial"))
        return read(sample)

    build(samples, folder, read_meanwhile)
    assert len(seen) == 1
    assert not list(folder.glob("*.partial"))


class Full:
    """A file on a disk that has room for `room` more bytes."""

    def __init__(self, file: Any, room: int):
        self.file, self.room = file, room

    def write(self, data: bytes) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(data)

    def __enter__(self) -> "Full":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def test_disk_that_fills_up_while_writing(samples: list[Sample], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = 128 + 2 * 24 * 32 * 3  # the header and two images
    monkeypatch.setattr(module, "open", lambda path, mode: Full(open(path, mode), room), raising=False)  # noqa: SIM115 (Full closes it)
    with pytest.raises(DataError) as caught:
        build(samples, folder)
    assert f"data.cache_dir={folder}" in str(caught.value)
    assert "No space left on device" in str(caught.value)
    assert list(folder.iterdir()) == []
    monkeypatch.undo()
    assert len(build(samples, folder).images) == 5


def test_disk_that_is_too_small_is_seen_before_reading(
    samples: list[Sample], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9 << 20, 8 << 20, 1 << 20))
    with pytest.raises(DataError) as caught:
        build(samples, folder, refuse, fit=Fit((512, 512)))
    message = str(caught.value)
    assert f"needs 5 MiB in data.cache_dir={folder}, 1 MiB are free" in message  # 5 images of 512 × 512 × 4 bytes
    assert "data.size" in message
    assert list(folder.iterdir()) == []


def test_cache_dir_that_cannot_be_made(samples: list[Sample], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"could not be written in data\.cache_dir=.*file.arrays"):
        build(samples, tmp_path / "file" / "arrays")


@pytest.mark.parametrize("name", ["images.bin", "masks.bin", "index.npz"])
@pytest.mark.parametrize("damage", ["cut", "changed", "removed", "a folder"])
def test_a_damaged_cache_is_built_again(
    samples: list[Sample], folder: Path, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = build(samples, folder)
    kept = before.images.copy(), before.masks.copy()
    file = folder / before.key / name
    content = file.read_bytes()
    file.unlink()
    if damage == "a folder":
        file.mkdir()
    elif damage != "removed":
        middle = len(content) // 2
        file.write_bytes(content[:1000] if damage == "cut" else content[:middle] + b"\x99\x66" + content[middle + 2 :])
    after = build(samples, folder)
    printed = capsys.readouterr().out
    assert before.key in printed
    assert "the cache is built again" in printed
    np.testing.assert_array_equal(after.images, kept[0])
    np.testing.assert_array_equal(after.masks, kept[1])
    np.testing.assert_array_equal(before.images, after.images)  # of a process that still uses the old files
    assert [path.name for path in folder.iterdir()] == [before.key]
    build(samples, folder)
    assert capsys.readouterr().out == ""


def test_a_sample_of_the_blocks_of_a_large_cache_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 8)
    monkeypatch.setattr(module, "VERIFIED", 4)
    file = tmp_path / "images.bin"
    with open(file, "wb") as opened:
        writer = module.BlockWriter(opened)
        for start, length in ((0, 3), (3, 20), (23, 1), (24, 76)):
            writer.write(bytes(range(start, start + length)))
    checksums = np.array(writer.checksums)
    assert len(checksums) == 13
    assert module._map_file(file, 100, checksums).tolist() == list(range(100))
    file.write_bytes(bytes(96) + file.read_bytes()[96:])
    with pytest.raises(DamagedFile, match="checksum of its block 0"):
        module._map_file(file, 100, checksums)


def test_few_images_wait_in_memory_to_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    started: list[str] = []
    results = module.map_parallel(lambda s: started.append(s.name), [Sample(str(i)) for i in range(50)], "")
    for written in range(50):
        next(results)
        time.sleep(0.002)
        assert len(started) <= written + 6


# What 255 means


def with_255_as_object(samples: list[Sample], count: int) -> None:
    for sample in samples[:count]:
        labels = np.zeros((40, 56))
        labels[10:20, 10:20] = 255
        save_mask(labels, mask_of(sample))


def test_masks_of_0_and_255_ask_whether_255_is_the_object(samples: list[Sample], folder: Path) -> None:
    with_255_as_object(samples, 3)
    with pytest.raises(DataError) as caught:
        build(samples, folder)
    message = str(caught.value)
    assert message.startswith("3 of 5 masks hold only 0 and 255")
    assert "is 255 the object?" in message
    assert "data.labels={255:1}" in message
    assert "data.labels={255:255}" in message
    assert list(folder.iterdir()) == []


def test_masks_that_are_mostly_255_ask_too(samples: list[Sample], folder: Path) -> None:
    for sample in samples:
        labels = np.full((40, 56), 255)
        labels[:, :18], labels[0, 0] = 4, 0
        save_mask(labels, mask_of(sample))
    with pytest.raises(DataError, match=r"5 of 5 masks .* more than a third 255"):
        build(samples, folder)


def test_a_few_such_masks_are_stated(samples: list[Sample], folder: Path) -> None:
    with_255_as_object(samples, 1)
    (line,) = build(samples, folder).notes
    assert line.startswith("1 of 5 masks hold only 0 and 255")
    assert samples[0].name in line
    assert line.endswith("pixels of 255 are ignored")


def test_who_has_said_what_255_means_is_not_asked(samples: list[Sample], folder: Path) -> None:
    with_255_as_object(samples, 5)
    cache = build(samples, folder, ignore_is_explicit=True)
    assert cache.notes == []
    assert (cache.masks == 255).any()


# Two at once


def test_two_builders_at_the_same_time(samples: list[Sample], folder: Path) -> None:
    barrier, results, errors = threading.Barrier(2), [], []

    def read_together(sample: Sample) -> tuple[np.ndarray, np.ndarray, str]:
        if sample is samples[0]:
            barrier.wait(20)  # both are in the middle of building
        return read(sample)

    def work() -> None:
        try:
            results.append(build(samples, folder, read_together))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert [p.name for p in folder.iterdir()] == [results[0].key]
    np.testing.assert_array_equal(results[0].images, results[1].images)
    np.testing.assert_array_equal(results[0].masks[4], read_together_alone(samples[4]))


def read_together_alone(sample: Sample) -> np.ndarray:
    return np.asarray(Image.open(mask_of(sample)).resize((32, 24), Image.Resampling.NEAREST))


IMAGE, MASK = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ((IMAGE, MASK.astype(np.int64), ""), r"a mask int64 \(8, 8\)\n.*the mask must be uint8 \(H,W\)"),
        ((IMAGE, MASK > 0, ""), "the mask must be uint8"),
        ((IMAGE, MASK[..., None], ""), "the mask must be uint8"),
        ((IMAGE.astype(np.float32), MASK, ""), r"an image float32 \(8, 8, 3\).*\n.*the image must be uint8 \(H,W,3\)"),
        ((np.zeros((8, 8, 4), np.uint8), MASK, ""), r"uint8 \(8, 8, 4\)"),
        ((MASK, MASK, ""), "the image must be uint8"),
        ((IMAGE, MASK[:4], ""), "must have the same height and width"),
        ((IMAGE[:0], MASK[:0], ""), "must have the same height and width"),
        ((IMAGE, MASK + 3, ""), r"the labels 3; the data has classes 0…2"),
        ((IMAGE, MASK), r"read\(\) returned tuple, not \(image, mask, note\)"),
        (None, r"read\(\) returned NoneType"),
    ],
)
def test_what_read_returns_is_checked(found: Any, message: str, tmp_path: Path) -> None:
    """At the cache's own size too, where nothing is resized."""
    read: Any = lambda sample: (IMAGE, MASK, "") if sample.name == "good" else found  # noqa: E731
    with pytest.raises(DataError, match=rf"(?s)1 of 2 images cannot be used:\nbad: .*{message}"):
        open_cache(CacheSource([Sample("good"), Sample("bad")], read, Fit((8, 8)), 3, None), tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_read_may_return(tmp_path: Path) -> None:
    image = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    mask = np.array([[0, 1, 2, 255]] * 8, np.uint8).repeat(2, 1)
    held = open_cache(CacheSource([Sample("a")], lambda _: (image[::-1], mask.T, ""), Fit((8, 8)), 3, None), tmp_path)
    np.testing.assert_array_equal(held.images[0], image[::-1])
    np.testing.assert_array_equal(held.masks[0], mask.T)
    assert held.pixels.tolist() == [[16, 16, 16]]
