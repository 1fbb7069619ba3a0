import numpy as np

from reaction.predict.draw import COLOURS, SHADE, with_boxes, with_classes

GREY = np.full((240, 320, 3), 200, np.uint8)


def test_a_bar_is_as_long_as_its_class_is_probable_and_the_rest_of_the_frame_stays():
    picture = with_classes(GREY, ["a long name of a class", "b"], [0.75, 0.25])
    assert (GREY == 200).all(), "drawn on a copy"
    changed = (picture != 200).any(axis=-1)  # (H, W)
    height, width = changed.any(axis=1).sum(), changed.any(axis=0).sum()
    assert changed[:height, :width].all()
    assert not changed[height:].any()
    assert not changed[:, width:].any()
    rows = picture[(2, 13), :width]  # above the letters of either line
    bars = (rows[..., 2] > rows[..., 0]).sum(axis=1)
    assert np.abs(bars / width - [0.75, 0.25]).max() < 0.02
    assert picture[height - 1, width - 1].tolist() == [int(200 * SHADE)] * 3


def test_a_frame_too_small_for_names_still_has_its_bars():
    assert with_classes(GREY[:20, :24], ["walking"] * 5, [0.2] * 5).shape == (20, 24, 3)


def test_box_edges_lie_on_the_boxes_pixels_in_the_colour_of_the_class():
    picture = with_boxes(GREY, np.array([[100.2, 80, 180, 199.6], [0, 0, 320, 240]]), ["golf 0.9", "run"], [1, 8])
    for y, x in ((199, 140), (150, 100), (150, 179)):
        assert tuple(picture[y, x]) == COLOURS[1], (y, x)
    for y, x in ((201, 140), (150, 98), (150, 181), (150, 140)):
        assert picture[y, x].tolist() == [200] * 3, (y, x)
    assert tuple(picture[239, 319]) == tuple(picture[120, 0]) == COLOURS[8 % len(COLOURS)] == COLOURS[1]
    above = picture[70:78, 101:150]
    assert COLOURS[1] in {tuple(pixel) for pixel in above.reshape(-1, 3)}
    assert above.sum(axis=-1).min() < 60, "dark letters on it"


def test_without_boxes_the_frame_is_as_it_was():
    assert (with_boxes(GREY, np.empty((0, 4)), [], []) == GREY).all()
