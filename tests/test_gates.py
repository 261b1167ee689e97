"""What must hold before a push: licences, no secrets, no addresses, no local paths; found in the files that would be pushed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import nectar, run_stages
from hypothesis import given
from hypothesis import strategies as st

from prefdata.errors import ConfigError, PublishError
from prefdata.models.identity import public_name
from prefdata.output import gates, sensitive
from prefdata.output.escape import markdown, plain, visible
from prefdata.output.redistribution import forbids
from prefdata.recipe.job import Job
from prefdata.recipe.results import Results
from prefdata.stages import publish

TOKEN = "hf_" + "aB" * 17
AWS = "AKIA" + "Q3EGZ7" * 2 + "RSTU"
PUSHED = {"repo_id": "owner/set"}


@pytest.fixture
def staged(make_run: Callable[..., Results], write_rows: Callable[..., str]) -> Callable[..., Results]:
    """A recipe of these answers, run up to the stage that publishes."""

    def make(*answers: str, license: str = "mit", **keys: Any) -> Results:
        rows = [nectar(f"S{i}b", [(text, 1), ("worse", 2)], split="train") for i, text in enumerate(answers)]
        source = {"name": "s", "path": write_rows(rows), "license": license}
        run = make_run(sources={"sources": [source]}, prune={"drop_ranks": []}, **keys)
        run_stages(run, "sources", "split", "prune", "rank:source", "noise", "sets", "report", "card")
        return run

    return make


# ---- licences ----


@pytest.mark.parametrize(
    "license",
    ["cc-by-nd-4.0", "cc-by-nc-nd-3.0", "CC BY-NC-ND 4.0, all rights reserved", "Attribution-NoDerivatives", "proprietary"],
)
def test_licences_that_forbid_it(license: str) -> None:
    assert forbids(license)


@pytest.mark.parametrize(
    "license", ["mit", "cc-by-4.0", "cc-by-nc-sa-4.0", "odc-by", "other", "unknown", "cdla-permissive-2.0"]
)
def test_licences_that_do_not(license: str) -> None:
    assert forbids(license) is None


def test_a_source_that_may_not_be_passed_on_stops_the_push(staged: Callable[..., Results]) -> None:
    run = staged("ab", "ba", license="cc-by-nc-nd-4.0", publish=PUSHED)
    with pytest.raises(PublishError, match=r"does not let s@local \(cc-by-nc-nd-4\.0, 2 prompts\) be pushed.*publish\.delta"):
        publish.run(Job(run, "publish"))
    assert not (run.root / "publish" / "t").exists(), "it stops before anything is written"


def test_it_is_known_before_the_first_job(make_run: Callable[..., Results]) -> None:
    sources = {"sources": [{"name": "s", "path": "x", "license": "cc-by-nd-4.0"}, {"name": "t", "path": "y", "license": "mit"}]}

    def said(**own: Any) -> list[str]:
        return gates.stated(make_run(sources=sources, publish=own).settings)

    assert [line.split(";")[0] for line in said(**PUSHED)] == [
        "publish.repo_id: the licence does not let s@local (cc-by-nd-4.0) be pushed: it allows no derivatives, and a set with "
        "ranks and other answers is one"
    ]
    assert said() == []
    assert said(**PUSHED, delta=True) == []


def test_for_a_folder_it_is_said(staged: Callable[..., Results], capsys: pytest.CaptureFixture[str]) -> None:
    run = staged("ab", license="cc-by-nc-nd-4.0")
    publish.run(Job(run, "publish"))
    assert "warning: publish: the licence does not let s@local (cc-by-nc-nd-4.0, 1 prompts) be" in capsys.readouterr().err
    assert (run.root / "publish" / "t" / "README.md").exists()


# ---- secrets and addresses ----


def test_rows_with_secrets_are_named_by_id_and_column(staged: Callable[..., Results]) -> None:
    run = staged("ab", f"my key is {TOKEN}", f"{AWS} and joe@corp.io", publish=PUSHED)
    with pytest.raises(PublishError) as raised:
        publish.run(Job(run, "publish"))
    lines = str(raised.value).splitlines()
    assert [line.split(" in ")[0].rpartition(" ")[2] for line in lines] == ["aws", "hugging_face", "email"]
    assert all(" in 1 rows or files: " in line for line in lines)
    assert "candidates.response of " in lines[0]
    assert all(f"publish.allow: [{name}]" in line for name, line in zip(("aws", "hugging_face", "email"), lines, strict=True))
    assert not any(secret in str(raised.value) for secret in (TOKEN, AWS, "joe")), "what was found is not repeated"


def test_a_pattern_that_is_allowed_is_no_problem(staged: Callable[..., Results], capsys: pytest.CaptureFixture[str]) -> None:
    run = staged("write to joe@corp.io", publish={"allow": ["email"]})
    publish.run(Job(run, "publish"))
    assert "looks like" not in capsys.readouterr().err


def test_an_unknown_pattern_is_an_error(make_run: Callable[..., Results]) -> None:
    with pytest.raises(ConfigError, match=r"publish.allow: 'emial' is no pattern .did you mean 'email'"):
        make_run(sources={"sources": [{"name": "s", "path": "x"}]}, publish={"allow": ["emial"]})


SAMPLES = {
    "aws": AWS,
    "azure_storage": "AccountKey=" + "a" * 88,
    "basic_auth": "see https://joe:pa55@host/x",
    "discord": f"M{'a' * 23}.{'b' * 6}.{'c' * 27}",
    "github": "ghp_" + "a" * 36,
    "gitlab": "glpat-" + "a1B2" * 5,
    "hugging_face": TOKEN,
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
    "mailchimp": "a1" * 16 + "-us12",
    "npm": "//packages.example/:_authToken=npm_abc",
    "openai": f"sk-{'a' * 20}T3BlbkFJ{'b' * 20}",
    "private_key": "-----BEGIN RSA PRIVATE KEY-----",
    "pypi": "pypi-AgEIcHlwaS5vcmc" + "a" * 70,
    "sendgrid": f"SG.{'a' * 22}.{'b' * 43}",
    "slack": "xoxb-1234-abcd",
    "square": "sq0csp-" + "a" * 43,
    "stripe": "sk_live_" + "a" * 24,
    "telegram": "12345678:" + "a" * 35,
    "twilio": "AC" + "a1" * 16,
    "email": "joe.smith+x@mail.corp.co.uk",
}


def test_every_pattern_has_a_sample() -> None:
    assert {*SAMPLES, sensitive.LOCAL_PATH} == set(sensitive.NAMES)


@pytest.mark.parametrize("pattern", SAMPLES)
def test_each_pattern_finds_its_own(pattern: str) -> None:
    found = {f.pattern for f in sensitive.in_text(f"before {SAMPLES[pattern]} after", "README.md", [])}
    assert found == {pattern}


@pytest.mark.parametrize(
    "text",
    [
        "joe@example.com, ann@mail.example.org, root@localhost",
        "@app.route('/x') def f(a@b): pass",
        "sha256 " + "ab12" * 16,
        "password = 'hunter2'",
        "eyJhbGci.eyJzdW",
        "the model hf_hub_download",
    ],
)
def test_what_is_no_secret(text: str) -> None:
    assert list(sensitive.in_text(text, "README.md", [])) == []


@given(st.text(st.characters(exclude_characters="&", exclude_categories=("Cs",))))
def test_a_card_is_looked_at_as_its_readers_see_it(text: str) -> None:
    assert plain(markdown(text)) == visible(text)


def test_texts_are_found_however_deep_they_lie(tmp_path: Path) -> None:
    calls = pa.array(['[{"key": "' + TOKEN + '"}]', None], pa.string())
    message = pa.StructArray.from_arrays(
        [pa.array(["user", "user"]), pa.array(["hello", "joe@corp.io"]), pa.ExtensionArray.from_storage(pa.json_(), calls)],
        names=["role", "content", "tool_calls"],
    )
    table = pa.table({"prompt_id": ["0" * 16, None], "prompt": pa.ListArray.from_arrays([0, 1, 2], message)})
    path = tmp_path / "data" / "preference" / "train.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(table, path)
    found = {(f.pattern, f.prompt_id, f.where) for f in sensitive.in_files([path], [])}
    assert found == {
        ("hugging_face", "0" * 16, "preference.prompt.tool_calls"),
        ("email", None, "preference.prompt.content"),
    }


# ---- local paths ----


def test_no_local_path_is_published(staged: Callable[..., Results], tmp_path: Path) -> None:
    run = staged("ab")
    publish.run(Job(run, "publish"))
    published = b"".join(p.read_bytes() for p in (run.root / "publish" / "t").rglob("*") if p.is_file())
    assert str(tmp_path).encode() not in published


def test_a_path_of_this_machine_in_a_row_stops_the_push(staged: Callable[..., Results], tmp_path: Path) -> None:
    run = staged(f"see {tmp_path}/rows.jsonl", publish=PUSHED)
    with pytest.raises(PublishError, match=r"a path of this machine in 1 rows or files: candidates\.response of"):
        publish.run(Job(run, "publish"))
    run = staged("ab", publish=PUSHED, card={"description": f"made of {tmp_path}/rows.jsonl"})
    with pytest.raises(PublishError, match=r"a path of this machine in 1 rows or files: README\.md; remove it"):
        publish.run(Job(run, "publish"))


def test_paths_that_texts_are_full_of_are_none(make_run: Callable[..., Results]) -> None:
    settings = make_run(sources={"sources": [{"name": "s", "path": ["/data/x.jsonl", "y.jsonl"]}]}).settings
    assert gates.local_paths(settings, [Path("/root"), Path("/srv/work")]) == ["/data/x.jsonl", "/srv/work"]


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ("/home/joe/models/sft", "sft"),
        ("~/sft/", "sft"),
        ("../models/sft", "sft"),
        ("owner/name", "owner/name"),
        ("run:sft/policy", "run:sft/policy"),
    ],
)
def test_a_model_is_named_without_its_place(ref: str, name: str) -> None:
    assert public_name(ref) == name


def test_a_reference_is_published_without_its_place() -> None:
    reference = {"name": "primary", "model": "/home/joe/sft", "template": "chat"}
    made = publish._public(reference, {"/home/joe/sft": "0123"})
    assert made == {"name": "primary", "model": "sft", "template": "chat", "revision_of": {"sft": "0123"}}
    assert "joe" not in json.dumps(made)
