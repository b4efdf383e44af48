"""Every advisory lock that is named by a number, in one place: two users of one number would wait for each other.

Locks over keys (a pair, a person's leases) hash their name to 64 bits instead and need no entry here.
"""

from __future__ import annotations

from typing import Final

POLICY: Final = 727001  # shared by every unit of work, exclusive for a change of grants (security-contract AZ-7); also in migration 0001
SEQUENCER: Final = 727002  # who numbers events
SEALER: Final = 727003  # who seals the audit log; for economy only, the head's compare is what keeps it whole
APPROVAL_BOOK: Final = 727004  # who brings the shipped approval policies into the table
