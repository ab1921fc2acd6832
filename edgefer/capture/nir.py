"""Near-infrared simulation: what an 850-940 nm lens with its own illuminator would see of a visible face.

No paired visible/infrared expression set can be had, so the default bundle is trained, and the demo is fed, with
this documented stand-in. It is a *simulation*: every figure obtained with it says so. What it models, and why:

* active illumination: the lens's own light replaces the ambient light, so slow shading is flattened, and the lens
  works in the dark;
* inverse-square falloff away from the optical axis;
* smoother skin: near infrared enters the skin deeper than visible light and blurs fine texture;
* brighter iris and hair: melanin absorbs less beyond 800 nm, so the darkest tones are lifted;
* the sensor's own gain and noise, independent of the visible lens;
* a small registration error that calibration leaves behind.

All lengths are fractions of the image side, so that a 48-pixel crop and a 640x480 frame are treated alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class NirOptics:
    """One draw of the simulated lens. Fractions are of the image side unless said otherwise."""

    flatten: float = 0.6
    """how much of the ambient shading the illuminator removes, 0 to 1"""
    smooth: float = 0.014
    """standard deviation of the skin blur"""
    lift: float = 0.12
    """reflectance added to the darkest tones (iris, hair), 0 to 1"""
    gamma: float = 0.8
    """tone curve; below 1 brightens dark tones"""
    falloff: float = 0.5
    """illumination lost at half the image side from the axis, relative"""
    axis: tuple[float, float] = (0.5, 0.45)
    """optical axis of the illuminator, x and y"""
    gain: float = 1.0
    noise: float = 0.02
    """standard deviation of the read noise, of full scale"""
    shift: tuple[float, float] = (0.0, 0.0)
    """registration error, x and y"""
    rotation_deg: float = 0.0
    scale: float = 1.0


WHOLE_FRAME = NirOptics(smooth=0.003, noise=0.0)
"""For a whole frame, of which the face is a quarter; the sensor's noise is left to the caller, frame by frame."""


def draw_optics(rng: np.random.Generator) -> NirOptics:
    """A random lens, for training: the noise is that of a crop, which averages several pixels of the frame."""
    u = rng.uniform
    return NirOptics(
        flatten=u(0.3, 0.9), smooth=u(0.003, 0.014), lift=u(0.03, 0.2), gamma=u(0.65, 1.0), falloff=u(0.1, 0.7),
        axis=(u(0.3, 0.7), u(0.3, 0.7)), gain=u(0.7, 1.3), noise=u(0.003, 0.02),
        shift=(rng.normal(0, 0.015), rng.normal(0, 0.015)), rotation_deg=rng.normal(0, 1.5), scale=u(0.97, 1.03),
    )  # fmt: skip


def simulate_nir(visible: U8, optics: NirOptics, rng: np.random.Generator) -> U8:
    """The infrared view of ``visible``.

    visible: uint8 [H, W] grey or [H, W, 3] BGR, taken in good light. Returns uint8 [H, W].
    """
    image = _reflectance(visible)
    h, w = image.shape
    side = float(min(h, w))
    image = _flatten(image, optics.flatten, side)
    image = cv2.GaussianBlur(image, (0, 0), max(0.15, optics.smooth * side), dst=image)
    np.power(image, optics.gamma, out=image)
    image *= 1.0 - optics.lift
    image += optics.lift
    image *= optics.gain * _illumination(h, w, optics)
    image = _misregister(image, optics, side)
    image += rng.normal(0.0, optics.noise, image.shape).astype(np.float32)
    return np.clip(image * 255.0, 0, 255).astype(np.uint8)


def _reflectance(visible: U8) -> F32:
    """Near infrared is closest to the red end: skin and lips are bright there, the blue channel carries least."""
    if visible.ndim == 3:
        visible = cv2.transform(visible, np.array([[0.1, 0.2, 0.7]], np.float32))
    return visible.astype(np.float32) / 255.0


def _flatten(image: F32, amount: float, side: float) -> F32:
    """Divide by the slow shading; the blur is taken on a small copy, since it has no detail to lose."""
    small = cv2.resize(image, (24, 24), interpolation=cv2.INTER_AREA)
    shading = cv2.resize(cv2.GaussianBlur(small, (0, 0), 6.0), image.shape[::-1], interpolation=cv2.INTER_LINEAR)
    level = float(small.mean())
    return np.clip(image * (level / (shading + 0.05)) ** amount, 0.0, 1.0).astype(np.float32)


def _illumination(h: int, w: int, optics: NirOptics) -> F32:
    y = (np.arange(h, dtype=np.float32) / h - optics.axis[1])[:, None]
    x = (np.arange(w, dtype=np.float32) / w - optics.axis[0])[None, :]
    return 1.0 / (1.0 + 4.0 * optics.falloff * (x * x + y * y)).astype(np.float32)


def _misregister(image: F32, optics: NirOptics, side: float) -> F32:
    if optics.shift == (0.0, 0.0) and optics.rotation_deg == 0.0 and optics.scale == 1.0:
        return image
    h, w = image.shape
    m = cv2.getRotationMatrix2D((w / 2, h / 2), optics.rotation_deg, optics.scale)
    m[:, 2] += np.asarray(optics.shift) * side
    return cv2.warpAffine(image, m, (w, h), borderMode=cv2.BORDER_REFLECT_101)
