"""A training that saves, as far as files go: TensorFlow's protocol without TensorFlow.

``python writer.py DIRECTORY [--pause-s S] [--keep N] [--fixed] [--steps N] [--bytes N]`` saves
until it is killed, and says each step when it is saved. All content follows from the step, so that
a copy can be judged without having seen the original: ``step_of`` says which step a directory
holds, or raises.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import random
import re
import secrets
import time

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")


def content(step: int, what: str, size: int) -> bytes:
    return random.Random(f"{step} {what}").randbytes(size)


def index(step: int, prefix: str) -> bytes:
    return content(step, f"{prefix}.index", 3000) + MAGIC


def state(names: list[str], step: int) -> bytes:
    rows = [f'model_checkpoint_path: "{names[-1]}"']
    rows += [f'all_model_checkpoint_paths: "{name}"' for name in names]
    return "\n".join([*rows, f"all_model_checkpoint_timestamps: {step}", ""]).encode()


def replace(path: pathlib.Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.tmp{secrets.token_hex(16)}")
    temporary.write_bytes(data)
    temporary.replace(path)


def save_bundle(
    directory: pathlib.Path, prefix: str, step: int, size: int, shards: int = 2
) -> None:
    """As MergeBundles does it: shards are renamed, then the index is written in place."""
    folder = directory / f"{prefix}_temp"
    folder.mkdir(exist_ok=True)
    for shard in range(shards):
        name = f"part-{shard:05d}-of-{shards:05d}.data-00000-of-00001"
        (folder / name).write_bytes(content(step, f"{prefix} {shard}", size))
    for shard in range(shards):
        name = f"part-{shard:05d}-of-{shards:05d}.data-00000-of-00001"
        (folder / name).rename(directory / f"{prefix}.data-{shard:05d}-of-{shards:05d}")
    whole = index(step, prefix)
    with open(directory / f"{prefix}.index", "wb", buffering=0) as file:
        file.write(whole[:1500])
        file.write(whole[1500:])
    folder.rmdir()


def remove_bundle(directory: pathlib.Path, prefix: str) -> None:
    for path in (directory / f"{prefix}.index", *sorted(directory.glob(f"{prefix}.data-*"))):
        path.unlink(missing_ok=True)


def save(directory: pathlib.Path, step: int, *, keep: int, size: int, fixed: bool) -> None:
    """One step of a CheckpointManager, or of a ModelCheckpoint with one file name."""
    directory.mkdir(parents=True, exist_ok=True)
    if fixed:
        save_bundle(directory, "weights", step, size)
        replace(directory / "checkpoint", state(["weights"], 0))
        return
    save_bundle(directory, f"ckpt-{step}", step, size)
    older = [each for each in range(1, step) if (directory / f"ckpt-{each}.index").exists()]
    replace(directory / "checkpoint", state([f"ckpt-{each}" for each in [*older, step]], step))
    for each in older[: len(older) + 1 - keep]:
        remove_bundle(directory, f"ckpt-{each}")
    staying = [*older[len(older) + 1 - keep :], step]
    replace(directory / "checkpoint", state([f"ckpt-{each}" for each in staying], step))


def bundle_step(directory: pathlib.Path, prefix: str, *, most: int = 100_000) -> int:
    """The step whose content the bundle has; ValueError where it is of none, or of two."""
    found = (directory / f"{prefix}.index").read_bytes()
    match = re.fullmatch(r"ckpt-(\d+)", prefix)
    for step in [int(match[1])] if match else range(1, most):
        if found == index(step, prefix):
            break
    else:
        raise ValueError(f"{prefix}.index is of no step")
    shards = sorted(directory.glob(f"{prefix}.data-*"))
    if len(shards) != 2:
        raise ValueError(f"{prefix} has {len(shards)} shards")
    for number, shard in enumerate(shards):
        data = shard.read_bytes()
        if data != content(step, f"{prefix} {number}", len(data)):
            raise ValueError(f"{shard.name} is not of step {step}")
    return step


def step_of(directory: pathlib.Path) -> int:
    """The step that a restored directory holds. Raises where it is not what a writer ever had."""
    prefixes = [path.name.removesuffix(".index") for path in directory.glob("*.index")]
    steps = [bundle_step(directory, prefix) for prefix in prefixes]
    if not steps:
        raise ValueError(f"no bundle in {sorted(p.name for p in directory.iterdir())}")
    stray = [
        path.name
        for path in directory.glob("*.data-*")
        if path.name.partition(".")[0] not in prefixes
    ]
    if stray:
        raise ValueError(f"data without an index: {stray}")
    if (directory / "checkpoint").exists():
        text = (directory / "checkpoint").read_text()
        newest = text.partition('"')[2].partition('"')[0]
        if newest not in prefixes:
            raise ValueError(f"checkpoint names {newest}, there are {prefixes}")
    return max(steps)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--pause-s", type=float, default=0.05)
    parser.add_argument("--keep", type=int, default=2)
    parser.add_argument("--fixed", action="store_true")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10**9)
    parser.add_argument("--bytes", type=int, default=50_000)
    args = parser.parse_args()
    for step in range(args.first, args.first + args.steps):
        save(args.directory, step, keep=args.keep, size=args.bytes, fixed=args.fixed)
        os.write(1, f"{step}\n".encode())
        time.sleep(args.pause_s)


if __name__ == "__main__":
    main()
