"""Reports, cases, leases, notes and decisions. Imports ``services.command``, ``telling``, and how a note becomes a message."""
