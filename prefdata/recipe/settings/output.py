"""What a recipe says of the card and of where the set is published."""

from typing import Annotated

from pydantic import BaseModel, Field


class CardSettings(BaseModel, frozen=True, extra="forbid"):
    """What the card says beyond computed facts."""

    title: str = Field("A preference set", description="first heading")
    description: str = Field("", description="your own words; plain text, escaped")
    license: str | None = Field(
        None,
        description="licence of the published set, as the Hub spells it; default: the one its sources share, else other",
    )
    license_name: str | None = Field(None, description="where license is other: its name; default: the sources' own")
    license_link: Annotated[str, Field(pattern=r"^(https://[^\s<>\"'()]+|LICENSE(\.md)?)$")] | None = Field(
        None, description="where license is other: an https address, or LICENSE, a file that you put beside the card"
    )
    language: str = Field("en", description="language code")
    tags: list[str] = Field(default_factory=list, description="added to preference, dpo")
    authors: list[str] = Field(default_factory=list, description="for the citation")
    papers: list[Annotated[str, Field(pattern=r"^\d{4}\.\d{4,5}$")]] = Field(
        default_factory=list, description="arXiv ids of the papers behind your sources: linked, so that the Hub finds them"
    )


class PublishSettings(BaseModel, frozen=True, extra="forbid"):
    """Where the set goes; the folder results/<name>/publish/<name> is always written."""

    repo_id: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = Field(
        None, description="owner/name of a data set on the Hub; none: only the folder"
    )
    private: bool = Field(True, description="visibility of a repository that has to be made")
    attempts: int = Field(5, ge=1, description="tries of the commit; before each the head is read again")
