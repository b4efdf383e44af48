"""Alerts: what a person should look at now. Imports ``services.command`` and ``telling``, no other area."""
