"""Templates and the messages made of them. Imports ``services.command`` and ``telling``, and how a delivery is given up."""
