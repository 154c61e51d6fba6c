r"""Shapes in a room: small rendered scenes with six known factors."""

from __future__ import annotations

import colorsys
import math
from functools import cache

import torch
from torch import Tensor

from deeplvm.data.synthetic.factors import Factors

SIDE = 64
SHAPES = ("cube", "cylinder", "sphere", "capsule")
HUES, SCALES, ORIENTATIONS = 10, 8, 15
_FINER = 2  # rays a pixel, each way
_WALL, _EYE, _FAR = 4.0, (1.9, 6.2), 1e9  # half the room; the eye's height and distance
_LIGHT = (0.45, 0.8, 0.4)  # towards the lamp, in the eye's frame: right, up, to the eye
_AMBIENT = 0.35


def shapes3d() -> Factors:
    r"""64 × 64 colours: hues of floor, wall and object (10 each), 8 scales, 4 shapes, 15 angles.

    A ray is cast through each pixel, four rays in truth, into a room with a floor and two walls
    in which a cube, cylinder, sphere or capsule stands; what is hit is shaded by one lamp. The
    eye goes round the object from −30 to 30 degrees. The 480,000 combinations have the factors of
    3D Shapes (Burgess & Kim, 2018), https://github.com/google-deepmind/3d-shapes; the images are
    drawn here and are not that set's.

    The 480 scenes without colour are rendered when they are first needed, and kept (24 MB).

    Examples:
        >>> factors = shapes3d()
        >>> f"{factors.combinations:,}", factors.names[:3]
        ('480,000', ('floor_hue', 'wall_hue', 'object_hue'))
        >>> image = factors.draw([[0, 3, 6, 4, 2, 7]])
        >>> image.shape, image.dtype
        (torch.Size([1, 3, 64, 64]), torch.uint8)
    """
    return Factors(
        names=("floor_hue", "wall_hue", "object_hue", "scale", "shape", "orientation"),
        sizes=(HUES, HUES, HUES, SCALES, len(SHAPES), ORIENTATIONS),
        shape=(3, SIDE, SIDE),
        make=_images,
        unordered=frozenset({"shape"}),
        values={"shape": SHAPES},
    )


def _images(values: Tensor) -> Tensor:
    """Shape ``(rows, 3, 64, 64)``, 8-bit levels."""
    floor, wall, item, scale, shape, orientation = values.unbind(1)
    each, place = torch.unique(
        torch.stack([scale, shape, orientation], 1), dim=0, return_inverse=True
    )
    light = torch.stack([_light(*scene) for scene in each.tolist()])[place]  # (rows, 3, 64, 64)
    colours = _palette()[torch.stack([floor, wall, item], 1)]  # (rows, 3, rgb)
    image = torch.einsum("nkhw,nkc->nchw", light, colours)
    return (image * 255).round().clamp(0, 255).to(torch.uint8)


def _palette() -> Tensor:
    """The hues, shape ``(10, rgb)``."""
    return torch.stack(
        [_vector(*colorsys.hsv_to_rgb(hue / HUES, 0.85, 1.0)) for hue in range(HUES)]
    )


def _vector(*numbers: float) -> Tensor:
    """In single precision, whatever torch's default: a set has one version of its images."""
    return torch.tensor(numbers, dtype=torch.float32)


@cache
def _light(scale: int, shape: int, orientation: int) -> Tensor:
    """Light from floor, wall and object in each pixel, before colour: ``(3, 64, 64)``."""
    size = 0.75 + 0.5 * scale / (SCALES - 1)
    return _scene(shape, size, *_view(math.pi / 3 * (orientation / (ORIENTATIONS - 1) - 0.5)))


@cache
def _view(angle: float) -> tuple[Tensor, Tensor, Tensor]:
    """The eye, a ray through each point of the picture, and the direction of the lamp."""
    sine, cosine = math.sin(angle + math.pi / 4), math.cos(angle + math.pi / 4)
    right = _vector(cosine, 0.0, -sine)
    back = _vector(sine, 0.0, cosine)  # from the middle to the eye
    height = _vector(0.0, 1.0, 0.0)
    eye = _EYE[1] * back + _EYE[0] * height
    ahead = 0.95 * height - eye
    ahead = ahead / ahead.norm()
    up = torch.linalg.cross(right, ahead)
    places = (torch.arange(SIDE * _FINER, dtype=torch.float32) + 0.5) / (SIDE * _FINER) - 0.5
    across, down = places[None, :, None], places[:, None, None]
    rays = ahead + 0.66 * (across * right - down * up)  # (128, 128, xyz)
    lamp = _LIGHT[0] * right + _LIGHT[1] * height + _LIGHT[2] * back
    return eye, rays / rays.norm(dim=-1, keepdim=True), lamp / lamp.norm()


