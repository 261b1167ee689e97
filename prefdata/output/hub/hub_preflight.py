"""What of a recipe that publishes to the Hub would stop the push at the end and can be known before the first job."""

import difflib
from dataclasses import dataclass, field
from typing import Any

from prefdata.errors import PublishError
from prefdata.output.hub.hub import Hub
from prefdata.output.hub.manifest import DATASET, MODEL, Kind
from prefdata.output.hub.targets import Busy
from prefdata.output.licences import LICENCES
from prefdata.recipe.settings.output import PublishSettings
from prefdata.recipe.settings.whole import Settings

TIMEOUT_S = 20.0
"""Nobody waits longer for what can be told at the end too."""
OF_THE_HUB = "whose token it is, the right to write, and whether the repository is private"


@dataclass
class Preflight:
    """Lines for people. `problems` stop the push; `notes` do not."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def preflight(settings: Settings) -> Preflight:
    """Licence, token, name, rights and visibility, the Hub asked where it answers; what was not checked is said."""
    said, publish = Preflight(), settings.publish
    if publish.repo_id is not None:
        _know(settings.card.license, "card.license", said)
        _reach(publish, DATASET, said)
    for model in publish.models:
        _know(model.license, f"publish.models ({model.repo_id}).license", said)
        _reach(publish.of(model), MODEL, said)
    return said


def _know(licence: str | None, key: str, said: Preflight) -> None:
    """The Hub's list has the licence, where one is given."""
    if licence is not None and licence not in LICENCES:
        close = difflib.get_close_matches(licence.lower().replace(" ", "-"), sorted(LICENCES), n=1)
        what = f"the Hub does not know the licence {licence!r}{f' (did you mean {close[0]!r}?)' if close else ''}"
        said.problems.append(str(PublishError(what, key, "choose an identifier of its list, or other")))


def _reach(publish: PublishSettings, kind: Kind, said: Preflight) -> None:
    """The repository can be written to."""
    try:
        _ask(Hub(publish.model_copy(update={"timeout_s": min(TIMEOUT_S, publish.timeout_s)}), kind), said)
    except PublishError as error:
        said.problems.append(str(error))
    except Busy as error:
        said.notes.append(f"{publish.repo_id}: not checked ({error}): {OF_THE_HUB}")


def _ask(hub: Hub, said: Preflight) -> None:
    """Raises PublishError, Busy."""
    from huggingface_hub import is_offline_mode
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    hub.calls.checked(lambda: validate_repo_id(hub.repo_id))
    if is_offline_mode():
        raise Busy("offline mode is on; unset HF_HUB_OFFLINE before the push")
    me = hub.calls(hub.api.whoami)
    info = hub.info()
    if info is None:
        _require_namespace(hub.repo_id, me)
    elif not hub.settings.pull_request:
        hub.calls(lambda: hub.api.auth_check(hub.repo_id, repo_type=hub.repo_type, write=True))
    if info is not None and info.private != hub.settings.private:
        are = "private" if info.private else "public"
        said.notes.append(f"{hub.repo_id} is {are}, whatever publish.private says; change it there")


def _require_namespace(repo_id: str, me: dict[str, Any]) -> None:
    """Raise PublishError where the token may not make a repository there."""
    owner, names = repo_id.partition("/")[0], [me["name"], *(org["name"] for org in me.get("orgs", []))]
    if owner not in names:
        raise PublishError(
            f"there is no such repository, and the token of {me['name']} may not make one for {owner}",
            repo_id,
            f"choose an owner among {', '.join(names)}, or another HF_TOKEN",
        )
    if me.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise PublishError("the token may only read", repo_id, "set HF_TOKEN to a token that may write there")
