"""Images with any number of channels and any range of values: files, networks, and a run from check to export."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from conftest import save_mask
from omegaconf import OmegaConf
from PIL import Image
from typer.testing import CliRunner

import segstudy
from segstudy.build import build_network
from segstudy.cli.main import app
from segstudy.config.compose import compose_config
from segstudy.config.overrides import checked_config
from segstudy.data.bands import Bands
from segstudy.data.cache import resize_pair
from segstudy.data.folder.check import check_folder
from segstudy.data.folder.datamodule import Folder
from segstudy.data.images import UnknownRange, open_picture, read_image
from segstudy.data.transforms.augment import Augment
from segstudy.data.transforms.color import HueSaturation
from segstudy.errors import ConfigError, DataError
from segstudy.inference.card import model_card
from segstudy.inference.export import export, output_path
from segstudy.inference.model import load
from segstudy.inference.pictures import is_ours
from segstudy.networks.normalize import Normalize, input_channels, of_channels
from segstudy.networks.weights import adapt_channels
from segstudy.runs.record import Record
from segstudy.train_and_test import run

RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 10_001, (6, 9, 5), dtype=np.uint16)
DEEP[0, 0] = (0, 2500, 5000, 7500, 10_000)
GEO = [
    (33550, 12, 3, (10.0, 10.0, 0.0), True),
    (33922, 12, 6, (0.0, 0.0, 0.0, 500000.0, 5000000.0, 0.0), True),
    (34735, 3, 12, (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32633), True),
]
"""The tags of a map in UTM zone 33N with pixels of 10 m."""


def write_tiff(path: Path, values: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, values, photometric="minisblack", planarconfig="contig", **options)
    return path


def make_fields(root: Path, number: int = 8) -> Path:
    """A folder of 16-bit images with five bands; the last band alone shows the object."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for i in range(number):
        values = RNG.integers(0, 4000, (32, 40, 5), dtype=np.uint16)
        mask = np.zeros((32, 40), np.uint8)
        mask[8 : 20 + i, 10:30] = 1
        values[..., 4] = np.where(mask, 9000, 1000)
        write_tiff(root / "images" / f"f{i}.tif", values, extratags=GEO)
        save_mask(mask, root / "masks" / f"f{i}.png")
    (root / "dataset.yaml").write_text("classes: [background, field]\nval: 0.25\n")
    return root


# Files


