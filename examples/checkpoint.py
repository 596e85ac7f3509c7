#!/usr/bin/env python3
"""Checkpoints of `bn train` in PyTorch, and back.

    pip install torch numpy safetensors
    cargo run --release -- train --save model.safetensors
    python3 examples/checkpoint.py model.safetensors
    python3 examples/checkpoint.py model.safetensors --train 1 --write pytorch.safetensors
    cargo run --release -- train --evaluate pytorch.safetensors

The file holds both networks under the names that `load_state_dict` expects, so nothing is renamed or reshaped here.
The accuracy that this prints is that of `bn train --evaluate`, give or take an image on the border of two classes.
`--train EPOCHS` trains on in PyTorch, `--write FILE` writes what came of it.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

DATA = Path(__file__).parent.parent / "data" / "mnist"
SIZES = [784, 100, 100, 100, 10]
BATCH = 60


class Network(nn.Module):
    """The perceptron of `bn train`: a sigmoid after each hidden layer, and batch norm before it or not."""

    def __init__(self, batch_norm):
        super().__init__()
        self.hidden = range(1, len(SIZES) - 1)
        for number, (inputs, outputs) in enumerate(zip(SIZES, SIZES[1:]), 1):
            normalized = batch_norm and number in self.hidden
            setattr(self, f"fc{number}", nn.Linear(inputs, outputs, bias=not normalized))
            if normalized:
                setattr(self, f"bn{number}", nn.BatchNorm1d(outputs))

    def forward(self, x):
        for number in self.hidden:
            normalize = getattr(self, f"bn{number}", nn.Identity())
            x = torch.sigmoid(normalize(getattr(self, f"fc{number}")(x)))
        return getattr(self, f"fc{len(SIZES) - 1}")(x)


def images(stem):
    """Images [N, 784] in [0, 1] and labels [N] of the sample of MNIST that comes with the sources."""

    def items(kind, offset):
        return np.frombuffer(gzip.decompress((DATA / f"{stem}-{kind}-ubyte.gz").read_bytes()), np.uint8, offset=offset)

    pixels, labels = items("images-idx3", 16).reshape(-1, SIZES[0]), items("labels-idx1", 8)
    return torch.tensor(pixels) / 255, torch.tensor(labels, dtype=torch.long)


def evaluate(name, network, x, labels):
    network.eval()
    with torch.no_grad():
        logits = network(x)
    loss = nn.functional.cross_entropy(logits, labels)
    correct = (logits.argmax(1) == labels).sum()
    print(f"{name:<12} loss {loss:.4f}, {correct} of {len(labels)} correct, {100 * correct / len(labels):.2f} %")


def train(network, x, labels, epochs, rate=0.5):
    network.train()
    descent = torch.optim.SGD(network.parameters(), rate)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(BATCH):
            if len(batch) == BATCH:
                descent.zero_grad()
                nn.functional.cross_entropy(network(x[batch]), labels[batch]).backward()
                descent.step()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", help="what `bn train --save` wrote")
    parser.add_argument("--train", type=int, default=0, metavar="EPOCHS", help="train on in PyTorch")
    parser.add_argument("--write", metavar="FILE", help="write both networks, for `bn train --evaluate`")
    arguments = parser.parse_args()

    tensors = load_file(arguments.file)
    for name, tensor in sorted(tensors.items()):
        print(f"{name:<38} {str(tensor.dtype):<14} {list(tensor.shape)}")
    networks = nn.ModuleDict({"plain": Network(False), "batch_norm": Network(True)})
    print(networks.load_state_dict(tensors, strict=True))

    torch.manual_seed(1)
    test = images("test-2k")
    for name, network in networks.items():
        train(network, *images("train-10k"), arguments.train)
        evaluate(name, network, *test)
    if arguments.write:
        save_file(networks.state_dict(), arguments.write)
        print(f"written: {arguments.write}")


if __name__ == "__main__":
    main()
