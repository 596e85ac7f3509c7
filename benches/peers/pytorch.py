#!/usr/bin/env python3
"""Times the batch norm of PyTorch: on the CPU, and on CUDA where there is a device.

Prints an array of records, one for each way of computing it, in the form of `burn-peer`:
{"peer", "version", "adapter", "clock", "notes",
 "rows": [{"shape", "dtype", "operation", "microseconds": {"median", "spread", "steps", "samples"}}]}.
Exit codes: 0 all good, 2 wrong usage or no PyTorch.
"""

import argparse
import collections
import importlib
import json
import os
import platform
import statistics
import sys
import time

BEGIN = time.monotonic()  # before PyTorch is loaded, which takes a while

try:
    import torch
    import torch.nn.functional as functional
except ImportError as error:
    print(f"expected PyTorch, but it cannot be imported ({error}); say `pip install torch`", file=sys.stderr)
    sys.exit(2)

SHAPES = "32x64x32x32,32x256x14x14,8x64x56x56,128x512"
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
THREADS = 2
EPS, MOMENTUM = 1e-5, 0.1

# A sample lasts at least so long, so that starting and waiting take little of it.
SAMPLE_SECONDS = 0.04
WARM_UP_STEPS = 10
# The driver's queue must take all launches of a sample while the device still sleeps.
MOST_CUDA_STEPS = 200
# Tensors that are gone through before one is used again, so that no cache holds it; the figures of `bn bench`.
ROTATION = 256 << 20
MOST_SETS = 8


class Inputs:
    """One set of tensors. gamma, beta and the running statistics are f32 for every type of x, as under autocast."""

    def __init__(self, shape, dtype, device, memory_format):
        tensor = lambda: torch.randn(shape, device=device).to(dtype).contiguous(memory_format=memory_format)
        channel = lambda value: torch.full((shape[1],), value, device=device)
        self.x, self.dy = tensor(), tensor()
        self.gamma, self.beta = channel(1.0), channel(0.0)
        self.mean, self.var = channel(0.0), channel(1.0)

    def forward(self):
        return functional.batch_norm(self.x, self.mean, self.var, self.gamma, self.beta, True, MOMENTUM, EPS)

    def inference(self):
        return functional.batch_norm(self.x, self.mean, self.var, self.gamma, self.beta, False, MOMENTUM, EPS)


def native_backward(inputs):
    """The backward operator alone, which is what autograd would call."""
    operator = torch.ops.aten.native_batch_norm
    _, mean, inv_std = operator(
        inputs.x, inputs.gamma, inputs.beta, inputs.mean, inputs.var, True, MOMENTUM, EPS)
    return lambda: torch.ops.aten.native_batch_norm_backward(
        inputs.dy, inputs.x, inputs.gamma, inputs.mean, inputs.var, mean, inv_std, True, EPS, [True, True, True])


def autograd_backward(inputs, forward):
    """The backward pass of a graph that is kept, for operators that cannot be called alone."""
    wanted = [inputs.x, inputs.gamma, inputs.beta]
    for tensor in wanted:
        tensor.requires_grad_()
    with torch.enable_grad():
        y = forward()
    return lambda: torch.autograd.grad(y, wanted, inputs.dy, retain_graph=True)


def steps_native(inputs):
    return {"forward_training": inputs.forward, "backward_training": native_backward(inputs),
            "inference": inputs.inference}


def steps_autograd(inputs):
    # Inference and forward are timed without a graph; the backward pass makes its own.
    steps = {"forward_training": inputs.forward, "inference": inputs.inference}
    return {**steps, "backward_training": autograd_backward(inputs, inputs.forward)}


# Functions of the tensors rather than closures over them: each set of tensors would compile its own.


def training(x, mean, var, gamma, beta):
    return functional.batch_norm(x, mean, var, gamma, beta, True, MOMENTUM, EPS)


def evaluation(x, mean, var, gamma, beta):
    return functional.batch_norm(x, mean, var, gamma, beta, False, MOMENTUM, EPS)