def _scene(kind: int, size: float, eye: Tensor, rays: Tensor, lamp: Tensor) -> Tensor:
    """Shape ``(3, 64, 64)``: floor, wall and object."""
    solid = (_cube, _cylinder, _sphere, _capsule)[kind]
    item, normal = solid(eye, rays, size)
    floor = _reach(eye[1], rays[..., 1])
    walls = [_reach(eye[axis] + _WALL, rays[..., axis]) for axis in (0, 2)]
    nearest = torch.stack([floor, *walls, item]).min(0)
    hit = torch.nn.functional.one_hot(nearest.indices, 4).float()  # (128, 128, 4)
    point = eye + nearest.values[..., None] * rays
    # the lamp does not reach the floor and the walls where the object is in its way
    shadowed = solid(point + 1e-3 * lamp, lamp.expand_as(rays), size)[0] < _FAR
    bright = torch.stack([lamp[1], lamp[0], lamp[2]]).clamp(min=0.0).expand(*rays.shape)
    shade = torch.cat(
        [bright * ~shadowed[..., None], (normal @ lamp).clamp(min=0.0)[..., None]], -1
    )
    light = hit * (_AMBIENT + (1 - _AMBIENT) * shade)
    light = torch.stack([light[..., 0], light[..., 1] + light[..., 2], light[..., 3]])
    fine = light.reshape(3, SIDE, _FINER, SIDE, _FINER)
    return fine.mean((2, 4))


def _reach(height: Tensor, slope: Tensor) -> Tensor:
    """How far along a ray a plane is that lies below at a height; far where it is not ahead."""
    return torch.where(slope < 0, -height / slope, _FAR)


# Each solid: the distance at which a ray (origin, direction of length 1) enters it, _FAR if it
# does not, and the outward normal there. They stand on the floor, around the vertical axis.


def _sphere(
    origin: Tensor, ray: Tensor, size: float, radius: float = 0.95, height: float = 0.95
) -> tuple[Tensor, Tensor]:
    middle = _vector(0.0, height * size, 0.0)
    far = origin - middle
    half = (far * ray).sum(-1)
    inside = half.square() - (far * far).sum(-1) + (radius * size) ** 2
    reach = -half - inside.clamp(min=0.0).sqrt()
    reach = torch.where((inside > 0) & (reach > 0), reach, _FAR)
    return reach, (far + reach[..., None] * ray) / (radius * size)


def _cube(origin: Tensor, ray: Tensor, size: float) -> tuple[Tensor, Tensor]:
    half = 0.8 * size
    far = origin - _vector(0.0, half, 0.0)
    near = -(far + half * ray.sign()) / ray  # (.., xyz): where each pair of faces is entered
    leave = (-far + half * ray.sign()) / ray
    entered = near.max(-1)
    reach = torch.where(
        (entered.values < leave.min(-1).values) & (entered.values > 0), entered.values, _FAR
    )
    face = torch.nn.functional.one_hot(entered.indices, 3).float()
    return reach, -ray.sign() * face


def _tube(
    origin: Tensor, ray: Tensor, radius: float, bottom: float, top: float
) -> tuple[Tensor, Tensor]:
    """The side of an upright cylinder, without its ends."""
    flat = _vector(1.0, 0.0, 1.0)
    away, going = origin * flat, ray * flat
    square = (going * going).sum(-1)
    half = (away * going).sum(-1)
    inside = half.square() - square * ((away * away).sum(-1) - radius**2)
    reach = (-half - inside.clamp(min=0.0).sqrt()) / square
    point = origin + reach[..., None] * ray
    between = (point[..., 1] >= bottom) & (point[..., 1] <= top)
    reach = torch.where((inside > 0) & (reach > 0) & between, reach, _FAR)
    return reach, point * flat / radius


def _cylinder(origin: Tensor, ray: Tensor, size: float) -> tuple[Tensor, Tensor]:
    radius, top = 0.75 * size, 1.6 * size
    side, normal = _tube(origin, ray, radius, 0.0, top)
    lid = _reach(origin[..., 1] - top, ray[..., 1])
    point = origin + lid[..., None] * ray
    over = point[..., 0].square() + point[..., 2].square() <= radius**2
    lid = torch.where((lid > 0) & over, lid, _FAR)
    up = _vector(0.0, 1.0, 0.0)
    return torch.minimum(side, lid), torch.where((lid < side)[..., None], up, normal)


def _capsule(origin: Tensor, ray: Tensor, size: float) -> tuple[Tensor, Tensor]:
    radius, top = 0.6, 1.3
    parts = [
        _tube(origin, ray, radius * size, radius * size, top * size),
        _sphere(origin, ray, size, radius, radius),
        _sphere(origin, ray, size, radius, top),
    ]
    reach, which = torch.stack([part[0] for part in parts]).min(0)
    normals = torch.stack([part[1] for part in parts])  # (3, .., xyz)
    chosen = which[None, ..., None].expand(1, *which.shape, 3)
    return reach, normals.gather(0, chosen)[0]
