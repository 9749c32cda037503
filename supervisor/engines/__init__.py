"""Where a contract comes from: one module an engine, each ``gather(environ, flags) -> Facts``.

An engine knows how its platform tells a container about the job. All of them end in the same
``Facts``, so that everything behind the contract is one code path.
"""

__all__ = ["directory", "local", "sagemaker"]
