"""The authors' classifier and AnoFPDM's U-Net in plain tensor code, from state dicts with their names.

Nothing here knows the bundle or MONAI. Layers are walked in the order of their numbers; what a block holds shows in its
keys. Float64.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


class Weights(dict):
    """Random layers under the authors' names."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, key, *shape, scale=0.3, mean=0.0):
        self[key] = torch.randn(shape, generator=self.generator) * scale + mean

    def layer(self, key, before, after, *kernel):
        self.draw(f"{key}.weight", after, before, *kernel, scale=1 / math.sqrt(before * math.prod(kernel)))
        self.draw(f"{key}.bias", after)

    def norm(self, key, width):
        self.draw(f"{key}.weight", width, mean=1.0)
        self.draw(f"{key}.bias", width)

    def residual(self, key, before, after, emb):
        self.norm(f"{key}.in_layers.0", before)
        self.layer(f"{key}.in_layers.2", before, after, 3, 3)
        self.layer(f"{key}.emb_layers.1", emb, 2 * after)
        self.norm(f"{key}.out_layers.0", after)
        self.layer(f"{key}.out_layers.3", after, after, 3, 3)
        if before != after:
            self.layer(f"{key}.skip_connection", before, after, 1, 1)

    def attention(self, key, width, tokens=0):
        self.norm(f"{key}.norm", width)
        self.layer(f"{key}.qkv", width, 3 * width, 1)
        self.layer(f"{key}.proj_out", width, width, 1)
        if tokens:
            self.layer(f"{key}.encoder_kv", tokens, 2 * width, 1)

    def time(self, width):
        self.layer("time_embed.0", width, 4 * width)
        self.layer("time_embed.2", 4 * width, 4 * width)


