"""A folder of images -> 8-bit levels of shape (rows, channels, height, width)."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from deeplvm.data.errors import DataError
from deeplvm.data.raw import Raw, codes_of

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
_SPLIT_FOLDERS = {"train": "train", "valid": "valid", "val": "valid", "test": "test"}
_GREY_MODES = ("1", "L", "LA")


def read_folder(folder: Path, *, size: int | None) -> Raw:
    """All images below a folder, in the order of their paths.

    Sub-folders are labels if every image is in one; folders ``train``, ``valid`` and ``test`` at
    the top are the splits.

    Args:
        folder: The folder.
        size: Side of the square to which every image is cropped in its middle and scaled;
            ``None`` leaves them, and then they must be equal.

    Raises:
        DataError: If there is no image, one is damaged, or the sizes differ.
    """
    files = sorted(path for path in folder.rglob("*") if _is_image(path, folder))
    if not files:
        raise DataError(f"{folder}: no image in this folder; looked for {', '.join(ENDINGS)}.")
    if size is not None and size < 1:
        raise DataError(f"--image-size {size}: the side of an image is at least 1 pixel.")
    tops = {path.relative_to(folder).parts[0] for path in files}
    splits = "train" in tops and tops <= set(_SPLIT_FOLDERS)
    raw = Raw(name=folder.resolve().name, values={}, image=True, levels=256)
    images = [_read(path, size) for path in files]
    sizes = collections.Counter(image.shape[:2] for image in images)
    if len(sizes) > 1:
        shown = ", ".join(f"{w}x{h} ({count})" for (h, w), count in sizes.most_common(3))
        side = min(min(shape) for shape in sizes)
        shown += ", …" if len(sizes) > 3 else ""
        raise DataError(
            f"{folder}: the images differ in size (width x height: "
            f"{shown}); "
            f"--image-size {side} crops each to its middle square and scales it to {side}x{side}."
        )
    if size is not None:
        raw.notes.append(
            f"each image was cropped to its middle square and scaled to {size}x{size}."
        )
    stacked = np.stack(_alike(images))
    if stacked.shape[-1] == 3 and (stacked == stacked[..., :1]).all():
        stacked = stacked[..., :1]
        raw.notes.append("all three colour channels are equal: read as grey.")
    stacked = np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))  # (rows, C, H, W)
    depth = 1 if splits else 0
    labels = [path.relative_to(folder).parts[depth:-1] for path in files]
    keys = np.array(
        [_SPLIT_FOLDERS[path.relative_to(folder).parts[0]] if splits else "all" for path in files]
    )
    order = [key for key in ("all", "train", "valid", "test") if (keys == key).any()]
    raw.values = {key: stacked[keys == key] for key in order}
    if all(labels):
        names = np.array([label[0] for label in labels])
        raw.labels, raw.classes = codes_of({key: names[keys == key] for key in order}, str(folder))
    if splits:
        raw.split = f"the folders {', '.join(sorted(tops))}"
    return raw


def _is_image(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in ENDINGS and not hidden and path.is_file()


def _read(path: Path, size: int | None) -> np.ndarray:
    """One image as (height, width, 1 or 3) bytes."""
    try:
        with Image.open(path) as file:
            image: Image.Image = file
            if image.mode.startswith(("I", "F")):
                raise DataError(
                    f"{path}: the image has more than 8 bits a channel; convert it to 8-bit, or "
                    f"save all images as one .npy array."
                )
            has_alpha = image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info
            grey = image.mode in _GREY_MODES
            if has_alpha:  # transparent pixels have no colour of their own: put them on white
                colour = image.convert("RGBA")
                ground = Image.new("RGBA", colour.size, "white")
                image = Image.alpha_composite(ground, colour)
            image = image.convert("L" if grey else "RGB")
            if size is not None and image.size != (size, size):
                image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
            pixels = np.asarray(image, dtype=np.uint8)
    except DataError:
        raise
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as problem:
        raise DataError(f"{path}: the image cannot be read ({problem}); remove it.") from None
    except Image.DecompressionBombError as problem:
        raise DataError(f"{path}: {problem}") from None
    return pixels.reshape(*pixels.shape[:2], -1)


def _alike(images: list[np.ndarray]) -> list[np.ndarray]:
    """Grey images among coloured ones get three equal channels."""
    channels = max(image.shape[2] for image in images)
    return [np.broadcast_to(image, (*image.shape[:2], channels)) for image in images]
