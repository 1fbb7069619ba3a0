"""A seeded dataset of short encoded videos whose ceilings are known by construction.

A class is an appearance (the actor's hue) times a motion (the actor rises or falls), such as `red_rise`. The dataset is
made of scenes, and every scene is filmed once for each class:

* Pictures are composed as luma and chroma. Only chroma depends on the appearance, so the films of one scene in all
  appearances have the same luma, and flow, which is computed from grey, is the same for all of them.
* `fall` is `rise` played backwards, camera and clutter included. The films of one scene in both motions have the same
  frames in another order, which nothing can tell apart that pools single frames without their order. The camera's and
  the clutter's directions are drawn uniformly, so that they say nothing about the motion either.

* Encoding is lossless (H.264 at quantiser 0, predicted between frames as usual): what is decoded is what was composed.
  A lossy codec would spend bits by the order of frames and by colour, and let both leak.

`ceilings` turns this into bounds that hold on each test set itself and not only on average: a scene is whole in one
group, and a group whole on one side of a split. What is left is rounding, when a decoder makes RGB of the stored luma
and chroma and grey of that RGB: one or two levels.

A group shares its background, its shift of the palette and its law of clutter. Clutter has hues from the palette at
random; the actor is the one large, squarish, saturated body. Everything is symmetric in law under left-right flips.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np

from reaction import files

HUES = {
    "red": 110.0,
    "green": 230.0,
    "blue": 350.0,
    "magenta": 50.0,
    "yellow": 170.0,
    "cyan": 290.0,
}  # degrees, Cb to Cr
MOTIONS = ("rise", "fall")
SPEED = (1.5, 3.0)  # of the actor, px per frame in the picture
CLUTTER_SPEED = (0.3, 1.0)
SWAY = 4.0  # px, the actor's largest horizontal deviation
LUMA = (80.0, 170.0)  # with SATURATION, no colour leaves the RGB cube: clipping would let chroma change grey
SATURATION = 40.0  # of the actor, levels of (Cb, Cr) around 128; at most 42 inside BODY_LUMA
CLUTTER_SATURATION = 15.0
BODY_LUMA = (100.0, 160.0)
AVI_EVERY = 5  # scenes; the others are MP4
FEWEST_GROUPS = 3


@dataclass(frozen=True)
class Generator:
    """What the dataset is made from.

    `frames` and `actor` (the actor's side in px) are inclusive ranges; frame counts are drawn among the odd numbers,
    for which TSN's evenly spaced test frames are symmetric in time. `camera` is the fastest pan in px per frame,
    `clutter` the largest number of moving discs. Raises ValueError for values that cannot be filmed or split.
    """

    seed: int = 0
    videos: int = 216
    width: int = 128
    height: int = 96
    fps: int = 25
    frames: tuple[int, int] = (24, 32)
    appearances: tuple[str, ...] = ("red", "green", "blue")
    motions: tuple[str, ...] = MOTIONS
    groups: int = 12
    splits: int = 3
    camera: float = 1.0
    clutter: int = 3
    actor: tuple[int, int] = (32, 40)

    def __post_init__(self) -> None:
        _check_names("appearances", self.appearances, tuple(HUES))
        _check_names("motions", self.motions, MOTIONS)
        _check_counts(self)
        _check_room(self)

    @property
    def classes(self) -> list[str]:
        return [f"{appearance}_{motion}" for appearance in self.appearances for motion in self.motions]

    @property
    def scenes(self) -> int:
        return self.videos // len(self.classes)

    @property
    def frame_counts(self) -> np.ndarray:
        """The odd numbers in `frames`."""
        low, high = self.frames
        return np.arange(low | 1, high + 1, 2)


def _check_names(key: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    if not names or len(set(names)) < len(names) or not set(names) <= set(known):
        raise ValueError(f"generator.{key}: got {list(names)}; give one or more different names out of {list(known)}")


def _check_counts(generator: Generator) -> None:
    classes, groups = len(generator.classes), max(generator.splits, FEWEST_GROUPS)
    if generator.groups < groups or generator.splits < 1:
        raise ValueError(
            f"generator.groups: {generator.groups} groups do not make {generator.splits} splits; give at least {groups}"
        )
    if generator.videos % classes or generator.scenes < generator.groups:
        raise ValueError(
            f"generator.videos: got {generator.videos}; give a multiple of the {classes} classes, "
            f"at least {classes * generator.groups} for {generator.groups} groups"
        )


def _check_room(generator: Generator) -> None:
    if generator.width % 2 or generator.height % 2:
        raise ValueError(
            f"generator: {generator.width}x{generator.height} has an odd side; H.264 in 4:2:0 needs even ones"
        )
    if not len(generator.frame_counts) or generator.frame_counts[0] < 3:
        raise ValueError(f"generator.frames: {list(generator.frames)} holds no odd number from 3 up")
    side, steps = generator.actor[1], int(generator.frame_counts[-1]) - 1
    height, width = side + 2 + SPEED[0] * steps, side + 2 + 2 * SWAY
    if generator.actor[0] > side or generator.height < height or generator.width < width:
        raise ValueError(
            f"generator.actor: {list(generator.actor)} px moving for {steps + 1} frames needs a picture of at least "
            f"{width:.0f}x{height:.0f}, got {generator.width}x{generator.height}; shorten `frames` or shrink `actor`"
        )


def ceilings(generator: Generator) -> dict[str, float]:
    """The highest top-1 that each stream and their fusion can have on the test videos of any split, in [0, 1].

    With A appearances and M motions, chance is 1 / (A M).

    * flow <= 1 / A: for a scene and a motion, the films in the A appearances give the same flow, so a classifier that
      sees only flow answers the same for all A of them, which have A different labels: at most one in A is right.
    * rgb <= 1 / M: for a scene and an appearance, the films in the M <= 2 motions hold the same frames in opposite
      orders. Pooling that ignores order, over sample positions symmetric in time (TSN's centres of equal segments are,
      for an odd number of frames), gives the same answer for both, and at most one in M is right.
    * fusion <= 1: hue and direction together name the class.

    Every scene is whole in one group and so whole in a split's test part; the bounds add up over scenes.
    """
    return {"rgb": 1 / len(generator.motions), "flow": 1 / len(generator.appearances), "fusion": 1.0}


@dataclass(frozen=True)
class Texture:
    """A sum of plane waves, defined at every point of the plane, so that motion by fractions of a pixel is exact."""

    frequency: np.ndarray  # (K, 2) radians per px along x, y
    phase: np.ndarray  # (K,)
    amplitude: float

    def at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Values at the grids of columns x (n, W) and rows y (n, H), as (n, H, W) float32, zero on average."""
        columns = x[:, None, :] * self.frequency[:, 0, None]  # (n, K, W)
        rows = y[:, :, None] * self.frequency[:, 1] + self.phase  # (n, H, K)
        # cos(a + b) = cos a cos b - sin a sin b makes the sum over waves one matrix product
        left = np.concatenate([np.cos(rows), np.sin(rows)], axis=2).astype(np.float32)  # (n, H, 2K)
        right = np.concatenate([np.cos(columns), -np.sin(columns)], axis=1).astype(np.float32)  # (n, 2K, W)
        return np.float32(self.amplitude) * (left @ right)


@dataclass(frozen=True)
class Body:
    """A moving superellipse |x|^p + |y|^p < radius^p: a disc for power 2, squarish for power 4."""

    centre: np.ndarray  # (n, 2) px: x, y per frame
    radius: float
    power: int
    texture: Texture
    hue: float  # degrees; the actor's is a shift of the appearance's
    saturation: float


@dataclass(frozen=True)
class Surroundings:
    """What the scenes of a group share."""

    luma: Texture
    tint: tuple[Texture, Texture]  # Cb, Cr
    palette_shift: float  # degrees
    discs: int


@dataclass(frozen=True)
class Scene:
    """One scene in the order of a rise; its films differ in the actor's hue and in the order of frames."""

    width: int
    height: int
    surroundings: Surroundings
    camera: np.ndarray  # (n, 2) px: the picture's corner in the background, per frame
    clutter: tuple[Body, ...]
    actor: Body


def draw_scene(generator: Generator, scene: int) -> Scene:
    """Draw scene number `scene`, in [0, generator.scenes), of group `group_of(generator, scene)`."""
    surroundings = _draw_surroundings(generator, group_of(generator, scene))
    rng = np.random.default_rng([generator.seed, 1, scene])
    frames = int(rng.choice(generator.frame_counts))
    pan = _velocity(rng, (generator.camera / 4, generator.camera))
    camera = rng.uniform(0, 1000, 2) + _straight(frames, pan)
    actor = _draw_actor(generator, surroundings, frames, rng)
    clutter = tuple(
        _draw_disc(generator, surroundings, frames, actor.radius / 3, rng) for _ in range(surroundings.discs)
    )
    return Scene(generator.width, generator.height, surroundings, camera, clutter, actor)


def group_of(generator: Generator, scene: int) -> int:
    return scene % generator.groups


def _draw_surroundings(generator: Generator, group: int) -> Surroundings:
    rng = np.random.default_rng([generator.seed, 0, group])
    tint = (_draw_texture(rng, (20, 60), 2.0), _draw_texture(rng, (20, 60), 2.0))
    discs = int(rng.integers((generator.clutter + 1) // 2, generator.clutter + 1))
    return Surroundings(_draw_texture(rng, (6, 40), 18.0), tint, rng.uniform(-10, 10), discs)


def _draw_texture(
    rng: np.random.Generator, wavelengths: tuple[float, float], deviation: float, waves: int = 24
) -> Texture:
    length = np.exp(rng.uniform(*np.log(wavelengths), waves))
    angle = rng.uniform(0, 2 * np.pi, waves)
    frequency = 2 * np.pi / length[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return Texture(frequency, rng.uniform(0, 2 * np.pi, waves), deviation * np.sqrt(2 / waves))


def _draw_actor(generator: Generator, surroundings: Surroundings, frames: int, rng: np.random.Generator) -> Body:
    radius = rng.uniform(*generator.actor) / 2
    margin = radius + 1
    room = generator.height - 2 * margin
    speed = rng.uniform(SPEED[0], min(SPEED[1], room / (frames - 1)))
    travel = speed * (frames - 1)
    y = margin + rng.uniform(0, room - travel) + travel - speed * np.arange(frames)
    phase, turns = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.5)
    sway = rng.uniform(0, SWAY) * np.cos(phase + 2 * np.pi * turns * np.linspace(0, 1, frames))
    x = rng.uniform(margin + SWAY, generator.width - margin - SWAY) + sway
    texture = _draw_texture(rng, (5, 20), 14.0)
    return Body(np.stack([x, y], axis=1), radius, 4, texture, surroundings.palette_shift, SATURATION)


def _draw_disc(
    generator: Generator, surroundings: Surroundings, frames: int, radius: float, rng: np.random.Generator
) -> Body:
    middle = rng.uniform((0, 0), (generator.width, generator.height))
    centre = middle + _straight(frames, _velocity(rng, CLUTTER_SPEED))
    hue = HUES[str(rng.choice(generator.appearances))] + surroundings.palette_shift
    return Body(centre, radius, 2, _draw_texture(rng, (5, 20), 14.0), hue, CLUTTER_SATURATION)


def _velocity(rng: np.random.Generator, speeds: tuple[float, float]) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi)
    return rng.uniform(*speeds) * np.array([np.cos(angle), np.sin(angle)])


def _straight(frames: int, velocity: np.ndarray) -> np.ndarray:
    """Displacements (n, 2), zero at the middle of the scene."""
    return (np.arange(frames) - (frames - 1) / 2)[:, None] * velocity


def render_luma(scene: Scene, *, actor: bool = True) -> np.ndarray:
    """Y of the scene's frames in BT.601 limited range, uint8 (n, H, W); without the actor for tests of the boxes."""
    x, y = _pixel_centres(scene, 1)
    picture = 125 + scene.surroundings.luma.at(x + scene.camera[:, :1], y + scene.camera[:, 1:])  # (n, H, W)
    for body in (*scene.clutter, scene.actor)[: None if actor else -1]:
        value = 130 + body.texture.at(x - body.centre[:, :1], y - body.centre[:, 1:])
        picture += _coverage(body, x, y, 1) * (value.clip(*BODY_LUMA) - picture)
    return picture.clip(*LUMA).round().astype(np.uint8)


def render_chroma(scene: Scene, appearance: str) -> np.ndarray:
    """Cb and Cr of the scene's frames at half resolution, uint8 (n, 2, H/2, W/2)."""
    x, y = _pixel_centres(scene, 2)
    ground = [tint.at(x + scene.camera[:, :1], y + scene.camera[:, 1:]) for tint in scene.surroundings.tint]
    picture = np.stack(ground, axis=1).clip(-10, 10)  # (n, 2, H/2, W/2)
    for body in (*scene.clutter, scene.actor):
        hue = np.deg2rad(body.hue + (HUES[appearance] if body is scene.actor else 0.0))
        colour = body.saturation * np.array([[np.cos(hue)], [np.sin(hue)]], np.float32)[..., None]  # (2, 1, 1)
        picture += _coverage(body, x, y, 2)[:, None] * (colour - picture)
    return (128 + picture).round().astype(np.uint8)


def _pixel_centres(scene: Scene, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns (1, W) and rows (1, H) of the centres of pixels that are `step` wide."""
    x = np.arange(step / 2, scene.width, step, dtype=np.float64)
    y = np.arange(step / 2, scene.height, step, dtype=np.float64)
    return x[None], y[None]


def _coverage(body: Body, x: np.ndarray, y: np.ndarray, softness: float) -> np.ndarray:
    """How much of each pixel the body covers, in [0, 1], with an edge `softness` px wide: float32 (n, H, W)."""
    across = (np.abs(x - body.centre[:, :1]) / body.radius).astype(np.float32) ** body.power  # (n, W)
    down = (np.abs(y - body.centre[:, 1:]) / body.radius).astype(np.float32) ** body.power  # (n, H)
    distance = (across[:, None, :] + down[:, :, None]) ** np.float32(1 / body.power)
    return ((1 - distance) * np.float32(body.radius / softness) + np.float32(0.5)).clip(0, 1)


def actor_boxes(scene: Scene) -> np.ndarray:
    """The smallest boxes around every pixel the actor touches, int64 (n, 4): x1, y1, x2, y2, half-open."""
    touched = _coverage(scene.actor, *_pixel_centres(scene, 1), 1) > 0  # (n, H, W)
    columns, rows = touched.any(axis=1), touched.any(axis=2)
    left, top = columns.argmax(axis=1), rows.argmax(axis=1)
    right = scene.width - columns[:, ::-1].argmax(axis=1)
    bottom = scene.height - rows[:, ::-1].argmax(axis=1)
    return np.stack([left, top, right, bottom], axis=1)


@dataclass(frozen=True)
class Film:
    """One video of the dataset: a scene in one appearance and one motion."""

    video: str
    class_name: str
    scene: int
    appearance: str
    motion: str

    @property
    def path(self) -> str:
        """Where it lies in the dataset's folder."""
        return f"videos/{self.class_name}/{self.video}.{'mp4' if self.scene % AVI_EVERY else 'avi'}"


def films(generator: Generator, scene: int) -> Iterator[Film]:
    """A scene's films, one for each class."""
    group, clip = group_of(generator, scene), scene // generator.groups
    for appearance in generator.appearances:
        for motion in generator.motions:
            name = f"{appearance}_{motion}"
            yield Film(f"{name}_g{group + 1:02d}_c{clip + 1:02d}", name, scene, appearance, motion)


def generate(config: dict[str, Any], folder: Path) -> None:
    """Write the videos and the official lists of the dataset that `config`, the fields of `Generator`, describes.

    Makes `videos/<class>/<video>.mp4` (or .avi) and, under `lists/`, official.csv (video, class, group and train or
    test in each split), classes.txt and boxes.csv (the actor's box on every frame: px, 0-based, half-open). The same
    config gives the same bytes with the same libraries. Raises ValueError naming a field that is unknown or out of
    range.
    """
    generator = read_generator(config)
    official, boxes = [], []
    for number in range(generator.scenes):
        scene = draw_scene(generator, number)
        _write_videos(generator, scene, number, folder)
        official.extend(_official_rows(generator, number))
        boxes.extend(_box_rows(generator, scene, number))
    split_names = [f"split{split + 1}" for split in range(generator.splits)]
    _write_csv(folder / "lists/official.csv", ["video", "class", "group", *split_names], sorted(official))
    _write_csv(folder / "lists/boxes.csv", ["video", "frame", "x1", "y1", "x2", "y2"], sorted(boxes))
    files.write_text(folder / "lists/classes.txt", "\n".join(generator.classes) + "\n")


def _official_rows(generator: Generator, number: int) -> list[list[Any]]:
    group = group_of(generator, number)
    rest = [f"g{group + 1:02d}", *parts(generator, group)]
    return [[film.video, film.class_name, *rest] for film in films(generator, number)]


def _box_rows(generator: Generator, scene: Scene, number: int) -> list[list[Any]]:
    boxes = actor_boxes(scene)  # (n, 4)
    return [
        [film.video, frame, *box]
        for film in films(generator, number)
        for frame, box in enumerate(_in_order(boxes, film.motion).tolist())
    ]


def read_generator(config: dict[str, Any]) -> Generator:
    """The generator that a frozen config describes; JSON's lists become tuples."""
    unknown = sorted(set(config) - set(Generator.__dataclass_fields__))
    if unknown:
        raise ValueError(f"generator: unknown {unknown}; the fields are {list(Generator.__dataclass_fields__)}")
    return Generator(**{key: tuple(value) if isinstance(value, list) else value for key, value in config.items()})


def parts(generator: Generator, group: int) -> list[str]:
    """A group's part in each split: test in one of them at most, where the splits' tests share the groups out."""
    fold = group % max(generator.splits, FEWEST_GROUPS)
    return ["test" if split == fold else "train" for split in range(generator.splits)]


def _write_videos(generator: Generator, scene: Scene, number: int, folder: Path) -> None:
    luma = render_luma(scene)
    chroma = {appearance: render_chroma(scene, appearance) for appearance in generator.appearances}
    for film in films(generator, number):
        pictures = _in_order(_planes(luma, chroma[film.appearance]), film.motion)
        with files.atomic(folder / film.path) as partial:
            encode(partial, pictures, fps=generator.fps)


def _in_order(frames: np.ndarray, motion: str) -> np.ndarray:
    return frames[::-1] if motion == "fall" else frames


def _planes(luma: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """Planar 4:2:0 as libav lays it out, uint8 (n, 3H/2, W): Y above Cb above Cr."""
    n, _, width = luma.shape
    return np.concatenate([luma, chroma.reshape(n, -1, width)], axis=1)


def encode(path: Path, pictures: np.ndarray, *, fps: int) -> None:
    """Encode planar 4:2:0 pictures, uint8 (n, 3H/2, W), as lossless H.264 into the container that the suffix names.

    One thread and no version strings: the same pictures give the same bytes.
    """
    options = {"preset": "veryfast", "qp": "0", "flags": "+bitexact"}
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height = pictures.shape[2], pictures.shape[1] * 2 // 3
        stream.pix_fmt, stream.codec_context.thread_count = "yuv420p", 1
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    files.write_text(path, text.getvalue())