def test_values_become_eight_bits_by_one_linear_range(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", DEEP)
    image, note, orientation = Bands(5, (0, 10_000)).read(path)
    assert (image.dtype, image.shape, note, orientation) == (np.uint8, (6, 9, 5), "uint16", 1)
    assert image[0, 0].tolist() == [0, 64, 128, 191, 255]
    np.testing.assert_array_equal(image, (DEEP * 255.0 / 10_000).round())


def test_a_list_chooses_and_orders_the_bands(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", DEEP)
    image = Bands((4, 0), (0, 10_000)).read(path)[0]
    np.testing.assert_array_equal(image, Bands(5, (0, 10_000)).read(path)[0][..., [4, 0]])
    with pytest.raises(DataError, match=r"a\.tif has the channels 0…4, and data\.channels=\[0, 7\] asks for others"):
        Bands((0, 7), (0, 10_000)).read(path)


def test_bands_in_planes_and_bands_in_pixels_are_the_same(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "planes.tif", DEEP.transpose(2, 0, 1), photometric="minisblack", planarconfig="separate"
    )
    np.save(tmp_path / "array.npy", DEEP)
    bands = Bands(5, (0, 10_000))
    expected = bands.read(write_tiff(tmp_path / "pixels.tif", DEEP))[0]
    for name in ("planes.tif", "array.npy"):
        np.testing.assert_array_equal(bands.read(tmp_path / name)[0], expected)


def test_values_outside_the_range_are_clipped_and_counted(tmp_path: Path) -> None:
    values = np.full((10, 10, 2), 50, np.float32)
    values[0, :4, 0], values[1, 0, 1] = np.nan, 500
    np.save(tmp_path / "a.npy", values)
    image, note, _ = Bands(2, (0, 100)).read(tmp_path / "a.npy")
    assert note == "float32 with 1 to 10 % outside data.value_range"  # 5 of 200
    assert image[0, 0].tolist() == [0, 128]
    assert image[1, 0].tolist() == [128, 255]


def test_an_unknown_range_is_asked_for_never_guessed(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", DEEP)
    with pytest.raises(UnknownRange, match=r"a\.tif holds uint16 values from 0 to 10000.*data\.value_range"):
        Bands(5).read(path)
    np.save(tmp_path / "a.npy", DEEP[..., :3] / 10_000)
    with pytest.raises(UnknownRange, match="float64 values from 0"):
        Bands().read(tmp_path / "a.npy")


def test_eight_bits_need_no_range(tmp_path: Path) -> None:
    values = RNG.integers(0, 256, (6, 9, 5), dtype=np.uint8)
    np.testing.assert_array_equal(Bands(5).read(write_tiff(tmp_path / "a.tif", values))[0], values)


def test_transparency_is_a_channel_if_four_are_asked_for(tmp_path: Path) -> None:
    values = RNG.integers(0, 256, (6, 9, 4), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    np.testing.assert_array_equal(Bands(4).read(tmp_path / "a.png")[0], values)
    np.testing.assert_array_equal(Bands().read(tmp_path / "a.png")[0], values[..., :3])
    with pytest.raises(DataError, match=r"has 4 channels, not 1 \(data\.channels=1\)\n  → .*=4, or .*=\[0\]"):
        Bands(1).read(tmp_path / "a.png")


def test_sixteen_bit_grey_of_a_camera_with_twelve(tmp_path: Path) -> None:
    grey = np.array([[0, 1024, 4095]], np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"0…4095(.|\n)*data\.value_range=\[0,4095\]"):
        Bands(1).check([tmp_path / "a.png"])
    assert Bands(1, (0, 4095)).read(tmp_path / "a.png")[0].ravel().tolist() == [0, 64, 255]
    assert Bands(None, (0, 4095)).read(tmp_path / "a.png")[0][0, 1].tolist() == [64, 64, 64]


def test_exif_turns_all_channels(tmp_path: Path) -> None:
    values = RNG.integers(0, 256, (6, 9, 5), dtype=np.uint8)
    turned, _, orientation = Bands(5).read(write_tiff(tmp_path / "a.tif", values, extratags=[(274, 3, 1, 6, True)]))
    assert orientation == 1  # the mask is as upright as the image, as with `read_image`
    np.testing.assert_array_equal(turned, np.rot90(values, -1))


def test_a_tiff_of_five_channels_is_no_photo_and_the_setting_is_proposed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"it has 5 channels of uint16: set data\.channels=5"):
        read_image(write_tiff(tmp_path / "a.tif", DEEP))


def test_files_of_several_pictures_are_refused_not_read_as_the_first(tmp_path: Path) -> None:
    frames = [Image.new("L", (9, 6), shade) for shade in (0, 100, 200)]
    for name in ("a.tif", "a.gif", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(DataError, match=rf"{name} holds 3 pictures \(pages or frames\)\n  → save each"):
            open_picture(tmp_path / name)
    with pytest.raises(DataError, match=r"a\.tif holds 3 pictures"):
        Bands(1).read(tmp_path / "a.tif")


def test_of_a_photo_with_a_second_picture_the_first_is_used_and_told(tmp_path: Path) -> None:
    photo = Image.new("RGB", (9, 6), "red")
    photo.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (9, 6), "blue")])
    image, note, _ = read_image(tmp_path / "a.jpg")
    assert note == "first of 2 pictures"
    assert image[0, 0, 0] > 200


def test_smaller_copies_in_a_tiff_are_no_pages(tmp_path: Path) -> None:
    values = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(values, photometric="rgb", subfiletype=0)
        file.write(values[::2, ::2], photometric="rgb", subfiletype=1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[0], values)
    np.testing.assert_array_equal(Bands(3).read(tmp_path / "a.tif")[0], values)


def test_four_channels_are_resized_each_for_itself() -> None:
    image = np.zeros((8, 8, 4), np.uint8)
    image[..., 0] = 200  # Pillow would multiply it by the last channel, which is 0
    assert resize_pair(image, np.zeros((8, 8), np.uint8), (4, 4))[0][..., 0].min() == 200


# Networks


def test_weights_for_rgb_are_adapted_to_other_channels() -> None:
    have = {"stem": torch.arange(24.0).reshape(2, 3, 2, 2), "bias": torch.ones(2)}
    five = adapt_channels(have, {"stem": torch.zeros(2, 5, 2, 2), "bias": torch.zeros(2)})
    torch.testing.assert_close(five["stem"], have["stem"][:, [0, 1, 2, 0, 1]] * 0.6)
    one = adapt_channels(have, {"stem": torch.zeros(2, 1, 2, 2), "bias": torch.zeros(2)})
    torch.testing.assert_close(one["stem"], have["stem"].sum(1, keepdim=True))
    assert adapt_channels(have, have) == have
    assert of_channels([1, 2, 6], 5) == [1, 2, 6, 1, 2]
    assert of_channels([1, 2, 6], 1) == [3]


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize(
    "settings",
    [
        ("encoder.widths=[4,8]", "decoder.widths=[4]"),
        ("model=unet", "encoder.widths=[4,8]"),
        ("model=v1", "encoder=library", "encoder.name=tu-mobilenetv3_small_050", "encoder.weights=null"),
        ("network=smp", "encoder=resnet18", "encoder.weights=null"),
    ],
)
def test_networks_take_the_channels_of_the_data(settings: tuple[str, ...], channels: int) -> None:
    network, origin = build_network(compose_config(list(settings)), 3, channels=channels)
    assert origin == "random"
    assert input_channels(network) == channels
    assert network.eval()(torch.rand(1, channels, 40, 36)).shape == (1, 3, 40, 36)


def test_adapted_weights_are_told(tmp_path: Path) -> None:
    cfg = compose_config(["encoder.widths=[4,8]", "decoder.widths=[4]"])
    network, _ = build_network(cfg, 3)
    torch.save(network.encoder.state_dict(), tmp_path / "w.pt")
    cfg.encoder.weights = str(tmp_path / "w.pt")
    adapted, origin = build_network(cfg, 3, channels=5)
    assert origin == f"{tmp_path / 'w.pt'}, first convolution adapted to 5 channels"
    image = torch.rand(1, 3, 8, 8)
    same = image[:, [0, 1, 2, 0, 1]]  # as bright in all copies of a colour: red counts twice of five
    weight, wide = network.encoder.stem.weight, adapted.encoder.stem.weight
    torch.testing.assert_close(wide[:, 0] + wide[:, 3], weight[:, 0] * 1.2)
    assert adapted.normalize(same)[:, 3].equal(network.normalize(image)[:, 0])


def test_a_network_for_rgb_alone_is_named() -> None:
    cfg = compose_config(["encoder.widths=[4,8]", "decoder.widths=[4]"])
    cfg.network = OmegaConf.create({"_target_": "test_bands.ForRGB"})
    with pytest.raises(ConfigError, match=r"ForRGB has no argument in_channels, and the images have 5 channels"):
        build_network(cfg, 2, channels=5)


class ForRGB(torch.nn.Sequential):
    def __init__(self, num_classes: int):
        super().__init__(Normalize(), torch.nn.Conv2d(3, num_classes, 1))


def test_python_builds_a_model_for_five_channels() -> None:
    thin = ("encoder.widths=[4,8]", "decoder.widths=[4]")
    module = segstudy.build_model("v1", *thin, classes=["a", "b"], background=0, channels=5)
    assert module.network.normalize.mean.numel() == 5


def test_hue_is_for_rgb_and_brightness_for_all(tmp_path: Path) -> None:
    tint = Augment(then={"tint": HueSaturation(probability=0.5)})
    with pytest.raises(ConfigError, match=r"data\.augment\.then\.tint changes hue.*5 channels"):
        Folder(str(tmp_path), channels=5, augment=tint)
    Folder(str(tmp_path), channels=[0, 1, 2], augment=tint)
    Folder(str(tmp_path), channels=5, augment=Augment(then={"tint": HueSaturation(probability=0.0)}))


# A run


def cli(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})
    return f"{result.output}{'' if isinstance(result.exception, SystemExit) else result.exception}"


