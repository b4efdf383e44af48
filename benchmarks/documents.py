"""What is asked: four documents by shape, and the request bytes in which only variables change."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from benchmarks.seed import Seed

Q1: Final = """
query Q1($id: ID!) {
  getCase(id: $id) { id kind state subjectId queueId cityId priority contentCategory version createdAt }
}
"""
Q2: Final = """
query Q2($queue: ID!, $below: Int!) {
  listCasesByPriority(queueId: $queue, priority: {lt: $below}, sortDirection: DESC, limit: 20) {
    items {
      id state priority
      subject { id kind state }
      assignee { id displayName }
      reports(limit: 3) { items { id category createdAt } }
    }
  }
}
"""
Q3: Final = """
query Q3($city: ID!, $before: String!, $limit: Int!) {
  listCases(filter: {cityId: {eq: $city}, createdAt: {lt: $before}}, sortDirection: DESC, limit: $limit) {
    items { id kind state subjectId queueId cityId priority contentCategory version createdAt assigneeId skips }
    nextToken
  }
}
"""
M1: Final = """
mutation M1($case: ID!, $token: ID!) {
  renewLease(input: {caseId: $case, leaseToken: $token}) { outcome lease { token holder { id displayName } } }
}
"""
BODIES: Final = 1_000  # different ones per document, so that no cache of answers helps
ONE_ROW: Final = "Q3 x1"
_EQUAL: Final = 5


@dataclass(frozen=True)
class Work:
    """One kind of request: its document and the variables that it is sent with, each with the person who asks."""

    name: str
    document: str
    asked: Sequence[tuple[str, Mapping[str, Any]]] = field(repr=False)

    @property
    def samples(self) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """The few that every row must answer alike before anything is timed."""
        return self.asked[:_EQUAL]

    def fresh(self, host: str, tokens: Mapping[str, str], number: int) -> list[bytes]:
        """The same requests by documents that nobody has seen: each has a name of its own, from ``number`` on."""
        return [
            http(host, tokens[person], self.document.replace(self.name, f"{self.name}_{number + n}", 1), variables)
            for n, (person, variables) in enumerate(self.asked)
        ]

    def requests(self, host: str, tokens: Mapping[str, str]) -> list[bytes]:
        """Whole HTTP requests, ready to be written to a socket."""
        return [http(host, tokens[person], self.document, variables) for person, variables in self.asked]


def http(host: str, token: str, document: str, variables: Mapping[str, Any]) -> bytes:
    """One ``POST /graphql`` on a connection that stays open."""
    body = orjson.dumps({"query": document, "variables": variables})
    head = (
        f"POST /graphql HTTP/1.1\r\nhost: {host}\r\nauthorization: {token}\r\n"
        f"content-type: application/json\r\naccept: */*\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def works(seed: Seed) -> list[Work]:
    """The shapes of the benchmark over this seed; the same seed asks the same."""
    rng = random.Random(seed.cases)  # noqa: S311 - variables of a benchmark
    people = seed.people_ids

    def ask(make: Any) -> list[tuple[str, Mapping[str, Any]]]:
        return [(people[n % len(people)], make()) for n in range(BODIES)]

    def rows(limit: int) -> Any:
        return lambda: {"city": rng.choice(seed.open_cities), "before": seed.moment(rng), "limit": limit}

    leases = [(seed.holder(n), {"case": seed.case_id(n), "token": seed.lease(n)}) for n in seed.leased()]
    return [
        Work("Q1", Q1, ask(lambda: {"id": rng.choice(seed.visible)})),
        Work("Q2", Q2, ask(lambda: {"queue": rng.choice(seed.open_queues), "below": rng.randrange(120, 480)})),
        Work("Q3", Q3, ask(rows(100))),
        Work(ONE_ROW, Q3, ask(rows(1))),
        Work("M1", M1, (leases * (BODIES // len(leases) + 1))[:BODIES]),
    ]


def comparable(body: bytes) -> Any:
    """What of an answer must be equal in every row: the data, with a page token reduced to whether there is one."""
    return _plain(orjson.loads(body)["data"])


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: value[key] is not None if key == "nextToken" else _plain(value[key]) for key in value}
    return [_plain(item) for item in value] if isinstance(value, list) else value
