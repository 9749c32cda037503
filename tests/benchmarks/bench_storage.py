"""What it costs to move files to and from an S3 server: ours, and other clients, in one run.

The server is one ``rclone serve s3`` over a directory of this machine; all clients move the same
files through it, one after the other, in processes of their own. For each: seconds from start to
end, with the interpreter's start and its imports; CPU seconds of the client; its highest resident
memory. What came back is compared byte by byte.

- 5,000 files of 16 KiB, and one of 1 GiB, there and back;
- with ``--must-hold`` ours alone: 10,000 files of 1 KiB, one of 2 GiB, a tree of many sizes, and
  that tree through a proxy that fails, stalls and cuts a tenth of the requests, beside the same
  proxy without faults.

``--peers`` names a directory of programs (``bin`` of a virtual environment) with ``aws``,
``s5cmd`` and a ``python`` that has boto3, and for the CRT awscrt; what is not there is left out
with a line that says so. The CLI uses its CRT client from version 2 on.

boto3 gives its CRT client neither an endpoint nor an addressing style: it would go to Amazon,
whatever it is told (``boto3.crt._create_crt_request_serializer``). So the CRT is driven as the
CLI drives it, by the manager of s3transfer. It uploads in one request: rclone names the root of
its answer to CreateMultipartUpload ``InitiateMultipartUpload``, without the ``Result`` that the
CRT looks for.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import filecmp
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, ROOT)

from tests.helpers.faults import fault_proxy  # noqa: E402 - found by the line above
from tests.helpers.s3 import BUCKET, KEY, SECRET, rclone  # noqa: E402

KIB, MIB = 1 << 10, 1 << 20
PLACE = "s3://bucket/{prefix}/"

BOTO3 = """
import functools, os, sys
import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
kind, way, url, prefix, directory = sys.argv[1:]
client = boto3.client("s3", endpoint_url=url)

def crt():
    from botocore.config import Config
    from botocore.session import Session
    from s3transfer import crt
    session, region = Session(), os.environ["AWS_REGION"]
    found = crt.BotocoreCRTCredentialsWrapper(session.get_credentials())
    crt.S3Client = functools.partial(crt.S3Client, multipart_upload_threshold=5 << 30)
    inner = crt.create_s3_crt_client(
        region, found.to_crt_credentials_provider(), use_ssl=url.startswith("https:")
    )
    style = Config(s3={"addressing_style": "path"})
    asked = {"region_name": region, "endpoint_url": url, "config": style}
    return crt.CRTTransferManager(inner, crt.BotocoreCRTRequestSerializer(session, asked))

with crt() if kind == "crt" else create_transfer_manager(client, TransferConfig()) as manager:
    if way == "up":
        work = [
            manager.upload(os.path.join(at, name), "bucket",
                prefix + "/" + os.path.relpath(os.path.join(at, name), directory))
            for at, _, names in os.walk(directory) for name in names
        ]
    else:
        work = []
        for page in client.get_paginator("list_objects_v2").paginate(
            Bucket="bucket", Prefix=prefix + "/"
        ):
            for row in page["Contents"]:
                path = os.path.join(directory, os.path.relpath(row["Key"], prefix))
                os.makedirs(os.path.dirname(path), exist_ok=True)
                work.append(manager.download("bucket", row["Key"], path))
    for future in work:
        future.result()
