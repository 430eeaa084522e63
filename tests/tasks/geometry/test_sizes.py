"""Headers decide what is read: what claims too much is refused without its voxels, and nothing makes up for a claim."""

import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image, ImageDraw

from tasks.common.files import ImageError
from tasks.geometry import sizes, volumes
from tasks.geometry.images import check_image, read_image
from tasks.geometry.label_values import load
from tasks.geometry.sizes import LIMITS, check_label, check_volume
from tests import bombs
from tests.bombs import written

MEGABYTES = 1 << 20


@pytest.fixture(autouse=True)
def limits(monkeypatch):
    """Small ones, so that files which are just too large are small too."""
    monkeypatch.setattr(LIMITS, "max_voxels", 60_000)
    monkeypatch.setattr(LIMITS, "max_pixels", 20_000)


@pytest.fixture
def unread(monkeypatch):
    """Fails a test in which voxels or pixels are read."""

    def read(*_, **__):
        pytest.fail("pixels were read")

    monkeypatch.setattr(Image.Image, "load", read)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", read)
    monkeypatch.setattr("tasks.geometry.label_values.LoadImage", read)
    monkeypatch.setattr(nibabel.arrayproxy.ArrayProxy, "__array__", read)
    monkeypatch.setattr(np, "fromfile", read)


def volume(path: Path, shape: tuple[int, ...]) -> Path:
    if path.name.endswith(".nrrd"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.ones(shape[::-1], np.int16)), str(path), True)
    else:
        nibabel.save(nibabel.Nifti1Image(np.ones(shape, np.int16), np.eye(4)), path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "A.NII.GZ", "a.seg.nrrd"])
def test_the_largest_volume_is_read_and_one_slice_more_is_refused_from_its_header(tmp_path, name, request):
    assert check_volume(volume(tmp_path / name, (50, 40, 30))) == (50, 40, 30)
    assert load(tmp_path / name).shape == (1, 50, 40, 30)
    request.getfixturevalue("unread")
    volume(tmp_path / name, (50, 40, 31))
    for read in (load, check_volume, volumes.check_image, volumes.read_volume):
        with pytest.raises(ImageError, match=rf"{name} claims 50x40x31 voxels; the option max_voxels allows 60000"):
            read(tmp_path / name)


def test_channels_count_as_voxels_in_one_file_and_in_several(tmp_path, unread):
    volume(tmp_path / "four.nii.gz", (50, 40, 10, 4))
    with pytest.raises(ImageError, match=r"50x40x10x4 voxels; the option max_voxels"):
        volumes.read_volume(tmp_path / "four.nii.gz")
    (tmp_path / "channels" / "t2").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "channels" / "t2"):
        volume(folder / "a.nii.gz", (50, 40, 20))
    with pytest.raises(ImageError, match=r"2x50x40x20 voxels; the option max_voxels"):
        volumes.read_volume(tmp_path / "a.nii.gz", ("t1", "t2"))


@pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
@pytest.mark.parametrize(("mode", "size"), [("L", (200, 101)), ("RGB", (150, 134)), ("1", (20_001, 1))])
def test_pictures_with_too_many_pixels_are_refused_from_their_header(tmp_path, ending, mode, size, request):
    Image.new(mode if (mode, ending) != ("1", "jpg") else "L", size).save(tmp_path / f"a.{ending}")
    request.getfixturevalue("unread")
    for read in (check_image, read_image):
        with pytest.raises(ImageError, match=rf"a\.{ending} claims {size[0]}x{size[1]} (pixels.*max_pixels|.*max_vox)"):
            read(tmp_path / f"a.{ending}")


def test_values_of_a_picture_count_as_voxels(tmp_path, monkeypatch, request):
    monkeypatch.setattr(LIMITS, "max_pixels", 1 << 28)
    Image.new("RGB", (200, 101)).save(tmp_path / "a.png")
    request.getfixturevalue("unread")
    with pytest.raises(ImageError, match=r"200x101x3 voxels; the option max_voxels"):
        check_image(tmp_path / "a.png")


def test_a_slice_has_no_more_pixels_than_a_picture(tmp_path, unread):
    volume(tmp_path / "a.nii.gz", (200, 101, 1))
    for read in (check_image, read_image):
        with pytest.raises(ImageError, match=r"200x101 pixels; the option max_pixels"):
            read(tmp_path / "a.nii.gz")


