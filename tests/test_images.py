"""Reading one image and one mask: what is accepted and how it is converted, and what each refusal says."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import save_mask
from PIL import Image

from segstudy.data.images import (
    Sample,
    UnknownRange,
    header_shape,
    read_image,
    read_mask,
    read_pair,
    require_bright,
    to_eight_bits,
)  # fmt: skip
from segstudy.errors import DataError

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)

# What each EXIF orientation asks of a viewer, as NumPy says it.
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: np.rot90(a),
}


def exif(turn: int) -> Image.Exif:
    tags = Image.Exif()
    tags[274] = turn
    return tags


def write_png16(path: Path, values: np.ndarray) -> None:
    """An RGB PNG with 16 bits per channel, which Pillow reads and cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


# Images


def test_rgb_is_read_as_it_is(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    image, note, _ = read_image(tmp_path / "a.png")
    assert note == ""
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, COLOURS)


def test_greyscale_becomes_three_equal_channels(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    image, note, _ = read_image(tmp_path / "a.png")
    assert note == "greyscale"
    np.testing.assert_array_equal(image, np.stack([GREY] * 3, 2))


def test_rgba_drops_transparency(tmp_path: Path) -> None:
    alpha = RNG.integers(0, 256, (6, 9, 1), dtype=np.uint8)
    Image.fromarray(np.concatenate([COLOURS, alpha], 2)).save(tmp_path / "a.png")
    image, note, _ = read_image(tmp_path / "a.png")
    assert note == "RGBA"
    np.testing.assert_array_equal(image, COLOURS)


def test_cmyk_photo_gives_its_colours(tmp_path: Path) -> None:
    inks = np.zeros((16, 32, 4), np.uint8)
    inks[:, :16] = (0, 255, 255, 0)  # red
    inks[:, 16:] = (255, 0, 0, 127)  # dark cyan
    Image.fromarray(inks, mode="CMYK").save(tmp_path / "a.jpg", quality=100)
    image, note, _ = read_image(tmp_path / "a.jpg")
    assert note == "CMYK"
    assert image.shape == (16, 32, 3)
    assert abs(image[:, :8].astype(int) - (255, 0, 0)).max() <= 4
    assert abs(image[:, 24:].astype(int) - (0, 128, 128)).max() <= 4


def test_palette_image_gives_the_colours_not_the_indices(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), mode="P")
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    picture.save(tmp_path / "a.png")
    image, note, _ = read_image(tmp_path / "a.png")
    assert note == "palette"
    np.testing.assert_array_equal(image, [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]])


def test_black_and_white_is_0_and_255(tmp_path: Path) -> None:
    Image.fromarray(GREY > 127).save(tmp_path / "a.png")
    image, note, _ = read_image(tmp_path / "a.png")
    assert note == "black-and-white"
    np.testing.assert_array_equal(image[:, :, 1], np.where(GREY > 127, 255, 0))


def test_16_bit_greyscale_is_scaled_not_cut_off(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "a.png")
    image, note, _ = read_image(tmp_path / "a.png")
    assert note == "16-bit"
    np.testing.assert_array_equal(image, np.stack([GREY] * 3, 2))


def test_the_order_of_brightness_is_the_same_for_all_files_of_16_bits(tmp_path: Path) -> None:
    """A file was taken for 8 bits if it had no value above 255, and became brighter than its neighbours."""
    for name, largest in (("dark", 200), ("bright", 60000)):
        Image.fromarray(np.full((4, 4), largest, np.uint16)).save(tmp_path / f"{name}.png")
    dark, bright = (read_image(tmp_path / f"{name}.png")[0].max() for name in ("dark", "bright"))
    assert (dark, bright) == (1, 233)
    require_bright([tmp_path / "dark.png", tmp_path / "bright.png"])


def test_16_bit_rgb_is_scaled_and_stated(tmp_path: Path) -> None:
    write_png16(tmp_path / "a.png", COLOURS.astype(np.uint16) * 257)
    image, note, _ = read_image(tmp_path / "a.png")
    assert note == "16-bit"
    np.testing.assert_array_equal(image, COLOURS)


def test_floating_point_picture_is_refused(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.float32) / 255).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif holds float32 values from \S+ to .*data\.value_range"):
        read_image(tmp_path / "a.tif")


