"""Images -> 8-bit levels of shape (channels, height, width), and the folders they are in."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from deeplvm.data.readers.source import Array
from deeplvm.data.statistics import Summary
from deeplvm.data.variable import DataError
from deeplvm.files import fits

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
_SPLIT_FOLDERS = {"train": "train", "valid": "valid", "val": "valid", "test": "test"}
GREY_MODES = ("1", "L", "LA")
GREY = "all three colour channels are equal: read as grey."


def files_below(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """The files of some endings below a folder, hidden ones left out, in the order of paths."""
    return [path for path in _below(folder, endings) if path.is_file()]


def lost_links(folder: Path, endings: tuple[str, ...]) -> tuple[str, ...]:
    """A warning of links below a folder that lead to no file, or to a folder: none is read."""
    links = [path for path in _below(folder, ("", *endings)) if path.is_symlink()]
    lost = [path for path in links if not path.exists()]
    folders = [path for path in links if path.is_dir()]
    found: tuple[str, ...] = ()
    for paths, what in (
        (lost, "to what is not there"),
        (folders, "to folders, which are not entered"),
    ):
        if paths:
            first = f"{paths[0].relative_to(folder)} -> {paths[0].readlink()}"
            found += (f"warning: {len(paths)} left out: links {what} (the first is {first}).",)
    return found


def _below(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in endings
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def splits_of(folder: Path, files: Sequence[Path]) -> tuple[np.ndarray, str]:
    """The split of each file, ``"all"`` where there is none; and how it came about, in words.

    Folders ``train``, ``valid`` (or ``val``) and ``test`` at the top are the splits.
    """
    tops = [path.relative_to(folder).parts[0] for path in files]
    if "train" not in tops or not set(tops) <= set(_SPLIT_FOLDERS):
        return np.full(len(files), "all"), ""
    keys = np.array([_SPLIT_FOLDERS[top] for top in tops])
    return keys, f"the folders {', '.join(sorted(set(tops)))}"


def labels_of(folder: Path, files: Sequence[Path], keys: np.ndarray) -> np.ndarray | None:
    """The sub-folder that each image is in; ``None`` if one is in none."""
    depth = 0 if (keys == "all").all() else 1
    labels = [path.relative_to(folder).parts[depth:-1][:1] for path in files]
    return np.array([label[0] for label in labels]) if all(labels) else None


def refuse_unequal(
    what: object, sizes: Sequence[tuple[int, ...]], where: Callable[[int], str] | None = None
) -> None:
    """All images must have one (height, width); ``where`` says the row of each."""
    counts = collections.Counter(sizes)
    if len(counts) < 2:
        return
    most, first = counts.most_common(1)[0][0], ""
    if where is not None:
        place = next(i for i, size in enumerate(sizes) if size != most)
        first = f", the first other one in {where(place)}"
    shown = ", ".join(f"{w}x{h} ({count})" for (h, w), count in counts.most_common(3))
    side = min(min(shape) for shape in counts)
    shown += ", …" if len(counts) > 3 else ""
    raise DataError(
        f"{what}: the images differ in size (width x height: {shown}{first}); --image-size {side} "
        f"crops each to its middle square and scales it to {side}x{side}."
    )


def cropping(size: int | None) -> tuple[str, ...]:
    """What is done to each image, in words.

    Raises:
        DataError: If the size is no number of pixels.
    """
    if size is None:
        return ()
    if size < 1:
        raise DataError(f"--image-size {size}: the side of an image is at least 1 pixel.")
    return (f"each image was cropped to its middle square and scaled to {size}x{size}.",)


def read_image(path: Path, size: int | None) -> np.ndarray:
    """One image as (height, width, 1 or 3) bytes.

    Raises:
        DataError: If it is damaged, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as file:
            refuse_deep(path, file)
            fits(4 * file.width * file.height, str(path), DataError)
            image: Image.Image = ImageOps.exif_transpose(file)  # as a viewer turns it
            has_alpha = image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info
            grey = image.mode in GREY_MODES
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
    except Exception as problem:  # noqa: BLE001 - decoders raise whatever they stumble over
        why = str(problem) or type(problem).__name__
        raise DataError(f"{path}: the image cannot be read ({why}); remove it.") from None
    return pixels.reshape(*pixels.shape[:2], -1)


def stacked(images: Sequence[Any]) -> np.ndarray:
    """Images in memory (of Pillow, or arrays) as one array; NaN where there is none.

    Raises:
        DataError: If all are missing, or they differ in shape.
    """
    there = [place for place, image in enumerate(images) if image is not None]
    if not there:
        raise DataError("memory: every image is missing; leave this name out.")
    pixels = [np.asarray(images[place]) for place in there]
    for place, each in zip(there, pixels, strict=True):
        if each.shape != pixels[0].shape:
            raise DataError(
                f"memory: image {place + 1} has shape {each.shape}, and the first has "
                f"{pixels[0].shape}; bring all to one size and mode."
            )
    found = np.full((len(images), *pixels[0].shape), np.nan, np.float32)
    found[there] = pixels
    return found if len(there) < len(images) else np.stack(pixels)


def refuse_deep(path: Path, image: Image.Image) -> None:
    """Refuse what would be lost: more than 8 bits a channel, of which Pillow keeps 8; pages.

    Raises:
        DataError: If there is any.
    """
    # how the decoder is told to read: "RGB;16B", or the largest value of a .ppm
    told = [each[3] for each in getattr(image, "tile", ())]
    deep = any([";16" in str(each) for each in told])
    deep |= any([image.format == "PPM" and type(each) is tuple and each[1] > 255 for each in told])
    if deep or image.mode.startswith(("I", "F")):
        raise DataError(
            f"{path}: the image has more than 8 bits a channel; convert it to 8-bit, or save all "
            f"images as one .npy array."
        )
    if (pages := getattr(image, "n_frames", 1)) > 1:
        raise DataError(
            f"{path}: the file holds {pages} pages (frames), and a row is one image; save each as "
            f"a file of its own."
        )


Layout = Literal["rows", "grey", "first", "last"]
_CHANNELS = (1, 3, 4)


def layout_of(seen: Summary, *, image: bool) -> Layout:
    """How the axes of an array are to be read.

    Returns:
        ``"grey"``: images without an axis of channels. ``"first"``: images with their channels
        first. ``"last"``: images with their channels last. ``"rows"``: no images.
    """
    shape = seen.shape
    if len(shape) == 3:
        return "last" if shape[-1] in _CHANNELS and shape[0] not in _CHANNELS else "first"
    if len(shape) != 2 or not seen.count.any():
        return "rows"
    low, high, whole = float(seen.low.min()), float(seen.high.max()), bool(seen.whole.all())
    return "grey" if image or (low >= 0 and (high <= 1 or (whole and high <= 255))) else "rows"


def laid_out(values: Array, layout: Layout) -> Array:
    """Images of shape ``(rows, channels, height, width)``; what are no images stay as they are."""
    if layout == "grey":
        return values[:, None]
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2)) if layout == "last" else values


def layout_notes(shape: tuple[int, ...], layout: Layout) -> tuple[str, ...]:
    """What was done to the axes of rows of a shape, in words."""
    if layout == "grey":
        return (f"taken as grey images of {shape[0]}x{shape[1]} pixels.",)
    if layout == "last":
        return ("channels were last and are now first: (channels, height, width).",)
    return ()
