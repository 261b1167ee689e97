"""The few types that every part of the package speaks of."""

from typing import Annotated, Any, Literal

from pydantic import Field

Message = dict[str, Any]
"""One turn of a conversation: role, content, and whatever else it says (tool_calls, reasoning_content, name, ...)."""
SplitName = Literal["sft", "train", "validation", "test"]
Origin = Literal["source", "generated", "noise"]
"""Where a candidate comes from."""
Template = Literal["chat", "plain", "rendered"]
"""How a prompt is rendered: by the tokenizer's chat template, as the text is, or not at all since its text carries the template
already (control tokens are then read as such)."""
End = Literal["eos", "none"]
"""Whether a completion ends with the end token."""
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
"""A branch or tag moves; only a commit hash pins what results were made with."""
Share = Annotated[float, Field(ge=0, le=1)]