def test_missing_and_truncated_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jpg is listed but missing"):
        read_image(tmp_path / "gone.jpg")
    whole = tmp_path / "whole.jpg"
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole, quality=95)
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(DataError, match=r"cut\.jpg cannot be read: .*truncated"):
        read_image(tmp_path / "cut.jpg")
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(DataError, match=r"text\.jpg cannot be read"):
        read_image(tmp_path / "text.jpg")


def test_damaged_files_raise_nothing_but_data_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(COLOURS).save(path, exif=exif(6))
    whole, refused = path.read_bytes(), 0
    for _ in range(300):
        damaged = bytearray(whole)
        for at in RNG.integers(0, len(whole), 3):
            damaged[at] = RNG.integers(256)
        path.write_bytes(bytes(damaged))
        for read in (read_image, lambda p: read_mask(p, 21)):
            try:
                read(path)
            except DataError:
                refused += 1
    assert refused > 100


# EXIF


@pytest.mark.parametrize(("name", "turn"), [("a.png", 1), ("a.png", 6), ("a.jpg", 3), ("a.jpg", 8), ("a.tif", 6)])
def test_the_shape_is_known_without_decoding(tmp_path: Path, name: str, turn: int, monkeypatch: Any) -> None:
    path = tmp_path / name
    Image.fromarray(COLOURS).save(path, exif=exif(turn) if turn > 1 else None)
    expected = read_image(path)[0].shape[:2]
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda picture: pytest.fail("decoded"))
    assert header_shape(path) == expected


@pytest.mark.parametrize("turn", TURNS)
def test_exif_orientation_turns_image_and_mask_alike(tmp_path: Path, turn: int) -> None:
    labels = RNG.integers(0, 21, (6, 9))
    Image.fromarray(COLOURS).save(tmp_path / "a.png", exif=exif(turn))
    save_mask(labels, tmp_path / "m.png")
    image, mask, note = read_pair(Sample("a", tmp_path / "a.png", tmp_path / "m.png"), 21)
    assert note == ("" if turn == 1 else "EXIF-rotated")
    np.testing.assert_array_equal(image, TURNS[turn](COLOURS))
    np.testing.assert_array_equal(mask, TURNS[turn](labels))


def test_content_of_a_rotated_photo_stays_under_its_mask(tmp_path: Path) -> None:
    """The object is green on the stored pixels, where its mask is drawn; both are shown rotated."""
    labels = np.zeros((48, 80), np.uint8)
    labels[8:24, 16:72] = 3
    stored = np.where(labels[..., None] == 3, (0, 255, 0), (255, 0, 0)).astype(np.uint8)
    Image.fromarray(stored).save(tmp_path / "a.jpg", quality=100, subsampling=0, exif=exif(6))
    save_mask(labels, tmp_path / "a.png")
    image, mask, note = read_pair(Sample("a", tmp_path / "a.jpg", tmp_path / "a.png"), 21)
    assert note == "EXIF-rotated"
    assert mask.shape == (80, 48)
    assert ((image[..., 1] > 128) == (mask == 3)).all()
    assert mask[16:72, -24:-8].min() == 3  # stored left is shown on top, stored top on the right


