"""Postgres: how we talk to it, nothing about what we say. Tables, pools, the transaction of a command, outbox. Imports schema only."""
