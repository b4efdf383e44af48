"""Ledgers of orders and the refunds on them."""
