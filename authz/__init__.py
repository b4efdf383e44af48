"""Who may: identity, policy rows and conditions, scope, reasons, dual control. Imports audit, db and schema; part of it is pure."""
