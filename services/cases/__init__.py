"""Reports, cases, leases, notes and decisions."""
