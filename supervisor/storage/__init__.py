"""Files from and to S3 and other places: what a job reads before it, and keeps during and after it.

Transfers run in processes of their own (``python -m supervisor.storage.fetch`` before the barrier,
``… .sync`` beside the training), never in the supervisor's event loop: signing and parsing cost a
millisecond of CPU a request, creating a client a tenth of a second, and neither is to delay a
signal, a probe or a line of the log. It also keeps the client's memory out of the supervisor, and
a defect of it away from the training.

Pure: ``location``, ``job``, ``manifest``, ``epochs``, ``snapshot``. Shell: all others; ``store`` is
the one interface to places, ``s3`` and ``files`` implement it.
"""

__all__ = [
    "agent",
    "job",
    "location",
    "manifest",
    "notices",
    "places",
    "snapshot",
    "store",
    "watch",
]
