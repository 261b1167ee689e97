"""What a push has put on its staging branch, read as people will: by the server's hashes; a data set by its Parquet footers and
the first row of every split of every config by `datasets`; a model's configuration and tokenizer by `transformers`."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from prefdata.errors import PublishError
from prefdata.output.card.card_merge import is_ours, named, parts
from prefdata.output.hub.hub_calls import Calls
from prefdata.output.hub.manifest import MODEL, Kind, Stored
from prefdata.output.hub.targets import Change


@dataclass(frozen=True)
class Staged:
    """A commit of a repository, the one that it follows, and how it is read."""

    kind: Kind
    repo_id: str
    revision: str
    parent: str | None
    endpoint: str
    token: str


def require_readable(staged: Staged, calls: Calls, files: Mapping[str, Stored | None], change: Change, card: str) -> None:
    """Raise PublishError, or Busy, where the commit does not hold what was sent, or does not load."""
    found = {name: file for name, file in files.items() if staged.kind(name)}
    if odd := sorted(set(found) ^ set(change.stored)):
        raise PublishError(f"the Hub lists other files than were sent, {odd[0]} for one", staged.repo_id, AGAIN)
    for name, sent in change.stored.items():
        if (there := found[name]) is None or not there.same(sent):
            raise PublishError("the Hub stores other bytes than were sent", f"{staged.repo_id}/{name}", AGAIN)
    if staged.kind is MODEL:
        _require_loadable(staged, calls, change)
    else:
        _require_readable_configs(staged, calls, change, card)


def _require_readable_configs(staged: Staged, calls: Calls, change: Change, card: str) -> None:
    for name in sorted(n for n in set(change.puts) & set(change.stored) if n.endswith(".parquet")):
        if calls(partial(_rows, staged, name)) != pq.read_metadata(change.puts[name]).num_rows:
            raise PublishError("the file on the Hub has other rows than was sent", f"{staged.repo_id}/{name}", AGAIN)
    for config in named(parts(card)[0], "configs"):
        name = str(config["config_name"])
        if problem := calls(partial(_problem, staged, calls, name, staged.revision)):
            parent = staged.parent
            if not is_ours(config) and (parent is None or calls(partial(_problem, staged, calls, name, parent))):
                continue  # it did not load before either
            raise PublishError(f"the config {name} would not load ({problem}), so nothing was changed", staged.repo_id, MEND)


def _require_loadable(staged: Staged, calls: Calls, change: Change) -> None:
    """Raise PublishError where configuration (an adapter's is peft's, and its base lies elsewhere) or tokenizer do not load."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=staged.endpoint, token=staged.token)
    with tempfile.TemporaryDirectory() as folder:
        for name in sorted(n for n in change.stored if n.endswith(TEXTS_OF_MODELS)):
            calls(partial(api.hf_hub_download, staged.repo_id, name, revision=staged.revision, local_dir=folder))
        if problem := _problem_of_model(folder, "config.json" in change.stored):
            raise PublishError(f"the model would not load ({problem}), so nothing was changed", staged.repo_id, MEND)


TEXTS_OF_MODELS = (".json", ".jinja", ".model", ".txt")
AGAIN = "run the same command again; what is published stands as it was"
MEND = "look at the card's header and the files there, or publish to another place"


def _rows(staged: Staged, name: str) -> int:
    """Rows by the footer of a file on the Hub; -1 where it has none."""
    from huggingface_hub import HfFileSystem

    # the instances that fsspec keeps would keep the token too
    system = HfFileSystem(endpoint=staged.endpoint, token=staged.token, skip_instance_cache=True)
    try:
        with system.open(f"datasets/{staged.repo_id}@{staged.revision}/{name}", "rb") as file:
            return int(pq.read_metadata(file).num_rows)
    except pa.ArrowInvalid:
        return -1


def _problem(staged: Staged, calls: Calls, config: str, revision: str) -> str | None:
    """Why the first row of a split does not come; None where each does. Raises what the Hub's trouble is."""
    import datasets

    try:
        splits = datasets.load_dataset(staged.repo_id, config, revision=revision, streaming=True, token=staged.token)
        for split in splits.values():
            next(iter(split))
    except Exception as error:  # `datasets` raises what its readers raise
        if (meant := calls.meaning(error)) is not None:
            raise meant from error
        return _line(error)
    return None


def _problem_of_model(folder: str, whole: bool) -> str | None:
    """Why configuration (where it is a whole model) or tokenizer does not load; None where both do."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        for loads in [AutoConfig, AutoTokenizer] if whole else [AutoTokenizer]:
            loads.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises what its readers raise
        return _line(error)
    return None


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
