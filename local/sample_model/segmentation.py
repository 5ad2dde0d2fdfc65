"""Unsupervised segmentation of a photograph: k-means over each pixel's colour and the texture around it."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pydantic
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydantic import ConfigDict
from pydantic.alias_generators import to_pascal

MAX_SIDE_PX = 1600
"""The longest side of a map. A larger picture is scaled down to it before it is segmented."""
MAX_PICTURE_PX = 100_000_000
CLASSES = range(2, 13)
"""How many classes a caller may ask for: at most as many as `_PALETTE` has colours."""
STAGES = ("features", "clustering", "labels", "smoothing")
"""What a `Report` names, in this order."""

_SEED = 7
_RESTARTS = 4
_BATCHES = 40
_BATCH_PX = 4096
_STRIP_ROWS = 128

WIRE = ConfigDict(alias_generator=to_pascal, validate_by_name=True, serialize_by_alias=True)
"""JSON keys as the backbone writes them: `MapColour` for `map_colour`."""

Floats = NDArray[np.float32]
Report = Callable[[str, float], None]
"""Called with the stage's name and the share of the stage that is done, 0 to 1; may raise to stop the work."""


class UnreadablePicture(Exception):
    """Raised when the model cannot segment a body as a picture. Its text is for the caller."""


@pydantic.dataclasses.dataclass(frozen=True, config=WIRE)
class FoundClass:
    number: int
    """Counts from 1; the largest class comes first."""
    colour: str
    """The name of the class's mean colour in the picture, e.g. "dark green"."""
    map_colour: str
    """The colour of the class in the map, e.g. "#4e9a51"."""
    share: float
    """The share of the picture's area, 0 to 1; the shares of all classes add up to 1."""

    def __str__(self) -> str:
        return f"class {self.number} ({self.colour}) {self.share:.0%}".replace("%", " %")


@dataclass(frozen=True)
class Segmentation:
    map: Image.Image
    classes: list[FoundClass]


def open_picture(data: bytes) -> Image.Image:
    """Returns the picture upright, in RGB, at most `MAX_SIDE_PX` long; raises `UnreadablePicture`."""
    try:
        picture = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
        if picture.width * picture.height > MAX_PICTURE_PX:
            raise UnreadablePicture(f"the picture has more than {MAX_PICTURE_PX // 1_000_000} megapixels")
        picture.draft("RGB", (MAX_SIDE_PX, MAX_SIDE_PX))
        picture = ImageOps.exif_transpose(picture).convert("RGB")
        picture.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
        return picture
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadablePicture("the body is not a readable JPEG or PNG picture") from error


def segment(picture: Image.Image, class_count: int, report: Report = lambda stage, done: None) -> Segmentation:
    """Groups the pixels of an RGB picture into at most `class_count` classes; the same input gives the same map."""
    lab = rgb_to_lab(np.asarray(picture))
    features = _features(lab, report)
    centres = _cluster(features.reshape(-1, features.shape[-1]), class_count, report)
    labels = _label(features, centres, report)

    numbers, labels, counts = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    labels = np.argsort(order)[labels].reshape(lab.shape[:2]).astype(np.uint8)
    means = [lab[labels == number].mean(axis=0) for number in range(len(numbers))]
    map_colours = _match_palette(means)
    drawn = Image.fromarray(labels, mode="P")
    drawn.putpalette(np.array(map_colours, dtype=np.uint8).tobytes())
    classes = [
        FoundClass(number + 1, _name_of(mean), "#{:02x}{:02x}{:02x}".format(*colour), float(count / labels.size))
        for number, (mean, colour, count) in enumerate(zip(means, map_colours, counts[order], strict=True))
    ]
    return Segmentation(drawn, classes)


def rgb_to_lab(rgb: NDArray[np.uint8]) -> Floats:
    """Converts sRGB values to CIE L*a*b* (D65), where distances are close to the differences that the eye sees."""
    scaled = rgb.astype(np.float32) / 255
    linear = np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _RGB_TO_XYZ.T / _WHITE
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1).astype(np.float32)


_RGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]],
    dtype=np.float32,
)
_WHITE = np.array([0.95047, 1.0, 1.08883], dtype=np.float32)


def _features(lab: Floats, report: Report) -> Floats:
    """Returns for each pixel its smoothed colour, and how rough the lightness is around it, near and far."""
    radius = max(1, round(max(lab.shape[:2]) / 320))
    report("features", 0)
    colour = box_mean(lab, radius)
    report("features", 0.4)
    lightness = lab[..., :1]
    spread = box_mean(lightness**2, 3 * radius) - box_mean(lightness, 3 * radius) ** 2
    report("features", 0.7)
    down = np.diff(lightness, axis=0, append=lightness[-1:])
    across = np.diff(lightness, axis=1, append=lightness[:, -1:])
    energy = box_mean(down**2 + across**2, 4 * radius)
    texture = np.sqrt(np.maximum(np.concatenate([spread, energy], axis=-1), 0))
    return np.concatenate([colour * _COLOUR_WEIGHTS, texture * _TEXTURE_WEIGHTS], axis=-1)