def test_check_asks_for_channels_and_range(tmp_path: Path) -> None:
    fields = make_fields(tmp_path / "fields")
    assert "it has 5 channels of uint16: set data.channels=5" in cli("data", "check", str(fields))
    asked = cli("data", "check", str(fields), "data.channels=5")
    assert "images whose range of values is not known (8)" in asked
    assert "a sample of 8 images holds uint16 values from 0 to 9000" in asked
    assert "data.value_range=[0,9000]" in asked
    report = check_folder(fields, bands=Bands(5, (0, 8000)))
    assert report.trainable
    told = "images are read as 5 channels, values from 0 to 8000; 8 images: uint16 with 1 to 10 % outside"
    assert f"{told} data.value_range; they hold 14-bit values 0…9000 in uint16" in report.notes
    (fields / "images" / "f0.tif").unlink()
    Image.new("RGB", (40, 32)).save(fields / "images" / "f0.png")
    mixed = check_folder(fields, bands=Bands(5, (0, 10_000))).problems
    assert "has 3 channels, not 5 (data.channels=5)" in str(mixed[0])


def test_training_asks_for_the_range(tmp_path: Path) -> None:
    data = Folder(str(make_fields(tmp_path / "fields")), channels=5, batch_size=2, cache_dir=str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"a sample of \d+ images holds uint16 .*\n→ data\.value_range=\[\d+,9000\]"):
        data.setup()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on five bands of 16 bits, two steps long; beside it, the images."""
    home = tmp_path_factory.mktemp("bands")
    thin = ["encoder.widths=[4,8]", "decoder.widths=[4]", "data.size=32", "data.batch_size=2", "trainer=cpu"]
    folder = [f"data.root={make_fields(home / 'fields')}", "data.channels=5", "data.value_range=[0,8000]"]
    short = ["trainer.max_steps=2", "logger=none", f"data.cache_dir={home / 'cache'}", "seed=0"]
    cfg = checked_config(["data=folder", *thin, *folder, *short])
    (home / "run").mkdir()
    OmegaConf.save(cfg, home / "run" / "config.yaml")
    record = Record(home / "run")
    run(cfg, home / "run", record)
    record.note(status="done")
    return home / "run"


def test_a_run_records_what_it_sees(trained: Path) -> None:
    record = json.loads((trained / "record.json").read_text())
    assert record["data"]["channels"] == 5
    assert record["data"]["value_range"] == [0, 8000]
    assert record["data"]["bands"] is None
    assert len(record["normalisation"]["mean"]) == 5
    assert record["receptive_field"]["theoretical"] == 18


def test_predictions_of_a_geotiff_lie_where_it_lies(trained: Path, tmp_path: Path) -> None:
    images = trained.parent / "fields" / "images"
    np.save(tmp_path / "same.npy", tifffile.imread(images / "f1.tif"))
    Image.new("RGB", (40, 32)).save(tmp_path / "photo.png")
    out = tmp_path / "out"
    words = [str(images / "f1.tif"), str(tmp_path / "same.npy"), str(tmp_path / "photo.png")]
    said = cli("predict", str(trained), *words, "--out", str(out), "--overlay", "--device", "cpu")
    assert "photo.png (32×40) has 3 channels, not 5 (data.channels=5)" in said
    (mask,), (plain,) = out.rglob("f1.tif"), out.rglob("same.png")
    with tifffile.TiffFile(mask) as file:
        page = file.pages[0]
        assert page.asarray().shape == (32, 40)
        for code, _, _, values, _ in GEO:
            assert page.tags[code].value == values
    np.testing.assert_array_equal(tifffile.imread(mask), np.asarray(Image.open(plain)))
    assert is_ours(mask)
    model = load(trained, "cpu")
    np.testing.assert_array_equal(model.predict(images / "f1.tif"), np.asarray(Image.open(plain)))
    np.testing.assert_array_equal(model.predict(tifffile.imread(images / "f1.tif")), np.asarray(Image.open(plain)))
    with pytest.raises(DataError, match=r"the array .* has 3 channels, not 5"):
        model.predict(np.zeros((8, 8, 3), np.uint16))


def test_evaluation_repeats_the_test_of_a_run(trained: Path) -> None:
    assert "all metrics equal those of the run's own test" in cli("evaluate", str(trained)).replace("\n", " ")


@pytest.mark.parametrize("kind", ["state_dict", "onnx"])
def test_export(trained: Path, tmp_path: Path, kind: str) -> None:
    written = export(load(trained, "cpu"), kind, output_path(tmp_path, "fields", kind))
    assert written.metadata["input_shape"][1] == 5
    assert written.metadata["input"] == "image: float32 (batch,5,height,width), 5 channels in 0…1"
    preprocessing = written.metadata["preprocessing"]
    assert (preprocessing["value_range"], len(preprocessing["mean"])) == ([0, 8000], 5)
    assert all(row.agrees for row in written.comparisons)


def test_card(trained: Path) -> None:
    assert "Input: an image (5 channels, values from 0 to 8000) of any size" in model_card(trained, latency=False)
