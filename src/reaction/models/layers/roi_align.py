"""RoIAlign: He et al., "Mask R-CNN", ICCV 2017, section 3: features of a box, read between cells without rounding.

https://arxiv.org/abs/1703.06870. A box is cut into bins; a bin is the mean of bilinear samples on a regular grid.

Details the paper leaves open, as Detectron and Detectron2 (`ROIAlign_cpu.cpp`) have them:
- `aligned` takes half a cell off the coordinates, since the value of a cell stands at its centre. Without it, as in
  Detectron, boxes lie half a cell too far to the lower right, and none is narrower than one cell;
- a sample up to one cell outside takes the border's value; further out it is zero, and counts in the mean;
- `sampling` is how many samples a bin has along each side; 0 takes as many as the bin has cells, rounded up.

Gradients reach the features and not the boxes, as there. A bin's samples and their four neighbours are one weighted
sum of rows of a table of cells, which is what `embedding_bag` does in one pass.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def roi_align(
    features: Tensor,
    boxes: list[Tensor],
    output: tuple[int, int],
    *,
    scale: float = 1.0,
    sampling: int = 0,
    aligned: bool = True,
) -> Tensor:
    """What each box sees: (K, C, *output) from features (B, C, H, W) and the boxes (K_i, 4) of each of the B images.

    Boxes are in pixels of the network's input, of which a cell covers 1 / `scale`; K is the sum of K_i, image after
    image. Exportable to ONNX with `sampling` above 0. Raises ValueError unless there is one list of boxes per image.
    """
    if len(boxes) != len(features):
        raise ValueError(f"{len(features)} images but {len(boxes)} lists of boxes: give each image its own, if empty")
    channels, height, width = features.shape[1:]
    exact = torch.promote_types(features.dtype, torch.float32)
    cells = torch.cat(boxes).detach().to(exact) * scale  # (K, 4)
    image = torch.cat([torch.full_like(own[:, 0], i) for i, own in enumerate(boxes)]).long()  # (K,)
    rows, row_shares = _side(cells[:, 1], cells[:, 3], output[0], height, sampling, aligned)  # (K, P, n)
    columns, column_shares = _side(cells[:, 0], cells[:, 2], output[1], width, sampling, aligned)  # (K, Q, m)
    places = (image[:, None, None] * height + rows)[:, :, None, :, None] * width + columns[:, None, :, None, :]
    shares = row_shares[:, :, None, :, None] * column_shares[:, None, :, None, :]  # (K, P, Q, n, m)
    table = features.permute(0, 2, 3, 1).reshape(-1, channels)  # (B H W, C)
    bins = _weighted_sums(table, places.flatten(0, 2).flatten(1), shares.flatten(0, 2).flatten(1).to(table.dtype))
    return bins.reshape(-1, *output, channels).permute(0, 3, 1, 2)


class RoIAlign(nn.Module):
    """`roi_align` with its settings."""

    def __init__(self, output: tuple[int, int], *, scale: float, sampling: int = 0, aligned: bool = True) -> None:
        super().__init__()
        self.output, self.scale, self.sampling, self.aligned = output, scale, sampling, aligned

    def forward(self, features: Tensor, boxes: list[Tensor]) -> Tensor:
        """(K, C, *output) from (B, C, H, W) and B lists of boxes (K_i, 4)."""
        options = {"scale": self.scale, "sampling": self.sampling, "aligned": self.aligned}
        return roi_align(features, boxes, self.output, **options)


def _side(low: Tensor, high: Tensor, bins: int, cells: int, sampling: int, aligned: bool) -> tuple[Tensor, Tensor]:
    """Along one side: the cells that each bin reads, and what share of its mean each has, both (K, bins, 2 n)."""
    low = low - 0.5 if aligned else low
    extent = high - 0.5 - low if aligned else (high - low).clamp(min=1)
    counts = torch.full_like(low, sampling) if sampling else (extent / bins).ceil().clamp(min=1)
    step = torch.arange(sampling or _most(counts), dtype=low.dtype, device=low.device)
    bin_starts = torch.arange(bins, dtype=low.dtype, device=low.device)
    within = (step + 0.5) / counts[:, None]  # (K, n), in bins
    at = low[:, None, None] + (bin_starts[:, None] + within[:, None]) * (extent / bins)[:, None, None]  # (K, bins, n)
    counted = (at >= -1) & (at <= cells) & (step < counts[:, None])[:, None]
    share = counted / counts[:, None, None]
    at = at.clamp(0, cells - 1)
    first = at.floor()
    second, beyond = (first + 1).clamp(max=cells - 1), at - first
    return torch.cat([first, second], -1).long(), torch.cat([(1 - beyond) * share, beyond * share], -1)


def _most(counts: Tensor) -> int:
    return int(counts.max()) if len(counts) else 1


def _weighted_sums(table: Tensor, places: Tensor, shares: Tensor) -> Tensor:
    """(N, C): the rows `places` (N, n) of a table (M, C), each times its share (N, n), added up."""
    if torch.compiler.is_exporting():  # ONNX has no embedding_bag
        return (table[places] * shares[..., None]).sum(1)
    return F.embedding_bag(places, table, per_sample_weights=shares, mode="sum")
