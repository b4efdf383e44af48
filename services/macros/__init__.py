"""Macros: versioned lists of steps that run as one deed. Imports cases' rows, approvals, authz, db, schema."""
