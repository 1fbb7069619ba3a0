"""The figures of Park's thesis (SNU 2019) and those that its claims ask for, from one specification."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reaction.tables.alternation import alternation_figure
from reaction.tables.diagrams import network_figures
from reaction.tables.figures import FigureError
from reaction.tables.gains import confusion_figure, gain_figure
from reaction.tables.pictures import layer_figure, overlay_figure

PARTS = {
    "overlay": overlay_figure,
    "layers": layer_figure,
    "alternation": alternation_figure,
    "gain": gain_figure,
    "confusions": confusion_figure,
    "networks": network_figures,
}


def thesis_figures(spec: Mapping[str, Any], stem: Path) -> None:
    """Write <stem>_<part>.png and .svg of every part of `spec`; what a part holds, its own function says.

    `confusions` gives <stem>_confusions.csv too, `networks` <stem>_networks_attention_net. Raises FigureError naming
    the part and the key, or the file, that is missing or broken.
    """
    if unknown := set(spec) - set(PARTS):
        raise FigureError(f"the specification of {stem} has {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    for part, draw in PARTS.items():
        if part not in spec:
            continue
        try:
            draw(spec[part], Path(f"{stem}_{part}"))
        except KeyError as error:
            raise FigureError(f"the specification of {stem} lacks {error} in {part}") from error
