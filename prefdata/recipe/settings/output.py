"""What a recipe says of the card and of where the set is published."""

from collections import Counter
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, model_validator

RefName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*(/[\w-][\w.-]*)*$", max_length=200)]
"""A branch or a tag of a repository."""


def _no_other_ref(name: str) -> str:
    if name.startswith(("refs/", "prefdata-staging-")):
        raise ValueError("no branch to publish to; branches of this name are made and removed")
    return name


BranchName = Annotated[RefName, AfterValidator(_no_other_ref)]
RepoId = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
"""owner/name on the Hub."""


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


class PublishedModel(BaseModel, frozen=True, extra="forbid"):
    """A trained model that goes to the Hub."""

    run: str = Field(description="<objective>/<variant> under train.runs")
    repo_id: RepoId = Field(description="owner/name of a model on the Hub; made where it is new, as publish.private says")
    weights: Literal["last", "best", "adapter"] = Field(
        "last",
        description="last: of the last step, LoRA merged; best: of the best evaluation; adapter: LoRA alone, if its base is on "
        "the Hub too",
    )
    license: str | None = Field(
        None,
        description="licence of the model, as the Hub spells it; default: of a fresh one what its sources share, else other",
    )
    revision: BranchName | None = Field(None, description="branch to publish to, made from main where it is new; none: main")
    tag: RefName | None = Field(None, description="tag that the published revision gets")


class PublishSettings(BaseModel, frozen=True, extra="forbid"):
    """Where the set goes; the folder results/<name>/publish/<name> is always written."""

    repo_id: RepoId | None = Field(None, description="owner/name of a data set on the Hub; none: only the folder")
    private: bool = Field(True, description="visibility of a repository that has to be made")
    revision: BranchName | None = Field(None, description="branch to publish to, made from main where it is new; none: main")
    tag: RefName | None = Field(None, description="tag that the published revision gets; one that is on another is an error")
    pull_request: bool = Field(False, description="propose the change as a pull request, which the next run goes on with")
    page: bool = Field(
        False, description="publish explore.html too, the page of the set; it has dropped answers and the judges' words"
    )
    attempts: int = Field(5, ge=1, description="tries of the commit; before each the head is read again")
    configs: list[str] = Field(
        default=["preference", "sets", "candidates"],
        min_length=1,
        description="what is published of the set: the Hub's configs by name; docs/consumers.md lists them with the tools that "
        "read each; labelled answers and what online runs made always are",
    )
    delta: bool = Field(
        False,
        description="publish ids, roles, ranks, scores and log-probs without the sources' texts, and a script that joins them: "
        "for sources whose licence does not let their texts be passed on",
    )
    allow: list[str] = Field(
        default_factory=list,
        description="patterns that rows may hold though a push would be refused for them: email, or those of a secret, by name",
    )
    models: list[PublishedModel] = Field(
        default_factory=list, description="trained models that go to the Hub, with their cards, after the set"
    )
    timeout_s: float = Field(
        300.0, gt=0, description="longest that one request to the Hub may take, and a second more for each MiB that it sends"
    )

    def of(self, model: PublishedModel) -> "PublishSettings":
        """How a model is pushed: to a place of its own, as patiently as the set."""
        own = {"repo_id": model.repo_id, "revision": model.revision, "tag": model.tag, "pull_request": False}
        return self.model_copy(update=own)

    @model_validator(mode="after")
    def _together(self) -> "PublishSettings":
        if self.pull_request and (self.revision is not None or self.tag is not None):
            raise ValueError("pull_request proposes a change to main: leave revision and tag out")
        if self.page and self.delta:
            raise ValueError("the page holds the texts that delta leaves out: leave one of both out")
        if twice := [repo for repo, n in Counter(m.repo_id for m in self.models).items() if n > 1]:
            raise ValueError(f"models: {twice[0]} is named twice: a repository holds one model")
        return self
