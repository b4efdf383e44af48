"""The contract: what a client can say and will hear. No behaviour, no I/O; imports nothing else of the console."""
