#!/usr/bin/env python3
"""Writes pytorch.safetensors beside this script: a convolution and its batch norm as PyTorch saves them.

    pip install torch safetensors
    python3 tests/checkpoint/make.py
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

block = nn.Sequential()
block.add_module("conv1", nn.Conv2d(2, 3, 1, bias=False))
block.add_module("bn1", nn.BatchNorm2d(3))
network = nn.Sequential()
network.add_module("layer1", nn.Sequential(block))
with torch.no_grad():
    block.conv1.weight.copy_(torch.arange(6.0).reshape(3, 2, 1, 1))
    block.bn1.weight.copy_(torch.tensor([1.0, -0.5, 2.0]))
    block.bn1.bias.copy_(torch.tensor([0.0, 0.25, -3.0]))
    # Two batches, one value in each channel of the first image and another in that of the second.
    for low, high in [(0.0, 2.0), (4.0, 8.0)]:
        network(torch.stack([torch.full((2, 1, 1), low), torch.full((2, 1, 1), high)]))
save_file(network.state_dict(), Path(__file__).with_name("pytorch.safetensors"))
