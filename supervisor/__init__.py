"""An asyncio process supervisor: the entrypoint of a TensorFlow training container.

Kept empty on purpose: ``python -m supervisor.programs.parameter_server`` imports this package in
every child, and start-up is a feature.
"""

__version__ = "0.1.0"
