"""No picture takes unbounded time or memory, whatever it is called and whatever it says about itself."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import hostile
from support.hostile import HOW, READ, encode, noise, png, webp
from support.watched import cost

from metric_core.errors import ImageUnreadable, JobFailed
from metric_core.image import apart, decoding
from metric_core.image.decoding import Costly, decode
from metric_core.image.limits import HERE, MEMORY, SECONDS, Limits
from metric_core.image.preprocess import preprocess, shrunk, small
from metric_core.image.spec import Preprocessing

Make = Callable[[], bytes]
CASES: dict[str, tuple[Make, str]] = {
    "a WebP of 144 million pixels": (lambda: webp(12_000, 12_000), "too-large: 12000x12000 pixels, at most 100000000"),
    "a WebP of 100 million pixels": (lambda: webp(9_999, 9_999), "too-large: decoding 9999x9999 pixels"),
    "a WebP that fits": (lambda: encode(noise(5_000, "RGB"), "WEBP", quality=1, method=0), READ),
    "a PNG of 16 bits": (lambda: png(10_000, 10_000, depth=16), READ),
    "a PNG with transparency": (lambda: png(9_900, 9_900, colour=6), "too-large: decoding"),
    "a PNG with transparency that fits": (lambda: png(7_900, 7_900, colour=6), READ),
    "a PNG with a palette": (lambda: png(9_900, 9_900, colour=3), READ),
    "a narrow PNG": (lambda: png(100, 1_000_000), READ),
    "a PNG that claims 60000 x 60000": (lambda: hostile.claimed_png(60_000, 60_000), "too-large: Image size"),
    "a PNG of many chunks": (lambda: hostile.chunky_png(200_000), READ),
    "a JPEG of 3000 scans": (lambda: hostile.many_scans(4_000, 3_000), "too-many-scans: 300. scans in a JPEG"),
    "a JPEG of 100 scans": (lambda: hostile.many_scans(4_000, 100), READ),
    "a progressive JPEG": (lambda: encode(noise(9_900, "RGB"), "JPEG", progressive=True, subsampling=0), "too-large"),
    "a JPEG in CMYK": (lambda: encode(noise(9_900, "CMYK"), "JPEG"), "too-large: decoding"),
    "a JPEG that must be turned": (lambda: hostile.turned(9_900), "too-large: decoding"),
    "a large JPEG": (lambda: encode(noise(9_900, "RGB"), "JPEG"), READ),
    "a large JPEG 2000": (lambda: encode(noise(6_000, "RGB"), "JPEG2000"), "too-large: decoding"),
    "an AVIF": (lambda: encode(noise(4_000, "RGB"), "AVIF", speed=10), READ),
    "a GIF of many frames": (lambda: hostile.many_frames(100_000), READ),
    "a PGM that ends after its header": (lambda: hostile.truncated_ppm(9_999, 9_999, 999), "corrupt"),
    "a TIFF of one huge tile": (lambda: hostile.tiled_tiff(100, 60_000), "corrupt: decoder error"),
    "an icon that holds a large PNG": (lambda: hostile.ico_with(png(20_000, 20_000)), "too-large: Image size"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_picture_costs_no_more_than_the_limits(name: str, tmp_path: Path) -> None:
    make, expected = CASES[name]
    (tmp_path / "picture.jpg").write_bytes(make())
    found = cost("support.hostile:prepared", str(tmp_path / "picture.jpg"), timeout=10 * SECONDS)
    assert found.answer.startswith(expected.partition(".")[0]), found
    assert found.cpu < SECONDS
    assert found.peak <= MEMORY + (8 << 20), "of which a few are the process's own"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("eps/anna/holiday.jpg", "not-an-image"),
        ("webp12000.webp", "too-large"),
        ("grey16_10000.png", READ),
        ("60000sq.png", "too-large"),
        ("scanbomb.jpg", "too-many-scans"),
    ],
)
def test_pictures_from_the_field(name: str, expected: str, data_root: Path) -> None:
    found = cost("support.hostile:prepared", str(data_root / "field/hostile" / name), timeout=10 * SECONDS)
    assert found.answer.startswith(expected), found
    assert found.cpu < SECONDS
    assert found.peak <= MEMORY + (8 << 20)


@pytest.mark.parametrize("kind", ["jpg", "png", "eps", "tif"])
def test_no_other_program_is_started(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow opens EPS with Ghostscript, by its bytes and not by the file's ending."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for careful in (False, True):
        with pytest.raises(ImageUnreadable, match="not-an-image: the first bytes are b'%!PS-Ado'; expected one of"):
            preprocess(hostile.EPS, HOW, careful=careful)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("limits", "data", "message"),
    [
        (Limits(max_pixels=99), png(10, 10), "^too-large: 10x10 pixels, at most 99$"),
        (Limits(max_bytes=50), png(10, 10), "^too-large: [0-9]+ bytes, at most 50$"),
        (Limits(max_pixels=99), encode(Image.new("L", (10, 10)), "TIFF"), "^too-large: 10x10 pixels, at most 99$"),
    ],
)
@pytest.mark.parametrize("careful", [False, True])
def test_limits_hold_in_every_process(limits: Limits, data: bytes, message: str, careful: bool) -> None:
    with pytest.raises(ImageUnreadable, match=message):
        preprocess(data, HOW, limits=limits, careful=careful)


KINDS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "ICO", "JPEG2000", "AVIF")
MODES = ("L", "RGB", "RGBA", "LA", "P", "1", "CMYK", "I;16")


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_do_not_depend_on_the_process(kind: str) -> None:
    data = encode(noise(96, "RGB"), kind)
    for how in (HOW, Preprocessing(32, "grey", crop=0.7)):
        here, there = preprocess(data, how), preprocess(data, how, careful=True)
        assert np.array_equal(here, there)
        assert here.std() > 1
    assert np.array_equal(small(data), apart.call({"limits": {}}, data))
    assert np.array_equal(shrunk(data, 20), apart.call({"limits": {}, "side": 20}, data))


@pytest.mark.parametrize("mode", MODES)
def test_pixels_do_not_depend_on_the_bands(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Image.fromarray(np.arange(70 * 50, dtype=np.uint16).reshape(50, 70) * 18)
    if mode != "I;16":
        picture = noise(70, "RGBA").convert("RGB" if mode in ("P", "CMYK", "1") else "RGBA").convert(mode)
    data = encode(picture, "TIFF" if mode == "CMYK" else "PNG")
    whole = np.asarray(decode(data))
    monkeypatch.setattr(decoding, "BAND", 3 * 70)
    assert np.array_equal(np.asarray(decode(data)), whole)


def test_of_a_large_picture_only_the_part_in_use_is_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(noise(300, "RGB"), "PNG")
    for crop in (0.1, 0.5, 1.0):
        how = replace(HOW, crop=crop)
        whole = preprocess(data, how)
        with monkeypatch.context() as patched:
            patched.setattr("metric_core.image.preprocess.LARGE", 0)
            assert np.array_equal(preprocess(data, how), whole)


@pytest.mark.parametrize(
    ("data", "costly"),
    [
        (png(10, 10), False),
        (encode(noise(3_000, "RGB"), "JPEG"), False),
        (encode(Image.new("L", (9, 9)), "TIFF"), True),
        (encode(Image.new("L", (9, 9)), "JPEG2000"), True),
        (encode(Image.new("RGB", (16, 16)), "ICO"), True),
        (encode(Image.new("RGB", (16, 16)), "AVIF"), True),
        (png(6_000, 3_000), True),
        (webp(3_000, 3_000), True),
        (hostile.many_scans(2_000, 300), True),
    ],
)
def test_what_a_header_does_not_bound_is_not_decoded_here(data: bytes, costly: bool) -> None:
    if costly:
        with pytest.raises(Costly):
            decode(data, room=HERE)
    else:
        assert decode(data, room=HERE).size > (1, 1)


TOO_SLOW = f"^too-slow: decoding it takes more than {SECONDS} s of a CPU$"
PROGRAM = """\
import json, os, sys
sys.path[:] = json.loads(sys.argv[1])
import numpy as np
from metric_core.image import apart
apart.SECONDS = 1
def answer(request, data):
    exec(request["code"])
    return np.frombuffer(data, np.uint8)
