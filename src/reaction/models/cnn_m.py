"""CNN-M-2048: Chatfield et al., "Return of the Devil in the Details", BMVC 2014, as Two-Stream ConvNets uses it.

https://arxiv.org/abs/1405.3531; Simonyan & Zisserman, NIPS 2014, section 5 (https://arxiv.org/abs/1406.2199).

Both streams are this network. Local response normalisation follows the first and the second convolution; the temporal
net leaves the second one out to save memory (section 5): `second_norm=False`. Module names are those of the authors'
Caffe model VGG_CNN_M_2048 (conv1 to conv5, fc6 to fc8).

Choices and deviations:
- any number of input channels, and a `width` that scales every channel count but the input's and the classes';
- normalisation has Krizhevsky's settings (NIPS 2012), as section 5 says: a / (2 + 1e-4 sum a^2)^0.75 over five
  neighbouring channels. PyTorch and Caffe divide their alpha by the five, hence 5e-4 here, as in the Caffe model;
- pooling is 3x3 with stride 2 (section 5) and rounds sizes up, as Caffe does: 6 x 6 cells reach fc6 at 224 pixels, the
  18,432 inputs of the public weights (pretrained-models.pytorch `vggm.py`); convolutions are padded as there;
- inputs of another size are averaged, or repeated, onto those 6 x 6 cells: the paper knows 224 pixels only;
- dropout follows fc6 and fc7: 0.5 where the last layer alone is trained, 0.9 in training from scratch (section 6);
- the papers do not say how weights start. Krizhevsky's normal weights of deviation 0.01 die out in a narrow network;
  here the deviation is the root of 2 / fan-in (He et al., ICCV 2015), and biases are zero.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from reaction.models.inception_v3 import scaled

CELLS = 6  # along each side of the last pooling at 224 pixels
SMALLEST_INPUT = 41  # below, the last pooling has nothing to pool


class CNNM(nn.Module):
    """CNN-M-2048 for images of any channel count, made for 224 x 224 pixels, at least 41 x 41."""

    first_conv = "conv1.weight"
    last_layer = "fc8"
    # What the ImageNet weights were trained on: B, G, R from 0 to 255 less their means, here in the order R, G, B.
    input_bgr, input_mean, input_std = True, (123.68, 116.779, 103.939), (1.0, 1.0, 1.0)

    def __init__(
        self,
        *,
        classes: int = 1000,
        channels: int = 3,
        width: float = 1.0,
        dropout: float = 0.5,
        second_norm: bool = True,
    ) -> None:
        super().__init__()
        c96, c256, c512, c2048, c4096 = (scaled(count, width) for count in (96, 256, 512, 2048, 4096))
        self.conv1 = nn.Conv2d(channels, c96, 7, stride=2)
        self.norm1 = _krizhevsky_norm()
        self.conv2 = nn.Conv2d(c96, c256, 5, stride=2, padding=1)
        self.norm2 = _krizhevsky_norm() if second_norm else nn.Identity()
        self.conv3 = nn.Conv2d(c256, c512, 3, padding=1)
        self.conv4 = nn.Conv2d(c512, c512, 3, padding=1)
        self.conv5 = nn.Conv2d(c512, c512, 3, padding=1)
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.fc6 = nn.Linear(c512 * CELLS * CELLS, c4096)
        self.fc7 = nn.Linear(c4096, c2048)
        self.fc8 = nn.Linear(c2048, classes)
        self.dropout = nn.Dropout(dropout)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, C, H, W)."""
        return self.classify(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """What the last pooling gives, (B, 512, 6, 6) from 224 x 224 pixels."""
        if min(x.shape[-2:]) < SMALLEST_INPUT:
            size = f"{x.shape[-1]} x {x.shape[-2]}"
            raise ValueError(f"CNN-M needs at least {SMALLEST_INPUT} x {SMALLEST_INPUT} pixels, got {size}")
        x = self.pool(self.norm1(F.relu(self.conv1(x))))  # (B, 96, 54, 54)
        x = self.pool(self.norm2(F.relu(self.conv2(x))))  # (B, 256, 13, 13)
        x = F.relu(self.conv4(F.relu(self.conv3(x))))  # (B, 512, 13, 13)
        return self.pool(F.relu(self.conv5(x)))  # (B, 512, 6, 6)

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, classes) of what `features` gave."""
        if features.shape[-2:] != (CELLS, CELLS):
            features = F.adaptive_avg_pool2d(features, CELLS)
        x = self.dropout(F.relu(self.fc6(features.flatten(1))))  # (B, 4096)
        x = self.dropout(F.relu(self.fc7(x)))  # (B, 2048)
        return self.fc8(x)


def _krizhevsky_norm() -> nn.LocalResponseNorm:
    return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2)


def _initialise(model: CNNM) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
