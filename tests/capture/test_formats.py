"""Pixel formats against known truth: packed here by the formats' definitions, unpacked by the code under test."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from capture_helpers import picture
from hypothesis import given
from hypothesis import strategies as st

from edgefer.capture.formats import DEPTHS, FORMATS, Scale, chroma_in, decode, narrowed
from edgefer.capture.look import chroma_of
from edgefer.errors import CameraError
from edgefer.types import U8, Lens

V, NIR = Lens
SIZE = (64, 48)


def smooth(seed: int) -> U8:
    """A colour picture without fine colour detail, which 4:2:2 and 4:2:0 cannot carry."""
    small = np.random.default_rng(seed).integers(40, 210, (6, 8, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(small, SIZE, interpolation=cv2.INTER_CUBIC))


def packed(bgr: U8, code: str) -> bytes:
    """By the book: ITU-R BT.601, limited range."""
    b, g, r = (bgr[..., k].astype(float) for k in range(3))
    y = np.rint(16 + (65.738 * r + 129.057 * g + 25.064 * b) / 256).astype(np.uint8)
    u = 128 + (-37.945 * r - 74.494 * g + 112.439 * b) / 256
    v = 128 + (112.439 * r - 94.154 * g - 18.285 * b) / 256
    if code == "NV12":
        half = [np.rint(c.reshape(24, 2, 32, 2).mean((1, 3))).astype(np.uint8) for c in (u, v)]
        return y.tobytes() + np.stack(half, -1).tobytes()
    out = np.empty((48, 32, 4), np.uint8)
    places = {"YUYV": (0, 1, 2, 3), "UYVY": (1, 0, 3, 2)}[code]
    pairs = [np.rint(c.reshape(48, 32, 2).mean(2)).astype(np.uint8) for c in (u, v)]
    for place, plane in zip(places, (y[:, ::2], pairs[0], y[:, 1::2], pairs[1]), strict=True):
        out[..., place] = plane
    return out.tobytes()


@pytest.mark.parametrize("code", ["YUYV", "UYVY", "NV12"])
def test_colour_comes_out_as_it_went_in(code: str) -> None:
    truth = smooth(1)
    assert cv2.PSNR(decode(packed(truth, code), code, SIZE, V), truth) > 33


@pytest.mark.parametrize("code", ["YUYV", "UYVY", "NV12"])
def test_an_infrared_lens_behind_a_colour_format_gives_its_brightness_untouched(code: str) -> None:
    y = picture(NIR, 3)
    grey = np.full((48, 64, 2), 128, np.uint8)
    grey[..., int(code == "UYVY")] = y
    data = y.tobytes() + bytes([128]) * (24 * 64) if code == "NV12" else grey.tobytes()
    assert np.array_equal(decode(data, code, SIZE, NIR), y)
    assert chroma_in(data, code, SIZE) == 0.0


@pytest.mark.parametrize("code", ["YUYV", "UYVY", "NV12"])
def test_the_colour_of_a_lens_is_known_from_its_bytes(code: str) -> None:
    known = chroma_in(packed(smooth(2), code), code, SIZE)
    assert known == pytest.approx(chroma_of(smooth(2)), rel=0.4)
    assert chroma_in(b"", "GREY", SIZE) is None


@pytest.mark.parametrize(
    ("code", "size"), [("NV12", (64, 47)), ("NV12", (63, 48)), ("YUYV", (63, 48)), ("UYVY", (63, 48))]
)
def test_a_side_that_colours_cannot_share_is_refused_in_one_line(code: str, size: tuple[int, int]) -> None:
    with pytest.raises(CameraError, match=f"^{code} pictures have even sides, not {size[0]}x{size[1]}"):
        decode(bytes(4 * 64 * 48), code, size, V)


def test_8_bit_formats_are_exact() -> None:
    grey, bgr = picture(NIR, 4), picture(V, 4)
    assert np.array_equal(decode(grey.tobytes(), "GREY", SIZE, NIR), grey)
    assert np.array_equal(decode(bgr.tobytes(), "BGR3", SIZE, V), bgr)
    assert np.array_equal(decode(bgr[..., ::-1].tobytes(), "RGB3", SIZE, V), bgr)


def test_jpeg_comes_out_as_it_went_in_and_a_torn_one_is_refused() -> None:
    data = cv2.imencode(".jpg", smooth(5), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    assert cv2.PSNR(decode(data, "MJPG", SIZE, V), smooth(5)) > 33
    assert decode(data, "MJPG", SIZE, NIR).shape == (48, 64)
    with pytest.raises(CameraError, match="cut short"):
        decode(data[:20], "MJPG", SIZE, V)
    with pytest.raises(CameraError, match="from 32x32 to 64x48"):
        decode(data, "MJPG", (32, 32), V)


@pytest.mark.parametrize("code", sorted(DEPTHS))
def test_the_full_range_of_a_deep_sensor_is_the_full_range_of_a_byte(code: str) -> None:
    top = (1 << DEPTHS[code]) - 1
    ramp = np.linspace(0, top, 64 * 48).astype("<u2").reshape(48, 64)
    grey = decode(ramp.tobytes(), code, SIZE, NIR, Scale("bits"))
    assert np.abs(grey.astype(float) - ramp * (255.0 / top)).max() <= 0.51


def test_percentiles_stretch_a_narrow_band_and_leave_covered_noise_dark() -> None:
    ramp = np.linspace(7000, 9000, 480 * 640).reshape(480, 640).astype(np.uint16)
    assert (int(narrowed(ramp, 16).min()), int(narrowed(ramp, 16).max())) == (0, 255)
    noise = np.random.default_rng(0).integers(3000, 3004, (480, 640), dtype=np.uint16)
    assert narrowed(noise, 16).max() < 6


@given(st.floats(-40, 120), st.floats(0.01, 0.1))
def test_a_temperature_is_the_same_grey_whatever_else_is_in_the_picture(celsius: float, kelvin: float) -> None:
    scale = Scale("temperature", 15.0, 45.0, kelvin)
    counts = np.full((48, 64), round((celsius + 273.15) / kelvin), np.uint16)
    counts[:8] = round(273.15 / kelvin)
    grey = decode(counts.tobytes(), "Y16 ", SIZE, NIR, scale)
    assert grey[20, 20] == pytest.approx(min(255.0, max(0.0, (celsius - 15) / 30 * 255)), abs=1.0)
    assert grey[0, 0] == 0


@given(
    code=st.sampled_from([f for f in FORMATS if f != "MJPG"]),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)).map(lambda s: (2 * s[0], 2 * s[1])),
    padding=st.integers(0, 33),
    lens=st.sampled_from(list(Lens)),
    seed=st.integers(0, 99),
    reuse=st.booleans(),
)
def test_padding_and_buffers_change_nothing(
    code: str, size: tuple[int, int], padding: int, *, lens: Lens, seed: int, reuse: bool
) -> None:
    """Rows with padding, a given output array, and a shape that is always the lens's."""
    w, h = size
    rows = h * 3 // 2 if code == "NV12" else h
    used = w if code in ("GREY", "NV12") else w * 3 if code in ("BGR3", "RGB3") else w * 2
    padding += padding % 2 if code in DEPTHS else 0
    plain = np.random.default_rng(seed).integers(0, 256, (rows, used), dtype=np.uint8)
    wide = np.concatenate([plain, np.full((rows, padding), 77, np.uint8)], axis=1)
    shape = (h, w, 3) if lens is V else (h, w)
    out = np.empty(shape, np.uint8) if reuse else None
    image = decode(wide.tobytes(), code, size, lens, stride=used + padding, out=out)
    assert (image.shape, image.dtype) == (shape, np.uint8)
    assert np.array_equal(image, decode(plain.tobytes(), code, size, lens))
    assert out is None or image is out


@pytest.mark.parametrize("code", FORMATS)
def test_an_empty_or_short_buffer_is_a_camera_error(code: str) -> None:
    with pytest.raises(CameraError, match="empty buffer"):
        decode(b"", code, SIZE, V)
    with pytest.raises(CameraError, match="cut short"):
        decode(b"x" * 100, code, SIZE, V)


def test_a_format_that_is_not_known_is_named() -> None:
    with pytest.raises(CameraError, match=r"'H264' is not understood; use one of GREY"):
        decode(b"abc", "H264", SIZE, V)
