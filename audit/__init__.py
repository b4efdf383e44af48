"""What happened, provably: records, the sealer and its Merkle tree, checkpoints, anchors, verification.

May import ``db`` and ``schema``. ``audit.verify`` imports nothing of ours, so an auditor can run it alone.
"""