def test_mask_in_the_displayed_orientation_is_explained(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png", exif=exif(8))
    save_mask(np.zeros((9, 6)), tmp_path / "m.png")
    with pytest.raises(DataError) as caught:
        read_pair(Sample("a", tmp_path / "a.png", tmp_path / "m.png"), 21)
    message = str(caught.value)
    assert "the image is 6×9 (after its EXIF rotation), the mask 9×6" in message
    assert "draw the mask on the stored pixels" in message


def test_16_bit_image_is_turned_too(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "a.png", exif=exif(6))
    image, note, _ = read_image(tmp_path / "a.png")
    assert note == "16-bit EXIF-rotated"
    np.testing.assert_array_equal(image[..., 0], np.rot90(GREY, -1))


def test_meaningless_orientation_is_upright(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png", exif=exif(0))
    image, note, _ = read_image(tmp_path / "a.png")
    assert note == ""
    np.testing.assert_array_equal(image, COLOURS)


# Masks


@pytest.mark.parametrize("mode", ["P", "L", "I;16"])
def test_masks_hold_labels_with_or_without_a_palette(tmp_path: Path, mode: str) -> None:
    labels = np.array([[0, 1, 20], [255, 7, 0]])
    if mode == "P":
        save_mask(labels, tmp_path / "m.png")
    else:
        Image.fromarray(labels.astype(np.uint8 if mode == "L" else np.uint16)).save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png", 21)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, labels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colour_mask_is_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "m.png")
    with pytest.raises(DataError, match=rf"m\.png is a colour picture \({mode}\)(.|\n)*expected: an indexed"):
        read_mask(tmp_path / "m.png", 21)


def test_labels_out_of_range_are_named_with_their_file(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 21, 254], [255, 3, 20]], np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(DataError) as caught:
        read_mask(tmp_path / "m.png", 21)
    message = str(caught.value)
    assert "m.png holds the labels 21, 254, the data has classes 0…20 and 255" in message
    assert "data.labels={21:CLASS}" in message
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", 21, {21: 4, 254: 255}), [[0, 4, 255], [255, 3, 20]])


def test_mapping_uses_the_values_of_the_file_once(tmp_path: Path) -> None:
    """A chain 0 → 1 → 2 would turn everything into 2."""
    Image.fromarray(np.array([[0, 1, 2, 255]], np.uint8)).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png", 3, {0: 1, 1: 2, 255: 0}), [[1, 2, 2, 0]])


def test_mapping_to_no_class_is_said(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(DataError, match=r"the labels 2 after data\.labels, the data has classes 0…1"):
        read_mask(tmp_path / "m.png", 2, {255: 2})


def test_different_sizes_name_both_files(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    save_mask(np.zeros((6, 8)), tmp_path / "m.png")
    with pytest.raises(DataError) as caught:
        read_pair(Sample("a", tmp_path / "a.png", tmp_path / "m.png"), 21)
    message = str(caught.value)
    assert "a: the image is 9×6, the mask 8×6" in message
    assert str(tmp_path / "a.png") in message
    assert str(tmp_path / "m.png") in message
    assert "EXIF" not in message


@pytest.mark.parametrize("largest", [255, 1023, 4095])
def test_16_bit_rgb_of_small_values_is_refused_not_read_as_black(largest: int, tmp_path: Path) -> None:
    """Pillow keeps the upper byte alone, which is 0 or nearly so."""
    write_png16(tmp_path / "a.png", (COLOURS.astype(np.uint16) * largest // 255))
    with pytest.raises(
        DataError, match=r"1 image with 16 bits .*almost black\n.*or save them with 8 bits .*needs TIFF"
    ):
        require_bright([tmp_path / "a.png"])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "CMYK"])
def test_other_colours_of_16_bits(mode: str) -> None:
    """As Pillow holds them: the upper bytes, and a note of ours; an opaque alpha is no light."""
    picture = Image.new(mode, (4, 4), tuple([9] * (len(mode) - 1) + ([255] if mode[-1] == "A" else [9])))
    assert to_eight_bits(picture) is picture
    picture.info["16-bit"] = True
    with pytest.raises(DataError, match="12-bit values 2304…2559"):
        require_bright([picture])
    picture.putpixel((1, 2), tuple([16] * len(mode)))
    require_bright([picture])


@pytest.mark.parametrize(("value", "found"), [(65536, "0 to 65536"), (-1, "-1 to 0")])
def test_grey_values_beyond_16_bits_are_refused(value: int, found: str, tmp_path: Path) -> None:
    grey = np.zeros((6, 5), np.int32)
    grey[1, 2] = value
    Image.fromarray(grey).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=rf"a\.tif holds int32 values from {found}: .*data\.value_range"):
        read_image(tmp_path / "a.tif")


def test_dark_images_of_16_bits_are_asked_for_once(tmp_path: Path) -> None:
    for i, (low, high) in enumerate([(480, 900), (700, 2560)]):
        Image.fromarray(np.array([[low, high]], np.uint16)).save(tmp_path / f"{i}.png")
    Image.fromarray(GREY).save(tmp_path / "2.png")
    found = r"2 images with 16 bits .*12-bit values 480…2560: .*\n  → data\.value_range=\[480,2560\], .*\[0,4095\]"
    with pytest.raises(UnknownRange, match=found):
        require_bright(sorted(tmp_path.glob("*.png")))


def test_grey_values_of_16_bits_in_32(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.int32) * 257).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[0][..., 0], GREY)


def test_a_picture_in_memory_of_floating_point_values_is_refused() -> None:
    with pytest.raises(DataError, match="the picture holds float32 values"):
        to_eight_bits(Image.new("F", (4, 4)))
