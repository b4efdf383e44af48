"""Alerts: what a person should look at now; deliveries that were given up. Imports ``services.command`` and ``telling``, no other area."""
