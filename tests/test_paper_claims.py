"""The claims of config/paper/claims.yaml and the published numbers agree with each other and with the tables' rows."""

from collections import Counter
from pathlib import Path

import pytest

from paper.claims import claims
from paper.published import PUBLISHED, difference
from prefdata.errors import ConfigError


def test_claims_of_the_file() -> None:
    """Each order of the papers' tables is there once a metric."""
    found = claims()
    counted = Counter((c.source, c.metric) for c in found)
    assert counted["MC-PO Table 1", "reward"] == 18
    assert counted["MC-PO Table 2", "greedy"] == 2
    assert counted["MC-PO Table 3", "greedy"] == 5
    assert {c.worse for c in found if c.table == "main" and c.better == "MC-PO" and c.claimed} == (
        set(PUBLISHED["main"]) - {"MC-PO", "OnMC-PO"}
    )
    assert {c.better for c in found if c.table == "main" and c.worse == "MC-PO"} == {"OnMC-PO"}
    assert not [c for c in found if c.better == c.worse]


def test_orders_of_published_rows_are_as_published() -> None:
    """A claim turned around by mistake would contradict the paper's own numbers."""
    for claim in claims():
        gap = difference(claim.table, claim.better, claim.worse)
        if gap is not None and claim.claimed:
            assert all(g > 0 for g in gap if g is not None), claim


def test_a_published_difference() -> None:
    assert difference("main", "MC-PO", "DPO") == pytest.approx((2.10, 3.52))
    assert difference("negatives", "MC-PO M = 3", "MC-PO M = 1") == (pytest.approx(1.56), None)
    assert difference("epochs", "MC-PO", "DPO") is None


@pytest.mark.parametrize(
    "text",
    [
        "- {source: a, table: main, metrics: [nothing], orders: [[A, B]]}",
        "- {source: a, table: main, metrics: [greedy], orders: [[A]]}",
        "- {source: a, table: main, metrics: [greedy], orders: [[A, B]], wanted: 1}",
        "- {source: a, table: main, metrics: [greedy], orders: [[A, B], [A, B]]}",
        "- {source: [",
    ],
)
def test_a_wrong_file_of_claims_says_so(tmp_path: Path, text: str) -> None:
    (tmp_path / "claims.yaml").write_text(text)
    with pytest.raises(ConfigError, match="claims.yaml"):
        claims(tmp_path / "claims.yaml")
