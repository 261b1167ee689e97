"""Texts that already carry a chat template: said once, with the first row, since a template around them is nearly never
meant."""

import re
import sys
from collections.abc import Iterable

_MARKERS = re.compile(
    r"<\|(?:im_start|im_end|start_header_id|end_header_id|eot_id|begin_of_text|user|assistant|system|end|endoftext"
    r"|START_OF_TURN_TOKEN|END_OF_TURN_TOKEN)\|>|\[/?INST\]|<(?:start|end)_of_turn>|<<SYS>>|</s>"
)
"""What the templates of common model families write around turns."""


class Templated:
    """Counts rows whose prompt or answers hold such text."""

    def __init__(self) -> None:
        self.rows, self.first = 0, ""

    def look(self, where: str, asked: Iterable[str], said: Iterable[str]) -> None:
        """Look at one row: the texts of its prompt and of its answers."""
        for field, texts in (("prompt", asked), ("answer", said)):
            for text in texts:
                if ("<" in text or "[" in text) and (found := _MARKERS.search(text)):
                    self.rows += 1
                    self.first = self.first or f"{where}:{field}: {found[0]}"
                    return

    def add(self, other: "Templated") -> None:
        """What was found in later rows."""
        self.rows += other.rows
        self.first = self.first or other.first

    def say(self) -> None:
        """Print what was found."""
        if self.rows:
            print(
                f"warning: {self.first} is text of a chat template ({self.rows} rows have some): it is taken as plain text, "
                "and template: chat puts another around it; if these prompts are rendered already, set template: rendered",
                file=sys.stderr,
            )
