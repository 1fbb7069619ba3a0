"""One integer per rule: raised in the commit that changes what the rule's code computes, not by a refactoring.

The number is part of every artifact's hash, so raising it makes new folders and keeps the old ones.
`tests/test_recipes.py` compares small golden outputs and fails when results change and the number does not.
"""

RECIPES: dict[str, int] = {
    "fetch": 1,
    "index": 1,
    "frames": 1,
    "flow": 2,
    "train": 1,
    "gradcam": 1,
    "attention_net": 2,
    "attend": 1,
    "agree": 2,
    "score": 1,
    "fuse": 1,
    "train_detector": 1,
    "detect": 1,
    "link": 1,
    "evaluate": 1,
}
