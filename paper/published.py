"""The numbers that the papers print, as far as they could be verified, by our names of tables and rows.

MC-PO: arXiv 2502.04567 (AAAI-26). Win rates in percent on AlpacaEval and Arena-Hard; Llama-3.1-8B-SFT trained on Nectar, the
base set-up, mean over three seeds. The numbers of its instruct set-up, of Table 4 and of its figures, and those of MRPO
(arXiv 2405.16388) could not be verified: there are none of them here.
"""

CITATION = "arXiv 2502.04567: win rates in %, AlpacaEval / Arena-Hard, Llama-3.1-8B-SFT on Nectar"
WORLD = "exact"
"""The world that stands for the set-up in which these were measured."""
WinRates = tuple[float, float | None]
PUBLISHED: dict[str, dict[str, WinRates]] = {
    "main": {
        "DPO": (33.74, 60.25),
        "RPO": (32.50, 59.20),
        "EXO": (26.48, 52.89),
        "SimPO": (33.71, 60.69),
        "CPO": (29.10, 55.25),
        "BCO": (24.96, 58.16),
        "KTO": (24.50, 53.40),
        "APO": (21.13, 53.25),
        "SPPO": (20.26, 53.52),
        "NCA": (20.46, 53.36),
        "MC-PO": (35.84, 63.77),
        "OnMC-PO": (39.70, 64.21),
    },
    "noise": {"DPO(-)": (1.08, 3.17), "DPO": (23.62, 50.51), "MC-PO": (28.98, 58.09)},
    "negatives": {
        "RNCE M = 1": (33.74, None),
        "RNCE M = 2": (33.73, None),
        "RNCE M = 3": (34.36, None),
        "MC-PO M = 1": (35.84, None),
        "MC-PO M = 2": (36.73, None),
        "MC-PO M = 3": (37.40, None),
    },
}


def difference(table: str, better: str, worse: str) -> WinRates | None:
    """Published win rates of one row less those of another, in percentage points; None where either is not known."""
    rows = PUBLISHED.get(table, {})
    if better not in rows or worse not in rows:
        return None
    one, other = rows[better], rows[worse]
    arena = None if one[1] is None or other[1] is None else one[1] - other[1]
    return one[0] - other[0], arena


def shown(rates: WinRates | None, sign: bool = False) -> str:
    """Win rates or their difference as text; empty where there is none."""
    if rates is None:
        return ""
    return " / ".join(f"{rate:{'+' if sign else ''}.2f}" for rate in rates if rate is not None)
