"""Approval requests: stored, bound commands that wait for votes."""
