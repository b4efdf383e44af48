"""What the business does: pure rules per area, the commands that apply them, and ports to other systems.

Imports authz, audit, db and schema; never a resolver. ``commands.py`` of one area never imports another's.
"""
