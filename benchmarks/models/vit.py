"""A small vision transformer: 224x224 in patches of 16, 192 wide, 6 blocks of 3 heads, 0.6 GMAC."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional
from torch.ao.quantization import DeQuantStub, QuantStub

IMAGE_SIZE = 224
PATCH = 16


class Attention(nn.Module):
    """Multi-head self-attention over (N, tokens, width) with one linear layer for query, key and value."""

    def __init__(self, width: int, heads: int, quantizable: bool) -> None:
        super().__init__()
        self.heads = heads
        self.scale = float((width // heads) ** -0.5)
        self.qkv = nn.Linear(width, 3 * width)
        self.softmax = nn.Softmax(dim=-1)
        self.projection = nn.Linear(width, width)
        self.scores = FloatFunctional() if quantizable else None
        self.context = FloatFunctional() if quantizable else None

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]
        scores = _matmul(self.scores, query, key.transpose(-2, -1))
        weights = self.softmax(scores * self.scale)
        context = _matmul(self.context, weights, value)
        return self.projection(context.transpose(1, 2).reshape(batch, tokens, width))


def _matmul(functional: FloatFunctional | None, a: Tensor, b: Tensor) -> Tensor:
    return a @ b if functional is None else functional.matmul(a, b)


class Block(nn.Module):
    """Attention and a two-layer perceptron, each behind a layer norm and with a sum around it."""

    def __init__(self, width: int, heads: int, quantizable: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, quantizable)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.sums = nn.ModuleList(FloatFunctional() for _ in range(2)) if quantizable else None

    def forward(self, x: Tensor) -> Tensor:
        x = self._sum(0, x, self.attention(self.norm1(x)))
        return self._sum(1, x, self.mlp(self.norm2(x)))

    def _sum(self, index: int, a: Tensor, b: Tensor) -> Tensor:
        return a + b if self.sums is None else self.sums[index].add(a, b)


class VisionTransformer(nn.Module):
    """Classifier on the mean of the tokens; input (N, 3, 224, 224)."""

    def __init__(
        self, num_classes: int = 1000, width: int = 192, depth: int = 6, heads: int = 3, quantizable: bool = False
    ) -> None:
        super().__init__()
        tokens = (IMAGE_SIZE // PATCH) ** 2
        self.patches = nn.Conv2d(3, width, PATCH, stride=PATCH)
        self.position = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.blocks = nn.Sequential(*(Block(width, heads, quantizable) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)
        self.position_sum = FloatFunctional() if quantizable else None
        self.quant = QuantStub() if quantizable else nn.Identity()
        self.quant_position = QuantStub() if quantizable else nn.Identity()
        self.dequant = DeQuantStub() if quantizable else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(self.quant(x)).flatten(2).transpose(1, 2)
        position = self.quant_position(self.position)
        x = x + position if self.position_sum is None else self.position_sum.add(x, position)
        return self.dequant(self.head(self.norm(self.blocks(x)).mean(1)))

    def fuse_model(self, is_qat: bool) -> None:
        """Nothing to fuse: no batch norm, and GELU has no fused form."""
        del is_qat


def vit(num_classes: int = 1000, quantizable: bool = False) -> VisionTransformer:
    """The small vision transformer."""
    return VisionTransformer(num_classes, quantizable=quantizable)
