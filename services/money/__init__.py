"""Ledgers of orders and the refunds on them. Imports ``services.command``, ``telling`` and approval requests, which end with a refund."""
