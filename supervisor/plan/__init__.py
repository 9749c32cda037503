"""From the contract to what this host will do: commands, environments, ports, budgets. Pure.

It reads nothing but the contract, and starts nothing: ``host/`` does.
"""

__all__ = ["early", "installation", "plan", "requirements", "storage"]