apart.serve(answer)
"""


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that runs code instead of decoding pictures, for at most a second."""
    apart.end()
    monkeypatch.setattr(apart, "PROGRAM", PROGRAM)
    yield
    apart.end()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        pytest.param("while True: pass", TOO_SLOW, marks=pytest.mark.slow),
        ("os.kill(os.getpid(), 11)", "^crashed: decoding it ended the decoder's process with signal SIGSEGV$"),
        ("os._exit(3)", "^crashed: .* exit code 3$"),
        ("bytearray(1 << 30)", "^too-large: decoding it takes more than 512 MB$"),
    ],
)
def test_a_process_that_ends_is_told_and_replaced(program: None, code: str, message: str) -> None:
    for _ in range(2):
        with pytest.raises(ImageUnreadable, match=message):
            apart.call({"code": code}, b"abc")
        assert apart.call({"code": ""}, b"abc").tobytes() == b"abc"


def test_a_fault_of_ours_is_no_fault_of_the_picture(program: None) -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        apart.call({"code": "1 / 0"}, b"abc")


def test_a_process_that_does_not_start_is_told(program: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "PROGRAM", "import sys; sys.exit(7)")
    with pytest.raises(JobFailed, match=r"does not start \(exit code 7\)"):
        apart.call({}, b"abc")


@pytest.mark.parametrize(("seconds", "ends"), [(0.2, True), (60, False)])
def test_a_worker_that_is_stuck_ends(seconds: float, ends: bool) -> None:
    pid = os.fork()
    if not pid:  # in the child
        from metric_core.image import watch

        watch.SECONDS, watch.EACH = seconds, 0  # type: ignore[assignment]
        with watch.ended_if_stuck(1):
            sum(range(30_000_000))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == (-signal.SIGPROF if ends else 0)