def steps_compiled(inputs):
    # A backward pass that is run again needs its buffers kept.
    importlib.import_module("torch._functorch.config").donated_buffer = False
    arguments = (inputs.x, inputs.mean, inputs.var, inputs.gamma, inputs.beta)
    forward, inference = torch.compile(training, dynamic=False), torch.compile(evaluation, dynamic=False)
    detached = tuple(tensor.detach() for tensor in arguments)
    backward = autograd_backward(inputs, lambda: forward(*arguments))
    return {"forward_training": lambda: forward(*detached), "backward_training": backward,
            "inference": lambda: inference(*detached)}


def wall_clock(steps, count):
    # Results are dropped at once: kept ones would make the C allocator ask the system for memory over and over.
    begin = time.perf_counter()
    for index in range(count):
        steps[index % len(steps)]()
    return time.perf_counter() - begin


def cuda_clock(steps, count):
    """CUDA events. The device sleeps first, so that it never waits for the host to launch the next step."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    if hasattr(torch.cuda, "_sleep"):
        torch.cuda._sleep(count * 200_000)  # cycles: 100 us for each step at 2 GHz
    # Results are kept for one turn of the steps, or the allocator would hand out one that the cache still holds.
    kept = collections.deque(maxlen=len(steps))
    begin.record()
    for index in range(count):
        kept.append(steps[index % len(steps)]())
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3


def measure(steps, samples, clock, most):
    clock(steps, max(WARM_UP_STEPS, len(steps)))
    count, lasted = 1, clock(steps, 1)
    while lasted < SAMPLE_SECONDS and count < most:
        factor = min(max(SAMPLE_SECONDS / max(lasted, 1e-6) * 1.2, 2), 64)
        count = min(int(count * factor), most)
        lasted = clock(steps, count)
    times = sorted(clock(steps, count) * 1e6 / count for _ in range(samples))
    at = lambda share: times[round((len(times) - 1) * share)]
    return {"median": statistics.median(times), "spread": at(0.75) - at(0.25), "steps": count, "samples": samples}


class Peer:
    """A way of computing batch norm that is compared on its own."""

    def __init__(self, name, device, steps, channels_last=False, cudnn=False):
        self.name, self.device, self.steps = name, device, steps
        self.channels_last, self.cudnn = channels_last, cudnn

        self.timed, self.notes = [], []

    def time(self, shape, samples, dtype):
        """Adds the rows of a shape, or a note that says why there are none."""
        torch.backends.cudnn.enabled = self.cudnn
        if self.channels_last and len(shape) != 4:
            self.notes.append(f"{text(shape)}: channels last needs four dimensions")
            return
        try:
            self.timed += self.rows(shape, samples, dtype)
        # torch.compile fails in too many ways to name them; the other peers should still be timed.
        except Exception as error:
            first = (str(error).strip() or repr(error)).splitlines()[0]
            self.notes.append(f"{text(shape)} {dtype}: {type(error).__name__}: {first}")
        print(f"{self.name}: {text(shape)} {dtype}", file=sys.stderr)

    def record(self):
        return {"peer": self.name, "version": torch.__version__, "adapter": device_name(self.device),
                "clock": self.clock_name(), "notes": self.notes, "rows": self.timed}

    def rows(self, shape, samples, dtype):
        if self.steps is steps_compiled:
            # It gives up on a function that it has compiled for many shapes.
            importlib.import_module("torch._dynamo").reset()
        memory_format = torch.channels_last if self.channels_last else torch.contiguous_format
        size = DTYPES[dtype].itemsize * torch.Size(shape).numel()
        sets = min(max(ROTATION // (3 * size), 2), MOST_SETS)
        bound = [self.steps(Inputs(shape, DTYPES[dtype], self.device, memory_format)) for _ in range(sets)]
        clock, most = (cuda_clock, MOST_CUDA_STEPS) if self.device == "cuda" else (wall_clock, 1 << 14)
        with torch.no_grad():
            return [{"shape": text(shape), "dtype": dtype, "operation": operation,
                     "microseconds": measure([steps[operation] for steps in bound], samples, clock, most)}
                    for operation in bound[0]]

    def clock_name(self):
        if self.device == "cuda":
            return "CUDA events around many steps that were launched ahead"
        return f"wall time of many steps, {torch.get_num_threads()} threads"


def peers(devices):
    found = []
    if "cpu" in devices:
        found += [Peer("pytorch-cpu", "cpu", steps_native),
                  Peer("pytorch-cpu-channels-last", "cpu", steps_native, channels_last=True)]
    if "cuda" in devices and torch.cuda.is_available():
        found += [Peer("pytorch-cuda-native", "cuda", steps_native),
                  Peer("pytorch-cuda-cudnn", "cuda", steps_autograd, cudnn=True),
                  Peer("pytorch-cuda-channels-last", "cuda", steps_autograd, channels_last=True, cudnn=True),
                  Peer("pytorch-cuda-compile", "cuda", steps_compiled, cudnn=True)]
    return found


def device_name(device):
    return torch.cuda.get_device_name() if device == "cuda" else cpu_name()


def cpu_name():
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def text(shape):
    return "x".join(map(str, shape))


def parse_shapes(value):
    """Pairs of a shape and a dtype, None for that of --dtype."""
    try:
        items = [item.partition(":") for item in value.split(",")]
        shapes = [(tuple(int(size) for size in shape.split("x")), dtype or None) for shape, _, dtype in items]
    except ValueError:
        shapes = []
    if not shapes or any(len(shape) < 2 or min(shape) < 1 or dtype not in {None, *DTYPES} for shape, dtype in shapes):
        raise argparse.ArgumentTypeError(f"expected shapes such as {SHAPES} or 64x512:f16, found {value!r}")
    return shapes


def parse_samples(value):
    if not value.isdigit() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, found {value!r}")
    return int(value)


def parse():
    parser = argparse.ArgumentParser(description="Time the batch norm of PyTorch")
    parser.add_argument("--shapes", type=parse_shapes, default=parse_shapes(SHAPES), metavar="LIST",
                        help=f"N x C x ..., separated by commas; a dtype after a colon is that shape's own, as in 64x512:f16 "
                             f"(default: {SHAPES})")
    parser.add_argument("--samples", type=parse_samples, default=5, metavar="N",
                        help="samples of each time (default: 5)")
    parser.add_argument("--dtype", choices=DTYPES, default="f32", help="type of x (default: f32)")
    parser.add_argument("--devices", default="cpu,cuda", metavar="LIST", help="of cpu and cuda (default: both)")
    parser.add_argument("--time-limit", type=float, metavar="SECONDS",
                        help="start nothing new after so many seconds; what was left out is noted")
    parser.add_argument("--out", metavar="FILE", help="write JSON to FILE, anew after every shape")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    arguments.devices = arguments.devices.split(",")
    if not set(arguments.devices) <= {"cpu", "cuda"}:
        parser.error(f"expected --devices of cpu and cuda, found {','.join(arguments.devices)}")
    return arguments


def show(records):
    for record in records:
        print(f"{record['peer']}: {record['version']} on {record['adapter']}; {record['clock']}")
        for row in record["rows"]:
            time_of = row["microseconds"]
            print(f"  {row['shape']:<18} {row['operation']:<18} {time_of['median']:>10.1f} us"
                  f"  spread {time_of['spread']:.1f}")
        for note in record["notes"]:
            print(f"  not timed: {note}")


def write(path, records):
    """Under another name first, so that no reader finds half a file."""
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(records, file, indent=1)
    os.replace(path + ".new", path)


def main():
    arguments = parse()
    torch.set_num_threads(THREADS)
    chosen = peers(arguments.devices)
    if not chosen:
        print("expected a CUDA device, but this PyTorch finds none; leave `--devices` at its default", file=sys.stderr)
        return 2
    # What is compiled last: it takes longest, and may fail in ways of its own.
    for slow in (False, True):
        for shape, dtype in arguments.shapes:
            for peer in chosen:
                if (peer.steps is steps_compiled) is not slow:
                    continue
                if arguments.time_limit is not None and time.monotonic() - BEGIN > arguments.time_limit:
                    peer.notes.append(f"{text(shape)}: left out, since {arguments.time_limit:.0f} s had passed")
                    continue
                peer.time(shape, arguments.samples, dtype or arguments.dtype)
            if arguments.out:
                write(arguments.out, [peer.record() for peer in chosen])
    records = [peer.record() for peer in chosen]
    if arguments.json:
        json.dump(records, sys.stdout, indent=1)
        print()
    else:
        show(records)
    return 0


if __name__ == "__main__":
    sys.exit(main())
