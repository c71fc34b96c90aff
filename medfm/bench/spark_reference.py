"""FROZEN. One SparK pretraining step of a ResNet-50 in plain PyTorch: a yardstick of ``medfm bench pretrain
--modality xray --method spark``.

Written before medfm's own step and not changed since, so that a ratio measured today compares with one of last
year. It is what a careful reader of Tian et al. (arXiv 2301.03580) would write in the mask-multiply form: the
input and the output of every convolution and pooling are multiplied by the mask of their resolution, and batch
statistics are those of the gathered visible positions. It imports nothing of medfm. Shapes: B batch, C
channels, H x W pixels, ``active`` bool ``[B, 1, H/32, W/32]``, True where visible.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def at(active: Tensor, x: Tensor) -> Tensor:
    """The mask at the resolution of ``x``, by repetition."""
    factor = x.shape[2] // active.shape[2]
    return active.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)


class Conv(nn.Conv2d):
    def forward(self, x: Tensor, active: Tensor) -> Tensor:  # type: ignore[override]
        x = super().forward(x)
        return x * at(active, x)


class MaxPool(nn.MaxPool2d):
    def forward(self, x: Tensor, active: Tensor) -> Tensor:  # type: ignore[override]
        x = super().forward(x)
        return x * at(active, x)


class Norm(nn.BatchNorm2d):
    def forward(self, x: Tensor, active: Tensor) -> Tensor:  # type: ignore[override]
        where = at(active, x)[:, 0]
        rows = x.permute(0, 2, 3, 1)
        normed = torch.zeros_like(rows)
        normed[where] = F.batch_norm(
            rows[where], self.running_mean, self.running_var, self.weight, self.bias, True, 0.1, self.eps
        )
        return normed.permute(0, 3, 1, 2)


class Bottleneck(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = Conv(width_in, width, 1, bias=False), Norm(width)
        self.conv2, self.bn2 = Conv(width, width, 3, stride, 1, bias=False), Norm(width)
        self.conv3, self.bn3 = Conv(width, 4 * width, 1, bias=False), Norm(4 * width)
        self.downsample = None
        if stride > 1 or width_in != 4 * width:
            self.downsample = nn.ModuleList(
                [Conv(width_in, 4 * width, 1, stride, bias=False), Norm(4 * width)]
            )

    def forward(self, x: Tensor, active: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x, active), active))
        y = F.relu(self.bn2(self.conv2(y, active), active))
        y = self.bn3(self.conv3(y, active), active)
        if self.downsample is not None:
            x = self.downsample[1](self.downsample[0](x, active), active)
        return F.relu(x + y)


class ResNet(nn.Module):
    """Bottleneck ResNet; parameter names are those of torchvision and timm."""

    def __init__(self, channels: int, width: int, depths: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1, self.bn1 = Conv(channels, width, 7, 2, 3, bias=False), Norm(width)
        self.maxpool = MaxPool(3, 2, 1)
        width_in = width
        for index, depth in enumerate(depths):
            wide = width * 2**index
            blocks = []
            for i in range(depth):
                blocks.append(Bottleneck(width_in, wide, 2 if i == 0 and index else 1))
                width_in = 4 * wide
            setattr(self, f"layer{index + 1}", nn.ModuleList(blocks))
        self.stages = len(depths)

    def forward(self, x: Tensor, active: Tensor) -> list[Tensor]:
        """Maps of all stages, fine to coarse."""
        x = F.relu(self.bn1(self.conv1(x * at(active, x), active), active))
        x = self.maxpool(x, active)
        maps = []
        for index in range(self.stages):
            for block in getattr(self, f"layer{index + 1}"):
                x = block(x, active)
            maps.append(x)
        return maps


class UpBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(width, width, 4, 2, 1)
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width // 2, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.bn1(self.conv1(self.up(x))))
        return self.bn2(self.conv2(x))


class ReferenceSparK(nn.Module):
    """ResNet-50 and the light decoder of the paper (widths 768 to 24)."""

    def __init__(
        self,
        channels: int = 1,
        width: int = 64,
        depths: tuple[int, ...] = (3, 4, 6, 3),
        decoder_width: int = 768,
    ) -> None:
        super().__init__()
        self.encoder = ResNet(channels, width, depths)
        widths = [4 * width * 2**i for i in range(len(depths))][::-1]  # coarse to fine
        outs = [decoder_width // 2**i for i in range(len(depths) + 1)]
        self.norms = nn.ModuleList(Norm(w) for w in widths)
        self.tokens = nn.ParameterList(torch.zeros(1, w, 1, 1) for w in widths)
        self.projections = nn.ModuleList(
            nn.Conv2d(w, o, 3 if i else 1, padding=1 if i else 0)
            for i, (w, o) in enumerate(zip(widths, outs))
        )
        self.up = nn.ModuleList(UpBlock(o) for o in outs)
        self.head = nn.Conv2d(outs[-1] // 2, channels, 1)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, x: Tensor, active: Tensor) -> Tensor:
        """Mean squared error of the masked patches, each normalised by its own mean and deviation."""
        skips = []
        for f, norm, token, project in zip(
            self.encoder(x, active)[::-1], self.norms, self.tokens, self.projections
        ):
            skips.append(project(torch.where(at(active, f), norm(f, active), token)))
        y = torch.zeros_like(skips[0])
        for index, block in enumerate(self.up):
            y = block(y + skips[index] if index < len(skips) else y)
        stride = x.shape[2] // active.shape[2]
        prediction, target = (F.unfold(t, stride, stride=stride).transpose(1, 2) for t in (self.head(y), x))
        target = (target - target.mean(-1, True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        masked = ~active.flatten(1)
        error = (prediction - target).square().mean(-1)
        return (error * masked).sum() / masked.sum()

    def optimizer(self, lr: float = 1e-3) -> torch.optim.AdamW:
        """Weight decay on the weights of convolutions alone."""
        decayed = [p for p in self.parameters() if p.ndim > 1 and p.shape[0] > 1]
        plain = [p for p in self.parameters() if not (p.ndim > 1 and p.shape[0] > 1)]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95))


def train_step(model: ReferenceSparK, optimizer: torch.optim.Optimizer, x: Tensor, active: Tensor) -> Tensor:
    """One whole optimisation step; returns the loss."""
    optimizer.zero_grad()
    loss: Tensor = model(x, active)
    loss.backward()
    optimizer.step()
    return loss.detach()
