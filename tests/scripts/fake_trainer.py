"""A training script without a framework, for measurements: its ranks step together, and resume.

It sleeps where others import, joins its peers over loopback TCP, and makes one step each
``--step-s``: no rank goes on before all have made the last, as with collectives. Rank 0 writes a
checkpoint every ``--save-every`` steps, under another name first, and gives its peers the step to
go on from. Whatever happens it appends to ``DIRECTORY/rank-N.jsonl``, one line an event, with
CLOCK_MONOTONIC, which the processes of a machine share.

A rank whose peer is gone waits in silence (``--lost wait``), as NCCL's collectives do, or ends with
an error (``--lost fail``), as TensorFlow's do. It spins for ever from ``SPIN`` on. While
``DIRECTORY/broken`` is there it ends with an error before its first step. With ``--tell`` rank 0
tells its step in SUPERVISOR_PROGRESS_FILE, and with ``--forget`` it restores nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import signal
import socket
import sys
import time

SPIN = int(signal.SIGRTMIN) + 9
KEPT = 3


def rank_of(environ: dict[str, str]) -> int:
    """As the launcher says it: torchrun's and its like, or TensorFlow's."""
    if "RANK" in environ:
        return int(environ["RANK"])
    return int(json.loads(environ["TF_CONFIG"])["task"]["index"])


class Record:
    def __init__(self, path: pathlib.Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def __call__(self, what: str, step: int = 0) -> None:
        line = {"at": time.monotonic(), "pid": os.getpid(), "what": what, "step": step}
        with contextlib.suppress(OSError):  # the disk is full
            os.write(self._fd, json.dumps(line).encode() + b"\n")


def newest_step(directory: pathlib.Path) -> int:
    """Of the newest checkpoint that is whole; 0: there is none."""
    for path in sorted(directory.glob("ckpt-*.json"), key=number_of, reverse=True):
        try:
            saved = json.loads(path.read_text())
            if saved["end"] == "end":
                return int(saved["step"])
        except (ValueError, KeyError, TypeError, OSError) as error:
            print(f"{path} is spoilt: {error}", file=sys.stderr, flush=True)
    return 0


def number_of(path: pathlib.Path) -> int:
    return int(path.stem.removeprefix("ckpt-"))


def save(directory: pathlib.Path, step: int) -> None:
    path = directory / f"ckpt-{step}.json"
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps({"step": step, "weights": "0" * 4096, "end": "end"}))
    temporary.replace(path)
    for old in sorted(directory.glob("ckpt-*.json"), key=number_of)[:-KEPT]:
        old.unlink(missing_ok=True)


def tell(path: str, step: int) -> None:
    if path:
        with contextlib.suppress(OSError):
            temporary = pathlib.Path(f"{path}.tmp")
            temporary.write_text(json.dumps({"step": step}))
            temporary.replace(path)


class Peers:
    """All ranks, step by step. Raises ConnectionError when one is gone."""

    def __init__(self, rank: int, ranks: int, port: int) -> None:
        self.rank, self.ranks, self.port = rank, ranks, port
        self.links: list[socket.socket] = []

    def join(self, step: int) -> int:
        """Wait for all; returns the step to go on from, which is rank 0's."""
        return self._gather(step) if self.rank == 0 else self._find()

    def together(self) -> None:
        """All have made this step."""
        for link in self.links:
            if self.rank == 0:
                self._take(link, 1)
            else:
                link.sendall(b".")
        for link in self.links:
            if self.rank == 0:
                link.sendall(b".")
            else:
                self._take(link, 1)

    def _gather(self, step: int) -> int:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            while True:  # an earlier rank 0 may not have gone yet
                try:
                    listener.bind(("127.0.0.1", self.port))
                    break
                except OSError:
                    time.sleep(0.01)
            listener.listen()
            found: dict[int, socket.socket] = {}
            while len(found) < self.ranks - 1:
                link, _ = listener.accept()
                try:
                    found[self._take(link, 1)[0]] = link  # one that comes again replaces itself
                except ConnectionError:
                    link.close()
        self.links = list(found.values())
        for link in self.links:
            link.sendall(step.to_bytes(8, "big"))
        return step

    def _find(self) -> int:
        while True:
            link = socket.socket()
            try:
                link.connect(("127.0.0.1", self.port))
                link.sendall(bytes([self.rank]))
                step = int.from_bytes(self._take(link, 8), "big")
            except OSError:  # it does not listen yet, or ended meanwhile
                link.close()
                time.sleep(0.01)
                continue
            self.links = [link]
            return step

    @staticmethod
    def _take(link: socket.socket, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = link.recv(count - len(data))
            if not part:
                raise ConnectionError("Connection reset by peer")
            data += part
        return data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=pathlib.Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument("--startup-s", type=float, default=2.0)
    parser.add_argument("--step-s", type=float, default=0.1)
    parser.add_argument("--save-every", type=int, default=20)
    parser.add_argument("--steps", type=int, default=0, help="0: for ever")
    parser.add_argument("--lost", choices=("wait", "fail"), default="wait")
    parser.add_argument("--tell", action="store_true")
    parser.add_argument("--forget", action="store_true")
    args = parser.parse_args()
    rank = rank_of(dict(os.environ))
    record = Record(args.directory / f"rank-{rank}.jsonl")
    record("start")

    def told_to_stop(signum: int, _frame: object) -> None:
        record("term")
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)

    def spin(_signum: int, _frame: object) -> None:
        while True:
            pass

    signal.signal(signal.SIGTERM, told_to_stop)
    signal.signal(SPIN, spin)
    time.sleep(args.startup_s)
    if (args.directory / "broken").exists():
        raise RuntimeError("no data to train on")
    heartbeat = os.environ.get("SUPERVISOR_HEARTBEAT_FILE", "")
    checkpoints = pathlib.Path(
        os.environ.get("SUPERVISOR_CHECKPOINT_DIR") or args.directory / "checkpoints"
    )
    checkpoints.mkdir(parents=True, exist_ok=True)
    peers = Peers(rank, args.ranks, args.port)
    step = peers.join(newest_step(checkpoints) if rank == 0 and not args.forget else 0)
    progress = os.environ.get("SUPERVISOR_PROGRESS_FILE", "") if args.tell and rank == 0 else ""
    tell(progress, step)
    due = time.monotonic()
    try:
        while not args.steps or step < args.steps:
            due = max(due + args.step_s, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
            peers.together()
            step += 1
            record("step", step)
            if heartbeat:
                pathlib.Path(heartbeat).touch()
            tell(progress, step)
            if rank == 0 and step % args.save_every == 0:
                try:
                    save(checkpoints, step)
                    print(f"step {step}, saved", flush=True)
                except OSError as error:
                    print(f"step {step}, not saved: {error}", file=sys.stderr, flush=True)
    except ConnectionError:
        record("lost", step)
        if args.lost == "fail":
            raise
        while True:
            signal.pause()


if __name__ == "__main__":
    main()
