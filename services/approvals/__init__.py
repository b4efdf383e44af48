"""Approval requests: stored, bound commands that wait for votes. Imports ``services.command`` and ``telling``, no other area."""