LABELS = {
    "a.nii.gz": bombs.nifti((2000, 2000, 2000)),
    "b.nii.gz": bombs.nifti((30, 20, 13)),
    "c.nrrd": bombs.nrrd((2000, 2000, 2000)),
    "d.seg.nrrd": bombs.nrrd((3, 30, 20, 10)),
    "e.nrrd": bombs.nrrd((30, 20, 21), zeros=30 * 20 * 21, encoding="raw"),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_that_claim_more_than_their_image_in_all_layers_are_refused_unread(tmp_path, name, unread):
    file = written(tmp_path / name, LABELS[name])
    classes = 2 if name.startswith("b") else 3
    with pytest.raises(ImageError, match=rf"{name} (claims .* voxels)"):
        check_label(file, (30, 20, 10 if classes == 3 else 12), classes)
    with pytest.raises(ImageError, match=rf"{name} (claims .* voxels)"):
        volumes.read_label(file, classes, like=(30, 20, 10 if classes == 3 else 12))


def test_a_label_may_have_a_layer_for_each_declared_label(tmp_path):
    for layers in (1, 2):
        file = written(tmp_path / "a.seg.nrrd", bombs.nrrd((layers, 30, 20, 10), zeros=layers * 6000))
        check_label(file, (30, 20, 10), 3)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.nii.gz", bombs.nifti((50, 40, 30), np.float64)),
        ("a.nii", bombs.nifti((50, 40, 30))),
        ("a.nrrd", bombs.nrrd((50, 40, 30), zeros=59_000 - 200, encoding="raw")),
        ("b.nrrd", bombs.nrrd((500, 400, 300))),
    ],
)
def test_files_that_cannot_hold_what_they_claim_are_refused_unread(tmp_path, name, content, unread, monkeypatch):
    monkeypatch.setattr(LIMITS, "max_voxels", 1 << 30)
    with pytest.raises(ImageError, match=rf"{name} (claims 500?x400?x300? voxels, more than|cannot be read)"):
        load(written(tmp_path / name, content))


def secret_of(tmp_path: Path) -> Path:
    return written(tmp_path / "secret", bytes(range(60)))


@pytest.mark.parametrize(
    "line", ["data file: {}\n", "datafile: {}\n", "Data File: {}\n", "space units: x\rdata file: {}\r"]
)
def test_a_label_never_takes_its_voxels_from_another_file_of_the_server(tmp_path, line):
    content = bombs.nrrd((5, 4, 3), 0, "raw", line.format(secret_of(tmp_path)))
    for file in (written(tmp_path / "a.nrrd", content), written(tmp_path / "b.nrrd", content.rstrip(b"\n"))):
        with pytest.raises(ImageError, match=r"refers to another file|no NRRD header"):
            load(file)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (bombs.nrrd((5, 4, 3), 60, "raw", "byte skip: 10000000000\n"), "do not follow"),
        (bombs.nrrd((5, 4, 3), 60, "bzip2"), "encoding is none of"),
        (bombs.nrrd((5, -4, 3)), "cannot be read"),
        (b"NRRD0004\n" + b"a" * (2 << 20), "no NRRD header"),
        (bombs.nifti((5, 4, 3)), "no NRRD header"),
        (b"", "no NRRD header"),
    ],
)
def test_nrrd_headers_that_lead_elsewhere_are_refused(tmp_path, content, words):
    with pytest.raises(ImageError, match=words):
        load(written(tmp_path / "a.nrrd", content))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (bombs.nifti((5, 4, 3), extension=128 << 20), "do not follow"),
        (bombs.nifti((5, 4, -3)), "no voxels"),
        (bombs.nifti((5, 0, 3)), "no voxels"),
        (b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * (1 << 20), "no NIfTI header"),
        (bombs.deflated(b"", 1 << 20), "no NIfTI header"),
        (b"", "cannot be read"),
    ],
)
def test_nifti_headers_that_lead_elsewhere_are_refused(tmp_path, content, words):
    with pytest.raises(ImageError, match=words):
        load(written(tmp_path / "a.nii.gz", content))