_COLOUR_WEIGHTS = np.array([0.7, 2.0, 2.0], dtype=np.float32)
_TEXTURE_WEIGHTS = np.array([0.5, 0.5], dtype=np.float32)


def box_mean(values: Floats, radius: int) -> Floats:
    """Returns the mean over the square of side 2 * radius + 1 around each pixel, edges repeated, per channel."""
    side = 2 * radius + 1
    for axis in (0, 1):
        padding = [(0, 0)] * values.ndim
        padding[axis] = (radius + 1, radius)
        sums = np.cumsum(np.pad(values, padding, mode="edge"), axis=axis, dtype=np.float64)
        length = values.shape[axis]
        values = (
            (np.take(sums, range(side, side + length), axis) - np.take(sums, range(length), axis)) / side
        ).astype(np.float32)
    return values


def _cluster(points: Floats, count: int, report: Report) -> Floats:
    """Returns the centres of the best of several k-means runs on random pixels."""
    from sklearn.cluster import MiniBatchKMeans  # takes seconds, and nothing before the first picture needs it

    random = np.random.default_rng(_SEED)
    judged = points[random.integers(len(points), size=4 * _BATCH_PX)]
    best: tuple[float, Floats] | None = None
    for restart in range(_RESTARTS):
        report("clustering", restart / _RESTARTS)
        model = MiniBatchKMeans(count, random_state=_SEED + restart)
        for _ in range(_BATCHES):
            model.partial_fit(points[random.integers(len(points), size=_BATCH_PX)])
        error = -float(model.score(judged))
        if best is None or error < best[0]:
            best = error, np.asarray(model.cluster_centers_, dtype=np.float32)
    assert best
    return best[1]


def _label(features: Floats, centres: Floats, report: Report) -> NDArray[np.intp]:
    """Returns the nearest centre of each pixel, by the mean over its neighbourhood, so regions come out clean."""
    height, width, _ = features.shape
    membership = np.empty((height, width, len(centres)), dtype=np.float32)
    for top in range(0, height, _STRIP_ROWS):
        report("labels", top / height)
        strip = features[top : top + _STRIP_ROWS]
        distance = (centres**2).sum(axis=1) - 2 * strip @ centres.T
        distance -= distance.min(axis=-1, keepdims=True)
        membership[top : top + _STRIP_ROWS] = np.exp(-distance / _SOFTNESS)
    membership /= membership.sum(axis=-1, keepdims=True)
    radius = max(1, round(max(height, width) / 160))
    for done in range(_SMOOTHINGS):
        report("smoothing", done / _SMOOTHINGS)
        membership = box_mean(membership, radius)
    return membership.argmax(axis=-1)


_SOFTNESS = 60.0
_SMOOTHINGS = 2


def _hex(*colours: str) -> NDArray[np.uint8]:
    return np.array([list(bytes.fromhex(colour)) for colour in colours], dtype=np.uint8)


_PALETTE = _hex(
    *("3b7a57", "a3c76d", "2f6690", "8ecae6", "f2c14e", "e07a3f"),
    *("7a4b3a", "d9c7a3", "2b2d42", "9a9caf", "f4f1e8", "b0486a"),
)
_VIVID = np.array([1.0, 2.2, 2.2], dtype=np.float32)
_PALETTE_LAB = rgb_to_lab(_PALETTE)


def _match_palette(means: list[Floats]) -> list[tuple[int, int, int]]:
    """Gives each class a different colour: the free one most like the class's own, the largest class first."""
    free = list(range(len(_PALETTE)))
    chosen = []
    for mean in means:
        nearest = min(free, key=lambda index: float(((_PALETTE_LAB[index] - mean * _VIVID) ** 2).sum()))
        free.remove(nearest)
        red, green, blue = map(int, _PALETTE[nearest])
        chosen.append((red, green, blue))
    return chosen


_NAMED_COLOURS = {
    "black": "101010", "dark grey": "484848", "grey": "808080", "light grey": "b8b8b8", "white": "f4f4f4",
    "dark brown": "3f2a1c", "brown": "7a5230", "beige": "cdb58f", "dark red": "7a1f1f", "red": "c8302a",
    "orange": "e08a30", "yellow": "e8d04a", "dark green": "2a4522", "green": "4d8a3a", "light green": "a5c882",
    "olive": "70703a", "dark teal": "123c3c", "teal": "2f8080", "dark blue": "22335e", "blue": "3a6ab5",
    "light blue": "a0c4e4", "purple": "6a3f85", "pink": "d890ac",
}  # fmt: skip
_NAMED_LAB = rgb_to_lab(_hex(*_NAMED_COLOURS.values()))


def _name_of(mean: Floats) -> str:
    nearest = int(((_NAMED_LAB - mean) ** 2).sum(axis=-1).argmin())
    return list(_NAMED_COLOURS)[nearest]
