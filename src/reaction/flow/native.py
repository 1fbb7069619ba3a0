"""TV-L1 by the native kernel, `_tvl1.cpp`: every semantics, several threads, no illumination term.

Additions, multiplications, divisions and roots are the machine's own, each rounded once and in one order, so a picture
has the same flow, bit for bit, on AVX-512, AVX2 and the baseline, by any number of threads.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from reaction.flow.front import TVL1


REBUILD = "pip install --no-build-isolation --no-deps --editable ."


def available() -> str | None:
    """Why the kernel cannot be used here; None where it can."""
    try:
        from reaction.flow import _tvl1
    except ModuleNotFoundError:
        return f"it was not built: that takes GCC 9 or Clang 10 and Python's headers; then `{REBUILD}`"
    except ImportError as error:
        return f"it was built and does not load ({error}); `{REBUILD}`"
    if _tvl1.source != _sources():
        return f"it was built from other sources than these; `{REBUILD}`"
    return None


def _sources() -> str:
    """The digest of the C++ sources beside this file, as CMakeLists.txt takes it; a wheel has none to differ."""
    from reaction.flow import _tvl1

    files = sorted(Path(__file__).parent.glob("_tvl1*.?pp"))
    if not files:
        return _tvl1.source
    digests = "".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    return hashlib.sha256(digests.encode()).hexdigest()[:12]


def version() -> str:
    """What was built, and what it uses of this machine."""
    from reaction.flow import _tvl1

    return f"native {_tvl1.source} {_tvl1.instruction_sets()[0]}"


def instruction_sets() -> list[str]:
    """Those the kernel was built for and this machine has, the fastest first."""
    from reaction.flow import _tvl1

    return _tvl1.instruction_sets()


def native_tvl1(
    frames: np.ndarray,
    parameters: TVL1,
    semantics: str,
    threads: int = 1,
    *,
    instruction_set: str = "auto",
    block: int = 8,
) -> np.ndarray:
    """float32 (n-1, 2, H, W) pixels for grey float32 frames (n, H, W) in 0..255, n >= 2.

    `instruction_set` and `block`, the iterations that cross the picture together, change the speed and no result.
    """
    from reaction.flow import _tvl1

    frames = np.ascontiguousarray(frames, np.float32)
    flow = np.empty((len(frames) - 1, 2, *frames.shape[1:]), np.float32)
    _tvl1.tvl1(
        frames,
        flow,
        tau=parameters.tau,
        lambda_=parameters.lambda_,
        theta=parameters.theta,
        nscales=parameters.nscales,
        warps=parameters.warps,
        epsilon=parameters.epsilon,
        inner_iterations=parameters.inner_iterations,
        outer_iterations=parameters.outer_iterations,
        scale_step=parameters.scale_step,
        median=parameters.median,
        semantics=semantics,
        threads=threads,
        instruction_set=instruction_set,
        block=block,
    )
    return flow
