"""Reports, cases, leases, notes and decisions. Imports ``services.command`` and ``telling``, no other area."""