def peak_of(call) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_what_lies_behind_the_claimed_voxels_is_never_unpacked(tmp_path):
    small = written(tmp_path / "a.nii.gz", bombs.nifti((30, 20, 10), zeros=64 * MEGABYTES))
    assert peak_of(lambda: load(small)) < 16 * MEGABYTES
    assert load(small).shape == (1, 30, 20, 10)
    with_text = written(tmp_path / "a.png", bombs.png(30, 20, extra=bombs.text_chunks(64 * MEGABYTES)))

    def refused():
        with pytest.raises(ImageError, match=r"a\.png cannot be read"):
            read_image(with_text)

    assert peak_of(refused) < 16 * MEGABYTES


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tags.tif", bombs.tags_that_point_to_all(1 << 20)),
        ("strips.tif", bombs.tiff_with_strips(2_000_000)),
        ("exif.png", bombs.png(30, 20, extra=bombs.exif_chunk(1 << 20))),
        ("exif.jpg", bombs.jpeg(16, 16, bombs.tags_that_point_to_all(1 << 20))),
        ("large.jpg", bombs.jpeg(65500, 65500)),
        ("segments.jpg", b"\xff\xd8" + b"\xff\xe0\x00\x02" * 5000),
        ("scans.jpg", bombs.jpeg_with_scans(140, 140, 101)),
        ("texts.png", bombs.png_with_chunks(1 << 17)),
        ("pixels.png", bombs.png_with_chunks(1 << 17, b"IDAT")),
        ("fill.jpg", b"\xff\xd8" + b"\xff" * (4 << 20)),
        ("huge.png", bombs.png(60000, 60000, whole=False)),
        ("rest.png", bombs.png(30, 20, extra=bombs._chunk(b"prVt", bytes(65 << 20)))),
    ],
)
def test_pictures_that_are_bombs_are_named_and_take_no_memory(tmp_path, name, content):
    file = written(tmp_path / name, content)

    def refused():
        with pytest.raises(ImageError, match=rf"{name} c(laims|annot be read)"):
            read_image(file)

    allowed = 3 * len(content) + 32 * MEGABYTES
    assert peak_of(refused) < allowed


def test_pictures_of_ordinary_pieces_are_read_whatever_lies_behind_them(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (90, 130, 3)).astype(np.uint8)
    thumbnail = Image.Exif()
    thumbnail[0x010E] = bombs.jpeg_with_scans(16, 16, 90).decode("latin-1")
    for number, options in enumerate(({}, {"progressive": True}, {"restart_marker_rows": 1, "exif": thumbnail})):
        file = tmp_path / f"{number}.jpg"
        Image.fromarray(noise).save(file, quality=95, **options)
        before = read_image(file)
        file.write_bytes(file.read_bytes() + b"\xff\xda\0\2" * 5000)  # a film behind a photograph
        assert np.array_equal(read_image(file), before)
    content = bombs.jpeg_with_scans(16, 16, 100)
    assert read_image(written(tmp_path / "scans.jpg", content)).shape == (1, 16, 16)
    for filled in (b"\xff" * 70_000, bytes(65_534) + b"\xff"):  # markers on the border of what is read at once
        place = content.rindex(b"\xff\xda")
        more = content[:place] + filled + content[place:-2] + content[place:-2] + content[-2:]
        with pytest.raises(ImageError, match="more than 100 scans"):
            read_image(written(tmp_path / "scans.jpg", more))


def test_pictures_are_png_jpeg_or_tiff_whatever_their_name(tmp_path):
    Image.new("L", (30, 20)).save(tmp_path / "a.bmp")
    (tmp_path / "a.bmp").rename(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a\.png cannot be read"):
        read_image(tmp_path / "a.png")


def test_ordinary_tags_and_exif_data_pass(tmp_path):
    picture = Image.new("RGB", (40, 20))
    ImageDraw.Draw(picture).rectangle((0, 0, 9, 9), (200, 200, 200))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x9286] = b"a comment"
    for name in ("a.jpg", "a.png", "a.tif"):
        picture.save(tmp_path / name, exif=exif)
        assert read_image(tmp_path / name).shape == (3, 40, 20), name
    picture.save(tmp_path / "big.tif", big_tiff=True, compression="tiff_lzw")
    assert read_image(tmp_path / "big.tif").shape == (3, 20, 40)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "LA", "I;16", "F", "CMYK"])
def test_a_picture_made_smaller_while_it_is_read_shows_the_same(tmp_path, mode):
    rows, columns = np.mgrid[:96, :144]
    ramp = ((rows + columns) * 255 // 240).astype(np.uint8)
    whole = {"I;16": Image.fromarray(ramp.astype(np.uint16) * 200), "F": Image.fromarray(ramp.astype(np.float32))}
    picture = whole.get(mode) or Image.fromarray(ramp).convert(mode)
    file = tmp_path / ("a.tif" if mode in ("F", "CMYK") else "a.png")
    picture.save(file)
    full, reduced = read_image(file), read_image(file, largest=40)
    assert (reduced.shape, reduced.dtype) == ((len(full), 32, 48), full.dtype)
    expected = full.reshape(len(full), 32, 3, 48, 3).astype(float).mean((2, 4))
    spread = full.max() - full.min()
    assert np.abs(reduced - expected).max() <= max(1, spread / 200)
    assert np.array_equal(read_image(file, largest=100), full)


def test_limits_are_those_of_the_process(tmp_path, monkeypatch):
    volume(tmp_path / "a.nii", (50, 40, 31))
    monkeypatch.setattr(LIMITS, "max_voxels", 62_000)
    assert check_volume(tmp_path / "a.nii") == (50, 40, 31)
    assert (sizes.MAX_VOXELS, sizes.MAX_PIXELS) == (2**30, 2**28)
