"""Writes a golden case that PyTorch answered: python export_pytorch.py FILE.safetensors

The inputs are float32, and PyTorch computes in float64 from them.
"""

import sys

import torch
from safetensors.torch import save_file

torch.manual_seed(0)
eps, momentum = 1e-5, 0.1
x, dy = torch.randn(2, 4, 6, 5, 7)
weight, bias, running_mean = torch.randn(3, 6)
running_var = torch.rand(6) + 0.5
tracked = torch.tensor(7)

layer = torch.nn.BatchNorm2d(6, eps=eps, momentum=momentum, dtype=torch.float64)
layer.load_state_dict({
    "weight": weight,
    "bias": bias,
    "running_mean": running_mean,
    "running_var": running_var,
    "num_batches_tracked": tracked,
})
leaf = x.double().requires_grad_()
y = layer(leaf)
y.backward(dy.double())

expected = {
    "y": y.detach(),
    "batch_mean": x.double().mean((0, 2, 3)),
    "batch_var": x.double().var((0, 2, 3), unbiased=False),
    "running_mean": layer.running_mean,
    "running_var": layer.running_var,
    "num_batches_tracked": layer.num_batches_tracked,
    "dx": leaf.grad,
    "dweight": layer.weight.grad,
    "dbias": layer.bias.grad,
}
tensors = {
    "x": x,
    "dy": dy,
    "weight": weight,
    "bias": bias,
    "running_mean": running_mean,
    "running_var": running_var,
    "num_batches_tracked": tracked,
    **{f"expected.{name}": tensor for name, tensor in expected.items()},
}
metadata = {
    "format": "batchnorm-golden-1",
    "mode": "train",
    "layout": "channels_first",
    "eps": str(eps),
    "momentum": str(momentum),
    "source": f"PyTorch {torch.__version__} float64",
}
# Parts of one tensor share memory, which save_file refuses.
save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, sys.argv[1], metadata=metadata)
