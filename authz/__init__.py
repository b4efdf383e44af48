"""WHO MAY: policy, decision, identity, dual control. Imports audit, db and schema only; part of it is pure (no I/O at all)."""
