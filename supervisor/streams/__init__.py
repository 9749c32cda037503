"""Bytes from children to outputs: every byte, any rate, never in the way.

::

    child's pipe ──os.read──▶ Pump ──▶ Branch(formatter, sink) ──▶ Sink ──thread──▶ descriptor
                               │                                                    or file
                               └─▶ tail (the last bytes, for failure reports)

- `Pump` reads one pipe on the event loop and keeps the tail and the counters.
- A formatter (`Raw`, `Prefix`, `Json`) turns chunks of bytes into chunks of whole lines.
- `Sink` owns one output; its thread does the writing, so that a reader that stalls holds the
  child (or costs exactly counted bytes), and never the event loop.
- `decode` turns written output back into the bytes that the children wrote.

Nothing here imports more than asyncio: this package is loaded before the user's process starts.
"""

from supervisor.streams.backlog import Policy
from supervisor.streams.files import RotatingFile
from supervisor.streams.filters import Repeats, quiet_tensorflow
from supervisor.streams.formats import (
    DEFAULT_TEMPLATE,
    Carriage,
    Formatter,
    Json,
    Label,
    Mark,
    Prefix,
    Raw,
    colour_of,
)
from supervisor.streams.pump import Branch, Pump
from supervisor.streams.sink import Sink, console, same_output

__all__ = [
    "DEFAULT_TEMPLATE",
    "Branch",
    "Carriage",
    "Formatter",
    "Json",
    "Label",
    "Mark",
    "Policy",
    "Prefix",
    "Pump",
    "Raw",
    "Repeats",
    "RotatingFile",
    "Sink",
    "colour_of",
    "console",
    "filters",
    "gpuless",
    "logs",
    "masking",
    "quiet_tensorflow",
    "recent",
    "same_output",
    "sentences",
]
