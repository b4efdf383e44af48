"""Calls to other systems as people see them: given up, taken up again. Imports ``services.command``, ``telling`` and pure rules."""