def classifier_weights(seed, channels=(32, 32, 64), blocks=2, attention=(False, True, True), images=3, side=16):
    w, emb, number, before = Weights(seed), 4 * channels[0], 1, channels[0]
    w.time(channels[0])
    w.layer("input_blocks.0.0", images, channels[0], 3, 3)
    for level, width in enumerate(channels):
        for _ in range(blocks):
            w.residual(f"input_blocks.{number}.0", before, width, emb)
            if attention[level]:
                w.attention(f"input_blocks.{number}.1", width)
            number, before = number + 1, width
        if level < len(channels) - 1:
            w.residual(f"input_blocks.{number}.0", width, width, emb)
            number += 1
    middle(w, channels[-1], emb)
    w.norm("out.0", channels[-1])
    places = (side // 2 ** (len(channels) - 1)) ** 2
    w.draw("out.2.positional_embedding", channels[-1], places + 1)
    w.layer("out.2.qkv_proj", channels[-1], 3 * channels[-1], 1)
    w.layer("out.2.c_proj", channels[-1], 2, 1)
    return w


def fpdm_weights(seed, channels=(32, 64, 64), blocks=1, attention=(False, True, True), images=3):
    w, emb, number, before, skips = Weights(seed), 4 * channels[0], 1, channels[0], [channels[0]]
    w.time(channels[0])
    w.draw("label_emb.weight", 2, channels[0], scale=2.0)
    w.layer("class_emb.0", channels[0], emb)
    w.layer("class_emb.2", emb, emb)
    w.layer("input_blocks.0.0", images, channels[0], 3, 3)
    for level, width in enumerate(channels):
        for _ in range(blocks):
            w.residual(f"input_blocks.{number}.0", before, width, emb)
            if attention[level]:
                w.attention(f"input_blocks.{number}.1", width, emb)
            number, before = number + 1, width
            skips.append(width)
        if level < len(channels) - 1:
            w.layer(f"input_blocks.{number}.0.op", width, width, 3, 3)
            number += 1
            skips.append(width)
    middle(w, channels[-1], emb, emb)
    number = 0
    for level in reversed(range(len(channels))):
        for block in range(blocks + 1):
            w.residual(f"output_blocks.{number}.0", before + skips.pop(), channels[level], emb)
            before = channels[level]
            if attention[level]:
                w.attention(f"output_blocks.{number}.1", before, emb)
            if level and block == blocks:
                w.layer(f"output_blocks.{number}.{1 + attention[level]}.conv", before, before, 3, 3)
            number += 1
    w.norm("out.0", channels[0])
    w.layer("out.2", channels[0], images, 3, 3)
    return w


def middle(w, width, emb, tokens=0):
    w.residual("middle_block.0", width, width, emb)
    w.attention("middle_block.1", width, tokens)
    w.residual("middle_block.2", width, width, emb)


class Reference:
    """Evaluates a state dict.

    Args:
        state: the authors' tensors.
        head: channels of an attention head.
        first_activated: SiLU before a block's first convolution.
    """

    def __init__(self, state, head, first_activated):
        self.w = {key: tensor.double() for key, tensor in state.items()}
        self.head, self.first_activated = head, first_activated
        self.groups = 32

    def linear(self, key, x):
        return F.linear(x, self.w[f"{key}.weight"], self.w[f"{key}.bias"])

    def conv(self, key, x, stride=1):
        weight = self.w[f"{key}.weight"]
        return F.conv2d(x, weight, self.w[f"{key}.bias"], stride=stride, padding=weight.shape[-1] // 2)

    def norm(self, key, x):
        """Group by group, by hand."""
        groups = x.reshape(len(x), self.groups, -1)
        mean, variance = groups.mean(dim=2, keepdim=True), groups.var(dim=2, keepdim=True, unbiased=False)
        normed = ((groups - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)
        shape = (1, -1, *[1] * (x.ndim - 2))
        return normed * self.w[f"{key}.weight"].reshape(shape) + self.w[f"{key}.bias"].reshape(shape)

    def time(self, timesteps):
        width = self.w["time_embed.0.weight"].shape[1]
        rows = []
        for t in timesteps.tolist():
            angles = [t * 10000 ** (-i / (width // 2)) for i in range(width // 2)]
            rows.append([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
        return self.linear("time_embed.2", F.silu(self.linear("time_embed.0", torch.tensor(rows).double())))

    def residual(self, key, x, emb, down=False):
        h = self.norm(f"{key}.in_layers.0", x)
        h = F.silu(h) if self.first_activated else h
        if down:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        h = self.conv(f"{key}.in_layers.2", h)
        scale, shift = self.linear(f"{key}.emb_layers.1", F.silu(emb))[:, :, None, None].chunk(2, dim=1)
        h = F.silu(self.norm(f"{key}.out_layers.0", h) * (1 + scale) + shift)
        h = self.conv(f"{key}.out_layers.3", h)
        return h + (self.conv(f"{key}.skip_connection", x) if f"{key}.skip_connection.weight" in self.w else x)

    def attention(self, key, x, class_vector=None):
        b, c, *size = x.shape
        tokens = self.norm(f"{key}.norm", x.reshape(b, c, -1))
        qkv = F.conv1d(tokens, self.w[f"{key}.qkv.weight"], self.w[f"{key}.qkv.bias"])
        extra = None
        if class_vector is not None:
            outer = class_vector[:, :, None] * class_vector[:, None, :]
            extra = F.conv1d(outer, self.w[f"{key}.encoder_kv.weight"], self.w[f"{key}.encoder_kv.bias"])
        results = []
        for n in range(c // self.head):
            q, k, v = qkv[:, 3 * n * self.head : 3 * (n + 1) * self.head].split(self.head, dim=1)
            if extra is not None:
                own = extra[:, 2 * n * self.head : 2 * (n + 1) * self.head].split(self.head, dim=1)
                k, v = torch.cat([own[0], k], dim=2), torch.cat([own[1], v], dim=2)
            weights = (q.transpose(1, 2) @ k / math.sqrt(self.head)).softmax(dim=2)
            results.append(v @ weights.transpose(1, 2))
        h = F.conv1d(torch.cat(results, dim=1), self.w[f"{key}.proj_out.weight"], self.w[f"{key}.proj_out.bias"])
        return x + h.reshape(b, c, *size)

    def middle(self, h, emb, class_vector=None):
        h = self.attention("middle_block.1", self.residual("middle_block.0", h, emb), class_vector)
        return self.residual("middle_block.2", h, emb)

    def pool(self, x):
        tokens = x.flatten(2)
        tokens = torch.cat([tokens.mean(dim=2, keepdim=True), tokens], dim=2) + self.w["out.2.positional_embedding"]
        qkv = F.conv1d(tokens, self.w["out.2.qkv_proj.weight"], self.w["out.2.qkv_proj.bias"])
        q, k, v = qkv.chunk(3, dim=1)
        results = []
        for n in range(x.shape[1] // self.head):
            rows = slice(n * self.head, (n + 1) * self.head)
            weights = (q[:, rows].transpose(1, 2) @ k[:, rows] / math.sqrt(self.head)).softmax(dim=2)
            results.append(v[:, rows] @ weights.transpose(1, 2))
        pooled = torch.cat(results, dim=1)
        return F.conv1d(pooled, self.w["out.2.c_proj.weight"], self.w["out.2.c_proj.bias"])[:, :, 0]

    def classify(self, x, timesteps, blocks):
        """Logits; after ``blocks`` residual blocks comes one that halves the size."""
        emb, h = self.time(timesteps), self.conv("input_blocks.0.0", x.double())
        for number in range(1, 1 + max(int(k.split(".")[1]) for k in self.w if k.startswith("input_blocks."))):
            h = self.residual(f"input_blocks.{number}.0", h, emb, down=number % (blocks + 1) == 0)
            if f"input_blocks.{number}.1.qkv.weight" in self.w:
                h = self.attention(f"input_blocks.{number}.1", h)
        return self.pool(F.silu(self.norm("out.0", self.middle(h, emb))))

    def denoise(self, x, timesteps, label):
        """eps of AnoFPDM's U-Net; ``label`` None for the null class."""
        emb = self.time(timesteps)
        c = torch.zeros_like(emb)
        if label is not None:
            row = self.w["label_emb.weight"][label]
            c = self.linear("class_emb.2", F.silu(self.linear("class_emb.0", row))).expand_as(emb)
        emb, h = emb + c, self.conv("input_blocks.0.0", x.double())
        skips, number = [h], 1
        while any(k.startswith(f"input_blocks.{number}.") for k in self.w):
            h = self.block(f"input_blocks.{number}", h, emb, c)
            skips.append(h)
            number += 1
        h, number = self.middle(h, emb, c), 0
        while any(k.startswith(f"output_blocks.{number}.") for k in self.w):
            h = self.block(f"output_blocks.{number}", torch.cat([h, skips.pop()], dim=1), emb, c)
            number += 1
        return self.conv("out.2", self.norm("out.0", h))

    def block(self, key, h, emb, c):
        """Whatever the block holds, in its order."""
        if f"{key}.0.op.weight" in self.w:
            return self.conv(f"{key}.0.op", h, stride=2)
        h = self.residual(f"{key}.0", h, emb)
        if f"{key}.1.qkv.weight" in self.w:
            h = self.attention(f"{key}.1", h, c)
        for place in (1, 2):
            if f"{key}.{place}.conv.weight" in self.w:
                h = self.conv(f"{key}.{place}.conv", F.interpolate(h, scale_factor=2, mode="nearest"))
        return h
