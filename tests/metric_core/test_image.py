import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metric_core import image
from metric_core.errors import ImageUnreadable
from metric_core.image import Preprocessing

HOW = Preprocessing(32, "rgb")


def encode(picture: Image.Image, kind: str = "PNG", **more: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **more)
    return buffer.getvalue()


def test_every_odd_image_decodes_or_has_a_reason(data_root: Path) -> None:
    """What a lenient reader makes of broken files is written down with the files; we agree with it on all 44."""
    folder = data_root / "odd_images"
    rows = list(csv.DictReader((folder / "EXPECTED.tsv").read_text().splitlines(), delimiter="\t"))
    assert len(rows) == 44
    for row in rows:
        data = (folder / row["file"]).read_bytes()
        if row["pillow_13.0.0_default_outcome"].startswith("decodes"):
            assert image.preprocess(data, HOW).shape == (3, 32, 32), row["file"]
        else:
            with pytest.raises(ImageUnreadable, match=r"^(empty|not-an-image|too-large|truncated|corrupt): "):
                image.preprocess(data, HOW)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(picture: Image.Image, orientation: int) -> None:
    back = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = picture if back is None else picture.transpose(back)
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(
        image.preprocess(encode(stored, exif=exif), HOW), image.preprocess(encode(picture), HOW)
    )


def test_modes_are_handled_on_purpose() -> None:
    grey = Image.linear_gradient("L").resize((64, 64))
    plain = image.preprocess(encode(grey), HOW)
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    np.testing.assert_array_equal(image.preprocess(encode(sixteen), HOW), plain)
    dark = Image.fromarray(np.asarray(grey).astype(np.uint16))  # 16-bit, yet below 256: black, not a picture
    assert image.preprocess(encode(dark), HOW).max() <= 1
    cmyk = image.preprocess(encode(grey.convert("RGB").convert("CMYK"), "TIFF"), HOW)
    assert np.abs(cmyk.astype(int) - plain).mean() < 2
    hidden = Image.merge("RGBA", [grey, grey, grey, Image.new("L", (64, 64), 0)])
    assert (image.preprocess(encode(hidden), HOW) == 128).all(), "what is transparent shows mid-grey"


def test_crop_keeps_the_centre() -> None:
    frame = Image.new("L", (100, 60), 0)
    frame.paste(255, (35, 15, 65, 45))
    how = Preprocessing(16, "grey", crop=0.5, resize="box")
    assert (image.preprocess(encode(frame), how) == 255).all()
    whole = image.preprocess(encode(frame), Preprocessing(16, "grey", resize="box"))
    assert abs(whole.mean() - 255 / 4) < 2


def test_grey_and_colour_channels() -> None:
    red = Image.new("RGB", (32, 32), (255, 0, 0))
    assert image.preprocess(encode(red), Preprocessing(16, "grey")).shape == (1, 16, 16)
    assert (image.preprocess(encode(red), Preprocessing(16, "grey")) == 76).all()  # ITU-R 601: 0.299 x 255
    assert image.preprocess(encode(red), Preprocessing(16, "rgb"))[:, 0, 0].tolist() == [255, 0, 0]


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="16 to 1024"):
        Preprocessing(8, "grey")
    with pytest.raises(ValueError, match="crop"):
        Preprocessing(32, "grey", crop=0)
