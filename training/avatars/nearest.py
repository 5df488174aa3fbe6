"""Analysis by synthesis: the drawing that is nearest to a picture, and how far it is.

Every picture of the data is a drawing, so a picture that no drawing comes near is broken: a torn face, a ghost, a halo.
The second judge reads options and pose, the renderer draws them, and a search over what it was unsure of and over the
pose takes what is nearest:

    d(p)      = min over |q - p| <= 1 of the mean over colours of |picture(p) - drawing(q)| / 255
    distance  = the largest mean of d over a window of 5 x 5

The minimum over neighbours forgives soft edges and parts of a pixel; the largest window sees a small ruin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from limner.training.avatars.attributes import Avatar, StyleSpec
from limner.training.avatars.render import render
from limner.training.models.reader import Reader

ImageU8 = NDArray[np.uint8]
WINDOW = 5  # pixels a side, of 128
SURE = 0.9  # an option read with less is tried with its second choice too
MOST_TRIED = 4  # options
POSE_STEPS = (0.12, 0.06)  # of the pose's limits


@dataclass(frozen=True, eq=False)
class Nearest:
    """What was found for one picture."""

    avatar: Avatar
    drawing: ImageU8  # [S,S,3]
    distance: float  # 0 to 1


def difference(picture: ImageU8, drawing: ImageU8) -> NDArray[np.float32]:
    """d [S,S] as above, 0 to 1, for two pictures [S,S,3]."""
    padded = np.pad(drawing.astype(np.float32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = picture.shape[:2]
    given = picture.astype(np.float32)
    found = [np.abs(given - padded[y : y + height, x : x + width]).mean(2) for y in range(3) for x in range(3)]
    least: NDArray[np.float32] = np.min(found, axis=0) / np.float32(255)
    return least


def distance(picture: ImageU8, drawing: ImageU8) -> float:
    """The largest mean of `difference` over a window."""
    d = difference(picture, drawing)
    window = max(3, round(WINDOW * len(d) / 128))
    return float(sliding_window_view(d, (window, window)).mean(axis=(2, 3)).max())


def nearest(reader: Reader, style: StyleSpec, pictures: Sequence[ImageU8]) -> list[Nearest]:
    """The nearest drawing of each picture [S,S,3] of the reader's size."""
    found: list[Nearest] = []
    for avatar, doubts in read(reader, pictures):
        picture = pictures[len(found)]
        best = _drawn(style, avatar, picture)
        for option, choice in doubts:
            options = list(best.avatar.options)
            options[option] = choice
            best = _better(style, best, replace(best.avatar, options=tuple(options)), picture)
        for step in POSE_STEPS:
            for place in range(len(avatar.pose)):
                for sign in (-1, 1):
                    pose = list(best.avatar.pose)
                    pose[place] += sign * step
                    best = _better(style, best, replace(best.avatar, pose=tuple(pose)), picture)
        found.append(best)
    return found


@torch.no_grad()
def read(reader: Reader, pictures: Sequence[ImageU8]) -> list[tuple[Avatar, list[tuple[int, int]]]]:
    """What the reader sees in each picture, and the (option, second choice) that it is unsure of, most unsure first."""
    image = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    logits, poses, _ = reader.eval().read_options(image)
    shares = [row.softmax(1).topk(2) for row in logits.values()]
    found = []
    for n in range(len(pictures)):
        options = tuple(int(one.indices[n, 0]) for one in shares)
        doubts = sorted((float(one.values[n, 0]), i, int(one.indices[n, 1])) for i, one in enumerate(shares))
        unsure = [(i, choice) for share, i, choice in doubts[:MOST_TRIED] if share < SURE]
        found.append((Avatar(options, tuple(float(v) for v in poses[n])), unsure))
    return found


def _drawn(style: StyleSpec, avatar: Avatar, picture: ImageU8) -> Nearest:
    drawing = render(style, avatar, len(picture))
    return Nearest(avatar, drawing, distance(picture, drawing))


def _better(style: StyleSpec, best: Nearest, avatar: Avatar, picture: ImageU8) -> Nearest:
    other = _drawn(style, avatar, picture)
    return other if other.distance < best.distance else best
