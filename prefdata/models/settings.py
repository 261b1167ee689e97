"""What a recipe says of a reference model."""

from pydantic import BaseModel, Field

from prefdata.kinds import Commit, End, Name, Template


class ReferenceSettings(BaseModel, frozen=True, extra="forbid"):
    """One reference model. The first is the primary one, whose template and end the policy uses."""

    name: Name = Field(description="the name in logps and in the objectives")
    model: str = Field(description="run:<objective>/<variant>, a local folder or a Hub id")
    revision: Commit | None = Field(None, description="commit hash, for a Hub id")
    template: Template = Field(
        "chat",
        description="chat = by the tokenizer's template, plain = as the text is, rendered = the text carries its template",
    )
    end: End = Field("eos", description="whether the end token is scored")
    max_tokens: int | None = Field(
        None,
        ge=2,
        description="prompt + completion; default: the model's context; longer ones are dropped, reason too_long:<reference>",
    )