"""


async def drive(way: str, url: str, prefix: str, directory: str) -> None:
    """Ours: one direction."""
    from supervisor.storage.job import Options
    from supervisor.storage.location import Location
    from supervisor.storage.places import open_store
    from supervisor.storage.trees import Incoming, fetch_files
    from tests.helpers.sending import send_files

    options = Options(endpoint=url, region="us-east-1", addressing="path")
    async with open_store(Location.parse(f"s3://{BUCKET}/{prefix}"), options) as store:
        if way == "idle":
            await store.write("one", b"1")
            print(resident_mib(os.getpid()))
        elif way == "up":
            await send_files(store, dict(named_below(directory)), moved=lambda _: None)
        else:

            async def incoming() -> AsyncIterator[Incoming]:
                async for entry in store.entries():
                    yield Incoming(entry, entry.key)

            await fetch_files(store, incoming(), directory, moved=lambda _: None)


def named_below(directory: str) -> list[tuple[str, str]]:
    return [(os.path.relpath(path, directory), path) for path in paths_below(directory)]


def paths_below(directory: str) -> list[str]:
    return [os.path.join(at, name) for at, _, names in os.walk(directory) for name in names]


def resident_mib(pid: int) -> float:
    """The highest so far. Not ``ru_maxrss``, which survives exec."""
    with open(f"/proc/{pid}/status") as status:
        kib = [line.split()[1] for line in status if line.startswith("VmHWM")]
    return int(kib[0]) / KIB if kib else 0.0


# --------------------------------------------------------------------------- the harness


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    up: tuple[str, ...]
    """``{url}``, ``{prefix}`` and ``{directory}`` stand for what they are."""
    down: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    wall_s: float
    cpu_s: float
    resident_mib: float
    output: str = ""


def own() -> Contender:
    driver = (sys.executable, os.path.abspath(__file__), "--drive")
    tail = ("{url}", "{prefix}", "{directory}")
    return Contender("ours", (*driver, "up", *tail), (*driver, "down", *tail))


def contenders(peers: str) -> list[Contender]:
    path = peers + os.pathsep + os.environ["PATH"] if peers else os.environ["PATH"]
    found = [own()]
    if s5cmd := shutil.which("s5cmd", path=path):
        copy = (s5cmd, "--endpoint-url", "{url}", "cp")
        found.append(
            Contender("s5cmd", (*copy, "{directory}/", PLACE), (*copy, PLACE + "*", "{directory}/"))
        )
    else:
        print("s5cmd: left out, it is not there")
    aws = shutil.which("aws", path=path)
    version = run_quietly([aws, "--version"]) if aws else ""
    if aws and version:
        told = (aws, "s3", "cp", "--recursive", "--quiet", "--endpoint-url", "{url}")
        kinds = ["classic", "crt"] if version.startswith("aws-cli/2") else ["classic"]
        found += [
            Contender(
                f"aws cli {kind}",
                (*told, "{directory}/", PLACE),
                (*told, PLACE, "{directory}/"),
            )
            for kind in kinds
        ]
        if len(kinds) == 1:
            print(f"aws cli crt: left out, {version.split()[0]} has no CRT client")
    else:
        print("aws cli: left out, it is not there")
    python = shutil.which("python", path=path) or sys.executable
    for kind, module in (("classic", "boto3"), ("crt", "awscrt")):
        if run_quietly([python, "-c", f"import boto3, {module}; print(1)"]):
            script, tail = (python, "-c", BOTO3, kind), ("{url}", "{prefix}", "{directory}")
            found.append(
                Contender(f"boto3 {kind}", (*script, "up", *tail), (*script, "down", *tail))
            )
        else:
            print(f"boto3 {kind}: left out, {python} cannot import {module}")
    return found


def run_quietly(argv: Sequence[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def run(argv: Sequence[str], env: dict[str, str]) -> Figures:
    begun = time.monotonic()
    process = subprocess.Popen(
        argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    highest = 0.0
    ended = threading.Event()

    def watch() -> None:
        nonlocal highest
        with contextlib.suppress(OSError):
            while not ended.wait(0.02):
                highest = max(highest, resident_mib(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert process.stdout is not None
    output = process.stdout.read().decode(errors="replace")
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.monotonic() - begun
    ended.set()
    watcher.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{argv[0]}: exit {process.returncode}: {output[-2000:]}")
    return Figures(wall_s, usage.ru_utime + usage.ru_stime, highest, output)


def filled(words: Sequence[str], **values: str) -> list[str]:
    for name, value in values.items():
        words = [word.replace("{" + name + "}", value) for word in words]
    return list(words)


def there_and_back(
    contender: Contender, url: str, prefix: str, source: str, work: str, kind: str = "classic"
) -> tuple[Figures, Figures]:
    config = os.path.join(work, "config")
    pathlib.Path(config).write_text(
        f"[default]\nregion = us-east-1\ns3 =\n  addressing_style = path\n"
        f"  preferred_transfer_client = {kind}\n"
    )
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        "PYTHONPATH": ROOT if contender.name == "ours" else "",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": config,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    target = os.path.join(work, "target")
    up = run(filled(contender.up, url=url, prefix=prefix, directory=source), env)
    os.mkdir(target)
    down = run(filled(contender.down, url=url, prefix=prefix, directory=target), env)
    same(source, target)
    shutil.rmtree(target)
    return up, down


def same(source: str, target: str) -> None:
    names = sorted(os.path.relpath(path, source) for path in paths_below(source))
    if names != sorted(os.path.relpath(path, target) for path in paths_below(target)):
        raise RuntimeError("other files came back")
    _, wrong, errors = filecmp.cmpfiles(source, target, names, shallow=False)
    if wrong or errors:
        raise RuntimeError(f"came back changed: {(wrong + errors)[:5]}")


def make(directory: str, sizes: Sequence[int]) -> None:
    drawn = random.Random(1)
    for number, size in enumerate(sizes):
        path = os.path.join(directory, f"{number % 10}", f"{number:05}")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.writelines(
                drawn.randbytes(min(MIB, size - offset)) for offset in range(0, size, MIB)
            )


def show(title: str, rows: Sequence[tuple[str, Figures, Figures]]) -> None:
    if title:
        print(f"\n{title}")
        print(f"{'':18}{'up s':>8}{'CPU s':>8}{'MiB':>6}{'down s':>10}{'CPU s':>8}{'MiB':>6}")
    for name, up, down in rows:
        print(
            f"{name:18}{up.wall_s:8.2f}{up.cpu_s:8.2f}{up.resident_mib:6.0f}"
            f"{down.wall_s:10.2f}{down.cpu_s:8.2f}{down.resident_mib:6.0f}",
            flush=True,
        )


MIXED = [0, 1, 5 * MIB, 8 * MIB, 8 * MIB + 1, 33 * MIB] + [(n * 7919) % 300_000 for n in range(800)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What it costs to move files to and from S3.")
    parser.add_argument("--peers", default="", metavar="DIRECTORY", help="of programs")
    parser.add_argument("--large-mib", type=int, default=1024)
    parser.add_argument("--small", type=int, default=5000, help="files of 16 KiB")
    parser.add_argument("--must-hold", action="store_true")
    parser.add_argument("--only", default="", help="part of a run's title")
    parser.add_argument("--directory", help="scratch; some GiB")
    parser.add_argument("--drive", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.drive:
        way, url, prefix, directory = options.drive
        asyncio.run(drive(way, url, prefix, directory))
        return 0
    with tempfile.TemporaryDirectory(dir=options.directory) as work:
        if options.must_hold:
            must_hold(work, options.only)
        else:
            compare(work, options)
    return 0


def compare(work: str, options: argparse.Namespace) -> None:
    taking_part = contenders(options.peers)
    for title, sizes in (
        (f"{options.small} x 16 KiB", [16 * KIB] * options.small),
        (f"1 x {options.large_mib} MiB", [options.large_mib * MIB]),
    ):
        if options.only not in title:
            continue
        source = os.path.join(work, "source")
        os.mkdir(source)
        make(source, sizes)
        for number, one in enumerate(taking_part):
            # A server of its own for each: no one pays for another's many files in its folders.
            home = pathlib.Path(work, f"server-{number}")
            home.mkdir()
            kind = one.name.rpartition(" ")[2]
            try:
                with rclone(home) as server:
                    up, down = there_and_back(one, server.url, "tree", source, work, kind)
            except RuntimeError as error:
                print(f"{one.name}: left out: {str(error).splitlines()[-1]}")
            else:
                show(title if number == 0 else "", [(one.name, up, down)])
            shutil.rmtree(home)
        shutil.rmtree(source)


def must_hold(work: str, only: str) -> None:
    ours = own()
    idle = Contender("ours", tuple("idle" if word == "up" else word for word in ours.up), ours.down)
    for title, sizes in (
        ("10,000 x 1 KiB", [KIB] * 10_000),
        ("1 x 2 GiB", [2048 * MIB]),
        ("mixed tree", MIXED),
    ):
        if only not in title:
            continue
        home, source = pathlib.Path(work, "server"), os.path.join(work, "source")
        home.mkdir()
        os.mkdir(source)
        make(source, sizes)
        with rclone(home) as server:
            idle_mib = resting_mib(idle, server.url)
            both = there_and_back(ours, server.url, "tree", source, work)
            show(title, [("ours", *both)])
            above = max(one.resident_mib for one in both) - idle_mib
            print(f"memory above idle: {above:.0f} MiB (idle {idle_mib:.0f} MiB)", flush=True)
            if title == "mixed tree":
                faulty(ours, server.port, source, work)
        shutil.rmtree(home)
        shutil.rmtree(source)


def resting_mib(idle: Contender, url: str) -> float:
    env = {**os.environ, "PYTHONPATH": ROOT, "AWS_ACCESS_KEY_ID": KEY}
    env["AWS_SECRET_ACCESS_KEY"] = SECRET
    return float(run(filled(idle.up, url=url, prefix="idle", directory="/"), env).output)


def faulty(ours: Contender, port: int, source: str, work: str) -> None:
    with fault_proxy(port, seed=1) as proxy:
        clean = there_and_back(ours, proxy.url, "clean", source, work)
        faults = proxy.faults
        faults.counts.clear()
        faults.slow_down = faults.internal = 0.025
        faults.cut_request = faults.cut_answer = 0.02
        faults.stall = 0.01
        spoilt = there_and_back(ours, proxy.url, "faulty", source, work)
        show("mixed tree through a proxy", [("clean", *clean), ("faulty", *spoilt)])
        ratios = [bad.wall_s / good.wall_s for good, bad in zip(clean, spoilt, strict=True)]
        print(f"faulty to clean: up {ratios[0]:.2f}, down {ratios[1]:.2f}; {dict(faults.counts)}")


if __name__ == "__main__":
    sys.exit(main())
