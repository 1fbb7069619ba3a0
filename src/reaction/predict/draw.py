"""Classes and boxes drawn onto frames. Letters are OpenCV's: what is not ASCII shows as question marks."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

# Okabe and Ito's colours (R, G, B), told apart by the colour-blind, too; neighbouring classes have different ones.
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
FONT = cv2.FONT_HERSHEY_SIMPLEX
LINES_IN_FRAME, LEAST_LINE = 22, 11  # how high a line of text is: a part of the frame, or pixels
SHADE = 0.45  # what is left of the frame's light behind text


def with_classes(frame: NDArray[np.uint8], names: Sequence[str], probabilities: Sequence[float]) -> NDArray[np.uint8]:
    """The frame (H, W, 3) with a line for each class in its upper left corner, and a bar as long as it is probable."""
    picture, line = frame.copy(), _line(frame)
    texts = [f"{probability:.2f} {name}" for name, probability in zip(names, probabilities, strict=True)]
    width = min(max(_width(text, line) for text in texts) + line, frame.shape[1])
    panel = picture[: line * len(texts) + line // 2, :width]
    panel[:] = (panel * SHADE).astype(np.uint8)
    for number, (text, probability) in enumerate(zip(texts, probabilities, strict=True)):
        top = line // 4 + line * number
        bar = panel[top : top + line - 1, : round(width * float(probability))]
        bar[:] = bar // 2 + np.array(COLOURS[4], np.uint8) // 2
        _write(picture, text, line // 2, top, line, WHITE)
    return picture


def with_boxes(
    frame: NDArray[np.uint8], boxes: NDArray, texts: Sequence[str], labels: Sequence[int]
) -> NDArray[np.uint8]:
    """The frame (H, W, 3) with boxes (N, 4) in its pixels, a text above each, in a colour for each label."""
    picture, line = frame.copy(), _line(frame)
    for (x1, y1, x2, y2), text, label in zip(np.rint(boxes).astype(int).tolist(), texts, labels, strict=True):
        colour = COLOURS[label % len(COLOURS)]
        cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), colour, max(1, line // 8))
        width, top = _width(text, line) + line // 2, max(y1 - line, 0)
        left = max(0, min(x1, frame.shape[1] - width))
        picture[top : top + line, left : left + width] = colour
        _write(picture, text, left + line // 4, top, line, BLACK)
    return picture


def _line(frame: NDArray) -> int:
    return max(LEAST_LINE, frame.shape[0] // LINES_IN_FRAME)


def _width(text: str, line: int) -> int:
    return cv2.getTextSize(text, FONT, _scale(line), _weight(line))[0][0]


def _scale(line: int) -> float:
    return line / 34  # a capital is 22 pixels high at 1


def _weight(line: int) -> int:
    return max(1, line // 16)


def _write(picture: NDArray, text: str, x: int, top: int, line: int, colour: tuple[int, int, int]) -> None:
    place = (x, top + round(0.78 * line))
    cv2.putText(picture, text, place, FONT, _scale(line), colour, _weight(line), cv2.LINE_AA)
