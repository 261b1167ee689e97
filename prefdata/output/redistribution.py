"""Which licences forbid to pass a source's texts on in a set made of it."""

import re

UNKNOWN = "unknown"
"""The licence of a source that nobody stated."""
FORBIDDING = {
    # cc-by-nd-4.0, cc-by-nc-nd-3.0 and -4.0 on the Hub's list; CC BY-ND 2.5, Attribution-NoDerivatives in people's words
    r"\bcc by (?:nc )?nd\b|\bno ?deriv": "it allows no derivatives, and a set with ranks and other answers is one",
    r"\ball rights reserved\b|\bproprietary\b|\bconfidential\b": "it allows no copies",
    r"\b(?:no|not|non) ?(?:for |to be )?redistribut": "it allows no redistribution",
}
"""What such a licence says, in lower case with a space for all that is no letter, digit or dot; and why it forbids it. Licences
that allow copies on terms (non-commercial, share-alike) are not here: the card names each source's licence."""


def forbids(license: str) -> str | None:
    """Why rows under this licence may not be pushed; None where nothing is known to forbid it."""
    said = re.sub(r"[^a-z0-9.]+", " ", license.lower())
    return next((why for pattern, why in FORBIDDING.items() if re.search(pattern, said)), None)
