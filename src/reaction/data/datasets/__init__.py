"""What a dataset's official lists say. Each module here reads the lists of one dataset with `read_official`."""

from dataclasses import dataclass, field


class DatasetError(ValueError):
    """The files of a dataset do not say what its official lists or its index promise."""


@dataclass(frozen=True)
class Span:
    """When a video shows a class, in seconds from its beginning."""

    class_name: str
    start: float
    end: float


@dataclass(frozen=True)
class Entry:
    """One video of the official lists.

    `video` is its official name without extension and without class folder. `group` names what it was cut from: videos
    of one group share people, scenery and camera, so a hold-out keeps a group on one side. `also` names further classes
    of a video that has several, and `spans` when it shows them, where the lists say so.
    """

    video: str
    class_name: str
    group: str
    alias: str = field(default="", kw_only=True)  # another name that its file may go by
    also: tuple[str, ...] = ()
    spans: tuple[Span, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True)
class Official:
    """The official lists of a dataset: classes in official order, videos in official order, and splits.

    `splits[split][video]` is "train", "test" or "unused"; a video outside a split's lists has no key there.
    """

    classes: list[str]
    entries: list[Entry]
    splits: dict[str, dict[str, str]] = field(default_factory=dict)
